package history

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"kbuild-run/patches/job"
	"kbuild-run/tests/report"
)

// Outcome is how a test ended in a night, all its attempts together.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Flaky   Outcome = "flaky" // it failed, and passed when it was run again
	Skipped Outcome = "skipped"
	Absent  Outcome = "" // it was not run
)

// Test is a test over the nights.
type Test struct {
	Key
	Outcomes []Outcome // one a night, oldest first
	Last     *Result   // of the last run that it failed in; nil: none
	LastRun  *Run
	Tries    int    // in the nights looked at, in which it failed or passed
	Failures int    // of the tries
	Since    string // the night from which on it has failed, of one that fails
	Fixed    bool   // it passed, and failed the time before
	Known    *Known // why it fails
	Over     bool   // the time of Known is over
}

// Outcome is that of the last night.
func (t *Test) Outcome() Outcome { return t.Outcomes[len(t.Outcomes)-1] }

// Rate is how often the test failed, in percent.
func (t *Test) Rate() int { return 100 * t.Failures / max(1, t.Tries) }

// Flaky says that the test has failed and passed in one night.
func (t *Test) Flaky() bool { return slices.Contains(t.Outcomes, Flaky) }

// isNew says that the test fails now, and did not the last time, or was not there.
func (t *Test) isNew(nights []*Night) bool {
	return t.Outcome() == Failed && t.Since == nights[len(nights)-1].Name
}

// Known is a failure that is known: no regression until its end.
type Known struct {
	Test   string    `toml:"test"` // pattern: after: rename-*
	Base   string    `toml:"base"` // "": every base
	Suite  string    `toml:"suite"`
	Reason string    `toml:"reason"`
	Until  time.Time `toml:"until"`
}

// find returns the entry for a test, and whether its time is over.
func find(all []Known, k Key, at time.Time) (known *Known, over bool) {
	for i := range all {
		e := &all[i]
		ok, _ := path.Match(e.Test, k.Test)
		if ok && (e.Base == "" || e.Base == k.Base) && (e.Suite == "" || e.Suite == k.Suite) {
			// The day named is the last one.
			return e, at.After(e.Until.AddDate(0, 0, 1))
		}
	}
	return nil, false
}

// Status is what a night found, beside the nights before it.
type Status struct {
	Nights []*Night // oldest first; the last one is what the status is of
	Tests  []*Test  // in order of cells and names
}

// window is how many nights are looked at: with rates over fewer a flaky test
// and an unlucky one look alike.
const window = 60

// Compare compares a night ("": the last) with those before it.
func Compare(ctx context.Context, s *Store, known []Known, night string) (*Status, error) {
	nights, err := s.Nights(ctx, window)
	if err != nil {
		return nil, err
	}
	if night != "" {
		at := slices.IndexFunc(nights, func(n *Night) bool { return n.Name == night })
		if at < 0 {
			return nil, job.Usage(fmt.Errorf("find night %s: it is not among the last %d", night, window))
		}
		nights = nights[:at+1]
	}
	if len(nights) == 0 {
		return nil, fmt.Errorf("read history: there was no night; begin with: kbuild-run nightly")
	}
	return Judge(nights, known), nil
}

// Judge compares the last of some nights with those before it.
func Judge(nights []*Night, known []Known) *Status {
	st := &Status{Nights: nights}
	byKey := map[Key]*Test{}
	for i, n := range nights {
		for _, r := range n.Runs {
			for _, res := range r.Results {
				k := r.Key(res.Test)
				t := byKey[k]
				if t == nil {
					t = &Test{Key: k, Outcomes: make([]Outcome, len(nights))}
					byKey[k] = t
					st.Tests = append(st.Tests, t)
				}
				t.add(i, r, &res)
			}
		}
	}
	at := nights[len(nights)-1].Started
	for _, t := range st.Tests {
		t.judge(nights)
		t.Known, t.Over = find(known, t.Key, at)
	}
	slices.SortStableFunc(st.Tests, func(a, b *Test) int {
		return cmp.Or(cmp.Compare(a.Suite, b.Suite), cmp.Compare(a.Series, b.Series), Newest(a.Base, b.Base),
			cmp.Compare(a.Config, b.Config), cmp.Compare(a.Test, b.Test), cmp.Compare(a.Accelerator, b.Accelerator))
	})
	return st
}

// Newest orders bases.
func Newest(a, b string) int { return semver.Compare(b, a) }

// add takes in one result of night i.
func (t *Test) add(i int, r *Run, res *Result) {
	was, now := t.Outcomes[i], Skipped
	switch res.Status {
	case report.Passed:
		now = Passed
		t.Tries++
	case report.Failed:
		now = Failed
		t.Tries++
		t.Failures++
		t.Last, t.LastRun = res, r
	}
	switch {
	case was == Absent || was == Skipped:
		t.Outcomes[i] = now
	case now != Skipped && now != was:
		t.Outcomes[i] = Flaky
	}
}

// judge compares the last night with the nights before. Those in which the test
// did not run say nothing.
func (t *Test) judge(nights []*Night) {
	last := len(t.Outcomes) - 1
	for i := last; i >= 0; i-- {
		switch o := t.Outcomes[i]; {
		case o == Absent || o == Skipped:
			continue
		case i == last && o != Failed:
			t.Fixed = o == Passed && t.before(i) == Failed
			return
		case o == Failed:
			t.Since = nights[i].Name
		default:
			return
		}
	}
}

// before is the last outcome before night i.
func (t *Test) before(i int) Outcome {
	for i--; i >= 0; i-- {
		if o := t.Outcomes[i]; o == Passed || o == Failed || o == Flaky {
			return o
		}
	}
	return Absent
}

