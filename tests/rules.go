package tests

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kbuild-run/tests/report"
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

// Cover prints each rule with the scenarios that name it and how these ended last,
// and returns the rules that none names.
func Cover(w io.Writer, scenarios []*scenario.Scenario, last Last) (uncovered []Rule, err error) {
	named := map[string][]string{}
	for _, s := range scenarios {
		for _, r := range s.Rules {
			named[r] = append(named[r], s.Name)
		}
	}
	for _, r := range Rules() {
		text := fmt.Sprintf("%-8s %s  %s (%s)\n", r.ID, r.Priority, r.Text, r.Source)
		for _, name := range named[r.ID] {
			text += fmt.Sprintf("            %s: %s\n", name, last.words(name))
		}
		if named[r.ID] == nil {
			text += "            -\n"
			uncovered = append(uncovered, r)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	return uncovered, nil
}

// Last is how scenarios ended on the kernel under test when they last ran: by name,
// then by base.
type Last map[string]map[string]report.Status

// words says how the scenario ended.
func (l Last) words(name string) string {
	var words []string
	for _, base := range slices.Sorted(maps.Keys(l[name])) {
		words = append(words, fmt.Sprintf("%s on %s", l[name][base], base))
	}
	if words == nil {
		return "not run"
	}
	return strings.Join(words, ", ")
}

// ReadLast reads the reports of a series in the folders below dir.
func ReadLast(dir, series string) (Last, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "report.json"))
	if err != nil {
		return nil, err
	}
	var all []report.Report
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var r report.Report
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		if r.Series == series {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b report.Report) int { return a.Started.Compare(b.Started) })
	last := Last{}
	for _, r := range all {
		for i, c := range r.Columns {
			for _, s := range r.Scenarios {
				if c.Role != report.After || i >= len(s.Results) || s.Results[i].Status == report.NotRun {
					continue
				}
				if last[s.Name] == nil {
					last[s.Name] = map[string]report.Status{}
				}
				last[s.Name][r.Base] = s.Results[i].Status
			}
		}
	}
	return last, nil
}
