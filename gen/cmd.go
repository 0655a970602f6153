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

// Command returns kbuild-run gen.
func Command() *cobra.Command {
	var check, rewrite bool
	var tree, object string
	c := &cobra.Command{
		Use:   "gen",
		Short: "print the protocol tables as Go, C and Markdown",
		Long: `Gen reads gen/tables of the checkout it is called in and writes what is printed
from them: the Go package gen/smb2 and gen/REFERENCE.md. Tables are rewritten in
their canonical form.

With --check it writes nothing; it prints what would change and exits 1.

With --tree it compares the tables, as they are built in, with the SMB headers of a
kernel tree, declaration by declaration and by C name, and says same, differs (with a
diff), missing, or strayed (the same, in a header that not everyone can include). It
exits 1 unless all are the same. With -w it writes what is not the same into the tree,
in the style of the block it stands in, and compares again.

With --layout it compares the structures with what the compiler made of them: with the
debug information of an object file or module, or of two objects of a kernel's build
folder, which it compiles once more with -g: that way nothing is left out as unused.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			j := job.From(cmd.Context())
			switch {
			case object != "":
				return proveLayout(cmd.Context(), j, object)
			case tree != "":
				return compareTree(j, tree, rewrite)
			case rewrite:
				return job.Usage(errors.New("-w without --tree"))
			}
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
		},
	}
	c.Flags().BoolVar(&check, "check", false, "write nothing, exit 1 if something would change")
	c.Flags().BoolVarP(&rewrite, "write", "w", false, "with --tree: correct the tree")
	c.Flags().StringVar(&object, "layout", "", "compare with this object, or this kernel build folder")
	c.Flags().StringVar(&tree, "tree", "", "compare with the kernel tree in this folder")
	return c
}

// compareTree compares with the headers of a tree, corrected first if rewrite is set.
func compareTree(j *job.Job, dir string, rewrite bool) error {
	set, err := Tables()
	if err != nil {
		return err
	}
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
func proveLayout(ctx context.Context, j *job.Job, path string) error {
	set, err := Tables()
	if err != nil {
		return err
	}
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
	findings, err := kernel.Prove(set, kernel.Release(path), info.IsDir(), objects...)
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
