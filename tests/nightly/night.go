// Package nightly takes the matrix of tests/nightly.toml and returns what changed
// since the last night: it runs each cell as a program of its own, keeps every
// result in one history, and compares.
//
//	matrix -> cells -> reports -> history -> what is new, fixed, flaky; since when
//
// A cell is a kbuild-run that writes a report; nothing is known of it but that
// report and its exit code, so that a cell that hangs, panics or cannot fetch its
// base is one failure of the test "cell", and the others go on.
package nightly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"kbuild-run/kconfigs/check"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/nightly/matrix"
	"kbuild-run/tests/nightly/page"
	"kbuild-run/tests/report"
)

// program is what a cell runs.
var program = os.Executable

// Options of a night.
type Options struct {
	Matrix *matrix.Matrix
	Out    string   // folder of the nights
	Only   []string // patterns of suites or cells; nil: all
	Shard  string   // "2/3"; "": all
	Night  string   // its name; "": when it began. Shards of one night share it.
	Guests int      // that run at once; 0: what cores and memory allow
	Notify string   // command of the shell that gets the summary on standard input
}

// night is a night that runs.
type night struct {
	Options
	store *history.Store
	tried map[string]history.Tried // before, if the night was interrupted

	mu    sync.Mutex
	wrong []error // what is not the fault of a cell
}

// minSpace is what a night wants to find on the disk of its results; cells look
// after the disk of the cache themselves.
const minSpace = 256 << 20

// Do runs the cells, stores their results and prints the summary. The error is
// a verdict only when something is worse than it was.
func Do(ctx context.Context, o Options) error {
	j := job.From(ctx)
	cells, err := o.Matrix.Choose(o.Only, o.Shard)
	if err != nil {
		return err
	}
	began := time.Now().UTC()
	if o.Night == "" {
		o.Night = began.Format("20060102-150405")
	}
	if o.Night != filepath.Base(o.Night) || strings.HasPrefix(o.Night, ".") {
		return job.Usage(fmt.Errorf("nightly: night %q: that is no name of a folder", o.Night))
	}
	n := &night{Options: o}
	updates := o.Matrix.Updates(cells)
	if j.DryRun {
		for _, c := range slices.Concat(updates, cells) {
			if _, err := n.try(ctx, &c, 1, nil); err != nil {
				return err
			}
		}
		return nil
	}
	summary, err := n.run(ctx, began, updates, cells)
	fmt.Fprint(j.Out, summary)
	if o.Notify == "" {
		return err
	}
	// Whoever is told in the morning has seen nothing of what went wrong beside it.
	if err != nil && (summary == "" || len(n.wrong) > 0) {
		summary += fmt.Sprintf("night %s: %v\n", o.Night, err)
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), notifyDeadline)
	defer stop()
	notify := job.Command("sh", "-c", o.Notify)
	notify.Stdin = strings.NewReader(summary)
	return errors.Join(err, notify.Run(ctx))
}

// notifyDeadline is for a mail server that answers slowly. A night that is ended
// from outside tells of it too.
const notifyDeadline = time.Minute

// run runs what is left of the night, and returns the summary.
func (n *night) run(ctx context.Context, began time.Time, updates, cells []matrix.Cell) (summary string, err error) {
	o := n.Options
	unlock, err := lock(ctx, o.Out)
	if err != nil {
		return "", err
	}
	defer unlock()
	if n.store, err = history.Open(ctx, o.Out); err != nil {
		return "", err
	}
	defer n.store.Close()
	if err := n.prune(ctx); err != nil {
		return "", err
	}
	if err := needSpace(o.Out, minSpace); err != nil {
		return "", err
	}
	if err := n.store.Begin(ctx, o.Night, began); err != nil {
		return "", fmt.Errorf("begin night %s: %w", o.Night, err)
	}
	// A night that was interrupted goes on when it is begun again by name.
	if n.tried, err = n.store.Tried(ctx, o.Night); err != nil {
		return "", err
	}
	for _, part := range [][]matrix.Cell{updates, cells} {
		if err := n.cells(ctx, part); err != nil {
			return "", err
		}
	}
	// What could not be stored is missing in this night, and is said at its end.
	n.fault(n.store.End(ctx, o.Night, time.Now()))
	n.fault(n.prune(ctx))
	n.fault(n.pruneCache(ctx))
	status, err := history.Compare(ctx, n.store, o.Matrix.Known, o.Night)
	if err != nil {
		return "", errors.Join(append(n.wrong, err)...)
	}
	n.fault(page.Publish(ctx, n.store, o.Matrix.Known, o.Matrix.Origin, o.Out))
	return o.text(status), errors.Join(append([]error{status.Err()}, n.wrong...)...)
}

