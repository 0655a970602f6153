package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/clients"
	"kbuild-run/tests/pcap"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/torture"
	"kbuild-run/vmrunner"
	"kbuild-run/vmrunner/host"
	"kbuild-run/vmrunner/splat"
)

// Options of Main.
type Options struct {
	Series    string
	Base      string   // "" is the default, or what fits Dir
	Dir       string   // a git tree of the user's, whose HEAD is the base
	Fragments []string // of the configuration; nil: what kconfigs takes
	Image     rootfs.Options
	Scenarios []string // patterns; nil: all
	Folder    string   // of the scenarios; "": those in the program
	Repeat    int      // run the scenarios so often; 0: once
	List      bool     // list the scenarios, run none
	Debug     []string // see vmrunner.Options
	Trace     []string // see vmrunner.Options
	Pcap      bool     // capture the guests' network, and keep what each scenario left
	Core      bool     // see vmrunner.Options
	Accel     string   // kvm or tcg; "": what works
	Alone     bool     // leave out the base without the series
	Keep      bool     // leave the guests running until the job is interrupted
	Out       string   // folder for results; "": out
	Torture   Torture

	// Mailbox is a file whose patches are the series. Series then says what its
	// scenarios are: those of the series of that name; "": mbox.
	Mailbox string
	given   *patches.Series

	Stress time.Duration // work the guest hard for so long, and run nothing else

	Topologies []string // patterns of arrangements of machines to do something in, and nothing else
}

// notify is the series that most scenarios are about.
const notify = "notify"

// scenarios are those to run: none when only tests of smbtorture or a stress
// are wanted, and nothing about CHANGE_NOTIFY with a series that is about something else.
func (o Options) scenarios() ([]*scenario.Scenario, error) {
	if (o.Stress > 0 || o.Topologies != nil) && o.Scenarios == nil {
		return nil, nil
	}
	if o.Torture.Patterns != nil && o.Scenarios == nil {
		return nil, nil
	}
	all, err := Scenarios(o.Folder, o.Scenarios...)
	return slices.DeleteFunc(all, func(s *scenario.Scenario) bool {
		return s.Series != "" && s.Series != o.Series ||
			o.Series != "" && o.Series != notify && (s.Has("notify") || s.Has("pending"))
	}), err
}

// mailboxSeries is the name of a series that comes in a mailbox.
const mailboxSeries = "mbox"

// readMailbox reads the series from the mailbox, when there is one.
func (o *Options) readMailbox(ctx context.Context) error {
	if o.Mailbox == "" {
		return nil
	}
	if o.Series == "" {
		o.Series = mailboxSeries
	}
	text, err := os.ReadFile(o.Mailbox)
	if err != nil {
		return job.Usage(fmt.Errorf("read mailbox: %w", err))
	}
	o.given, err = patches.ReadMailbox(ctx, o.Series, text)
	return err
}

// torture are the patterns of the tests of smbtorture to run: some without being
// asked where two kernels are compared.
func (o Options) torture() []string {
	if o.Torture.Patterns == nil && o.Scenarios == nil && !o.Alone && o.Series == notify {
		return quickTorture
	}
	return o.Torture.Patterns
}

// pending are the bases that keep a CHANGE_NOTIFY pending without the series, and
// answer it on CANCEL and CLOSE. The others refuse it.
var pending = map[string]bool{"v7.3": true}

// faults are the rules of the client that a base without the series breaks
// whatever it is asked, with a scenario of their own: credits, signed. In the
// others they would hide what the base does right.
var faults = map[string][]string{"v7.3": {"interim-credits/CHANGE_NOTIFY", "unsigned/CHANGE_NOTIFY"}}

// needsSeries says whether s must fail on the base without the series.
func needsSeries(s *scenario.Scenario, base string) bool {
	return s.Series != "" || s.Has("notify") || s.Has("pending") && !pending[base]
}

// kernel is one of the kernels that are compared.
type kernel struct {
	role    report.Role
	series  string
	tree    *patches.Tree
	patches []string // subjects
	built   *kconfigs.Kernel
	image   *rootfs.Image
	column  report.Column
	vm      *vmrunner.VM
	hang    *splat.Report // it hung
	leaks   []splat.Report
	result  []*scenario.Result
	torture []torture.Result
	clients []clients.Result
	hard    *report.Result // of the stress

	other    *vmrunner.Plug // end of the guest's cable
	arranged []report.Scenario
}

