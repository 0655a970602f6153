package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
	"kbuild-run/tests/coverage"
	"kbuild-run/tests/report"
)

// guestCounts is where the kernel shows what gcov counts, below it the paths of the
// build folder (Documentation/dev-tools/gcov.rst).
const guestCounts = "/sys/kernel/debug/gcov"

// counted says whether gcov counts in the kernel.
func (k *kernel) counted() bool {
	_, err := os.Stat(k.built.Notes)
	return err == nil
}

// coverage takes what gcov has counted out of the guest, writes the pages to the
// folder coverage in dir and notes the figures in the column. Counts of a module that
// is gone are still there.
func (k *kernel) coverage(ctx context.Context, dir string) error {
	return job.From(ctx).Step(k.step("coverage"), func(s *job.Step) error {
		tmp, err := os.MkdirTemp("", "kbuild-run-counts-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		if err := k.fetchCounts(tmp); err != nil {
			return fmt.Errorf("fetch counts of gcov: %w", err)
		}
		counts, err := coverage.Read(ctx, tmp, k.built.Notes, kconfigs.Counted)
		if err != nil {
			return err
		}
		own, err := k.tree.Added(ctx, kconfigs.Counted)
		if err != nil {
			return err
		}
		if k.series != "" {
			counts.Mark(own)
		}
		source := func(name string) (string, error) {
			text, err := k.tree.Look(ctx, "show", k.tree.Commit+":"+name)
			return string(text), err
		}
		folder := filepath.Join(dir, "coverage")
		if err := counts.Write(folder, "Coverage of "+k.column.Server, source); err != nil {
			return err
		}
		c := &report.Coverage{
			Folder: filepath.Join(string(k.role), "coverage"),
			All:    counts.Sum((*coverage.File).All), Own: counts.Sum((*coverage.File).Series),
		}
		k.column.Coverage = c
		s.Note("%s ran, of the series' own %s", c.All, c.Own)
		return nil
	})
}

// fetchCounts copies the counts of kconfigs.Counted.
func (k *kernel) fetchCounts(dir string) error {
	files, err := k.vm.SFTP()
	if err != nil {
		return err
	}
	defer files.Close()
	for w := files.Walk(guestCounts); w.Step(); {
		if w.Err() != nil {
			return w.Err()
		}
		_, name, ok := strings.Cut(w.Path(), "/"+kconfigs.Counted+"/")
		if !ok || filepath.Ext(name) != ".gcda" {
			continue
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		in, err := files.Open(w.Path())
		if err != nil {
			return err
		}
		out, err := os.Create(to)
		if err != nil {
			in.Close()
			return err
		}
		_, err = in.WriteTo(out)
		if err := errors.Join(err, in.Close(), out.Close()); err != nil {
			return err
		}
	}
	return nil
}
