// Package report takes what a run found out and returns it in words for a
// person and in three forms for programs: Markdown, JSON, JUnit XML, TAP.
//
// All four come from one Report, and their verdicts from one list of checks, so
// that they cannot disagree.
package report

import (
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/coverage"
	"kbuild-run/vmrunner/splat"
)

// Report is one run.
type Report struct {
	Program string        `json:"program"` // commit of kbuild-run: see Program
	Started time.Time     `json:"started"`
	Time    time.Duration `json:"time_ns"`
	Command string        `json:"command"` // runs the same again

	Base      string   `json:"base"`             // v6.12
	Version   string   `json:"version"`          // 6.12.117
	Source    string   `json:"source"`           // where the base came from, in words
	Series    string   `json:"series,omitempty"` // notify; "" for a bare base
	Patches   []string `json:"patches,omitempty"`
	Fragments []string `json:"fragments"` // of the configuration
	Compiler  string   `json:"compiler"`
	QEMU      string   `json:"qemu"`

	Accelerator string `json:"accelerator"`     // tcg, kvm
	Why         string `json:"accelerator_why"` // why that one

	Columns   []Column     `json:"columns"`
	Scenarios []Scenario   `json:"scenarios"`
	Steps     []job.Record `json:"steps"`
}

// Role says what a column is in the argument of the report.
type Role string

const (
	Before Role = "before" // without the series
	After  Role = "after"  // what is under test
	Beside Role = "beside" // another server, to compare with: it decides nothing
)

// Column is one server that scenarios ran against.
type Column struct {
	Name   string `json:"name"` // before, after, samba
	Role   Role   `json:"role"`
	Server string `json:"server"` // in words: Linux 6.12.117 with notify

	// Of a kernel of ours; "" otherwise.
	Release string `json:"release,omitempty"`
	Tree    string `json:"tree,omitempty"`   // git tree hash of the source
	Config  string `json:"config,omitempty"` // hash of the whole .config

	FirstSMB time.Duration `json:"first_smb_ns,omitempty"` // from power-on to the first SMB answer
	Console  string        `json:"console,omitempty"`      // file in the report's folder

	Failure string         `json:"failure,omitempty"` // why scenarios could not run
	Inside  []Inside       `json:"inside,omitempty"`
	Reports []splat.Report `json:"reports,omitempty"` // the kernel's complaints on the console

	Coverage *Coverage `json:"coverage,omitempty"` // nil: gcov does not count
}

// Coverage is which lines of the server ran.
type Coverage struct {
	Folder string          `json:"folder"` // of the pages, in the report's folder
	All    coverage.Figure `json:"all"`
	Own    coverage.Figure `json:"own"` // lines that the series adds
}

// String is c in words.
func (c *Coverage) String() string {
	text := c.All.String() + " ran"
	if c.Own.Lines > 0 {
		text += "; of the series' own " + c.Own.String()
	}
	return text + ": " + c.Folder + "/index.html"
}

// Inside is one thing that the guest itself was asked after the scenarios.
type Inside struct {
	Group  string `json:"group"` // "KUnit", "left behind"
	Name   string `json:"name"`
	Status Status `json:"status"`
	Reason string `json:"reason,omitempty"` // of a failure or a skip; lines
}

// check says what i means.
func (i *Inside) check(column string) Check {
	return Check{Column: column, Name: i.Group + ": " + i.Name, What: i.Group + ": " + i.Name + " " + string(i.Status), Status: i.Status, Detail: i.Reason}
}

// inside counts what the guest of c was asked, by group in their order.
func (c *Column) inside() (groups []string, count map[string]map[Status]int) {
	count = map[string]map[Status]int{}
	for _, i := range c.Inside {
		if count[i.Group] == nil {
			groups = append(groups, i.Group)
			count[i.Group] = map[Status]int{}
		}
		count[i.Group][i.Status]++
	}
	return groups, count
}

// Scenario is one row of the table.
type Scenario struct {
	Name     string `json:"name"`
	Shows    string `json:"shows"`              // one sentence
	Sections string `json:"sections,omitempty"` // what it rests on: MS-SMB2 3.3.5.19

	// NeedsSeries says that the scenario must fail before: one that passes
	// without the series proves nothing about it.
	NeedsSeries bool `json:"needs_series"`

	// Client says that the row is an SMB client that others wrote; the reason
	// of a result that passed is what it saw.
	Client bool `json:"client,omitempty"`

	Results []Result `json:"results"` // one a column, in their order
}

// Status is how a scenario ended.
type Status string

const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
	NotRun  Status = "" // the server did not live that long
)

// Result is one cell of the table.
type Result struct {
	Status Status        `json:"status"`
	Time   time.Duration `json:"time_ns"`
	Reason string        `json:"reason,omitempty"` // of a failure or a skip; lines
	Folder string        `json:"folder,omitempty"` // of the evidence, in the report's folder
}

// result is the cell of column i.
func (s *Scenario) result(i int) Result {
	if i < len(s.Results) {
		return s.Results[i]
	}
	return Result{}
}

// Check is one thing the run had to show.
type Check struct {
	Column string
	Name   string // of the scenario, or "server", "console"
	What   string // how it came out, in a sentence without the column
	Status Status
	Time   time.Duration
	Detail string // lines
}

// Checks returns all that the run had to show. It has shown it when none failed
// and a scenario passed after.
func (r *Report) Checks() []Check {
	var all []Check
	for i := range r.Columns {
		all = append(all, r.checkColumn(i)...)
	}
	return all
}

