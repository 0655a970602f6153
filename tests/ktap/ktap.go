// Package ktap reads what KUnit prints: results in KTAP -> a list of tests.
//
// KTAP is TAP whose tests may have tests of their own, two or four columns further
// to the right, with their result line behind them
// (Documentation/dev-tools/ktap.rst). Lines that are not KTAP are kept with the
// test that comes next: they say why it failed.
package ktap

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Status is how a test ended.
type Status string

const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Test is one test that has no tests of its own.
type Test struct {
	Name   string // "ksmbd_notify.notify_test_layout"
	Status Status
	Detail string // lines: why it failed or was skipped
}

var (
	stamp  = regexp.MustCompile(`^(<\d+>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?`) // of the kernel log
	plan   = regexp.MustCompile(`^1\.\.(\d+)$`)
	result = regexp.MustCompile(`^(not )?ok \d+ (?:- )?(\S+)(?: # (SKIP)? ?(.*))?$`)
	remark = regexp.MustCompile(`^(K?TAP version \d+|# (Subtest|module|Totals): .*|# \S+: pass:\d+ fail:\d+ skip:\d+ total:\d+)$`)
)

// group is the tests that one plan announces.
type group struct {
	indent    int
	want, got int
	tests     []Test
}

// Parse reads the output of one or more runs, as /sys/kernel/debug/kunit/SUITE/results
// or the kernel log has it. Tests that a plan announces and that are missing are
// an error beside those that are there.
func Parse(text string) ([]Test, error) {
	open := []*group{{}} // the one that is read last
	var errs []error
	var said []string
	// to ends the groups further right than indent and returns the last of them.
	to := func(indent int) (inner *group) {
		for len(open) > 1 && open[len(open)-1].indent > indent {
			g := open[len(open)-1]
			open = open[:len(open)-1]
			if inner = g; g.got != g.want {
				errs = append(errs, fmt.Errorf("read KTAP: %d of %d tests have a result", g.got, g.want))
			}
		}
		return inner
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(stamp.ReplaceAllString(line, ""), " \r\n")
		word := strings.TrimLeft(line, " ")
		indent := len(line) - len(word)
		if m := plan.FindStringSubmatch(word); m != nil {
			to(indent)
			if open[len(open)-1].indent < indent {
				open = append(open, &group{indent: indent})
			}
			n, _ := strconv.Atoi(m[1])
			open[len(open)-1].want += n
		} else if m := result.FindStringSubmatch(word); m != nil {
			inner := to(indent)
			g := open[len(open)-1]
			g.got++
			t := Test{Name: m[2], Status: Passed}
			switch {
			case m[3] != "":
				t.Status, t.Detail = Skipped, m[4]
			case m[1] != "":
				t.Status, t.Detail = Failed, strings.Join(said, "\n")
			}
			said = nil
			if inner == nil {
				g.tests = append(g.tests, t)
				continue
			}
			failed := false
			for _, i := range inner.tests {
				failed = failed || i.Status == Failed
				i.Name = t.Name + "." + i.Name
				g.tests = append(g.tests, i)
			}
			if t.Status == Failed && !failed { // its own beginning or end fails
				g.tests = append(g.tests, t)
			}
		} else if word != "" && !remark.MatchString(word) {
			said = append(said, strings.TrimPrefix(word, "# "))
		}
	}
	to(0)
	all := open[0]
	if all.got != all.want || len(all.tests) == 0 {
		errs = append(errs, fmt.Errorf("read KTAP: %d of %d suites have a result", all.got, all.want))
	}
	return all.tests, errors.Join(errs...)
}
