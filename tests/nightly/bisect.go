package nightly

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/nightly/matrix"
	"kbuild-run/tests/report"
)

// Bisect says what to look for.
type Bisect struct {
	Options
	Test   string // rename-server, or after: rename-server
	Repeat int    // tries of each point; 0: one, and more of a flaky test
	Tree   string // a git tree, to look among its commits; "": among the patches of the series
	Good   string // commit of Tree where the test passes
	Bad    string // commit of Tree where it fails; "": HEAD
}

// verdict is what a point of a bisection shows.
type verdict int

const (
	untestable verdict = iota // it does not apply, build or boot
	good
	bad
)

// search finds where a test turns from good to bad among n points, of which the
// last is bad. The points before the first, 0, may be good or bad too. It looks
// backwards in steps that double for the nearest good one, because what a series
// brings fails before the patch that brings it, too; and then halves. Of points
// that cannot be tested the nearest one is taken that can. It returns the last
// good point and the first bad one; from is -1 when none is good.
func search(n int, try func(int) (verdict, error)) (from, to int, err error) {
	seen := map[int]verdict{n: bad}
	look := func(i int) (verdict, error) {
		if v, ok := seen[i]; ok {
			return v, nil
		}
		v, err := try(i)
		seen[i] = v
		return v, err
	}
	from, to = -1, n
	for step := 1; from < 0; step *= 2 {
		if to == 0 {
			return -1, 0, nil
		}
		i := max(0, n-step)
		v, err := look(i)
		for ; err == nil && v == untestable && i > 0; v, err = look(i) {
			i--
		}
		switch {
		case err != nil:
			return 0, 0, err
		case v == good:
			from = i
		case i == 0: // nothing before it was good
			return -1, to, nil
		default:
			to = min(to, i)
		}
	}
	for to-from > 1 {
		middle, v := (from+to)/2, untestable
		// The nearest to the middle first.
		for d := 0; v == untestable && d < to-from; d++ {
			for _, i := range []int{middle - d, middle + d} {
				if i <= from || i >= to || v != untestable {
					continue
				}
				if v, err = look(i); err != nil {
					return 0, 0, err
				}
				if v != untestable {
					middle = i
				}
			}
		}
		switch v {
		case good:
			from = middle
		case bad:
			to = middle
		default:
			return from, to, nil // what is between cannot be tested
		}
	}
	return from, to, nil
}

// point is a tree to try.
type point struct {
	name string
	args func(ctx context.Context) ([]string, error) // of kbuild-run, in addition
}

// Run finds the patch or commit that turned the test, and prints it.
func (b *Bisect) Run(ctx context.Context) error {
	j := job.From(ctx)
	var t *history.Test
	err := b.withStore(ctx, func(s *history.Store) error {
		st, err := history.Compare(ctx, s, b.Matrix.Known, "")
		if err == nil {
			t, err = b.find(st)
		}
		return err
	})
	if err != nil {
		return err
	}
	c, err := b.cell(t)
	if err != nil {
		return err
	}
	if b.Repeat == 0 {
		b.Repeat = tries(t)
	}
	if !j.DryRun {
		unlock, err := lock(ctx, b.Out)
		if err != nil {
			return err
		}
		defer unlock()
		// What an earlier bisection left says nothing about this one.
		if err := os.RemoveAll(filepath.Join(b.Out, "bisect")); err != nil {
			return err
		}
	}
	points, clean, err := b.points(ctx, t, c.Kept())
	if err != nil {
		return err
	}
	defer clean()
	fmt.Fprintf(j.Out, "bisect %s, %s, %s a point\n", t.Key, report.Plural(len(points)-1, "point", "points"), report.Plural(b.Repeat, "try", "tries"))
	try := func(i int) (verdict, error) {
		v := untestable
		err := j.Step(points[i].name, func(s *job.Step) (err error) {
			v, err = b.try(ctx, c, t, i, points[i], s)
			s.Note("%s", []string{"cannot be tested", "passes", "fails"}[v])
			return err
		})
		return v, err
	}
	last := len(points) - 1
	switch v, err := try(last); {
	case err != nil || j.DryRun:
		return err
	case v == untestable:
		return fmt.Errorf("bisect %s: %s cannot be tested; see %s", t.Test, points[last].name, b.folder(last))
	case v == good:
		fmt.Fprintf(j.Out, "%s passes at %s: there is nothing to find\n", t.Test, points[last].name)
		return nil
	}
	from, to, err := search(last, try)
	if err != nil {
		return err
	}
	switch {
	case from < 0:
		fmt.Fprintf(j.Out, "%s fails at every point that can be tested\n", t.Test)
	case to-from == 1:
		fmt.Fprintf(j.Out, "%s turned %s\n", points[to].name, t.Test)
	default:
		fmt.Fprintf(j.Out, "one of these turned %s; what lies between them cannot be tested:\n", t.Test)
		for _, p := range points[from+1 : to+1] {
			fmt.Fprintf(j.Out, "  %s\n", p.name)
		}
	}
	return nil
}

