package tests

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/clients"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/torture"
	"kbuild-run/vmrunner"
	"kbuild-run/vmrunner/splat"
)

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
