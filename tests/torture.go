package tests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/torture"
)

// Torture says which tests of smbtorture are run beside the scenarios.
type Torture struct {
	Patterns []string      // see torture.Program.List; nil: the caller's own choice
	Newest   bool          // those of the newest Samba, not of the host's
	Deadline time.Duration // of a test; 0: torture.Deadline

	program *torture.Program
	tests   []string
	missing string // why there is none, when nobody asked for one
}

// asked says that somebody asked for tests of smbtorture, and wants to know how
// they end without the series, too. Otherwise that is not worth the time: almost
// all of them are about what the series brings.
func (o *Torture) asked() bool { return o.Patterns != nil || o.Newest }

// on says whether a kernel has tests to run.
func (o *Torture) on(role report.Role) bool {
	return len(o.tests) > 0 && (o.asked() || role != report.Before)
}

// quickTorture is what the main job runs: the tests that the series is about, and
// that together take a few seconds. smb2.notify.mask alone takes minutes.
var quickTorture = []string{"smb2.notify", "!smb2.notify.mask", "smb2.notify-inotify", "smb2.compound.interim*"}

func (o *Torture) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&o.Patterns, "torture", nil, "run the tests of smbtorture that match `PATTERN`, and only the\nscenarios that --scenario names; !PATTERN leaves tests out")
	f.BoolVar(&o.Newest, "torture-newest", false, "take the smbtorture of the newest Samba, downloaded once")
	f.DurationVar(&o.Deadline, "torture-deadline", torture.Deadline, "how long a test of smbtorture may take")
}

// prepare finds smbtorture and the tests that are wanted.
func (o *Torture) prepare(ctx context.Context, patterns []string) error {
	if patterns == nil {
		return nil
	}
	return job.From(ctx).Step("smbtorture", func(s *job.Step) (err error) {
		if o.Newest {
			o.program, err = torture.Newest(ctx, s)
		} else {
			o.program, err = torture.Installed(ctx)
		}
		switch {
		case errors.Is(err, torture.ErrNone) && !o.asked():
			o.missing = err.Error()
			s.Note("%v", err)
			return nil
		case err != nil || o.program == nil:
			return err
		}
		if o.tests, err = o.program.List(ctx, patterns...); err != nil {
			return job.Usage(err)
		}
		slices.SortStableFunc(o.tests, func(a, b string) int { return cmp.Compare(turn(a), turn(b)) })
		s.Note("%s, %d tests", o.program.Version, len(o.tests))
		return nil
	})
}

// quiet is the share that is not to notify, and the suite of smbtorture for it.
const (
	quietShare = "quiet"
	quietSuite = "smb2.change_notify_disabled."
)

// share is what share a test wants; "": the one that all others want.
func share(test string) string {
	if strings.HasPrefix(test, quietSuite) {
		return quietShare
	}
	return ""
}

// durables are the tests that leave durable handles behind.
var durables = regexp.MustCompile(`durable|replay|persistent|dhv2`)

// turn sorts tests. A kernel without the series takes a durable handle that loses its
// connection in the first five minutes for one whose time is over, and passes tests
// that want it gone: they come late, when jiffies have wrapped. Linux 7.3 without the
// series answers nobody any more after it was left with a score of requests that it
// keeps pending, so what may hang it comes behind all the others; last come those that
// want another share.
func turn(test string) int {
	switch {
	case share(test) != "":
		return 3
	case durables.MatchString(test):
		return 1
	case strings.HasPrefix(test, "smb2.notify"), strings.Contains(test, "_notify_"), strings.HasPrefix(test, "smb2.compound.interim"):
		return 2
	}
	return 0
}

// run runs the tests against server, so often as times says. A known failure of
// it is a skip with its reason when judged; a test that does not always end in
// the same way has failed.
func (o *Torture) run(ctx context.Context, s *job.Step, server *scenario.Server, judged bool, times int) (results []torture.Result, err error) {
	n := 0
	done := func(r torture.Result) {
		n++
		s.Progress("%d of %d, %s", n, len(o.tests)*max(1, times), r.Test)
	}
	again := func(r torture.Result) { s.Progress("%s again: it passes only sometimes", r.Test) }
	results, err = o.once(ctx, server, judged, done, again)
	for turn := 2; turn <= times && err == nil; turn++ {
		var next []torture.Result
		next, err = o.once(ctx, server, judged, done, again)
		for i, r := range next {
			// A known failure that passes sometimes is a skip or has passed.
			if first := results[i]; (r.Outcome == torture.Failed) != (first.Outcome == torture.Failed) {
				if first.Outcome == torture.Failed {
					r = first
				}
				r.Outcome, r.Reason = torture.Failed, fmt.Sprintf("time %d of %d ends in another way\n%s", turn, times, r.Reason)
				results[i] = r
			}
		}
	}
	count := map[torture.Outcome]int{}
	for _, r := range results {
		count[r.Outcome]++
	}
	s.Note("%d passed, %d failed, %d skipped", count[torture.Passed], count[torture.Failed], count[torture.Skipped])
	return results, err
}

// plainScale is the scale of a server for which the deadlines of smbtorture's tests are
// right: a plain kernel without KVM.
const plainScale = 3