// find finds the test in the history: one that fails before one that does not.
func (b *Bisect) find(st *history.Status) (found *history.Test, err error) {
	for _, t := range st.Tests {
		fits := t.Test == b.Test || strings.HasSuffix(t.Test, ": "+b.Test) && strings.HasPrefix(t.Test, string(report.After))
		if !fits {
			continue
		}
		c, err := b.cell(t)
		if err != nil {
			continue
		}
		if cells, err := b.Matrix.Choose(b.Only, ""); err != nil {
			return nil, err
		} else if !slices.ContainsFunc(cells, func(o matrix.Cell) bool { return o.Name == c.Name }) {
			continue
		}
		if found == nil || found.Outcome() != history.Failed && (t.Outcome() == history.Failed || found.Last == nil && t.Last != nil) {
			found = t
		}
	}
	if found == nil {
		return nil, job.Usage(fmt.Errorf("bisect %s: the history has no such test of a suite that can be bisected; see: kbuild-run nightly status", b.Test))
	}
	return found, nil
}

// cell is that of a test, with a command that takes a mailbox.
func (b *Bisect) cell(t *history.Test) (*matrix.Cell, error) {
	for _, c := range b.Matrix.Cells() {
		if c.Suite != t.Suite || c.Base != t.Base || c.Series != t.Series || c.Config != t.Config {
			continue
		}
		if !c.Chooses() {
			return nil, job.Usage(fmt.Errorf("bisect %s: suite %s cannot be bisected", t.Test, c.Suite))
		}
		c.Command = slices.Clone(c.Command)
		c.Command[0] = "run"
		if b.Tree != "" && c.Series == "" {
			c.Command[0] = "test"
		}
		return &c, nil
	}
	return nil, job.Usage(fmt.Errorf("bisect %s: the matrix has no cell of it any more", t.Test))
}

// tries is how often a test must pass to be called good with 95% certainty.
func tries(t *history.Test) int {
	if !t.Flaky() {
		return 1
	}
	rate := float64(t.Failures) / float64(t.Tries)
	return int(min(20, max(2, math.Ceil(math.Log(0.05)/math.Log(1-rate)))))
}

// folder is where the results of a point lie.
func (b *Bisect) folder(i int) string { return filepath.Join(b.Out, "bisect", fmt.Sprintf("%02d", i)) }

// points are the trees to look among. The first one is the tree without what may
// be at fault.
func (b *Bisect) points(ctx context.Context, t *history.Test, base string) (points []point, clean func(), err error) {
	if b.Tree != "" {
		return b.commits(ctx)
	}
	if t.Series == "" {
		return nil, nil, job.Usage(errors.New("bisect: there is no series; look among commits with: --tree DIR --good COMMIT"))
	}
	series, err := patches.FindSeries(t.Series, base)
	if err != nil {
		return nil, nil, err
	}
	points = append(points, point{"no patch", nil})
	for i, m := range series.Mails {
		mailbox := filepath.Join(b.folder(i+1), "mailbox")
		points = append(points, point{fmt.Sprintf("%s (%s)", m.Name, m.Subject()), func(context.Context) ([]string, error) {
			return []string{"--mbox", mailbox}, os.WriteFile(mailbox, prefix(series.Mails[:i+1]), 0o644)
		}})
	}
	return points, func() {}, nil
}

