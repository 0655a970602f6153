package host

import (
	"os"
	"slices"
	"strings"

	"kbuild-run/patches/job"
)

// Distro is what /etc/os-release says of the machine (os-release(5)).
type Distro struct {
	Name   string // PRETTY_NAME
	Family *Family
}

// Family is a group of distributions with one package manager.
type Family struct {
	Name    string
	ids     []string // values of ID and ID_LIKE
	update  []string // command that gets the package lists
	install []string // command that the packages follow
	pkg     func(*Need) string
}

var families = []*Family{
	{
		Name: "Debian", ids: []string{"debian", "ubuntu"},
		update:  []string{"apt-get", "-o", "Acquire::Retries=3", "update"},
		install: []string{"apt-get", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"},
		pkg:     func(n *Need) string { return n.Debian },
	},
	{
		Name: "Fedora", ids: []string{"fedora", "rhel", "centos"},
		install: []string{"dnf", "install", "-y", "--setopt=install_weak_deps=False"},
		pkg:     func(n *Need) string { return n.Fedora },
	},
	{
		Name: "openSUSE", ids: []string{"suse", "opensuse"},
		install: []string{"zypper", "--non-interactive", "install", "--no-recommends"},
		pkg:     func(n *Need) string { return n.SUSE },
	},
}

// Distro reads /etc/os-release. Family is nil for a distribution that the table
// of needs has no packages for.
func (h Host) Distro() Distro {
	text, err := os.ReadFile(h.file("/etc/os-release"))
	if err != nil {
		if text, err = os.ReadFile(h.file("/usr/lib/os-release")); err != nil {
			return Distro{Name: "an unknown distribution"}
		}
	}
	return parseDistro(string(text))
}

func parseDistro(text string) Distro {
	v := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v[name] = strings.Trim(value, `"'`)
		}
	}
	d := Distro{Name: v["PRETTY_NAME"]}
	if d.Name == "" {
		d.Name = "an unnamed distribution"
	}
	// ID_LIKE goes from the closest relative to the most distant.
	for _, id := range append([]string{v["ID"]}, strings.Fields(v["ID_LIKE"])...) {
		id, _, _ = strings.Cut(id, "-") // opensuse-tumbleweed
		for _, f := range families {
			if slices.Contains(f.ids, id) {
				d.Family = f
				return d
			}
		}
	}
	return d
}

// Install returns the command that installs pkgs; root's, to run as it is when
// sudo is empty.
func (f *Family) Install(pkgs []string, sudo ...string) *job.Cmd {
	return f.command(slices.Concat(f.install, pkgs), sudo)
}

// Update returns the command that gets the package lists, or nil where no step
// needs any.
func (f *Family) Update(sudo ...string) *job.Cmd {
	if f.update == nil {
		return nil
	}
	return f.command(f.update, sudo)
}

func (f *Family) command(args, sudo []string) *job.Cmd {
	if f.update != nil {
		// sudo drops the environment, so that it is part of the command.
		args = slices.Concat([]string{"env", "DEBIAN_FRONTEND=noninteractive"}, args)
	}
	args = slices.Concat(sudo, args)
	return job.Command(args[0], args[1:]...)
}

// Missing returns those of all that are not there.
func Missing(all []Found) (missing []Found) {
	for _, f := range all {
		if f.Path == "" {
			missing = append(missing, f)
		}
	}
	return missing
}
