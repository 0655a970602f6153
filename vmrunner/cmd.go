package vmrunner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
)

// Command returns `kbuild-run vm`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "vm",
		Short: "boot a guest and work in it",
		Long: `Vm boots the kernel of a base, with or without a series, with ksmbd running, and
hands the guest over. What is missing is built first. The guest's disk is fresh
each time, and everything goes with the command.`,
	}
	c.AddCommand(execCommand(), shellCommand(), serveCommand(), gdbCommand())
	return c
}

// flags of every command that boots a guest.
type flags struct {
	road   rootfs.Road
	o      Options
	server string
}

func (f *flags) add(c *cobra.Command) {
	f.road.Flags(c)
	c.Flags().StringVar(&f.o.Accel, "accel", "", "run the guest by `kvm or tcg` (default what a canary boot shows to work)")
	c.Flags().IntVar(&f.o.CPUs, "cpus", 0, "`NUMBER` of the guest's CPUs (default 2)")
	c.Flags().IntVar(&f.o.Memory, "memory", 0, "the guest's memory in `MiB` (default 1024, debug kernels 2048)")
	c.Flags().StringVar(&f.o.Dir, "out", "", "keep console.log in `DIR`")
	c.Flags().BoolVar(&f.o.Pcap, "pcap", false, "with --out: capture the guest's network to capture.pcap")
	c.Flags().StringVar(&f.server, "server", "ksmbd", "`SERVER` of the guest: "+strings.Join(Servers, ", ")+"; both has Debian's smbd on another port")
	c.Flags().StringSliceVar(&f.o.Debug, "ksmbd-debug", nil, "print ksmbd's debug messages about `AREAS`: "+strings.Join(DebugAreas, ", "))
	c.Flags().StringSliceVar(&f.o.Trace, "trace", nil, "print the kernel's trace events that match `PATTERNS`, ksmbd:* for one, to the console")
	c.Flags().BoolVar(&f.o.Core, "core", false, "with --out: keep the memory of a guest that hangs at boot")
	c.Flags().StringArrayVar(&f.o.Kernel, "append", nil, "add `WORD` to the kernel's command line")
}

// run boots the guest, lets do use it, and ends it. An exit code of the guest
// becomes ours. What the kernel complained about is printed, and fails a command
// that went well.
func (f *flags) run(ctx context.Context, do func(*VM) (int, error)) error {
	j := job.From(ctx)
	if f.o.Pcap && f.o.Dir == "" {
		return job.Usage(errors.New("use --pcap: it needs --out DIR for the capture"))
	}
	if err := CheckAccel(f.o.Accel); err != nil {
		return err
	}
	if err := CheckDebug(f.o.Debug); err != nil {
		return err
	}
	if err := f.o.SetServer(f.server); err != nil {
		return err
	}
	if f.o.Trace != nil {
		f.road.Fragments = kconfigs.With(f.road.Fragments, "tracing")
	}
	image, err := f.road.Image(ctx)
	if err != nil {
		return err
	}
	var vm *VM
	// A Ctrl-C ends the boot, and afterwards do: the guest then ends in order.
	guest, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	booted := context.AfterFunc(ctx, func() { kill(context.Cause(ctx)) })
	err = j.Step("vm", func(s *job.Step) (err error) {
		vm, err = Start(guest, s, image, f.o)
		booted()
		if vm != nil {
			s.Note("up after %s, %s", job.Duration(vm.Times().Ready), vm.Accel())
		}
		return err
	})
	if err != nil || j.DryRun {
		return err
	}
	code, err := do(vm)
	reports, scanErr := vm.Reports()
	if scanErr == nil {
		scanErr = vm.Decode(guest, reports)
	}
	for _, r := range reports {
		fmt.Fprintf(j.Err, "kernel: %s\n%s", r.Head(), r.Body())
	}
	stopErr := vm.Stop(guest)
	switch {
	case err != nil:
		return err
	case code != 0:
		return job.Exit(code, fmt.Errorf("the guest's command ended: exit status %d", code))
	case scanErr != nil:
		return scanErr
	case len(reports) > 0:
		return job.Failed(fmt.Errorf("the kernel complained: %s", reports[0].Title))
	}
	return stopErr
}

func execCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "exec [flags] -- CMD [ARG...]",
		Short: "run a command in a fresh guest, with its exit code",
		Long: `Exec runs a command in a fresh guest as root, with our standard input, output and
error, and ends with its exit code. One argument is a line for the guest's shell;
of several each is passed as it is.`,
		Example: "  kbuild-run vm exec --series notify -- 'dmesg | tail'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("run a command in the guest: none is given; write it behind --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			line := args[0]
			if len(args) > 1 {
				line = pastable(args)
			}
			return f.run(ctx, func(vm *VM) (int, error) {
				return vm.Exec(ctx, line, os.Stdin, os.Stdout, os.Stderr)
			})
		},
	}
	c.Flags().SetInterspersed(false)
	f.add(c)
	return c
}

func shellCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "shell",
		Short: "open a shell in a fresh guest",
		Long: `Shell opens a shell in a fresh guest as root. ksmbd serves at the address that is
printed, for the users ` + userNames() + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			fd := int(os.Stdin.Fd())
			if !term.IsTerminal(fd) {
				return job.Usage(errors.New("vm shell: standard input is no terminal; use vm exec"))
			}
			return f.run(ctx, func(vm *VM) (int, error) {
				_, port, _ := strings.Cut(vm.Addr(portSMB), ":")
				user := rootfs.Users[0]
				job.From(ctx).Logf("smbclient -p %s -U %s%%%s //127.0.0.1/share", port, user.Name, user.Password)
				return terminal(ctx, vm, fd)
			})
		},
	}
	f.add(c)
	return c
}

// terminal lends our terminal to a shell in the guest.
func terminal(ctx context.Context, vm *VM, fd int) (int, error) {
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		cols, rows = 80, 24
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return 0, err
	}
	defer term.Restore(fd, old)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	defer signal.Stop(changed)
	sizes := make(chan [2]int)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				if cols, rows, err := term.GetSize(fd); err == nil {
					select {
					case sizes <- [2]int{cols, rows}:
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	name := os.Getenv("TERM")
	if name == "" {
		name = "vt100"
	}
	return vm.Shell(ctx, os.Stdin, os.Stdout, name, cols, rows, sizes)
}

// userNames lists the guest's accounts for a help text.
func userNames() string {
	var all []string
	for _, u := range rootfs.Users {
		all = append(all, fmt.Sprintf("%s (password %s)", u.Name, u.Password))
	}
	return strings.Join(all, " and ")
}
