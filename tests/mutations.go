package tests

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
	"kbuild-run/vmrunner"
)

//go:embed mutations.tbl
var mutationsText string

// Mutation is a fault put into a series on purpose, in one line, to see whether
// the scenario of the rule it breaks fails then.
type Mutation struct {
	Rule     string
	Scenario string // the one that must fail
	What     string // the fault, in words
	File     string // fs/smb/server/notify.c
	Old, New string // part of a line, and what takes its place
}

// Mutations returns the mutations of mutations.tbl, in its order.
func Mutations() ([]Mutation, error) {
	var all []Mutation
	n := 0
	for line := range strings.Lines(mutationsText) {
		n++
		line = strings.TrimRight(line, "\n")
		bad := func(want string) error { return fmt.Errorf("read mutations.tbl: line %d: want %s", n, want) }
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "R-"):
			text, file, _ := strings.Cut(line, " | ")
			words := strings.SplitN(text, " ", 3)
			if len(words) < 3 || file == "" {
				return nil, bad("RULE SCENARIO FAULT | FILE")
			}
			all = append(all, Mutation{Rule: words[0], Scenario: words[1], What: words[2], File: file})
		case len(all) == 0:
			return nil, bad("a rule first")
		case strings.HasPrefix(line, "- "):
			all[len(all)-1].Old = line[2:]
		case strings.HasPrefix(line, "+ "):
			all[len(all)-1].New = line[2:]
		default:
			return nil, bad("R-, - or +")
		}
	}
	for _, m := range all {
		if m.Old == "" || m.New == "" {
			return nil, fmt.Errorf("read mutations.tbl: %s, %s: want a line with - and one with +", m.Rule, m.What)
		}
	}
	return all, nil
}

// Apply puts the fault into the file's text. That the line is not there, or more
// than once, is an error.
func (m Mutation) Apply(text string) (string, error) {
	if n := strings.Count(text, m.Old); n != 1 {
		return "", fmt.Errorf("%s has %d lines with %q, want 1", m.File, n, m.Old)
	}
	return strings.Replace(text, m.Old, m.New, 1), nil
}

// ksmbd is the folder of the server in a Linux tree, and its module.
const (
	ksmbdFolder = "fs/smb/server"
	ksmbdModule = "ksmbd.ko"
)

// mutant is a mutation on its way.
type mutant struct {
	Mutation
	module []byte
	result *scenario.Result
	failed bool   // the mutation shows nothing: it survives, or could not be tried
	said   string // how it ended, in words
}

// Mutate builds the server's module with each mutation, loads it into a guest and
// runs the scenario that must catch it; patterns choose scenarios or rules. It
// prints a table. One that is not caught, or does not apply any more, fails.
func Mutate(ctx context.Context, o Options) error {
	j := job.From(ctx)
	began := time.Now()
	all, scenarios, err := o.mutants()
	if err != nil {
		return err
	}
	if err := j.Step("host", func(*job.Step) error { return checkHost(ctx) }); err != nil {
		return err
	}
	k := &kernel{role: report.After, series: o.Series}
	if err := k.build(ctx, o); err != nil || j.DryRun {
		return err
	}
	out, err := o.folder(began, k.tree.Base+"-mutations")
	if err != nil {
		return err
	}
	err = j.Step("mutate", func(s *job.Step) error { return mutateModules(ctx, s, k.built, all) })
	if err != nil {
		return err
	}
	err = j.Step("mutations", func(s *job.Step) error {
		g := &mutantGuest{ctx: ctx, s: s, image: k.image, accel: o.Accel, dir: out, base: k.tree.Base}
		defer g.stop()
		return g.run(all, scenarios)
	})
	if err != nil {
		return err
	}
	table := mutationTable(all, k.column.Server)
	if err := os.WriteFile(filepath.Join(out, "mutations.md"), []byte(table), 0o644); err != nil {
		return err
	}
	fmt.Fprint(j.Out, table)
	bad := 0
	for _, m := range all[1:] {
		if m.failed {
			bad++
		}
		if m.result != nil && m.result.Failure != nil {
			if err := evidence(m.result, filepath.Join(out, strings.ReplaceAll(m.What, " ", "-"))); err != nil {
				return err
			}
		}
	}
	if bad > 0 {
		return job.Failed(fmt.Errorf("mutate %s: %d of %d mutations are not caught; the evidence is in %s", o.Series, bad, len(all)-1, out))
	}
	return nil
}

