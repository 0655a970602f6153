package patches

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// Command returns `kbuild-run series`, with the commands that later steps of the
// road add to it.
func Command(later ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   "series",
		Short: "list, make, apply, edit, check and send patch series",
		Long: `A series is a folder patches/NAME/BASE of mails that git am applies: series gives
their order, 0000-cover.md says what they are for, 0001-*.patch are the mails.

Inside a checkout of kbuild-run every command reads the series from the files on
disk; elsewhere it takes those built into the program.`,
	}
	c.AddCommand(listCommand(), applyCommand(), newCommand(), editCommand(), refreshCommand(), formatCommand(), rebaseCommand(), backportCommand(), updateCommand(), logCommand())
	c.AddCommand(later...)
	return c
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list [NAME]",
		Short: "show the series and their patches",
		Args:  usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			j := job.From(cmd.Context())
			list, err := List()
			if err != nil {
				return err
			}
			names := sorted(list)
			if len(args) == 1 {
				names = args
				if _, ok := list[args[0]]; !ok {
					_, err := FindSeries(args[0], "")
					return err
				}
			}
			for _, name := range names {
				for _, base := range list[name] {
					s, err := FindSeries(name, base)
					if err != nil {
						return err
					}
					fmt.Fprintf(j.Out, "%s %s, %d patches\n", name, base, len(s.Mails))
					for i, m := range s.Mails {
						fmt.Fprintf(j.Out, "  %2d  %s\n", i+1, m.Subject())
					}
				}
			}
			return nil
		},
	}
}

// treeFlags adds the flags that name a base to a command.
func treeFlags(c *cobra.Command, o *Options) {
	c.Flags().StringVar(&o.Base, "base", "", "kernel `BASE` the series is kept for (default v6.12, or what fits --tree)")
	c.Flags().StringVar(&o.Dir, "tree", "", "take the commit checked out in the git tree `DIR` as the base")
}

func applyCommand() *cobra.Command {
	var o Options
	var branch string
	c := &cobra.Command{
		Use:   "apply NAME [DIR]",
		Short: "apply a series to its base, or to a git tree of yours",
		Long: `Apply applies the series NAME to its base in the cache and prints the commit.

With DIR, a git tree of yours, the series goes onto the commit checked out there,
on a new branch. It is applied aside first: when a patch does not fit, DIR is as
it was.`,
		Args: usage(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			j := job.From(ctx)
			if o.Series = args[0]; len(args) == 2 {
				if o.Dir != "" {
					return job.Usage(fmt.Errorf("apply series: both DIR and --tree name a tree"))
				}
				o.Dir = args[1]
			}
			var t *Tree
			err := j.Step("tree", func(s *job.Step) (err error) {
				t, err = Prepare(ctx, s, o)
				return err
			})
			if err != nil {
				return err
			}
			if len(args) == 2 {
				if branch == "" {
					branch = o.Series
				}
				return j.Step("branch", func(s *job.Step) error { return t.branch(ctx, s, o.Dir, branch) })
			}
			fmt.Fprintf(j.Out, "%s  %s\n%s\n", t.Commit, t, t.Repository())
			return nil
		},
	}
	treeFlags(c, &o)
	c.Flags().StringVar(&branch, "branch", "", "`NAME` of the new branch in DIR (default the series' name)")
	return c
}

// branch makes a branch of the tree in the user's git tree and checks it out.
// Git refuses when the branch exists or a changed file is in the way.
func (t *Tree) branch(ctx context.Context, s *job.Step, dir, branch string) error {
	s.Note("%s in %s", branch, dir)
	if _, err := look(ctx, userGit(dir, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch)); err == nil {
		return fmt.Errorf("make branch %s in %s: it exists; name another one with: --branch NAME", branch, dir)
	}
	if err := userGit(dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", t.Repository(), t.Commit).Run(ctx); err != nil {
		return err
	}
	return userGit(dir, "checkout", "--quiet", "-b", branch, t.Commit).Run(ctx)
}

func newCommand() *cobra.Command {
	return treeCommand(&cobra.Command{
		Use:   "new NAME",
		Short: "start a series, with a git tree to make it in",
		Long: `New starts the series NAME: it writes a cover text to fill in, and makes a git
tree of the base with a branch for the patches. Commit there, and write the
commits into the series with: kbuild-run series refresh NAME`,
	}, func(ctx context.Context, s *job.Step, o Options, name string) (*Tree, error) {
		t, err := Prepare(ctx, s, o)
		if err != nil {
			return nil, err
		}
		t.Series = name
		return t, begin(ctx, name, t.Base)
	})
}

func editCommand() *cobra.Command {
	return treeCommand(&cobra.Command{
		Use:   "edit NAME",
		Short: "make a git tree to edit a series in",
		Long: `Edit makes a git tree of its own with the series NAME as commits on a branch, and
prints its folder. Change the commits with plain git (rebase, commit --fixup, am)
and write them back with: kbuild-run series refresh NAME`,
	}, func(ctx context.Context, s *job.Step, o Options, name string) (*Tree, error) {
		o.Series = name
		return Prepare(ctx, s, o)
	})
}

// treeCommand is a command that makes a git tree to work in, of what get returns
// for the name of a series.
func treeCommand(c *cobra.Command, get func(context.Context, *job.Step, Options, string) (*Tree, error)) *cobra.Command {
	var o Options
	var dir string
	c.Args = usage(cobra.ExactArgs(1))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		j := job.From(ctx)
		var t *Tree
		err := j.Step("tree", func(s *job.Step) (err error) {
			t, err = get(ctx, s, o, args[0])
			return err
		})
		if err != nil {
			return err
		}
		if dir == "" {
			dir = editDir(t.Series, t.Base)
		}
		if err := j.Step("edit", func(s *job.Step) error { return t.edit(ctx, s, dir) }); err != nil {
			return err
		}
		fmt.Fprintln(j.Out, dir)
		return nil
	}
	treeFlags(c, &o)
	c.Flags().StringVar(&dir, "dir", "", "`FOLDER` of the git tree (default out/edit/NAME-BASE)")
	return c
}

func refreshCommand() *cobra.Command {
	var base, dir string
	c := &cobra.Command{
		Use:   "refresh NAME",
		Short: "write an edited series back as mails",
		Long: `Refresh writes the commits of the tree that series edit made as mails into
patches/NAME/BASE of the checkout it is run in. Commits that did not change give
mails that did not change. The cover text is left alone.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			j := job.From(ctx)
			b, err := FindBase(base)
			if err != nil {
				return err
			}
			if dir == "" {
				dir = editDir(args[0], b.Name)
			}
			return j.Step("refresh", func(s *job.Step) error { return refresh(ctx, s, args[0], b.Name, dir) })
		},
	}
	c.Flags().StringVar(&base, "base", "", "kernel `BASE` the series is kept for (default v6.12)")
	c.Flags().StringVar(&dir, "dir", "", "`FOLDER` of the git tree (default out/edit/NAME-BASE)")
	return c
}

// usage marks a wrong number of arguments as a mistake on the command line.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return job.Usage(fmt.Errorf("%s: %w; see: %s --help", c.CommandPath(), err, c.CommandPath()))
		}
		return nil
	}
}