// prefix is a mailbox of patches. A mailbox of more than one wants them numbered.
func prefix(mails []patches.Mail) []byte {
	var b bytes.Buffer
	for i, m := range mails {
		b.Write(bytes.Replace(m.Text, []byte("Subject: [PATCH]"), fmt.Appendf(nil, "Subject: [PATCH %d/%d]", i+1, len(mails)), 1))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// commits are the first parents between Good and Bad, each put into one work tree.
func (b *Bisect) commits(ctx context.Context) (points []point, clean func(), err error) {
	git := func(args ...string) *job.Cmd { return job.Command("git", append([]string{"-C", b.Tree}, args...)...) }
	if b.Good == "" {
		return nil, nil, job.Usage(errors.New("bisect: say where the test passes with: --good COMMIT"))
	}
	bad := b.Bad
	if bad == "" {
		bad = "HEAD"
	}
	out, err := git("log", "--first-parent", "--reverse", "--format=%H %s", b.Good+".."+bad).Probe(ctx)
	if err != nil {
		return nil, nil, job.Usage(err)
	}
	work, err := filepath.Abs(filepath.Join(b.Out, "bisect", "tree"))
	if err != nil {
		return nil, nil, err
	}
	add := func(hash, subject string) {
		points = append(points, point{fmt.Sprintf("%.12s (%s)", hash, subject), func(ctx context.Context) ([]string, error) {
			if _, err := os.Stat(work); err != nil {
				err := git("worktree", "add", "--quiet", "--force", "--detach", work, hash).Run(ctx)
				return []string{"--tree", work}, err
			}
			return []string{"--tree", work}, job.Command("git", "-C", work, "checkout", "--quiet", "--detach", hash).Run(ctx)
		}})
	}
	add(b.Good, "said to be good")
	for line := range strings.Lines(string(out)) {
		hash, subject, _ := strings.Cut(strings.TrimSpace(line), " ")
		add(hash, subject)
	}
	if len(points) == 1 {
		return nil, nil, job.Usage(fmt.Errorf("bisect: there is no commit between %s and %s", b.Good, bad))
	}
	return points, func() { git("worktree", "remove", "--force", work).Run(context.WithoutCancel(ctx)) }, nil
}

// try runs the test at a point.
func (b *Bisect) try(ctx context.Context, c *matrix.Cell, t *history.Test, i int, p point, s *job.Step) (verdict, error) {
	if p.args == nil {
		return b.without(t)
	}
	out := b.folder(i)
	if !job.From(ctx).DryRun {
		if err := os.RemoveAll(out); err != nil {
			return untestable, err
		}
		if err := os.MkdirAll(out, 0o755); err != nil {
			return untestable, err
		}
		more, err := p.args(ctx)
		if err != nil {
			return untestable, err
		}
		return b.run(ctx, c, t, out, more, s)
	}
	exe, err := program()
	if err != nil {
		return untestable, err
	}
	return good, job.Command(exe, c.Only([]string{t.Test}).Args(out)...).Run(ctx)
}

func (b *Bisect) run(ctx context.Context, c *matrix.Cell, t *history.Test, out string, more []string, s *job.Step) (verdict, error) {
	exe, err := program()
	if err != nil {
		return untestable, err
	}
	args := append(c.Only([]string{t.Test}).Args(out), more...)
	if b.Repeat > 1 {
		args = append(args, "--repeat", fmt.Sprint(b.Repeat))
	}
	_, err = child(ctx, c.Deadline, filepath.Join(out, "log.txt"), job.Command(exe, args...), s)
	if ctx.Err() != nil {
		return untestable, err
	}
	r, err := readReport(out)
	if err != nil {
		return untestable, nil // it says why in its log
	}
	for _, k := range r.Checks() {
		if k.Column+": "+k.Name != t.Test {
			continue
		}
		switch k.Status {
		case report.Passed:
			return good, nil
		case report.Failed:
			return bad, nil
		}
	}
	return untestable, nil
}

// without is the test without any patch, as the main job saw it at the last point.
func (b *Bisect) without(t *history.Test) (verdict, error) {
	found, _ := filepath.Glob(filepath.Join(b.Out, "bisect", "[0-9]*"))
	_, name, _ := strings.Cut(t.Test, ": ")
	for _, dir := range found {
		r, err := readReport(dir)
		if err != nil {
			continue
		}
		for i, c := range r.Columns {
			for _, s := range r.Scenarios {
				if c.Role != report.Before || s.Name != name || i >= len(s.Results) {
					continue
				}
				switch s.Results[i].Status {
				case report.Passed:
					return good, nil
				case report.Failed:
					return bad, nil
				}
			}
		}
	}
	return untestable, nil
}