// mutants returns what is asked for, behind the module without a mutation, and
// the scenarios they name.
func (o Options) mutants() (all []*mutant, scenarios map[string]*scenario.Scenario, err error) {
	list, err := Mutations()
	if err != nil {
		return nil, nil, err
	}
	known, err := Scenarios(o.Folder)
	if err != nil {
		return nil, nil, job.Usage(err)
	}
	scenarios = map[string]*scenario.Scenario{}
	all = []*mutant{{Mutation: Mutation{What: "none", File: ksmbdFolder + "/notify.c"}}}
	for _, m := range list {
		if len(o.Scenarios) > 0 && !slices.Contains(o.Scenarios, m.Scenario) && !slices.Contains(o.Scenarios, m.Rule) {
			continue
		}
		i := slices.IndexFunc(known, func(s *scenario.Scenario) bool { return s.Name == m.Scenario })
		if i < 0 {
			return nil, nil, fmt.Errorf("read mutations.tbl: there is no scenario %s", m.Scenario)
		}
		scenarios[m.Scenario] = known[i]
		all = append(all, &mutant{Mutation: m})
	}
	if len(all) == 1 {
		return nil, nil, job.Usage(fmt.Errorf("no mutation for %s; name scenarios or rules of tests/mutations.tbl", strings.Join(o.Scenarios, " ")))
	}
	return all, scenarios, nil
}

// mutateModules builds the module of each mutant; the first is not changed.
func mutateModules(ctx context.Context, s *job.Step, k *kconfigs.Kernel, all []*mutant) error {
	scratch, release, err := k.Scratch(ctx, s, ksmbdFolder)
	if err != nil {
		return err
	}
	defer release()
	for i, m := range all {
		s.Progress("build %d of %d modules", i+1, len(all))
		b, err := scratch.Read(m.File)
		if err != nil {
			return err
		}
		text := string(b)
		if m.Old != "" {
			if text, err = m.Apply(text); err != nil {
				m.failed, m.said = true, "does not apply: "+err.Error()
				continue
			}
		}
		m.module, err = scratch.Build(ctx, m.File, []byte(text), ksmbdModule)
		switch {
		case err == nil:
		case i > 0 && job.Code(err) == job.ExitFailed:
			m.failed, m.said = true, "does not build: "+err.Error()
		default:
			return err
		}
	}
	s.Note("%d modules", len(all))
	return nil
}

// mutantGuest is a guest whose server is replaced again and again.
type mutantGuest struct {
	ctx              context.Context
	s                *job.Step
	image            *rootfs.Image
	accel, dir, base string
	vm               *vmrunner.VM
	reports          int // of the kernel, so far
}

func (g *mutantGuest) stop() {
	if g.vm != nil {
		g.vm.Stop(context.WithoutCancel(g.ctx))
		g.vm = nil
	}
}