// Group is a part of the summary.
type Group struct {
	Title string
	Tests []*Test
}

func (st *Status) Groups() []Group {
	g := []Group{{Title: "new failures"}, {Title: "known failures whose time is over"}, {Title: "still failing"},
		{Title: "known failures"}, {Title: "fixed"}, {Title: "flaky"}}
	for _, t := range st.Tests {
		o := t.Outcome()
		at := -1
		switch {
		case o == Failed && t.Known != nil && t.Over:
			at = 1
		case o == Failed && t.Known != nil:
			at = 3
		case o == Failed && t.isNew(st.Nights):
			at = 0
		case o == Failed:
			at = 2
		case t.Fixed:
			at = 4
		case t.Flaky() && o != Absent:
			at = 5
		}
		if at >= 0 {
			g[at].Tests = append(g[at].Tests, t)
		}
	}
	return slices.DeleteFunc(g, func(g Group) bool { return g.Tests == nil })
}

// regressions are the new failures, and the known ones whose time is over.
func (st *Status) regressions() (tests []*Test) {
	for _, t := range st.Tests {
		if t.Outcome() != Failed {
			continue
		}
		if t.Known == nil && t.isNew(st.Nights) || t.Known != nil && t.Over {
			tests = append(tests, t)
		}
	}
	return tests
}

// Err is the verdict: nil unless something is worse than it was.
func (st *Status) Err() error {
	r := st.regressions()
	if len(r) == 0 {
		return nil
	}
	return job.Failed(fmt.Errorf("nightly: %s, the first: %s", report.Plural(len(r), "regression", "regressions"), r[0]))
}

// Night is the one that the status is of.
func (st *Status) Night() *Night { return st.Nights[len(st.Nights)-1] }

// Count counts the outcomes of night i.
func (st *Status) Count(i int) map[Outcome]int {
	n := map[Outcome]int{}
	for _, t := range st.Tests {
		n[t.Outcomes[i]]++
	}
	return n
}

// Text is the status for a person, and a mail.
func (st *Status) Text() string {
	var b strings.Builder
	n, count := st.Night(), st.Count(len(st.Nights)-1)
	cells := map[string]bool{}
	for _, r := range n.Runs {
		cells[r.Cell] = true
	}
	fmt.Fprintf(&b, "night %s, %s UTC: %d passed, %d failed, %d flaky, %d skipped in %s\n", n.Name, n.Started.Format(time.DateTime),
		count[Passed], count[Failed], count[Flaky], count[Skipped], report.Plural(len(cells), "cell", "cells"))
	if !n.Finished {
		b.WriteString("it was interrupted\n")
	}
	if len(st.Nights) == 1 {
		b.WriteString("no night to compare with\n")
	}
	for _, c := range st.Changes() {
		fmt.Fprintf(&b, "%s\n", c)
	}
	groups := st.Groups()
	changed := false
	for _, g := range groups {
		changed = changed || g.Title == "new failures" || g.Title == "fixed" || g.Title == "known failures whose time is over"
	}
	if !changed && len(st.Nights) > 1 && len(n.Runs) > 0 {
		fmt.Fprintf(&b, "no change since night %s\n", st.Nights[len(st.Nights)-2].Name)
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n%s:\n", g.Title)
		for _, t := range g.Tests {
			fmt.Fprintf(&b, "  %s%s\n", t.Key, st.Remark(t))
			if t.Outcome() == Failed && t.Last != nil {
				for line := range strings.Lines(clip(t.Last.Detail)) {
					fmt.Fprintf(&b, "      %s\n", strings.TrimRight(line, "\n"))
				}
			}
		}
	}
	return b.String()
}

// Changes are what the night has tested that the nights before had not: other
// releases of the bases, other patches.
func (st *Status) Changes() (lines []string) {
	type what struct{ base, series, config string }
	was := map[what]*Run{}
	for i, n := range st.Nights {
		for _, r := range n.Runs {
			if r.Tree == "" {
				continue
			}
			k := what{r.Base, r.Series, r.Config}
			before := was[k]
			was[k] = r
			if before == nil || before.Tree == r.Tree || i < len(st.Nights)-1 {
				continue
			}
			line := fmt.Sprintf("%s: Linux %s, it was %s", r.Base, r.Version, before.Version)
			switch {
			case r.Version != before.Version:
			case r.Source != before.Source:
				line = fmt.Sprintf("%s: %s, it was %s", r.Base, r.Source, before.Source)
			default:
				line = strings.TrimSpace(fmt.Sprintf("%s %s", r.Base, r.Series)) + ": other patches than in night " + before.Night
			}
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// Remark is what there is to say about a test beside its name.
func (st *Status) Remark(t *Test) string {
	var parts []string
	if t.Outcome() == Failed && !t.isNew(st.Nights) {
		parts = append(parts, "since night "+t.Since)
	}
	if t.Flaky() {
		parts = append(parts, fmt.Sprintf("flaky, fails %d%% of %d", t.Rate(), t.Tries))
	}
	if t.Known != nil {
		parts = append(parts, fmt.Sprintf("known until %s: %s", t.Known.Until.Format(time.DateOnly), t.Known.Reason))
	}
	if parts == nil {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

// clip is the beginning of a text: the rest is on the page.
func clip(text string) string {
	const most = 6
	lines := strings.SplitAfterN(text, "\n", most+1)
	if len(lines) > most {
		lines[most] = "...\n"
	}
	return strings.Join(lines, "")
}
