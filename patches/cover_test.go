package patches

import (
	"encoding/json"
	"strings"
	"testing"
)

// The cover letter of each series calls its patches by what they are.
func TestLetters(t *testing.T) {
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for name, bases := range list {
		for _, base := range bases {
			s, err := FindSeries(name, base)
			if err != nil {
				t.Fatal(err)
			}
			if _, text, err := s.letter(); err != nil {
				t.Error(err)
			} else if strings.ContainsAny(text, "{}") {
				t.Errorf("%s %s: a patch is left without its number in\n%s", name, base, text)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	s := &Series{Mails: []Mail{{Text: []byte("Subject: [PATCH] fs: add one\n\n")}, {Text: []byte("Subject: [PATCH] fs: add two\n\n")}}}
	for _, test := range []struct{ text, want, err string }{
		{"Patches {add one} and {add two}.", "Patches 1 and 2.", ""},
		{"Patch {add three}.", "", "{add three} is in the subject of no patch"},
		{"Patch {add}.", "", "{add} is in the subject of the patches 1, 2"},
		{"Nothing.", "Nothing.", ""},
	} {
		got, err := s.number(test.text)
		if test.err == "" && (err != nil || got != test.want) || test.err != "" && (err == nil || err.Error() != test.err) {
			t.Errorf("%s: got %q, %v, want %q, %s", test.text, got, err, test.want, test.err)
		}
	}
}

// What a cover letter says of a run is true of this tree, and of a green one only.
func TestEvidence(t *testing.T) {
	const green = `{"base": "v6.12", "series": "notify", "version": "6.12.117", "accelerator": "tcg",
		"columns": [{"role": "before", "tree": "aa"}, {"role": "after", "tree": "bb", "inside": [{"status": "passed"}]}],
		"scenarios": [{"needs_series": true, "results": [{"status": "failed"}, {"status": "passed"}]},
			{"results": [{"status": "passed"}, {"status": "passed"}]}, {"results": [{"status": "skipped"}, {"status": "skipped"}]}]}`
	for _, test := range []struct{ name, old, new, want string }{
		{"green", "", "", "2 SMB2 scenarios pass with\nthe series, 1 of them fail without it"},
		{"another tree", `"bb"`, `"cc"`, ""},
		{"a scenario fails", `{"status": "skipped"}]`, `{"status": "failed"}]`, ""},
		{"it proves nothing", `[{"status": "failed"}`, `[{"status": "passed"}`, ""},
		{"KUnit fails", `"inside": [{"status": "passed"}`, `"inside": [{"status": "failed"}`, ""},
		{"the kernel complains", `"inside"`, `"reports": [{}], "inside"`, ""},
		{"it did not boot", `"inside"`, `"failure": "panic", "inside"`, ""},
	} {
		var r run
		if err := json.Unmarshal([]byte(strings.Replace(green, test.old, test.new, 1)), &r); err != nil {
			t.Fatal(err)
		}
		if _, got := r.words("bb"); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
