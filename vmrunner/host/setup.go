package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// Setup returns `kbuild-run setup`.
func Setup() *cobra.Command {
	var show bool
	var with []string
	c := &cobra.Command{
		Use:   "setup",
		Short: "install what the host lacks, or print the commands",
		Long: `Setup looks for everything that the main job needs and installs what is
missing: on Debian and Ubuntu through apt-get, as root or by a sudo that asks
for no password. Otherwise it prints the commands for root and ends with code 3;
so it does on Fedora and openSUSE.

Optional things are installed only when --with names them. Where systemd runs,
smbd is left out even then: its package would start a file server.

It installs packages and does nothing else to the host.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := wanted(with)
			if err != nil {
				return err
			}
			return Host{}.Setup(cmd.Context(), want, show)
		},
	}
	c.Flags().BoolVar(&show, "print", false, "print the commands, run none")
	c.Flags().StringSliceVar(&with, "with", nil, "optional things to install too, as doctor names them: `NAME,...` or all")
	return c
}

// wanted returns the choice of needs for `setup --with names`.
func wanted(names []string) (func(*Need) bool, error) {
	var optional []string
	for _, n := range Needs {
		if n.Optional {
			optional = append(optional, n.Name)
		}
	}
	for _, name := range names {
		if name != "all" && !slices.Contains(optional, name) {
			return nil, job.Usage(fmt.Errorf("find optional %q: want all or one of %s", name, strings.Join(optional, ", ")))
		}
	}
	return func(n *Need) bool {
		return !n.Optional || slices.Contains(names, "all") || slices.Contains(names, n.Name)
	}, nil
}

// Setup installs what is missing of the wanted needs, or prints how to.
func (h Host) Setup(ctx context.Context, want func(*Need) bool, show bool) error {
	j := job.From(ctx)
	want = h.withoutServices(ctx, want)
	all := h.LookAll(ctx, want)
	pkgs, byHand, err := h.packages(all)
	if err != nil {
		return err
	}
	if show || j.DryRun {
		h.printCommands(j, pkgs)
		return byHand
	}
	return j.Step("set up host", func(s *job.Step) error {
		switch {
		case len(pkgs) > 0:
			s.Note("installed %s", strings.Join(pkgs, " "))
		case h.needsLists():
			s.Note("got the package lists")
		default:
			if byHand == nil {
				s.Cached()
				s.Note("all %d needs are there", len(all))
			}
			return byHand
		}
		if err := h.install(ctx, s, pkgs); err != nil {
			s.Note("")
			return err
		}
		for _, m := range Missing(h.LookAll(ctx, want)) {
			if h.Distro().Family.pkg(m.Need) != "" {
				return fmt.Errorf("install %s: not there after its package came: %s", m.Need.Name, m.How(h.Distro()))
			}
		}
		return byHand
	})
}

// withoutServices takes out of want what is missing and whose package would
// start something here, and says so.
func (h Host) withoutServices(ctx context.Context, want func(*Need) bool) func(*Need) bool {
	if _, err := os.Stat(h.file("/run/systemd/system")); err != nil { // sd_booted(3)
		return want
	}
	left := map[*Need]bool{}
	for _, m := range Missing(h.LookAll(ctx, func(n *Need) bool { return want(n) && n.Starts != "" })) {
		left[m.Need] = true
		job.From(ctx).Logf("leave out %s: its package starts %s; if you want that: %s", m.Need.Name, m.Need.Starts, m.How(h.Distro()))
	}
	return func(n *Need) bool { return want(n) && !left[n] }
}

// packages returns what to install; byHand says what no package gives. The error
// is that of a distribution whose packages are not known.
func (h Host) packages(all []Found) (pkgs []string, byHand, err error) {
	d := h.Distro()
	missing := Missing(all)
	if d.Family == nil && len(missing) > 0 {
		var names []string
		for _, m := range missing {
			names = append(names, m.Need.Name)
		}
		return nil, nil, fmt.Errorf("choose packages for %s: only Debian, Fedora, openSUSE and their relatives are known; install %s",
			d.Name, strings.Join(names, ", "))
	}
	for _, m := range missing {
		if p := d.Family.pkg(m.Need); p == "" {
			byHand = errors.Join(byHand, fmt.Errorf("find %s: %s", m.Need.Name, m.How(d)))
		} else if !slices.Contains(pkgs, p) {
			pkgs = append(pkgs, p)
		}
	}
	return pkgs, byHand, nil
}

// printCommands prints for root what installs pkgs.
func (h Host) printCommands(j *job.Job, pkgs []string) {
	if j.Out == nil {
		return
	}
	var sudo []string
	if h.euid() != 0 {
		sudo = []string{"sudo"}
	}
	f := h.Distro().Family
	if h.needsLists() {
		fmt.Fprintln(j.Out, f.Update(sudo...))
	}
	if len(pkgs) > 0 {
		fmt.Fprintln(j.Out, f.Install(pkgs, sudo...))
	}
}

// needsLists reports whether apt lacks package lists, without which it knows
// nothing to install or download: images of Debian for containers have none.
func (h Host) needsLists() bool {
	if f := h.Distro().Family; f == nil || f.update == nil {
		return false
	}
	lists, _ := filepath.Glob(h.file("/var/lib/apt/lists/*_Packages*"))
	return len(lists) == 0
}

func (h Host) install(ctx context.Context, s *job.Step, pkgs []string) error {
	d := h.Distro()
	var sudo []string
	if h.euid() != 0 {
		sudo = []string{"sudo", "-n"}
	}
	var why error
	if d.Family.update == nil {
		why = fmt.Errorf("setup installs on Debian only, this is %s", d.Name)
	} else if sudo != nil {
		if _, err := job.Command("sudo", "-n", "true").Probe(ctx); err != nil {
			why = errors.New("neither root nor a sudo without password")
		}
	}
	if why != nil {
		h.printCommands(job.From(ctx), pkgs)
		return fmt.Errorf("install packages: %w; run the commands above", why)
	}

	run := func(c *job.Cmd) error {
		c.Line = func(l string) { s.Progress("%s", l) }
		return c.Run(ctx)
	}
	update, install := d.Family.Update(sudo...), d.Family.Install(pkgs, sudo...)
	fresh := h.needsLists()
	if fresh {
		if err := run(update); err != nil {
			return err
		}
	}
	if len(pkgs) == 0 {
		return nil
	}
	err := run(install)
	if err == nil || fresh || ctx.Err() != nil {
		return err
	}
	// Old lists name packages that the mirror has replaced since.
	if err := run(update); err != nil {
		return err
	}
	return run(install)
}

// How says how to get what is missing.
func (f Found) How(d Distro) string {
	how := f.Need.From
	if d.Family != nil && d.Family.pkg(f.Need) != "" {
		how = d.Family.install[0] + " install " + d.Family.pkg(f.Need)
	}
	if how == "" {
		how = "not packaged for " + d.Name
	}
	if f.Err != "" {
		how += " (" + f.Err + ")"
	}
	return how
}
