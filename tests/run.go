package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
	"kbuild-run/vmrunner/host"
)

// pending are the bases that keep a CHANGE_NOTIFY pending without the series, and
// answer it on CANCEL and CLOSE. The others refuse it.
var pending = map[string]bool{"v7.3": true}

// faults are the rules of the client that a base without the series breaks
// whatever it is asked, with a scenario of their own: credits, signed. In the
// others they would hide what the base does right.
var faults = map[string][]string{"v7.3": {"interim-credits/CHANGE_NOTIFY", "unsigned/CHANGE_NOTIFY"}}

// needsSeries says whether s must fail on the base without the series.
func needsSeries(s *scenario.Scenario, base string) bool {
	if s.Series != "" {
		return s.Base == "" || s.Base == base
	}
	return s.Has("notify") || s.Has("pending") && !pending[base]
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

// qemuVersion is QEMU in words.
func qemuVersion(ctx context.Context) string {
	out, err := job.Command("qemu-system-x86_64", "--version").Probe(ctx)
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}
