package nightly

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/nightly/matrix"
	"kbuild-run/tests/nightly/page"
	"kbuild-run/tests/report"
)

// Command returns `kbuild-run nightly`. The text is the matrix it runs when the
// user names no other.
func Command(text string) *cobra.Command {
	var o Options
	file := ""
	c := &cobra.Command{
		Use:   "nightly",
		Short: "the matrix, its history, its page",
		Long: `Nightly runs every cell of a matrix (bases, series, configurations, suites:
tests/nightly.toml), stores every result, compares it with the nights before, and
prints what is new, fixed, flaky, and failing since when.

A cell that hangs, panics or cannot be built is a failure of its test "cell"; the
others go on. What fails is run again once; both results are kept. A night that was
interrupted goes on where it was when --night names it.

out/nightly/ holds the history (history.db), the page (index.html), the last night
as junit.xml, results.ktap and kcidb.json, and the results of each night, oldest
removed first when they take more than the matrix allows.

Exit code 1: something fails that did not the night before.`,
		Args: cobra.NoArgs,
	}
	p := c.PersistentFlags()
	p.StringVar(&o.Out, "out", filepath.Join("out", "nightly"), "folder `DIR` of the nights")
	p.StringVar(&file, "matrix", "", "read the matrix from `FILE`")
	only := func(c *cobra.Command) {
		c.Flags().StringSliceVar(&o.Only, "only", nil, "take only the suites or cells that match `NAME`")
	}
	// unattended are the flags that install passes on.
	unattended := func(c *cobra.Command) {
		only(c)
		f := c.Flags()
		f.StringVar(&o.Shard, "shard", "", "take only the `i/n`-th of the cells")
		f.IntVar(&o.Guests, "guests", 0, "boot at most `N` guests at once (default what cores and memory allow)")
		f.StringVar(&o.Notify, "notify-cmd", "", "give the summary to `COMMAND` of the shell on standard input")
	}
	unattended(c)
	f := c.Flags()
	f.StringVar(&o.Night, "night", "", "`NAME` of the night, one for all its shards (default when it began)")

	// with runs a subcommand with the matrix read.
	with := func(run func(ctx context.Context, o Options, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) (err error) {
			name, text := "tests/nightly.toml", text
			if file != "" {
				own, err := os.ReadFile(file)
				if err != nil {
					return job.Usage(fmt.Errorf("read matrix: %w", err))
				}
				name, text = file, string(own)
			}
			if o.Matrix, err = matrix.Read(name, text); err != nil {
				return err
			}
			return run(c.Context(), o, args)
		}
	}
	emit, image := "", ""
	f.StringVar(&emit, "emit", "", "print the matrix for an `ENGINE` that runs it, github, gitlab or k8s, and run nothing")
	f.StringVar(&image, "image", "", "container `IMAGE` for what --emit prints")
	c.RunE = with(func(ctx context.Context, o Options, _ []string) error {
		if emit == "" {
			return Do(ctx, o)
		}
		cells, err := o.Matrix.Choose(o.Only, o.Shard)
		if err != nil {
			return err
		}
		return matrix.Emit(job.From(ctx).Out, emit, image, cells)
	})
	var unit Unit
	printed := false
	install := &cobra.Command{
		Use:   "install",
		Short: "let systemd run it every night",
		Long: `Install writes kbuild-run-nightly.service and .timer, which run nightly in this
folder with the flags given here, and starts the timer. Its output is in the
journal: journalctl -u kbuild-run-nightly`,
		Args: cobra.NoArgs,
		RunE: with(func(ctx context.Context, o Options, _ []string) (err error) {
			exe, err := program()
			if err != nil {
				return err
			}
			if unit.Dir, err = os.Getwd(); err != nil {
				return err
			}
			if unit.Cache, err = os.UserCacheDir(); err != nil {
				return err
			}
			unit.Args = []string{exe, "nightly"}
			for _, f := range [][2]string{{"--out", o.Out}, {"--matrix", file}, {"--only", strings.Join(o.Only, ",")},
				{"--shard", o.Shard}, {"--notify-cmd", o.Notify}} {
				if f[1] != "" {
					unit.Args = append(unit.Args, f[0], f[1])
				}
			}
			if o.Guests > 0 {
				unit.Args = append(unit.Args, "--guests", fmt.Sprint(o.Guests))
			}
			return unit.Install(ctx, printed)
		}),
	}
	unattended(install)
	install.Flags().BoolVar(&printed, "print", false, "print the units and commands, and install nothing")
	install.Flags().StringVar(&unit.At, "at", "02:00", "start at `TIME`, in the form of systemd.time(7)")
	install.Flags().StringVar(&unit.Folder, "units", "/etc/systemd/system", "write the units into `DIR`")
	var b Bisect
	bisect := &cobra.Command{
		Use:   "bisect TEST",
		Short: "find the patch that turned a test",
		Long: `Bisect finds the patch of the series that turned a test of the history, with as many
tries a patch as a flaky test needs; with --tree DIR --good COMMIT the first commit
of a git tree. TEST is a scenario, or what status prints behind the cell.`,
		Args: cobra.ExactArgs(1),
		RunE: with(func(ctx context.Context, o Options, args []string) error {
			b.Options, b.Test = o, args[0]
			return b.Run(ctx)
		}),
	}
	only(bisect)
	bisect.Flags().IntVar(&b.Repeat, "repeat", 0, "run the test `N` times at each point (default 1, or what its rate of failures asks for)")
	bisect.Flags().StringVar(&b.Tree, "tree", "", "look among the commits of the git tree `DIR`")
	bisect.Flags().StringVar(&b.Good, "good", "", "`COMMIT` at which the test passes")
	bisect.Flags().StringVar(&b.Bad, "bad", "", "`COMMIT` at which it fails (default HEAD)")
	c.AddCommand(
		install,
		bisect,
		&cobra.Command{
			Use:   "status [NIGHT]",
			Short: "what a night found: new failures, fixed, flaky, still failing",
			Args:  cobra.MaximumNArgs(1),
			RunE: with(func(ctx context.Context, o Options, args []string) error {
				night := ""
				if len(args) > 0 {
					night = args[0]
				}
				return o.withStore(ctx, func(s *history.Store) error {
					st, err := history.Compare(ctx, s, o.Matrix.Known, night)
					if err != nil {
						return err
					}
					fmt.Fprint(job.From(ctx).Out, o.text(st))
					return st.Err()
				})
			}),
		},
		&cobra.Command{
			Use:   "merge DIR ...",
			Short: "take the nights in other folders into this one: shards, other machines",
			Args:  cobra.MinimumNArgs(1),
			RunE:  with(func(ctx context.Context, o Options, args []string) error { return o.merge(ctx, args) }),
		},
	)
	return c
}

