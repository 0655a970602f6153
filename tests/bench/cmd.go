package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/report"
)

// Options of Main.
type Options struct {
	Quick  bool
	Series string
	Base   string
	Only   []string // groups; nil: all
	Out    string   // folder for reports; "": out
}

// groups in the order of the report.
var groups = []Group{fileSystem, notification, manyWatches, toolkit}

// fragments of the kernel that is measured: those of a kernel for use, without
// KUnit, with what some groups want.
var fragments = []string{"base", "ksmbd", "bench"}

// Command returns `kbuild-run bench`.
func Command() *cobra.Command {
	var o Options
	var names, about []string
	for _, g := range groups {
		names = append(names, g.Name)
		about = append(about, fmt.Sprintf("%s:\n    %s\n", g.Name, strings.ReplaceAll(g.About, "\n", "\n    ")))
	}
	c := &cobra.Command{
		Use:   "bench",
		Short: "measure what the series costs, beside the kernel without it and Samba",
		Long: `Bench builds the base without the series and with it, and measures in alternation. The
report goes to standard output and, with its plots, to out/TIME-SERIES-BASE-bench/; it is
compared with the last one of the same kind there. A figure that misses its bound is told,
and is no failure: the exit code says only whether everything could be measured.

` + strings.Join(about, "\n"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return Main(c.Context(), o) },
	}
	c.Flags().BoolVar(&o.Quick, "quick", false, "few repetitions and small sizes: ten minutes")
	c.Flags().StringVar(&o.Series, "series", "notify", "measure the series `NAME`")
	c.Flags().StringVar(&o.Base, "base", "", "kernel `BASE` (default v6.12)")
	c.Flags().StringSliceVar(&o.Only, "only", nil, "measure the `GROUPS` only: "+strings.Join(names, ", "))
	c.Flags().StringVar(&o.Out, "out", "out", "put the folder of the results below `DIR`")
	return c
}

// Main measures and reports.
func Main(ctx context.Context, o Options) error {
	j := job.From(ctx)
	began := time.Now()
	chosen, err := o.choose()
	if err != nil {
		return err
	}
	image, err := o.Image(ctx, o.Series)
	if err != nil || j.DryRun {
		return err
	}
	t := image.Kernel.Tree
	dir := filepath.Join(o.Out, fmt.Sprintf("%s-%s-%s-bench", began.Format("20060102-150405"), o.Series, t.Base))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r := &Report{
		Program: report.Program(), Started: began, Command: o.command(), Quick: o.Quick, Base: t.Base, Version: t.Version,
		Series: o.Series, Compiler: image.Kernel.Compiler, QEMU: qemu(ctx), Host: processors(),
	}
	var errs []error
	for _, g := range chosen {
		gr := &GroupReport{Name: g.Name, About: g.About, Axis: g.Axis, Base: g.Base, Percent: g.Percent, limits: g.Bounds}
		r.Groups = append(r.Groups, gr)
		b := &Bench{Options: o, Dir: dir, group: gr}
		if err := g.Run(ctx, b); err != nil {
			if ctx.Err() != nil {
				os.RemoveAll(dir) // half a result is none
				return context.Cause(ctx)
			}
			gr.Failure = err.Error()
			errs = append(errs, fmt.Errorf("measure %s: %w", g.Name, err))
		}
		gr.finish()
	}
	r.Time = time.Since(began)
	last, err := Last(o.Out, r)
	if err != nil {
		return err
	}
	if err := r.Files(dir, last); err != nil {
		return err
	}
	if err := r.Markdown(j.Out, last); err != nil {
		return err
	}
	j.Logf("the report is in %s", dir)
	return errors.Join(errs...)
}

// choose returns the groups that are asked for.
func (o Options) choose() ([]Group, error) {
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	for _, name := range o.Only {
		if !slices.Contains(names, name) {
			return nil, job.Usage(fmt.Errorf("bench: there is no group %s; there are %s", name, strings.Join(names, ", ")))
		}
	}
	return slices.DeleteFunc(slices.Clone(groups), func(g Group) bool { return o.Only != nil && !slices.Contains(o.Only, g.Name) }), nil
}

// command is the command line that measures the same again.
func (o Options) command() string {
	words := []string{"kbuild-run", "bench", "--series", job.Quote(o.Series)}
	if o.Quick {
		words = append(words, "--quick")
	}
	if o.Base != "" {
		words = append(words, "--base", job.Quote(o.Base))
	}
	if o.Only != nil {
		words = append(words, "--only", job.Quote(strings.Join(o.Only, ",")))
	}
	return strings.Join(words, " ")
}

// Image builds the image of the kernel with a series, or with "" without one.
func (o Options) Image(ctx context.Context, series string) (*rootfs.Image, error) {
	road := rootfs.Road{Tree: patches.Options{Base: o.Base, Series: series}, Fragments: fragments}
	return road.Image(ctx)
}

// qemu is what QEMU says of itself.
func qemu(ctx context.Context) string {
	out, err := job.Command("qemu-system-x86_64", "--version").Probe(ctx)
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}

// processors says what this machine computes with.
func processors() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%d x %s", runtime.NumCPU(), strings.TrimSpace(value))
		}
	}
	return fmt.Sprintf("%d processors", runtime.NumCPU())
}
