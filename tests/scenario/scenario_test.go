package scenario

import (
	"reflect"
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

const head = "# It shows something.\n# sections: MS-SMB2 1\n# rules: R-2.25\n"

func TestParse(t *testing.T) {
	s, err := Parse("x", "# It shows\n# something.\n#\n# sections: MS-SMB2 1;\n#     MS-FSCC 2\n# rules: R-2.25 R-2.40\n# needs: notify shell\n# samba: it does\n#     other things\n\nconnect a\n# sections: not here\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Scenario{
		Name: "x", Shows: "It shows something.", Sections: "MS-SMB2 1; MS-FSCC 2", Rules: []string{"R-2.25", "R-2.40"},
		Needs: []string{"notify", "shell"}, Differs: map[string]string{"samba": "it does other things"}, Text: s.Text,
	}
	if !reflect.DeepEqual(*s, want) {
		t.Errorf("got %+v, want %+v", *s, want)
	}
	s, err = Parse("x", "# It shows.\n# sections: MS-SMB2 1\n# series: ksmbd-fixes v6.12\n")
	if err != nil || s.Series != "ksmbd-fixes" || s.Base != "v6.12" {
		t.Errorf("series ksmbd-fixes on v6.12: got %+v, %v", s, err)
	}
	for _, test := range []struct{ text, want string }{
		{"connect a\n", "says what it shows"},
		{"# It shows.\n# rules: R-2.25\n", "# sections:"},
		{"# It shows.\n# sections: MS-SMB2 1\n", "# rules:"},
		{head + "# needs: magic\n", "magic is unknown"},
	} {
		if _, err := Parse("x", test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want an error with %q", test.text, err, test.want)
		}
	}
}

func TestReadLine(t *testing.T) {
	const spec = "-filter F -tree -size N"
	for _, test := range []struct {
		args string
		want line
		err  string
	}{
		{"dir", line{words: []string{"dir"}, options: map[string]string{}}, ""},
		{"dir as w -tree -size 10", line{words: []string{"dir"}, as: "w", options: map[string]string{"-tree": "yes", "-size": "10"}}, ""},
		{"dir as", line{words: []string{"dir", "as"}, options: map[string]string{}}, ""},
		{"dir -size", line{}, "-size wants a value"},
		{"dir -sizes 3", line{}, "unknown option -sizes; there are: -filter -size -tree"},
	} {
		got, err := readLine(strings.Fields(test.args), spec)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%q: got %v, want %s", test.args, err, test.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%q: got %+v, %v; want %+v", test.args, got, err, test.want)
		}
	}
}

func TestRecords(t *testing.T) {
	words := []string{"added", "a", "old", "b c", "new", `d\e`, "removed", ""}
	all, err := records(words)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := inWords(all), `added a old 'b c' new d\e removed ''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	reversed := []client.Change{all[3], all[2], all[1], all[0]}
	if same(reversed, all, false) || !same(reversed, all, true) || same(all[1:], all, true) {
		t.Errorf("same: got %v, %v, %v; want false, true, false", same(reversed, all, false), same(reversed, all, true), same(all[1:], all, true))
	}
	for _, bad := range [][]string{{"added"}, {"created", "f"}} {
		if _, err := records(bad); err == nil {
			t.Errorf("records(%q): got no error", bad)
		}
	}
}

// Of many records a message shows some, and those that make the difference.
func TestLess(t *testing.T) {
	want, err := records([]string{"added", "f{1..20}"})
	if err != nil {
		t.Fatal(err)
	}
	got := append(append([]client.Change{}, want[:10]...), want[11:]...)
	got = append(got, want[3])
	if got, want := less(got, want), "\nmissing: added f11\ntoo much: added f4"; got != want {
		t.Errorf("less: got %q, want %q", got, want)
	}
	if got, want := short(want), "added f1 added f2 added f3 added f4 added f5 added f6 added f7 added f8 added f9 added f10 added f11 added f12 ... (20 records)"; got != want {
		t.Errorf("short: got %q, want %q", got, want)
	}
	if got := less(want[:3], want[1:4]); got != "" {
		t.Errorf("less of few: got %q, want nothing", got)
	}
	if _, err := records([]string{"added", "f{9..1}"}); err == nil {
		t.Error("records of {9..1}: got no error")
	}
}

// A persona says where it is from, and asks for what its source says.
func TestPersonas(t *testing.T) {
	for name, p := range personas {
		if p.Who == "" || p.Source == "" || p.Access == 0 || p.First.Filter == 0 || p.Again.Filter == 0 {
			t.Errorf("%s: %+v", name, p)
		}
		if !strings.Contains(Personas(), "    "+name+"\n") {
			t.Errorf("%s: not in the help", name)
		}
	}
	h := &handle{persona: personas["findfirst"]}
	if got := h.asks(); got != h.persona.First {
		t.Errorf("first: got %+v, want %+v", got, h.persona.First)
	}
	h.watched = true
	if got := h.asks(); got != h.persona.Again {
		t.Errorf("again: got %+v, want %+v", got, h.persona.Again)
	}
}

func TestFilters(t *testing.T) {
	for _, test := range []struct {
		text string
		want smb2.CompletionFilter
		ok   bool
	}{
		{"name", 3, true}, {"0x15", 0x15, true}, {"file_name,security", 0x101, true}, {"0xfffff001", 0xfffff001, true}, {"names", 0, false},
	} {
		if got, err := bits("filter", filters, test.text); got != test.want || (err == nil) != test.ok {
			t.Errorf("%s: got %v, %v; want %v", test.text, got, err, test.want)
		}
	}
}
