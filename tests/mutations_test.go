package tests

import (
	"strings"
	"testing"

	"kbuild-run/patches"
)

func TestMutation(t *testing.T) {
	m := Mutation{File: "f.c", Old: "a == b", New: "true"}
	if got, err := m.Apply("if (a == b)\n"); err != nil || got != "if (true)\n" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"if (a)\n", "a == b; a == b\n"} {
		if got, err := m.Apply(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		}
	}
}

// Each mutation breaks a rule that is known, by a line that the series adds, and
// names a scenario of that rule.
func TestMutations(t *testing.T) {
	all, err := Mutations()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Errorf("got %d mutations, want 15", len(all))
	}
	scenarios, err := Scenarios("")
	if err != nil {
		t.Fatal(err)
	}
	names, rules := map[string]bool{}, map[string]bool{}
	for _, s := range scenarios {
		names[s.Name] = true
	}
	for _, r := range Rules() {
		rules[r.ID] = true
	}
	list, err := patches.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range list["notify"] {
		series, err := patches.FindSeries("notify", base)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if !rules[m.Rule] || !names[m.Scenario] {
				t.Errorf("%s: rule %s or scenario %s is unknown", m.What, m.Rule, m.Scenario)
			}
			if n := added(series, m.File, m.Old); n != 1 {
				t.Errorf("%s on %s: the series leaves %d lines with %q in %s, want 1", m.What, base, n, m.Old, m.File)
			}
		}
	}
}

// added is how many lines with text the series adds to the file and keeps.
func added(series *patches.Series, file, text string) (n int) {
	for _, m := range series.Mails {
		in := false
		for line := range strings.Lines(string(m.Text)) {
			switch {
			case strings.HasPrefix(line, "+++ "), strings.HasPrefix(line, "--- "):
				in = strings.TrimSpace(line) == "+++ b/"+file
			case in && strings.HasPrefix(line, "+"):
				n += strings.Count(line, text)
			case in && strings.HasPrefix(line, "-"):
				n -= strings.Count(line, text)
			}
		}
	}
	return n
}