// text is the status, and where to look on when something is worse.
func (o *Options) text(st *history.Status) string {
	text := st.Text()
	if st.Err() != nil {
		text += fmt.Sprintf("\nlook at %s; find the patch with: kbuild-run nightly bisect TEST\n", filepath.Join(o.Out, "index.html"))
	}
	return text
}

// lock keeps a second night out of a folder.
func lock(ctx context.Context, out string) (unlock func(), err error) {
	soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	unlock, err = cache.Lock(soon, filepath.Join(out, "night"))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("lock %s: a night is running there", out)
	}
	return unlock, err
}

// fault notes what went wrong beside the cells.
func (n *night) fault(err error) {
	if err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.wrong = append(n.wrong, err)
	}
}

// cells runs the cells, as many at once as there are cores and memory for their
// guests. The error is that of ctx.
func (n *night) cells(ctx context.Context, cells []matrix.Cell) error {
	guests := int64(n.Guests)
	if guests == 0 {
		guests = int64(runtime.NumCPU())
	}
	mib := max(1, available()>>20)
	cores, memory := semaphore.NewWeighted(guests), semaphore.NewWeighted(mib)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, c := range cells {
		// One that wants more than there is runs alone.
		g, m := min(int64(c.Guests), guests), min(int64(c.Guests)*int64(c.Memory), mib)
		if err := cores.Acquire(ctx, g); err != nil {
			return context.Cause(ctx)
		}
		if err := memory.Acquire(ctx, m); err != nil {
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer cores.Release(g)
			defer memory.Release(m)
			n.cell(ctx, &c)
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// available returns the bytes of memory that the host can still give.
func available() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 1 << 62
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 1 << 62
}

// cell runs a cell, and again what failed in it, and stores both.
func (n *night) cell(ctx context.Context, c *matrix.Cell) {
	t := n.tried[c.Name]
	if t.Attempt > 0 && len(t.Failed) == 0 {
		return
	}
	failed := t.Failed
	for attempt := t.Attempt + 1; attempt <= matrix.Attempts; attempt++ {
		r, err := n.try(ctx, c, attempt, failed)
		if ctx.Err() != nil {
			return // half a run is none
		}
		if err != nil {
			n.fault(err)
			return
		}
		n.fault(n.keep(ctx, r))
		if failed = r.Failed(); len(failed) == 0 {
			return
		}
	}
}

// keep stores a run. When the disk is full its evidence makes room for it.
func (n *night) keep(ctx context.Context, r *history.Run) error {
	err := n.store.Add(ctx, r)
	if !history.IsFull(err) {
		return err
	}
	if e := os.RemoveAll(filepath.Join(n.Out, r.Night, r.Cell)); e != nil {
		return errors.Join(err, e)
	}
	r.Folder = ""
	return n.store.Add(ctx, r)
}

// try runs the cell once; from the second attempt on only the tests that failed,
// where these can be run alone. The error is what is wrong with us.
func (n *night) try(ctx context.Context, c *matrix.Cell, attempt int, failed []string) (*history.Run, error) {
	j := job.From(ctx)
	folder := filepath.Join(n.Night, c.Name, fmt.Sprint(attempt))
	out := filepath.Join(n.Out, folder)
	exe, err := program()
	if err != nil {
		return nil, err
	}
	args := c.Only(failed).Args(out)
	if j.DryRun {
		return nil, job.Command(exe, args...).Run(ctx)
	}
	r := &history.Run{
		Night: n.Night, Cell: c.Name, Attempt: attempt, Suite: c.Suite, Base: c.Base, Series: c.Series, Config: c.Config,
		Program: report.Program(), Started: time.Now().UTC(), Folder: folder,
	}
	name := c.Name
	if attempt > 1 {
		name += " again"
	}
	// What an interrupted night left is half a run.
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	j.Step(name, func(s *job.Step) error {
		said, err := child(ctx, c.Deadline, filepath.Join(out, "log.txt"), job.Command(exe, args...), s)
		r.Time = time.Since(r.Started)
		err = n.read(r, said, err)
		s.Note("%s", count(r))
		return err
	})
	if attempt > 1 {
		// Of what passed both times one result is enough.
		r.Results = slices.DeleteFunc(r.Results, func(t history.Result) bool {
			return t.Status != report.Failed && !slices.Contains(failed, t.Test)
		})
	}
	return r, nil
}

// child runs a program whose output goes to the file log, and ends it after the
// deadline. It returns its last lines.
func child(ctx context.Context, deadline time.Duration, log string, c *job.Cmd, s *job.Step) (said string, err error) {
	f, err := os.Create(log)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var last []string
	c.Line = func(l string) {
		fmt.Fprintln(f, l)
		if last = append(last, l); len(last) > 20 {
			last = last[1:]
		}
		s.Progress("%s", l)
	}
	ctx, stop := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("no end after %s", job.Duration(deadline)))
	defer stop()
	if err = c.Run(ctx); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return strings.Join(last, "\n"), err
}

// read fills r with what the program left, and returns why the cell could not be
// run, if so.
func (n *night) read(r *history.Run, said string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		r.Exit = exit.ExitCode()
	default:
		r.Exit = -1
	}
	cell := history.Result{Test: history.CellTest, Status: report.Passed, Time: r.Time}
	defer func() { r.Results = append(r.Results, cell) }()
	p, problem := readReport(filepath.Join(n.Out, r.Folder))
	found := readFound(r, filepath.Join(n.Out, r.Folder))
	if p != nil {
		take(r, p)
		r.Folder = filepath.Join(r.Folder, p.Folder)
	} else if errors.Is(problem, os.ErrNotExist) {
		problem = nil // it says why, or need not have one
	}
	switch {
	case err == nil || r.Exit == job.ExitFailed && (p != nil || found):
	case r.Exit == -1:
		var ce *job.CmdError
		problem = err
		if errors.As(err, &ce) {
			problem = ce.Err
		}
	default:
		problem = fmt.Errorf("exit code %d", r.Exit)
	}
	if problem == nil {
		return nil
	}
	// What the program says of itself at its end comes first: of a long text only
	// the beginning is in the summary.
	before, why := said, ""
	if i := strings.LastIndex("\n"+said, "\nkbuild-run: "); i >= 0 {
		before, why = said[:i], said[i:]+"\n"
	}
	cell.Status, cell.Detail = report.Failed, strings.TrimSpace(problem.Error()+"\n"+why+before)
	return problem
}

