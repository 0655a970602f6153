package gen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"kbuild-run/gen/kernel"
	"kbuild-run/gen/table"
	"kbuild-run/patches/job"
)

// Kernel gives the folders of a kernel from the cache: its sources, and with objects
// the build folder, where those of fs/smb are compiled. They are the caller's until
// done. In a dry run they may not exist.
type Kernel func(ctx context.Context, base, series string, objects bool) (source, build string, done func(), err error)

// Command returns kbuild-run gen.
func Command(open Kernel) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "gen [DIR | OBJECT]",
		Short: "print the protocol tables as Go, C and Markdown, or hold a kernel against them",
		Long: `Gen reads gen/tables of the checkout it is called in and writes what is printed
from them: the Go package gen/smb2 and gen/REFERENCE.md. Tables are rewritten in
their canonical form.

With --check it writes nothing; it prints what would change and exits 1.

With --tree it compares the tables, as they are built in, with the SMB headers of the
kernel tree DIR, declaration by declaration and by C name, and says same, differs (with
a diff), missing, or strayed (the same, in a header that not everyone can include). It
exits 1 unless all are the same. With -w it writes what is not the same into DIR, in
the style of the block it stands in, and compares again.

With --layout it compares the structures with what the compiler made of them: with the
debug information of OBJECT, an object file or module, or of two objects of a kernel's
build folder DIR, which it compiles once more with -g: that way nothing is left out as
unused.

Without DIR or OBJECT it takes the kernel of --base and --series:

  kbuild-run gen --tree --base v6.12 --series notify
  kbuild-run gen --layout --base v6.12 --series notify`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			j := job.From(cmd.Context())
			if err := o.wrong(args); err != nil {
				return job.Usage(err)
			}
			if !o.tree && !o.layout {
				return regenerateHere(j, o.check)
			}
			set, err := Tables()
			if err != nil {
				return err
			}
			source, build := "", ""
			if len(args) > 0 {
				source, build = args[0], args[0]
			} else {
				var done func()
				if source, build, done, err = open(cmd.Context(), o.base, o.series, o.layout); err != nil {
					return err
				}
				defer done()
			}
			switch {
			case o.layout:
				return proveLayout(cmd.Context(), j, set, build)
			case len(args) == 0 && j.DryRun: // the tree is not checked out
				return nil
			}
			return compareTree(j, set, source, o.write)
		},
	}
	c.Flags().BoolVar(&o.check, "check", false, "write nothing, exit 1 if something would change")
	c.Flags().BoolVar(&o.tree, "tree", false, "compare with the headers of a kernel tree")
	c.Flags().BoolVarP(&o.write, "write", "w", false, "with --tree DIR: correct the tree")
	c.Flags().BoolVar(&o.layout, "layout", false, "compare with the objects of a kernel")
	c.Flags().StringVar(&o.base, "base", "", "kernel `BASE` to compare with (default v6.12)")
	c.Flags().StringVar(&o.series, "series", "", "with the series `NAME` (default none)")
	return c
}

// options are the flags of gen.
type options struct {
	check, tree, write, layout bool
	base, series               string
}

// wrong says what of a command line makes no sense together.
func (o *options) wrong(args []string) error {
	compare := o.tree || o.layout
	switch {
	case o.check && compare || o.tree && o.layout:
		return errors.New("one of --check, --tree and --layout is wanted")
	case o.write && (!o.tree || len(args) == 0):
		return errors.New("-w without --tree DIR")
	case !compare && len(args) > 0:
		return fmt.Errorf("%s without --tree or --layout", args[0])
	case o.base+o.series != "" && (!compare || len(args) > 0):
		return errors.New("--base and --series are for --tree and --layout without a folder")
	}
	return nil
}

// regenerateHere writes the generated files of the checkout that the working directory
// is in, or, with check, says what it would write.
func regenerateHere(j *job.Job, check bool) error {
	dir, err := folder()
	if err != nil {
		return err
	}
	changes, err := regenerate(dir)
	if err != nil {
		return err
	}
	if !check && !j.DryRun {
		if err := write(dir, changes); err != nil {
			return err
		}
		for _, c := range changes {
			fmt.Fprintln(j.Out, "wrote", filepath.Join("gen", c.path))
		}
		return nil
	}
	for _, c := range changes {
		fmt.Fprintf(j.Out, "%s", c.diff())
	}
	if check && len(changes) > 0 {
		return job.Failed(fmt.Errorf("check generated files: %d out of date; run: kbuild-run gen", len(changes)))
	}
	return nil
}

