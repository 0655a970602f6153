// Kbuild-run takes a Linux tree and a patch series and says with evidence what
// a Windows-style client of the patched ksmbd sees.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"kbuild-run/gen"
	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/vmrunner/host"
)

// commands: the host's first, then in the order of the road.
var commands = []func() *cobra.Command{
	host.Setup,
	host.Doctor,
	gen.Command,
	patches.Command,
	kconfigs.Command,
	cache.Command,
}

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	j := job.New(os.Stdout, os.Stderr)
	cache.Waiting = func(path string) { j.Logf("waiting for another kbuild-run to leave %s", path) }

	host.ExtendPath()

	root := &cobra.Command{
		Use:           "kbuild-run",
		Short:         "build, boot and test patched ksmbd kernels",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().BoolVarP(&j.Verbose, "verbose", "v", false, "show what child processes print")
	root.PersistentFlags().BoolVarP(&j.DryRun, "dry-run", "n", false, "print the commands, run none")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return job.Usage(err) })
	for _, c := range commands {
		root.AddCommand(c())
	}
	err := root.ExecuteContext(job.With(ctx, j))
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", context.Canceled)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "kbuild-run:", err)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "kbuild-run: interrupted")
	}
	return job.Code(err)
}