// once runs the tests against server, and calls done after each, and again when one of
// those that pass sometimes has run once more.
func (o *Torture) once(ctx context.Context, server *scenario.Server, judged bool, done, again func(torture.Result)) (results []torture.Result, err error) {
	for _, name := range []string{"", quietShare} {
		tests := slices.DeleteFunc(slices.Clone(o.tests), func(t string) bool { return share(t) != name })
		if len(tests) == 0 {
			continue
		}
		on := server
		if other := server.Instead[name]; other != nil {
			on = other
		}
		t := torture.Server{Addr: on.Addr, Share: cmp.Or(name, on.Share), User: on.User, Kind: on.Kind, Version: on.Version, Begin: on.Begin}
		if on.Shell != nil {
			t.Empty = func(ctx context.Context) error { return on.Shell(ctx, "", "rm -rf ./* ./.[!.]*") }
		}
		known, err := torture.LoadKnown(o.program, t)
		if err != nil {
			return nil, err
		}
		options := torture.Options{Deadline: o.Deadline, Scale: on.Scale / plainScale, Done: done}
		some, err := o.program.Run(ctx, t, tests, options)
		options.Done = again
		for i, r := range some {
			switch {
			case judged:
				some[i] = known.Judge(r)
			case err == nil && known.Sometimes(r.Test):
				some[i], err = steady(r, func() (torture.Result, error) {
					more, err := o.program.Run(ctx, t, []string{r.Test}, options)
					if err != nil {
						return r, err
					}
					return more[0], nil
				})
			}
		}
		if results = append(results, some...); err != nil {
			return results, err
		}
	}
	return results, nil
}

// steadily is how often a test that is known to fail sometimes has to pass without the
// series before it counts as one that passes there, which it then has to with it.
const steadily = 10

// steady runs a test that has passed again, until it fails or has passed steadily.
func steady(r torture.Result, again func() (torture.Result, error)) (torture.Result, error) {
	for turn := 2; turn <= steadily && r.Outcome == torture.Passed; turn++ {
		next, err := again()
		if err != nil {
			return r, err
		}
		if next.Outcome != torture.Passed {
			next.Reason = fmt.Sprintf("it passes only sometimes: time %d ends in this way\n%s", turn, next.Reason)
		}
		r = next
	}
	return r, nil
}

// torturing runs the tests of smbtorture that are wanted against server, and
// prints a line for each.
func (o Options) torturing(ctx context.Context, server *scenario.Server) error {
	if len(o.Torture.tests) == 0 {
		return nil
	}
	j := job.From(ctx)
	var results []torture.Result
	err := j.Step("smbtorture", func(s *job.Step) (err error) {
		results, err = o.Torture.run(ctx, s, server, true, o.Repeat)
		return err
	})
	if err != nil {
		return err
	}
	out, failed := "", 0
	for _, r := range results {
		fmt.Fprintf(j.Out, "%-7s %-40s %8s  %s\n", r.Outcome, r.Test, job.Duration(r.Time), strings.ReplaceAll(r.Reason, "\n", "; "))
		if r.Outcome != torture.Failed {
			continue
		}
		failed++
		if out == "" {
			if out, err = (Options{Out: o.Out}).folder(time.Now(), server.Kind); err != nil {
				return err
			}
		}
		if err := tortureEvidence(r, filepath.Join(out, r.Test)); err != nil {
			return err
		}
	}
	if failed > 0 {
		return job.Failed(fmt.Errorf("test %s: %d of %d tests of smbtorture fail; what they printed is in %s", server.Name, failed, len(results), out))
	}
	return nil
}

// rows are the tests of smbtorture as rows of the report. What passes
// without the series has to pass with it.
func (o *Torture) rows(kernels []*kernel, out string) (rows []report.Scenario, err error) {
	if o.missing != "" {
		row := report.Scenario{Name: "smbtorture", Shows: "The tests of Samba that the series is about."}
		for range kernels {
			row.Results = append(row.Results, report.Result{Status: report.Skipped, Reason: o.missing})
		}
		return []report.Scenario{row}, nil
	}
	for i, test := range o.tests {
		row := report.Scenario{Name: test, Shows: "A test of smbtorture " + o.program.Version + "."}
		passes := false // without the series
		for _, k := range kernels {
			cell := report.Result{}
			if !o.on(k.role) {
				cell = report.Result{Status: report.Skipped, Reason: "tried without the series when --torture names it"}
			} else if i < len(k.torture) {
				r := k.torture[i]
				cell = report.Result{Status: report.Status(r.Outcome), Time: r.Time, Reason: r.Reason}
				switch {
				case k.role == report.Before:
					passes = r.Outcome == torture.Passed
				case passes && r.Outcome != torture.Passed:
					cell.Status, cell.Reason = report.Failed, "it passes without the series\n"+r.Reason
				}
				if cell.Status != report.Passed {
					cell.Folder = filepath.Join(string(k.role), test)
					if err := tortureEvidence(r, filepath.Join(out, cell.Folder)); err != nil {
						return nil, err
					}
				}
			}
			row.Results = append(row.Results, cell)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// tortureEvidence writes what a test printed.
func tortureEvidence(r torture.Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "smbtorture.txt"), []byte(r.Output), 0o644); err != nil {
		return fmt.Errorf("write evidence of %s: %w", r.Test, err)
	}
	return nil
}
