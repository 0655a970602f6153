package tests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/tests/scenario"
	"kbuild-run/vmrunner"
)

// Commands of this step: `kbuild-run run` and `kbuild-run test`.

// RunCommand returns `kbuild-run run`.
func RunCommand() *cobra.Command {
	var o Options
	c := &cobra.Command{
		Use:   "run --series NAME",
		Short: "the main job: what clients see without a series and with it",
		Long: `Run builds the base without the series and with it, boots both, runs the scenarios
on each, and reports. "kbuild-run --series NAME" is short for it.

The report goes to standard output and, as Markdown, JSON, JUnit XML and TAP, to
out/TIME-SERIES-BASE/, beside the consoles and the evidence of each failure.

Exit code 0: every scenario passes with the series, every one that needs it fails
without, and neither kernel complains.`,
		Args: noArgs,
		RunE: o.RunE,
	}
	o.Flags(c)
	return c
}

// Flags adds the flags of the main job to a command.
func (o *Options) Flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Series, "series", "", "apply the series `NAME`")
	o.kernelFlags(c)
	f.StringVar(&o.Mailbox, "mbox", "", "apply the patches in the mailbox `FILE`; --series then only says whose scenarios to run")
	f.BoolVar(&o.Keep, "keep", false, "leave the guests running until Ctrl-C")
}

// kernelFlags adds the flags that say which kernel, and which scenarios.
func (o *Options) kernelFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Base, "base", "", "kernel `BASE` (default v6.12, or what fits --tree)")
	f.StringVar(&o.Dir, "tree", "", "take the commit checked out in the git tree `DIR` as the base")
	f.StringSliceVar(&o.Fragments, "config", nil, "`FRAGMENTS` of the configuration (default base,ksmbd,kunit)")
	o.Image.Flags(c)
	f.StringSliceVar(&o.Scenarios, "scenario", nil, "run only the scenarios that match `PATTERN`")
	f.IntVar(&o.Repeat, "repeat", 1, "run the scenarios and smbtorture `N` times; one that ends differently fails")
	f.BoolVar(&o.List, "list", false, "list the scenarios with what they show, and run none")
	f.StringVar(&o.Folder, "scenarios", "", "read the scenarios from `DIR`")
	f.StringVar(&o.Out, "out", "", "put the folder of the results below `DIR` (default out)")
	o.Torture.flags(c)
	f.StringSliceVar(&o.Debug, "ksmbd-debug", nil, "print ksmbd's debug messages about `AREAS` to the console: "+strings.Join(vmrunner.DebugAreas, ", "))
	f.BoolVar(&o.Core, "core", false, "keep the memory of a guest that hangs: hang/memory.elf")
	f.StringSliceVar(&o.Trace, "trace", nil, "print the kernel's trace events that match `PATTERNS`, ksmbd:* for one, to the console and the timelines")
	f.BoolVar(&o.Pcap, "pcap", false, "capture the guests' network, with the keys of the sessions, and keep what each scenario left")
	f.StringVar(&o.Accel, "accel", "", "QEMU's accelerator, `kvm` or tcg (default what works)")
}

// RunE runs the main job for a command whose flags o has.
func (o *Options) RunE(c *cobra.Command, args []string) error {
	if o.List {
		return List(c.Context(), *o)
	}
	if o.Series == "" && o.Mailbox == "" {
		list, err := patches.List()
		if err != nil {
			return err
		}
		var names []string
		for name := range list {
			names = append(names, name)
		}
		return job.Usage(fmt.Errorf("run: no series; name one with: --series NAME; there is %s", strings.Join(names, ", ")))
	}
	return Main(c.Context(), *o)
}

// Command returns `kbuild-run test`.
func Command() *cobra.Command {
	var o Options
	var server string
	var rules, mutations, faults bool
	var servers []string
	c := &cobra.Command{
		Use:   "test [PATTERN ...]",
		Short: "run scenarios against a server",
		Long: `Test runs the scenarios, or those that match a pattern, against a server:

    guest or ksmbd                    ksmbd in a VM, with the series notify or
                                      the one that --series names (default)
    samba                             a private smbd on loopback
    smb://USER:PASSWORD@HOST/SHARE    any server; scenarios that need a shell on
                                      it are skipped. Without :PASSWORD it is that
                                      in the environment variable PASSWD

With --compare samba,ksmbd it runs them on two servers or more and prints how they
ended on each, and in which fields the answers of the others differ from those of
the first. Where ksmbd or Samba may fail the scenario's head says so; a server by
its address may if a field of its answers differs.

With --mutations it turns to the scenarios themselves: it puts a known fault into
the series, loads that server into the guest, runs the scenario of the rule that
is broken, and so on for each fault of tests/mutations.tbl. Patterns are names of
scenarios or rules. A fault that its scenario does not catch is a failure.

With --faults it turns to what watches the kernel: it plants a fault in ksmbd that
is none of the protocol, each of tests/faults/faults.toml or those that match a
pattern, and looks whether the run fails for it, with the title of the kernel's
report, the scenario and the line of the source.

A scenario is a text of commands, one a line. Its head says in comment lines what
it shows ("# sections:", "# rules:", "# needs:", "# samba:"). The commands:

` + scenario.Vocabulary() + `
Every command takes -status STATUS_X: the server is to answer that; -status any:
whatever it answers.

Personas:

` + scenario.Personas(),
		RunE: func(c *cobra.Command, args []string) error {
			o.Scenarios = append(o.Scenarios, args...)
			if o.List {
				return List(c.Context(), o)
			}
			if rules {
				return ListRules(c.Context(), o)
			}
			if _, err := matching(o.Topologies); err != nil {
				return err
			}
			switch {
			case mutations:
				return Mutate(c.Context(), o)
			case faults:
				return Plant(c.Context(), o)
			case servers != nil:
				return Compare(c.Context(), servers, o)
			}
			if server == "guest" || server == "ksmbd" {
				o.Alone = true
				return Main(c.Context(), o)
			}
			return Test(c.Context(), server, o)
		},
	}
	o.kernelFlags(c)
	c.Flags().StringVar(&o.Series, "series", "notify", "series `NAME` of the guest")
	c.Flags().DurationVar(&o.Stress, "stress", 0, "run no scenario, but work the guest hard for that `TIME` (10m)")
	c.Flags().StringSliceVar(&o.Topologies, "topology", nil, "run no scenario, but try the arrangements of machines that match `PATTERN`: "+topologyNames())
	c.Flags().StringVar(&server, "server", "guest", "`SERVER` to test: guest, samba, smb://...")
	c.Flags().BoolVar(&rules, "rules", false, "list the rules with the scenarios that show them, and how these ended when they last ran")
	c.Flags().StringSliceVar(&servers, "compare", nil, "run the scenarios on each of the `SERVERS` (samba,ksmbd) and tell in which fields their answers differ")
	c.Flags().BoolVar(&mutations, "mutations", false, "put known faults into the series, one at a time, and see that the scenario of each catches it")
	c.Flags().BoolVar(&faults, "faults", false, "plant faults in the kernel, one at a time, and see that each is found and named")
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return job.Usage(fmt.Errorf("%s: argument %s is too much", c.CommandPath(), args[0]))
	}
	return nil
}

