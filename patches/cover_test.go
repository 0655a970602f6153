package patches

import (
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