// take takes the results and measures out of a report.
func take(r *history.Run, p *result) {
	r.Version, r.Source, r.Accelerator, r.Program = p.Version, p.Source, p.Accelerator, p.Program
	folders := map[string]string{}
	for i, c := range p.Columns {
		if c.Role == report.After {
			r.Tree, r.FirstSMB = c.Tree, c.FirstSMB
		}
		if c.Console != "" {
			folders[c.Name+": console"], folders[c.Name+": server"] = filepath.Dir(c.Console), filepath.Dir(c.Console)
		}
		for _, s := range p.Scenarios {
			if i < len(s.Results) {
				folders[c.Name+": "+s.Name] = s.Results[i].Folder
			}
		}
	}
	for _, g := range p.Groups {
		for _, b := range g.Bounds {
			if b.Measured {
				r.Measures = append(r.Measures, history.Measure{Name: b.Says, Value: b.Worst, Unit: b.Unit})
			}
		}
	}
	for _, k := range p.Checks() {
		name := k.Column + ": " + k.Name
		t := history.Result{Test: name, Status: k.Status, Time: k.Time}
		if k.Status != report.Passed {
			t.Detail, t.Folder = strings.TrimSpace(k.What+"\n"+k.Detail), folders[name]
		}
		r.Results = append(r.Results, t)
	}
}