// withStore opens the history for a command.
func (o *Options) withStore(ctx context.Context, f func(*history.Store) error) error {
	if _, err := os.Stat(filepath.Join(o.Out, history.File)); err != nil {
		return fmt.Errorf("open history: %w; begin with: kbuild-run nightly", err)
	}
	s, err := history.Open(ctx, o.Out)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}

// merge takes in the histories of other folders, and their results.
func (o *Options) merge(ctx context.Context, dirs []string) error {
	unlock, err := lock(ctx, o.Out)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := history.Open(ctx, o.Out)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, dir := range dirs {
		from := Options{Out: dir}
		err := from.withStore(ctx, func(other *history.Store) error {
			n, err := s.Merge(ctx, other)
			if err == nil {
				job.From(ctx).Logf("%s: %s", dir, report.Plural(n, "run", "runs"))
				err = copyResults(ctx, other, dir, o.Out)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("merge %s: %w", dir, err)
		}
	}
	st, err := history.Compare(ctx, s, o.Matrix.Known, "")
	if err != nil {
		return err
	}
	if err := page.Publish(ctx, s, o.Matrix.Known, o.Matrix.Origin, o.Out); err != nil {
		return err
	}
	fmt.Fprint(job.From(ctx).Out, o.text(st))
	return st.Err()
}

// copyResults copies the folders of cells that are not in the folder to yet.
func copyResults(ctx context.Context, s *history.Store, from, to string) error {
	nights, err := s.Nights(ctx, -1)
	if err != nil {
		return err
	}
	for _, n := range nights {
		for _, r := range n.Runs {
			cell := filepath.Join(n.Name, r.Cell)
			if _, err := os.Stat(filepath.Join(to, cell)); err == nil || r.Folder == "" {
				continue
			}
			if err := os.CopyFS(filepath.Join(to, cell), os.DirFS(filepath.Join(from, cell))); err != nil {
				return err
			}
		}
	}
	return nil
}
