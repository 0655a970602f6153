package tests

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	"kbuild-run/tests/scenario"
)

//go:embed rules.tbl
var rulesText string

// Rule is something a server of CHANGE_NOTIFY has to do.
type Rule struct {
	ID       string
	Priority string // A, B or C; see rules.tbl
	Text     string
	Source   string
}

// Rules returns the rules of rules.tbl, in its order.
func Rules() []Rule {
	var all []Rule
	for line := range strings.Lines(rulesText) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, source, _ := strings.Cut(line, " | ")
		words := strings.SplitN(text, " ", 3)
		all = append(all, Rule{words[0], words[1], words[2], source})
	}
	return all
}

// Cover prints each rule with the scenarios that name it, and returns those that
// none names.
func Cover(w io.Writer, scenarios []*scenario.Scenario) (uncovered []Rule, err error) {
	named := map[string][]string{}
	for _, s := range scenarios {
		for _, r := range s.Rules {
			named[r] = append(named[r], s.Name)
		}
	}
	for _, r := range Rules() {
		by := strings.Join(named[r.ID], " ")
		if by == "" {
			by = "-"
			uncovered = append(uncovered, r)
		}
		if _, err := fmt.Fprintf(w, "%-8s %s  %s (%s)\n            %s\n", r.ID, r.Priority, r.Text, r.Source, by); err != nil {
			return nil, err
		}
	}
	return uncovered, nil
}