// run tries all. The server without a mutation must pass every scenario: one that
// fails anyway catches nothing.
func (g *mutantGuest) run(all []*mutant, scenarios map[string]*scenario.Scenario) error {
	if err := g.load(all[0].module); err != nil {
		return err
	}
	var named []*scenario.Scenario
	for _, s := range scenarios {
		named = append(named, s)
	}
	results, err := scenario.Run(g.ctx, g.server(), named, nil)
	if err != nil {
		return err
	}
	sound := map[string]bool{}
	for _, r := range results {
		sound[r.Scenario.Name] = r.Outcome == scenario.Passed
	}
	for i, m := range all[1:] {
		g.s.Progress("%d of %d: %s", i+1, len(all)-1, m.What)
		switch {
		case m.failed:
			continue
		case !sound[m.Scenario]:
			m.failed, m.said = true, "shows nothing: "+m.Scenario+" fails without the mutation too"
			continue
		}
		if err := g.try(m, scenarios[m.Scenario]); err != nil {
			return fmt.Errorf("try %q: %w", m.What, err)
		}
	}
	caught := 0
	for _, m := range all[1:] {
		if !m.failed {
			caught++
		}
	}
	g.s.Note("%d of %d caught", caught, len(all)-1)
	return nil
}

// try runs the scenario on the mutant.
func (g *mutantGuest) try(m *mutant, s *scenario.Scenario) error {
	if err := g.load(m.module); err != nil {
		return err
	}
	results, err := scenario.Run(g.ctx, g.server(), []*scenario.Scenario{s}, nil)
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	switch {
	case err != nil:
		// Before the scenario began: nothing works, so nothing is shown.
		m.failed, m.said = true, "shows nothing: "+err.Error()
	case results[0].Outcome == scenario.Passed:
		m.failed, m.said = true, "SURVIVES"
	default:
		m.result = results[0]
		m.said = "caught: " + strings.Join(strings.Fields(strings.ReplaceAll(results[0].Failure.String(), "\n", "; ")), " ")
	}
	if reports, err := g.vm.Reports(); err == nil && len(reports) > g.reports {
		m.said += "; the kernel reports: " + reports[g.reports].Title
		g.stop()
	}
	return nil
}

// server is the guest's. A mutant has as long as the server without a mutation to
// answer: one that is only slow is not caught.
func (g *mutantGuest) server() *scenario.Server {
	return GuestServer("the mutated server", g.base, g.vm)
}

// swap puts a module in the place of the server that runs.
const swap = "set -e\nksmbd.control -s\nrmmod ksmbd\ninsmod /tmp/" + ksmbdModule + "\nksmbd.mountd\n"

// swapLimit is how long that may take; half a second is usual. A mutant that
// never lets go of its module costs a boot.
const swapLimit = 10 * time.Second

// load makes the guest run the module, in a new guest if the last mutant left the
// old one unwell.
func (g *mutantGuest) load(module []byte) error {
	fresh := g.vm == nil
	if fresh {
		vm, err := vmrunner.Start(g.ctx, g.s, g.image, vmrunner.Options{Accel: g.accel, Dir: g.dir})
		if err != nil {
			return err
		}
		g.vm, g.reports = vm, 0
	}
	err := g.swap(module)
	if err == nil {
		err = g.vm.WaitSMB(g.ctx)
	}
	if err == nil || fresh || g.ctx.Err() != nil {
		return err
	}
	g.stop()
	return g.load(module)
}

func (g *mutantGuest) swap(module []byte) error {
	limit := g.vm.Deadline(swapLimit)
	ctx, stop := context.WithTimeoutCause(g.ctx, limit, fmt.Errorf("no end after %v", limit))
	defer stop()
	files, err := g.vm.SFTP()
	if err != nil {
		return err
	}
	defer files.Close()
	f, err := files.Create("/tmp/" + ksmbdModule)
	if err != nil {
		return err
	}
	_, err = f.Write(module)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	r, err := g.vm.Run(ctx, swap)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("load the module: %s", strings.TrimSpace(string(r.Stderr)))
	}
	return err
}

// mutationTable is the result as Markdown.
func mutationTable(all []*mutant, server string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Mutations of %s\n\n| rule | scenario | mutation | result |\n|---|---|---|---|\n", server)
	escape := strings.NewReplacer("|", `\|`, "\n", " ", "<", `\<`, "*", `\*`)
	for _, m := range all[1:] {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Rule, m.Scenario, escape.Replace(m.What), escape.Replace(m.said))
	}
	return b.String()
}