// readFound takes in what series check left, if so: a test for each check of each
// patch.
func readFound(r *history.Run, dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, check.FoundFile))
	var all []check.Found
	if err != nil || json.Unmarshal(text, &all) != nil {
		return false
	}
	for _, f := range all {
		t := history.Result{Test: f.Patch + ": " + f.Check, Status: report.Failed, Detail: strings.Join(f.Found, "\n")}
		switch f.Status {
		case check.Pass:
			t.Status = report.Passed
		case check.Skipped:
			t.Status = report.Skipped
		}
		r.Results = append(r.Results, t)
	}
	return true
}

// result is the report of a program, and the folder it lies in.
type result struct {
	report.Report

	// Of kbuild-run bench: what it holds against its bounds.
	Groups []struct {
		Bounds []struct {
			Says     string
			Measured bool
			Worst    float64
			Unit     string
		}
	}

	Folder string `json:"-"` // below that of its run
}

// readReport reads the report that a program left below dir: os.ErrNotExist when
// it left none.
func readReport(dir string) (*result, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*", "report.json"))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, os.ErrNotExist
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		return nil, err
	}
	r := result{Folder: filepath.Base(filepath.Dir(found[0]))}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", found[0], err)
	}
	return &r, nil
}

// count is the results of a run in words.
func count(r *history.Run) string {
	n := map[report.Status]int{}
	for _, t := range r.Results {
		n[t.Status]++
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", n[report.Passed], n[report.Failed], n[report.Skipped])
}

// needSpace wants a disk with room.
func needSpace(dir string, want uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("read free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("use %s: %s free, %s wanted; free some with: kbuild-run cache prune", dir, cache.Bytes(free), cache.Bytes(want))
	}
	return nil
}

// prune removes the folders of the oldest nights until the rest fits. The history
// keeps their results.
func (n *night) prune(ctx context.Context) error {
	if n.Matrix.Disk == 0 {
		return nil
	}
	nights, err := n.store.Nights(ctx, -1)
	if err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(n.Out, "*", "*"))
	if err != nil {
		return err
	}
	// By age: the names of nights need not sort. What is no night's is not ours.
	began := map[string]int{}
	for i, night := range nights {
		began[night.Name] = i + 1
	}
	of := func(dir string) string { return filepath.Base(filepath.Dir(dir)) }
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return began[of(d)] == 0 })
	slices.SortStableFunc(dirs, func(a, b string) int { return began[of(a)] - began[of(b)] })
	var sum uint64
	sizes := make([]uint64, len(dirs))
	for i, d := range dirs {
		sizes[i] = diskUsage(d)
		sum += sizes[i]
	}
	for i, d := range dirs {
		if sum <= uint64(n.Matrix.Disk) {
			return nil
		}
		night, cell := of(d), filepath.Base(d)
		if err := n.store.Forget(ctx, night, cell); err != nil {
			return err
		}
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("prune results: %w", err)
		}
		os.Remove(filepath.Dir(d)) // when it is empty
		sum -= sizes[i]
	}
	return nil
}

// pruneCache removes what no night has used lately, and what is more than the
// matrix allows.
func (n *night) pruneCache(ctx context.Context) error {
	exe, err := program()
	if err != nil {
		return err
	}
	prune := job.Command(exe, "cache", "prune")
	if n.Matrix.Cache > 0 {
		prune.Args = append(prune.Args, "--most", fmt.Sprintf("%dMiB", n.Matrix.Cache>>20))
	}
	return prune.Run(ctx)
}

// diskUsage is how large the files of a folder are.
func diskUsage(dir string) (n uint64) {
	filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if fi, err := d.Info(); err == nil {
			n += uint64(fi.Size())
		}
		return nil
	})
	return n
}