func (r *Report) checkColumn(i int) []Check {
	c := &r.Columns[i]
	up := Check{Column: c.Name, Name: "server", What: "the server answers", Status: Passed, Time: c.FirstSMB}
	if c.Failure != "" {
		up.What, up.Status, up.Detail = "the server fails", Failed, c.Failure
		if c.Role == Beside {
			up.Status = Skipped
		}
	}
	all := []Check{up}
	for _, s := range r.Scenarios {
		result := s.result(i)
		what, status, detail := s.check(c, result)
		all = append(all, Check{c.Name, s.Name, s.Name + " " + what, status, result.Time, detail})
	}
	for i := range c.Inside {
		all = append(all, c.Inside[i].check(c.Name))
	}
	if c.Role == Beside && len(c.Reports) == 0 {
		return all
	}
	clean := Check{Column: c.Name, Name: "console", What: "the kernel reports nothing", Status: Passed}
	if n := len(c.Reports); n > 0 {
		clean.What, clean.Status = "the kernel reports: "+c.Reports[0].Head(), Failed
		if n > 1 {
			clean.What += fmt.Sprintf(" and %d more", n-1)
		}
		var texts []string
		for _, k := range c.Reports {
			texts = append(texts, strings.TrimRight(k.Body(), "\n"))
		}
		clean.Detail = strings.Join(texts, "\n\n")
	} else if c.Failure != "" {
		clean.What, clean.Status = "the kernel reports nothing up to there", Skipped
	}
	return append(all, clean)
}

// check says what the result of s means in column c.
func (s *Scenario) check(c *Column, r Result) (what string, status Status, detail string) {
	before := c.Role == Before
	switch {
	case r.Status == NotRun && (c.Failure != "" || c.Role == Beside):
		return "did not run", Skipped, "the server failed before it"
	case r.Status == NotRun:
		return "did not run", Failed, r.Reason
	case r.Status == Skipped:
		return "was skipped", Skipped, r.Reason
	case before && s.NeedsSeries && r.Status == Passed:
		return "passes without the series, so it proves nothing about it", Failed, r.Reason
	case before && s.NeedsSeries:
		return "fails without the series, as it must", Passed, r.Reason
	case r.Status == Passed:
		return "passes", Passed, r.Reason
	case before:
		return "fails without the series, which it does not need", Skipped, r.Reason
	case c.Role == Beside:
		return "fails on a server that is only compared with", Skipped, r.Reason
	}
	return "fails", Failed, r.Reason
}

// OK reports whether the run has shown what it had to.
func (r *Report) OK() bool { return r.problem() == "" }

// problem returns "" or what is wrong, in words for the verdict.
func (r *Report) problem() string {
	var bad []string
	for _, c := range r.Checks() {
		if c.Status == Failed {
			bad = append(bad, c.Column+": "+c.What)
		}
	}
	switch {
	case len(bad) > 3:
		return fmt.Sprintf("%s; and %d more", strings.Join(bad[:3], "; "), len(bad)-3)
	case len(bad) > 0:
		return strings.Join(bad, "; ")
	case r.after(Passed) == 0:
		return "no scenario ran on the kernel under test"
	}
	return ""
}

// count returns how many scenarios ended so in the column of that name.
func (r *Report) count(column string, status Status) (n int) {
	for i, c := range r.Columns {
		if c.Name != column {
			continue
		}
		for _, s := range r.Scenarios {
			if s.result(i).Status == status {
				n++
			}
		}
	}
	return n
}

// after counts in the columns under test.
func (r *Report) after(status Status) (n int) {
	for _, c := range r.Columns {
		if c.Role == After {
			n += r.count(c.Name, status)
		}
	}
	return n
}

// Verdict is the report in one sentence.
func (r *Report) Verdict() string {
	if p := r.problem(); p != "" {
		return "FAIL: " + p + "."
	}
	must, untried := r.compared()
	var b strings.Builder
	fmt.Fprintf(&b, "PASS: %s on Linux %s", Plural(r.after(Passed), "scenario passes", "scenarios pass"), r.Version)
	if r.Series != "" {
		fmt.Fprintf(&b, " with %s", r.Series)
	}
	if n := r.after(Skipped); n > 0 {
		fmt.Fprintf(&b, ", %d skipped", n)
	}
	if must > 0 {
		fmt.Fprintf(&b, "; without it %s", Plural(must, "fails, as it must", "fail, as they must"))
	}
	if untried > 0 {
		fmt.Fprintf(&b, "; %d not tried without it", untried)
	}
	b.WriteString("; the kernel reports nothing.")
	return b.String()
}

// compared counts, of the scenarios that need the series and pass with it, those
// that fail without it, and those that were not tried without it.
func (r *Report) compared() (must, untried int) {
	for _, s := range r.Scenarios {
		var before, after Status
		for i, c := range r.Columns {
			switch c.Role {
			case Before:
				before = s.result(i).Status
			case After:
				after = s.result(i).Status
			}
		}
		switch {
		case !s.NeedsSeries || after != Passed:
		case before == Failed:
			must++
		case r.Series != "":
			untried++
		}
	}
	return must, untried
}

// Plural is a number with its noun.
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Program returns the commit this program was built from, with "+dirty" when
// the work tree differed from it.
func Program() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "kbuild-run, of an unknown commit"
	}
	return program(info.Settings)
}

func program(settings []debug.BuildSetting) string {
	v := map[string]string{}
	for _, s := range settings {
		v[s.Key] = s.Value
	}
	rev := v["vcs.revision"]
	if rev == "" {
		return "kbuild-run, of an unknown commit"
	}
	if v["vcs.modified"] == "true" {
		rev += "+dirty"
	}
	return "kbuild-run " + rev
}