// List prints the scenarios.
func List(ctx context.Context, o Options) error {
	all, err := Scenarios(o.Folder, o.Scenarios...)
	if err != nil {
		return job.Usage(err)
	}
	for _, s := range all {
		fmt.Fprintf(job.From(ctx).Out, "%s\n    %s\n    %s; %s\n", s.Name, s.Shows, s.Sections, strings.Join(s.Rules, " "))
	}
	return nil
}

// ListRules prints each rule with the scenarios that name it, and how these ended
// by the reports there are. A rule that none names is a failure.
func ListRules(ctx context.Context, o Options) error {
	all, err := Scenarios(o.Folder, o.Scenarios...)
	if err != nil {
		return job.Usage(err)
	}
	last, err := ReadLast(cmp.Or(o.Out, "out"), o.Series)
	if err != nil {
		return err
	}
	uncovered, err := Cover(job.From(ctx).Out, all, last)
	if err != nil || len(uncovered) == 0 {
		return err
	}
	var ids []string
	for _, r := range uncovered {
		ids = append(ids, r.ID)
	}
	return job.Failed(fmt.Errorf("cover rules: no scenario names %s", strings.Join(ids, " ")))
}

// Test runs scenarios against Samba or a server by its address, and prints a
// line for each.
func Test(ctx context.Context, name string, o Options) error {
	j := job.From(ctx)
	scenarios, err := o.scenarios()
	if err != nil {
		return job.Usage(err)
	}
	if err := o.Torture.prepare(ctx, o.Torture.Patterns); err != nil {
		return err
	}
	var server *scenario.Server
	switch {
	case name == "samba":
		var stop func() error
		err := j.Step("start samba", func(*job.Step) (err error) {
			server, stop, err = SambaServer(ctx)
			return err
		})
		if err != nil {
			return err
		}
		defer stop()
	case strings.HasPrefix(name, "smb://"):
		if server, err = AddressServer(name); err != nil {
			return job.Usage(err)
		}
	default:
		return job.Usage(fmt.Errorf("server %s is unknown; there are guest, samba, smb://USER:PASSWORD@HOST/SHARE", name))
	}
	if j.DryRun {
		return nil
	}
	if scenarios == nil {
		return o.torturing(ctx, server)
	}

	var out string
	var results []*scenario.Result
	err = j.Step("scenarios", func(s *job.Step) (err error) {
		results, err = scenario.RunTimes(ctx, server, scenarios, o.Repeat, func(r *scenario.Result) { s.Progress("%s", r.Scenario.Name) })
		if err == nil && o.Repeat < 2 {
			err = scenario.Again(ctx, server, results, func(first *scenario.Result) { again(j, first) })
		}
		s.Note("%s", scenario.Count(results))
		return err
	})
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		line := fmt.Sprintf("%-7s %-28s %8s", r.Outcome, r.Scenario.Name, job.Duration(r.Time))
		if r.Reason != "" {
			line += "  " + r.Reason
		}
		fmt.Fprintln(j.Out, line)
		if r.Outcome != scenario.Failed {
			continue
		}
		failed++
		fmt.Fprintf(j.Out, "    %s\n", strings.ReplaceAll(r.Failure.String(), "\n", "\n    "))
		if out == "" {
			if out, err = (Options{Out: o.Out}).folder(time.Now(), server.Kind); err != nil {
				return err
			}
		}
		if err := evidence(r, filepath.Join(out, r.Scenario.Name)); err != nil {
			return err
		}
	}
	fmt.Fprintln(j.Out, scenario.Count(results))
	if failed > 0 {
		err = job.Failed(fmt.Errorf("test %s: %d of %d scenarios fail; the evidence is in %s", server.Name, failed, len(results), out))
	}
	return errors.Join(err, o.torturing(ctx, server))
}