// Main is the main job: what do clients see of the base without the series, and
// with it? It prints the report and writes it to a folder of its own below
// o.Out. The error is the verdict, or why there is none.
func Main(ctx context.Context, o Options) error {
	j := job.From(ctx)
	r, out, err := mainReport(ctx, o)
	if err != nil || r == nil {
		return err
	}
	if err := r.Markdown(j.Out); err != nil {
		return err
	}
	j.Logf("the report is in %s", out)
	return r.Err()
}

// mainReport does the main job and returns the report, which it has written to the
// folder out. A dry run gives none.
func mainReport(ctx context.Context, o Options) (r *report.Report, out string, err error) {
	j := job.From(ctx)
	began := time.Now()
	if err := o.readMailbox(ctx); err != nil {
		return nil, "", err
	}
	scenarios, err := o.scenarios()
	if err != nil {
		return nil, "", job.Usage(err)
	}
	base, err := patches.FindBase(o.Base)
	if err != nil {
		return nil, "", err
	}
	kernels := []*kernel{{role: report.After, series: o.Series}}
	// With a tree of the user's alone, Prepare finds out which base it fits.
	if o.Series != "" && o.given == nil && (o.Dir == "" || o.Base != "") {
		if _, err := patches.FindSeries(o.Series, base.Name); err != nil {
			return nil, "", err
		}
	}
	if o.Series != "" && !o.Alone {
		kernels = []*kernel{{role: report.Before}, kernels[0]}
	}
	o.plan(j, base.Name, len(scenarios))

	if err := j.Step("host", func(s *job.Step) error { return checkHost(ctx) }); err != nil {
		return nil, "", err
	}
	if err := o.Torture.prepare(ctx, o.torture()); err != nil {
		return nil, "", err
	}
	for _, k := range kernels {
		if err := k.build(ctx, o); err != nil {
			return nil, "", err
		}
	}
	if j.DryRun {
		return nil, "", nil // a guest that is not booted has nothing to show
	}
	last := kernels[len(kernels)-1]
	out, err = o.folder(began, last.tree.Base)
	if err != nil {
		return nil, "", err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(kernels))
	for i, k := range kernels {
		wg.Go(func() { errs[i] = k.run(ctx, o, scenarios, out) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || ctx.Err() != nil {
		if ctx.Err() != nil {
			// Half a result is none.
			os.RemoveAll(out)
			return nil, "", context.Cause(ctx)
		}
		return nil, "", err
	}

	r = &report.Report{
		Program: report.Program(), Started: began, Command: o.command(),
		Base: last.tree.Base, Version: last.tree.Version, Source: last.tree.Source, Series: o.Series, Patches: last.patches,
		Fragments: last.built.Fragments, Compiler: last.built.Compiler, QEMU: qemuVersion(ctx),
	}
	for _, k := range kernels {
		if k.vm != nil {
			r.Accelerator, r.Why = k.vm.Accel().Name, k.vm.Accel().Reason
		}
		r.Columns = append(r.Columns, k.column)
	}
	for i, s := range scenarios {
		row := report.Scenario{Name: s.Name, Shows: s.Shows, Sections: s.Sections, NeedsSeries: needsSeries(s, last.tree.Base)}
		for _, k := range kernels {
			result := report.Result{}
			if i < len(k.result) && k.result[i] != nil {
				if result, err = cell(k.result[i], row.NeedsSeries && k.role == report.Before, out, string(k.role)); err != nil {
					return nil, "", err
				}
			}
			row.Results = append(row.Results, result)
		}
		r.Scenarios = append(r.Scenarios, row)
	}
	rows, err := o.Torture.rows(kernels, out)
	if err != nil {
		return nil, "", err
	}
	r.Scenarios = append(r.Scenarios, rows...)
	r.Scenarios = append(r.Scenarios, clientRows(kernels)...)
	for _, k := range kernels {
		if k.hard != nil {
			r.Scenarios = append(r.Scenarios, report.Scenario{Name: "stress", Results: []report.Result{*k.hard},
				Shows: "No event is lost and no request forgotten while everything happens at once."})
		}
		r.Scenarios = append(r.Scenarios, k.arranged...)
	}
	r.Steps, r.Time = j.Steps(), time.Since(began)
	if err := r.Files(out); err != nil {
		return nil, "", err
	}
	return r, out, nil
}

// plan prints what is to be done.
func (o Options) plan(j *job.Job, base string, scenarios int) {
	if o.Dir != "" {
		base = o.Dir
	}
	if o.Series != "" && o.Alone {
		base += " with " + o.Series
	}
	if o.Topologies != nil {
		j.Logf("plan: build Linux %s, boot it, work in topologies %s, report", base, strings.Join(o.Topologies, ", "))
		return
	}
	if o.Stress > 0 {
		j.Logf("plan: build Linux %s, boot it, work it hard for %s, report", base, job.Duration(o.Stress))
		return
	}
	if o.Series == "" || o.Alone {
		j.Logf("plan: build Linux %s, boot it, run %d scenarios, report", base, scenarios)
		return
	}
	j.Logf("plan: build Linux %s without %s and with it, boot both, run %d scenarios on each, report", base, o.Series, scenarios)
}

// command is the command line that runs the same again.
func (o Options) command() string {
	words := []string{"kbuild-run", "run"}
	if o.Alone {
		words[1] = "test"
	}
	add := func(flag, value string) {
		if value != "" {
			words = append(words, flag, job.Quote(value))
		}
	}
	if o.Mailbox == "" || o.Series != mailboxSeries {
		add("--series", o.Series)
	}
	add("--mbox", o.Mailbox)
	if o.Alone && o.Series == "" {
		words = append(words, "--series", "''")
	}
	add("--base", o.Base)
	add("--tree", o.Dir)
	add("--config", strings.Join(o.Fragments, ","))
	add("--ksmbd-tools", o.Image.Tools)
	for _, p := range o.Scenarios {
		add("--scenario", p)
	}
	add("--scenarios", o.Folder)
	for _, p := range o.Torture.Patterns {
		add("--torture", p)
	}
	if o.Torture.Newest {
		words = append(words, "--torture-newest")
	}
	if o.Torture.Deadline != torture.Deadline && o.Torture.Deadline != 0 {
		add("--torture-deadline", o.Torture.Deadline.String())
	}
	add("--ksmbd-debug", strings.Join(o.Debug, ","))
	add("--trace", strings.Join(o.Trace, ","))
	if o.Pcap {
		words = append(words, "--pcap")
	}
	if o.Core {
		words = append(words, "--core")
	}
	add("--accel", o.Accel)
	if o.Stress > 0 {
		add("--stress", o.Stress.String())
	}
	for _, p := range o.Topologies {
		add("--topology", p)
	}
	if o.Repeat > 1 {
		add("--repeat", strconv.Itoa(o.Repeat))
	}
	return strings.Join(words, " ")
}

// folder makes the folder of the results, out/TIME-SERIES-BASE.
func (o Options) folder(began time.Time, base string) (string, error) {
	out := o.Out
	if out == "" {
		out = "out"
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", fmt.Errorf("make folder for results: %w", err)
	}
	name := began.Format("20060102-150405") + "-"
	if o.Series != "" {
		name += o.Series + "-"
	}
	for n := 1; ; n++ {
		dir := filepath.Join(out, name+base)
		if n > 1 {
			dir += fmt.Sprintf("-%d", n)
		}
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("make folder for results: %w", err)
		}
	}
}

// checkHost looks for every tool that the road needs before the first step that
// takes long.
func checkHost(ctx context.Context) error {
	var h host.Host
	missing := host.Missing(h.LookAll(ctx, func(n *host.Need) bool { return !n.Optional }))
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for _, m := range missing {
		names = append(names, m.Need.Name)
	}
	return fmt.Errorf("look at the host: it lacks %s; install it with: kbuild-run setup", strings.Join(names, ", "))
}

// step names a step of one kernel.
func (k *kernel) step(what string) string { return what + " " + string(k.role) }

// options are those of the tree.
func (k *kernel) options(o Options) patches.Options {
	p := patches.Options{Base: o.Base, Dir: o.Dir, Series: k.series}
	if k.series != "" {
		p.Given = o.given
	}
	return p
}

// build makes the tree, unless it has one, the kernel and the image.
func (k *kernel) build(ctx context.Context, o Options) (err error) {
	j := job.From(ctx)
	k.column = report.Column{Name: string(k.role), Role: k.role}
	if k.tree == nil {
		err = j.Step(k.step("tree"), func(s *job.Step) (err error) {
			k.tree, err = patches.Prepare(ctx, s, k.options(o))
			return err
		})
	}
	if err != nil {
		return err
	}
	if k.series != "" {
		series := o.given
		if series == nil {
			if series, err = patches.FindSeries(k.series, k.tree.Base); err != nil {
				return err
			}
		}
		for _, m := range series.Mails {
			k.patches = append(k.patches, m.Subject())
		}
	}
	err = j.Step(k.step("kernel"), func(s *job.Step) (err error) {
		k.built, err = kconfigs.Build(ctx, s, k.tree, kconfigs.Options{Fragments: o.fragments()})
		return err
	})
	if err != nil {
		return err
	}
	k.column.Server = "ksmbd of Linux " + k.tree.Version
	if k.series != "" {
		k.column.Server += " with " + k.series
	}
	k.column.Release, k.column.Tree = k.built.Release, k.tree.Key
	return j.Step(k.step("image"), func(s *job.Step) (err error) {
		if k.image, err = rootfs.Build(ctx, s, k.built, o.Image); err == nil && k.image.Cached {
			s.Cached()
		}
		return err
	})
}

// run boots the guest and runs the scenarios. What goes wrong with the guest is
// a finding, and goes into the column; the error is what is wrong with us.
func (k *kernel) run(ctx context.Context, o Options, scenarios []*scenario.Scenario, out string) (err error) {
	j := job.From(ctx)
	dir := filepath.Join(out, string(k.role))
	options := vmrunner.Options{Accel: o.Accel, Dir: dir, Debug: o.Debug, Trace: o.Trace, Pcap: o.Pcap, Core: o.Core}
	var remove func()
	if k.other, remove, err = o.wire(&options); err != nil {
		return err
	}
	defer remove()
	err = j.Step(k.step("boot"), func(s *job.Step) (err error) {
		if k.vm, err = vmrunner.Start(ctx, s, k.image, options); err != nil {
			return err
		}
		if err = k.vm.WaitSMB(ctx); err != nil {
			return err
		}
		k.column.FirstSMB = k.vm.Times().SMB
		s.Note("first SMB answer %s after power-on, %s", job.Duration(k.column.FirstSMB), k.vm.Accel().Name)
		return nil
	})
	if _, e := os.Stat(filepath.Join(dir, "console.log")); e == nil {
		k.column.Console = filepath.Join(string(k.role), "console.log")
	}
	var boot *vmrunner.BootError
	switch {
	case errors.As(err, &boot):
		j.Logf("%s: %v", k.role, err) // at once: the other guest may run for minutes yet
		k.column.Failure, k.column.Reports = err.Error(), boot.Reports
		return nil
	case k.vm == nil:
		return err
	case err != nil:
		k.column.Failure = err.Error()
		return k.stop(ctx)
	}
	server := GuestServer(k.column.Server, k.tree.Base, k.vm)
	if k.series == "" {
		server.Allow = faults[k.tree.Base]
	}
	if k.role == report.After {
		server.Holds = guestHolds(k.vm)
	}
	if o.Pcap {
		defer func() { err = errors.Join(err, k.keep(dir)) }()
	}
	if len(scenarios) > 0 {
		run := func() error { return k.scenarios(ctx, o, server, scenarios, dir) }
		if k.injects() {
			err = k.failing(ctx, server, run)
		} else {
			err = run()
		}
	}
	if o.Topologies != nil {
		err = k.topologies(ctx, o)
	} else if o.Stress > 0 {
		err = k.stress(ctx, o)
	}
	if err == nil && k.vm.Err() == nil {
		err = k.others(ctx, o, GuestServer(k.column.Server, k.tree.Base, k.vm))
	}
	if o.Torture.on(k.role) && err == nil && k.vm.Err() == nil {
		err = j.Step(k.step("smbtorture"), func(s *job.Step) (err error) {
			k.torture, err = o.Torture.run(ctx, s, server, k.role != report.Before, o.Repeat)
			return err
		})
	}
	switch died := k.vm.Err(); {
	case k.hang != nil:
		k.column.Failure = k.hang.Head() + "; the evidence is in " + filepath.Join(string(k.role), "hang")
	case died != nil:
		k.column.Failure = died.Error()
	case err != nil:
		return errors.Join(err, k.stop(ctx))
	}
	var uncounted error
	if k.role == report.After && !o.Keep && ctx.Err() == nil && k.vm.Err() == nil {
		k.inside(ctx)
		if k.counted() && k.vm.Err() == nil {
			uncounted = k.coverage(ctx, dir)
		}
	}
	if o.Keep && ctx.Err() == nil && k.vm.Err() == nil {
		u := rootfs.Users[0]
		j.Logf("%s: smb://%s:%s@%s/share; end it with Ctrl-C", k.role, u.Name, u.Password, k.vm.Addr(445))
		select {
		case <-ctx.Done():
		case <-k.vm.Done():
		}
	}
	return errors.Join(uncounted, k.stop(ctx))
}

// scenarios runs the scenarios, until the guest hangs.
func (k *kernel) scenarios(ctx context.Context, o Options, server *scenario.Server, scenarios []*scenario.Scenario, dir string) error {
	return job.From(ctx).Step(k.step("scenarios"), func(s *job.Step) (err error) {
		all, stop := context.WithCancel(ctx)
		defer stop()
		h := &hangs{vm: k.vm, dir: dir, found: stop}
		n := 0
		k.result, err = scenario.RunTimes(all, server, scenarios, o.Repeat, func(r *scenario.Result) {
			n++
			s.Progress("%d of %d", n, len(scenarios)*max(1, o.Repeat))
			h.suspect(ctx, r)
		})
		s.Note("%s", scenario.Count(k.result))
		if err != nil && all.Err() == nil {
			if why := k.vm.Responds(ctx); why != nil {
				h.hang(ctx, why)
			}
		}
		hang, hangErr := h.end(ctx, k.result)
		if k.hang = hang; hang != nil {
			return hangErr
		}
		return err
	})
}

// stop powers the guest off, so that what it complains about on its way down is
// in the report too.
func (k *kernel) stop(ctx context.Context) error {
	err := job.From(ctx).Step(k.step("power off"), func(*job.Step) error { return k.vm.Stop(context.WithoutCancel(ctx)) })
	if err != nil && k.column.Failure == "" {
		k.column.Failure = err.Error()
	}
	k.column.Reports, err = k.vm.Reports()
	if k.hang != nil {
		k.column.Reports = append(k.column.Reports, *k.hang)
	}
	k.column.Reports = append(k.column.Reports, k.leaks...)
	if err == nil {
		err = k.vm.Decode(context.WithoutCancel(ctx), k.column.Reports)
	}
	return err
}

// cell is the result as a cell of the report. Unless it had to fail, a failure
// leaves a folder below out with its evidence.
func cell(r *scenario.Result, mustFail bool, out, column string) (report.Result, error) {
	c := report.Result{Time: r.Time, Reason: r.Reason}
	switch r.Outcome {
	case scenario.Passed:
		c.Status = report.Passed
	case scenario.Skipped:
		c.Status = report.Skipped
	case scenario.Differs:
		c.Status = report.Skipped
		if mustFail {
			c.Status = report.Failed
		}
	case scenario.Failed:
		c.Status = report.Failed
	}
	if r.Failure == nil {
		return c, nil
	}
	if c.Reason != "" {
		c.Reason += "\n"
	}
	c.Reason += r.Failure.String()
	if mustFail {
		return c, nil
	}
	if r.Outcome == scenario.Failed && len(r.Failure.Last) > 0 {
		c.Reason += "\nlast messages:\n" + strings.Join(r.Failure.Last, "\n")
	}
	c.Folder = filepath.Join(column, r.Scenario.Name)
	return c, evidence(r, filepath.Join(out, c.Folder))
}

// keysFile has the keys of all sessions of the scenarios, for capture.pcap: see
// kbuild-run decode --keys.
const keysFile = "capture.keys"

// keep writes what the scenarios left to folders below dir, and the keys of their
// sessions beside the capture of the guest's network.
func (k *kernel) keep(dir string) error {
	var keys strings.Builder
	for _, r := range k.result {
		if r == nil || r.Messages == nil {
			continue
		}
		for _, line := range r.Keys {
			fmt.Fprintln(&keys, line)
		}
		if err := evidence(r, filepath.Join(dir, r.Scenario.Name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, keysFile), []byte(keys.String()), 0o600)
}

// evidence writes what there is about a scenario.
func evidence(r *scenario.Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"scenario.txt":   r.Scenario.Text,
		"transcript.txt": r.Transcript,
		"timeline.txt":   timeline(r),
	}
	if r.Failure != nil {
		files["failure.txt"] = r.Failure.String() + "\n\n" + strings.Join(r.Failure.Last, "\n") + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write evidence of %s: %w", r.Scenario.Name, err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "messages.pcap"))
	if err != nil {
		return err
	}
	return errors.Join(pcap.Write(f, r.Messages...), f.Close())
}

// qemuVersion is QEMU in words.
func qemuVersion(ctx context.Context) string {
	out, err := job.Command("qemu-system-x86_64", "--version").Probe(ctx)
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}
