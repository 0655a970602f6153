package cache

import (
	"fmt"
	"sort"
	"time"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// Command returns `kbuild-run cache`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "show what the cache holds, or prune it",
		Long: `Cache lists what earlier runs left, with its size and when it was last used.

Sources, trees, kernels and images are kept by content: an entry that is gone
is made again when it is wanted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return list(job.From(cmd.Context())) },
	}
	var days int
	most := ""
	prune := &cobra.Command{
		Use:   "prune",
		Short: "remove what was not used lately",
		Long: `Prune removes what was not used for some days, and with --most what was not used
for longest, until the rest takes no more. What another kbuild-run works in stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			j := job.From(ctx)
			var size uint64
			if most != "" {
				var err error
				if size, err = ParseBytes(most); err != nil {
					return job.Usage(err)
				}
			}
			remove := func(e Entry) error {
				if j.DryRun {
					fmt.Fprintln(j.Out, "rm -rf", job.Quote(e.Dir))
					return nil
				}
				if err := e.Remove(ctx); err != nil {
					return err
				}
				fmt.Fprintf(j.Out, "removed %s %s, %s\n", e.Kind, e.Key, Bytes(e.Size))
				return nil
			}
			kept := func(e Entry) { j.Logf("%s %s is in use, and stays", e.Kind, e.Key) }
			return Prune(ctx, time.Now().AddDate(0, 0, -days), size, remove, kept)
		},
	}
	prune.Flags().IntVar(&days, "days", 14, "keep what was used in the last `N` days; 0 removes everything")
	prune.Flags().StringVar(&most, "most", "", "keep no more than `SIZE`, say 40GiB (default as much as there is)")
	c.AddCommand(prune)
	return c
}

func list(j *job.Job) error {
	dir, err := Dir()
	if err != nil {
		return err
	}
	all, err := List()
	if err != nil {
		return err
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].Used.After(all[k].Used) })
	var sum uint64
	for _, e := range all {
		sum += e.Size
		what := e.Meta["what"]
		fmt.Fprintf(j.Out, "%-8s %-18s %10s  %s  %s\n", e.Kind, e.Key, Bytes(e.Size), e.Used.Format("2006-01-02 15:04"), what)
	}
	fmt.Fprintf(j.Out, "%s in %s\n", Bytes(sum), dir)
	return nil
}
