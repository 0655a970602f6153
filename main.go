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
	"kbuild-run/kconfigs/check"
	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests"
	"kbuild-run/tests/bench"
	"kbuild-run/tests/nightly"
	"kbuild-run/vmrunner"
	"kbuild-run/vmrunner/host"
)

// commands: the host's first, then in the order of the road. What a command takes
// from a later part of the road, as series its check, is handed to it here.
var commands = []func() *cobra.Command{
	host.Setup,
	host.Doctor,
	func() *cobra.Command { return gen.Command(kconfigs.Open) },
	gen.DecodeCommand,
	func() *cobra.Command { return patches.Command(check.Command(tests.Boot)) },
	kconfigs.Command,
	rootfs.Command,
	vmrunner.Command,
	tests.RunCommand,
	tests.Command,
	bench.Command,
	func() *cobra.Command { return nightly.Command(tests.Nightly) },
	cache.Command,
}

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	j := job.New(os.Stdout, os.Stderr)
	cache.Waiting = func(path string) { j.Logf("waiting for another kbuild-run to leave %s", path) }

	host.ExtendPath()

	var main tests.Options // --series NAME is short for run --series NAME
	root := &cobra.Command{
		Use:           "kbuild-run --series NAME",
		Short:         "build, boot and test patched ksmbd kernels",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return job.Usage(fmt.Errorf("command %s is unknown; list them with: kbuild-run help", args[0]))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().NFlag() == 0 {
				return c.Help()
			}
			return main.RunE(c, args)
		},
	}
	main.Flags(root)
	root.PersistentFlags().BoolVarP(&j.Verbose, "verbose", "v", false, "show what child processes print")
	root.PersistentFlags().BoolVarP(&j.DryRun, "dry-run", "n", false, "print the commands, run none")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return job.Usage(err) })
	cobra.EnableCommandSorting = false // theirs is the order of the road
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, c := range commands {
		root.AddCommand(c())
	}
	checkArgs(root)
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

// checkArgs makes wrong arguments of c and the commands below it mistakes on the
// command line, which have an exit code of their own.
func checkArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return job.Usage(err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
}
