package compare

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"kbuild-run/tests/scenario"
)

// usual is in how many scenarios a difference must be found to be one of the
// servers, not of what a scenario does: it is told once.
const usual = 5

// everywhere says that d is such a difference. Which answers come, with which
// status and records, is always what a scenario does.
func (r *Report) everywhere(d Difference) bool {
	switch d.Field {
	case "request", "interim response", "final response", "Status", "records", "order":
		return false
	}
	return r.Times[d.same()] >= usual
}

// shown is how many differences of a step are told.
const shown = 8

// Report is what a comparison found.
type Report struct {
	Servers    []Server
	Everywhere []Difference            // one for each that is found in many scenarios
	Times      map[string]int          // in how many; by Difference.same
	In         map[string][]Difference // the others, by scenario
}

// New compares the servers.
func New(servers []Server) *Report {
	r := &Report{Servers: servers, Times: map[string]int{}, In: map[string][]Difference{}}
	all := Diff(servers)
	last := map[string]string{} // the scenario that was counted last
	for _, d := range all {
		if last[d.same()] != d.Scenario {
			last[d.same()] = d.Scenario
			r.Times[d.same()]++
		}
	}
	told := map[string]bool{}
	for _, d := range all {
		switch {
		case !r.everywhere(d):
			r.In[d.Scenario] = append(r.In[d.Scenario], d)
		case !told[d.same()]:
			told[d.same()] = true
			r.Everywhere = append(r.Everywhere, d)
		}
	}
	slices.SortStableFunc(r.Everywhere, func(a, b Difference) int { return r.Times[b.same()] - r.Times[a.same()] })
	return r
}

// Unexplained are the scenarios that fail on a server, or did not run there. Where
// ksmbd or Samba may differ the head of the scenario says so, and it does not count
// as failed. Of a server that is only an address a difference of the scenario's own
// is explanation enough, if it is in what the server said: an answer that never
// came may be a lost event.
func (r *Report) Unexplained() (names []string) {
	for i, name := range r.names() {
		for _, s := range r.Servers {
			res := s.Results[i]
			if res == nil || res.Outcome == scenario.Failed && !(res.Server.Kind == scenario.ByAddress && slices.ContainsFunc(r.In[name], Difference.said)) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// names are the scenarios, in their order.
func (r *Report) names() (names []string) {
	for i := range r.Servers[0].Results {
		name := ""
		for _, s := range r.Servers {
			if s.Results[i] != nil {
				name = s.Results[i].Scenario.Name
			}
		}
		names = append(names, name)
	}
	return names
}

// outcome is a cell of the matrix.
func outcome(r *scenario.Result) string {
	if r == nil {
		return "not run"
	}
	return string(r.Outcome)
}

// Markdown writes the matrix and the differences.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	row := func(cells ...string) {
		for _, c := range cells {
			b.WriteString("| " + escape.Replace(strings.Join(strings.Fields(c), " ")) + " ")
		}
		b.WriteString("|\n")
	}
	var servers, dashes []string
	for _, s := range r.Servers {
		servers, dashes = append(servers, s.Name), append(dashes, "---")
	}
	fmt.Fprintf(&b, "# %s\n\n", strings.Join(servers, " and "))
	row(append([]string{"scenario"}, append(slices.Clone(servers), "differences")...)...)
	fmt.Fprintf(&b, "|---|%s|---|\n", strings.Join(dashes, "|"))
	for i, name := range r.names() {
		cells := []string{name}
		for _, s := range r.Servers {
			cells = append(cells, outcome(s.Results[i]))
		}
		row(append(cells, fmt.Sprint(len(r.In[name])))...)
	}
	if len(r.Everywhere) > 0 {
		fmt.Fprintf(&b, "\n## In many scenarios\n\n| message | field | values | scenarios |\n|---|---|---|---|\n")
		for _, d := range r.Everywhere {
			row(d.Message, d.Field, d.values(), fmt.Sprint(r.Times[d.same()]))
		}
	}
	head := "\n## In one scenario or a few\n"
	for i, name := range r.names() {
		var lines []string
		for _, s := range r.Servers {
			switch res := s.Results[i]; {
			case res == nil:
			case res.Outcome == scenario.Skipped:
				lines = append(lines, fmt.Sprintf("%s skips it: %s", s.Name, res.Reason))
			case res.Outcome == scenario.Differs:
				lines = append(lines, fmt.Sprintf("%s differs: %s", s.Name, res.Reason))
			case res.Failure != nil:
				lines = append(lines, fmt.Sprintf("%s fails: %s", s.Name, strings.ReplaceAll(res.Failure.String(), "\n", "; ")))
			}
		}
		// A step that polls is one of many requests.
		inStep := map[string]int{}
		for _, d := range r.In[name] {
			if inStep[d.Step]++; inStep[d.Step] <= shown {
				lines = append(lines, d.String())
			}
		}
		for _, step := range slices.Sorted(maps.Keys(inStep)) {
			if n := inStep[step] - shown; n > 0 {
				lines = append(lines, fmt.Sprintf("%s: %d more", step, n))
			}
		}
		if len(lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s\n%s:\n\n", head, name)
		head = ""
		for _, l := range lines {
			fmt.Fprintf(&b, "- %s\n", escape.Replace(strings.Join(strings.Fields(l), " ")))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var escape = strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`, "`", "\\`")