// compareTree compares with the headers of a tree, corrected first if rewrite is set.
func compareTree(j *job.Job, set *table.Set, dir string, rewrite bool) error {
	t, err := kernel.ReadTree(dir)
	if err != nil {
		return err
	}
	findings := kernel.Compare(set, t)
	if rewrite && !j.DryRun {
		changed, err := kernel.Rewrite(set, t, dir, findings)
		if err != nil {
			return err
		}
		for _, path := range changed {
			fmt.Fprintln(j.Out, "wrote", path)
		}
		if t, err = kernel.ReadTree(dir); err != nil {
			return err
		}
		findings = kernel.Compare(set, t)
	}
	return report(j, "kernel tree "+dir, findings)
}

// proveLayout compares with an object, or with those of a build folder.
func proveLayout(ctx context.Context, j *job.Job, set *table.Set, path string) error {
	objects := []string{path}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		temp, err := os.MkdirTemp("", "kbuild-run-layout-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temp)
		if objects, err = kernel.Objects(ctx, path, temp); err != nil || j.DryRun {
			return err
		}
	}
	findings, err := kernel.Prove(set, kernel.Release(path), len(objects) == len(kernel.Units), objects...)
	if err != nil {
		return err
	}
	return report(j, path, findings)
}

// report prints a finding a line, and in the end how many of each.
func report(j *job.Job, with string, findings []*kernel.Finding) error {
	count := map[kernel.Verdict]int{}
	consts, structs, members := 0, 0, 0
	for _, f := range findings {
		fmt.Fprintf(j.Out, "%s\n%s", f, f.Diff)
		count[f.Verdict]++
		switch {
		case f.Verdict != kernel.Same:
		case f.Decl.Kind == table.Struct:
			structs++
			members += f.Count
		default:
			consts += f.Count
		}
	}
	fmt.Fprintf(j.Out, "same: %d structures with %d members", structs, members)
	if consts > 0 {
		fmt.Fprintf(j.Out, ", %d constants", consts)
	}
	bad := len(findings) - count[kernel.Same] - count[kernel.Unused]
	for _, v := range []kernel.Verdict{kernel.Differs, kernel.Missing, kernel.Strayed, kernel.Unused} {
		if count[v] > 0 {
			fmt.Fprintf(j.Out, "; %s: %d", v, count[v])
		}
	}
	fmt.Fprintln(j.Out)
	if bad > 0 {
		return job.Failed(fmt.Errorf("compare tables with %s: %d declarations are not the same", with, bad))
	}
	return nil
}

// regenerate returns what has to change in dir, the folder gen of a checkout.
func regenerate(dir string) ([]change, error) {
	set, err := table.Load(os.DirFS(filepath.Join(dir, "tables")))
	if err != nil {
		return nil, verdict(err)
	}
	want, err := Outputs(set)
	if err != nil {
		return nil, err
	}
	return stale(dir, want)
}

// verdict marks mistakes in tables as such; other errors mean we could not look.
func verdict(err error) error {
	var e table.Errors
	if errors.As(err, &e) {
		return job.Failed(fmt.Errorf("check gen/tables: %d wrong\n%w", len(e), err))
	}
	return err
}

var module = regexp.MustCompile(`(?m)^module kbuild-run$`)

// folder finds gen of the checkout that the working directory is in.
func folder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		text, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && module.Match(text) {
			return filepath.Join(at, "gen"), nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find gen/tables from %s: no go.mod of kbuild-run above it; run: cd CHECKOUT", dir)
		}
	}
}

// diff returns the change as a unified diff.
func (c *change) diff() []byte {
	path := filepath.Join("gen", c.path)
	if c.new == nil {
		return fmt.Appendf(nil, "%s: nothing generates it any more\n", path)
	}
	return diff.Diff(path, c.old, path+" (generated)", c.new)
}
