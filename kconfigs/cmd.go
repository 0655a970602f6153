package kconfigs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
)

// Command returns `kbuild-run kernel`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "kernel",
		Short: "build a kernel, or show its config",
		Long: `Kernel configures and builds the kernel of a base, with or without a series.

A config is merged from fragments: those built in (` + strings.Join(Fragments(), ", ") + `) or files of yours.
Options that only one base has lie in NAME.BASE.config beside NAME.config. A fragment that stands on
others names them in a comment: "# needs: base". Behind an option that a tree may lack stands "# if known".`,
	}
	c.AddCommand(buildCommand(), configCommand())
	return c
}

// flags of both commands.
type flags struct {
	tree      patches.Options
	fragments []string
}

func (f *flags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.tree.Series, "series", "", "apply the series `NAME` (default none)")
	c.Flags().StringVar(&f.tree.Base, "base", "", "kernel `BASE` (default v6.12, or what fits --tree)")
	c.Flags().StringVar(&f.tree.Dir, "tree", "", "take the commit checked out in the git tree `DIR` as the base")
	c.Flags().StringSliceVar(&f.fragments, "config", Default, "`FRAGMENTS` to merge, names or files")
}

func buildCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "build",
		Short: "build a kernel and print its folder",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			j := job.From(ctx)
			t, err := prepare(cmd, f)
			if err != nil {
				return err
			}
			var k *Kernel
			err = j.Step("kernel", func(s *job.Step) (err error) {
				k, err = Build(ctx, s, t, Options{Fragments: f.fragments})
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(j.Out, k.Dir)
			return nil
		},
	}
	f.add(c)
	return c
}

func configCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "config",
		Short: "check a config and print it",
		Long:  "Config merges the fragments, checks that no option is lost and prints the .config.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			j := job.From(ctx)
			t, err := prepare(cmd, f)
			if err != nil {
				return err
			}
			var text []byte
			err = j.Step("config", func(s *job.Step) error {
				names, want, err := Options{Fragments: f.fragments}.request(t.Base)
				if err != nil {
					return err
				}
				if err := needs(); err != nil {
					return err
				}
				cc, err := compiler(ctx)
				if err != nil {
					return err
				}
				folder, release, err := enter(ctx, s, t, names, cc)
				if err != nil {
					return err
				}
				defer release()
				if err := folder.configure(ctx, s, want); err != nil || j.DryRun {
					return err
				}
				s.Note("%d options asked for, all there", len(want))
				text, err = os.ReadFile(filepath.Join(folder.dir, ".config"))
				return err
			})
			if err != nil {
				return err
			}
			_, err = j.Out.Write(text)
			return err
		},
	}
	f.add(c)
	return c
}

func prepare(cmd *cobra.Command, f flags) (t *patches.Tree, err error) {
	ctx := cmd.Context()
	err = job.From(ctx).Step("tree", func(s *job.Step) (err error) {
		t, err = patches.Prepare(ctx, s, f.tree)
		return err
	})
	return t, err
}

func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return job.Usage(err)
	}
	return nil
}
