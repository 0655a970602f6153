package gen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"kbuild-run/gen/table"
	"kbuild-run/patches/job"
)

// Command returns kbuild-run gen.
func Command() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "gen",
		Short: "print the protocol tables as Go, C and Markdown",
		Long: `Gen reads gen/tables of the checkout it is called in and writes what is printed
from them: the Go package gen/smb2 and gen/REFERENCE.md. Tables are rewritten in
their canonical form.

With --check it writes nothing; it prints what would change and exits 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			j := job.From(cmd.Context())
			dir, err := folder()
			if err != nil {
				return err
			}
			changes, err := regenerate(dir)
			if err != nil {
				return err
			}
			if !check {
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
			if len(changes) > 0 {
				return job.Failed(fmt.Errorf("check generated files: %d out of date; run: kbuild-run gen", len(changes)))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "write nothing, exit 1 if something would change")
	return c
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
		return job.Failed(fmt.Errorf("check tables: %d mistakes\n%w", len(e), err))
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
