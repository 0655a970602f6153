package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kbuild-run/patches/job"
)

func TestNeeds(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range Needs {
		if seen[n.Name] {
			t.Errorf("%s: twice in the table", n.Name)
		}
		seen[n.Name] = true
		if (n.Ask == nil) == (n.Files == nil) {
			t.Errorf("%s: wants either Ask or Files", n.Name)
		}
		if n.From == "" && (n.Debian == "" || n.Fedora == "" || n.SUSE == "") {
			t.Errorf("%s: no way to get it on some family", n.Name)
		}
		if strings.Contains(n.Debian+n.Fedora+n.SUSE, "ksmbd-tools") {
			t.Errorf("%s: ksmbd-tools conflicts with samba and stays off the host", n.Name)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\n", "7.2.22"},
		{"12.2.0\n", "12.2.0"},
		{"GNU ld (GNU Binutils for Debian) 2.40\n", "2.40"},
		{"mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0\n", "1.47.0"},
		{"kmod version 30\n+ZSTD +XZ\n", "30"},
		{"go version go1.26.8 linux/amd64\n", "1.26.8"},
		{"bison (GNU Bison) 3.8.2\nWritten by\n", "3.8.2"},
		{"\n", ""},
	} {
		if got := version(test.text); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

func TestParseDistro(t *testing.T) {
	for _, test := range []struct{ text, name, family string }{
		{"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n", "Debian GNU/Linux 12 (bookworm)", "Debian"},
		{"PRETTY_NAME='Linux Mint 22'\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "Linux Mint 22", "Debian"},
		{"PRETTY_NAME=\"Fedora Linux 43\"\nID=fedora\n", "Fedora Linux 43", "Fedora"},
		{"PRETTY_NAME=\"Rocky Linux 9\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "Rocky Linux 9", "Fedora"},
		{"PRETTY_NAME=\"openSUSE Tumbleweed\"\nID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", "openSUSE Tumbleweed", "openSUSE"},
		{"ID=arch\n", "an unnamed distribution", ""},
	} {
		d := parseDistro(test.text)
		family := ""
		if d.Family != nil {
			family = d.Family.Name
		}
		if d.Name != test.name || family != test.family {
			t.Errorf("got %q of %q, want %q of %q", d.Name, family, test.name, test.family)
		}
	}
}

const (
	debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"
	fedora = "PRETTY_NAME=\"Fedora Linux 43\"\nID=fedora\n"
	suse   = "PRETTY_NAME=\"openSUSE Leap 16.0\"\nID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n"
)

// fake is a machine in a folder: its tools are shell scripts, its apt-get makes
// the tool "bc" when the folder holds package lists, and writes what it was
// asked to do to the file "log". It has package lists unless "lists" is missing.
type fake struct {
	Host
	t *testing.T
}

func newFake(t *testing.T, osRelease string, without ...string) fake {
	root := t.TempDir()
	f := fake{Host{Root: root, Path: []string{filepath.Join(root, "bin")}}, t}
	f.write("etc/os-release", osRelease, 0o644)
	for _, n := range Needs {
		switch {
		case n.Optional || slices.Contains(without, n.Name):
		case n.Ask == nil:
			f.write(n.Files[len(n.Files)-1], "", 0o644)
		default:
			f.write("bin/"+n.Name, "#!/bin/sh\necho "+n.Name+" 1.2.3\n", 0o755)
		}
	}
	if !slices.Contains(without, "lists") {
		f.write("var/lib/apt/lists/x_Packages", "", 0o644)
	}
	f.write("apt/apt-get", fmt.Sprintf(`#!/bin/sh
cd %s || exit 1
echo "apt-get $*" >>log
case "$*" in
*update) mkdir -p var/lib/apt/lists; : >var/lib/apt/lists/x_Packages ;;
*install*) test -e var/lib/apt/lists/x_Packages || exit 100
	printf '#!/bin/sh\necho bc 1.07.1\n' >bin/bc; chmod +x bin/bc ;;
esac
`, job.Quote(root)), 0o755)
	t.Setenv("PATH", filepath.Join(root, "apt")+":"+os.Getenv("PATH"))
	return f
}

func (f fake) write(name, text string, mode os.FileMode) {
	f.t.Helper()
	path := f.file(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		f.t.Fatal(err)
	}
}

func (f fake) log() string {
	b, _ := os.ReadFile(f.file("log"))
	return string(b)
}

func setup(t *testing.T, f fake, show bool, with ...string) (out string, err error) {
	t.Helper()
	want, err := wanted(with)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	err = f.Setup(job.With(context.Background(), &job.Job{Out: &b}), want, show)
	return b.String(), err
}

const (
	aptUpdate  = "apt-get -o Acquire::Retries=3 update\n"
	aptInstall = "apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "
)

func TestSetupInstalls(t *testing.T) {
	for _, test := range []struct {
		name    string
		without []string
		old     bool   // the package lists are not what the mirror has
		want    string // what apt-get was asked
	}{
		{"all there", nil, false, ""},
		{"no package lists", []string{"lists"}, false, aptUpdate},
		{"no package lists, no bc", []string{"lists", "bc"}, false, aptUpdate + aptInstall + "bc\n"},
		{"no bc", []string{"bc"}, false, aptInstall + "bc\n"},
		{"old package lists, no bc", []string{"lists", "bc"}, true, aptInstall + "bc\n" + aptUpdate + aptInstall + "bc\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, debian, test.without...)
			if test.old {
				f.write("var/lib/apt/lists/y_Packages", "", 0o644)
			}
			if _, err := setup(t, f, false); err != nil {
				t.Fatal(err)
			}
			if got := f.log(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if _, err := setup(t, f, false); err != nil || f.log() != test.want {
				t.Errorf("second setup: got %q, %v, want nothing more done", f.log(), err)
			}
		})
	}
}

func TestSetupPrints(t *testing.T) {
	for _, test := range []struct {
		name, osRelease string
		user            int
		without, with   []string
		want            string
	}{
		{"nothing missing", debian, 0, nil, nil, ""},
		{"root", debian, 0, []string{"bc", "stdio.h", "lists"}, nil,
			"env DEBIAN_FRONTEND=noninteractive " + aptUpdate + "env DEBIAN_FRONTEND=noninteractive " + aptInstall + "libc6-dev bc\n"},
		{"user", debian, 1000, []string{"bc", "lists"}, nil,
			"sudo env DEBIAN_FRONTEND=noninteractive " + aptUpdate + "sudo env DEBIAN_FRONTEND=noninteractive " + aptInstall + "bc\n"},
		{"optional", fedora, 0, nil, []string{"smbclient", "b4"},
			"dnf install -y --setopt=install_weak_deps=False samba-client b4\n"},
		{"Fedora", fedora, 0, []string{"libelf.h", "openssl.h"}, nil,
			"dnf install -y --setopt=install_weak_deps=False elfutils-libelf-devel openssl-devel\n"},
		{"openSUSE", suse, 1000, []string{"qemu-system-x86_64"}, nil,
			"sudo zypper --non-interactive install --no-recommends qemu-x86\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, test.osRelease, test.without...)
			f.User = test.user
			got, err := setup(t, f, true, test.with...)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if f.log() != "" {
				t.Errorf("ran %q", f.log())
			}
		})
	}
}

// A file server must not start on somebody's machine for the sake of a test.
func TestSetupLeavesServices(t *testing.T) {
	f := newFake(t, debian)
	if out, err := setup(t, f, true, "smbd"); err != nil || !strings.HasSuffix(out, " samba\n") {
		t.Errorf("without systemd: got %q, %v, want samba", out, err)
	}
	f.write("run/systemd/system/x", "", 0o644)
	var log strings.Builder
	want, err := wanted([]string{"smbd", "smbclient"})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := f.Setup(job.With(t.Context(), &job.Job{Out: &out, Err: &log}), want, true); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasSuffix(got, " smbclient\n") || strings.Contains(got, " samba") {
		t.Errorf("with systemd: got %q, want smbclient alone", got)
	}
	if !strings.Contains(log.String(), "apt-get install samba") {
		t.Errorf("got %q, want how to get it", log.String())
	}
}

func TestSetupErrors(t *testing.T) {
	for _, test := range []struct {
		name, osRelease, without string
		wantErr, wantOut         string // regular expressions
	}{
		{"only prints on Fedora", fedora, "bc", `on Debian only, this is Fedora Linux 43; run the commands above$`, `^dnf install .* bc\n$`},
		{"unknown distribution", "ID=arch\n", "bc", `unnamed distribution.*install bc$`, `^$`},
		{"no package at all", fedora, "apt-get", `^find apt-get: only Debian`, `^$`},
		{"no package is good enough", debian, "go", `^find go: .*go\.dev/dl`, `^$`},
		{"one of two has a package", debian, "go bc", `^find go: .*go\.dev/dl`, `^$`},
		{"the package does not bring it", debian, "flex", `^install flex: not there after`, `^$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, test.osRelease, strings.Fields(test.without)...)
			out, err := setup(t, f, false)
			if err == nil || !regexp.MustCompile(test.wantErr).MatchString(err.Error()) {
				t.Errorf("got error %v, want %s", err, test.wantErr)
			}
			if got := job.Code(err); got != job.ExitCannotRun {
				t.Errorf("got code %d, want %d", got, job.ExitCannotRun)
			}
			if got, want := f.log(), strings.Contains(test.osRelease, "debian") && test.without != "go"; (got != "") != want {
				t.Errorf("got %q from apt-get, want something %v", got, want)
			}
			if !regexp.MustCompile(test.wantOut).MatchString(out) {
				t.Errorf("got %q, want %s", out, test.wantOut)
			}
		})
	}
}

func TestWantedUnknown(t *testing.T) {
	if _, err := wanted([]string{"bc"}); job.Code(err) != job.ExitUsage {
		t.Errorf("got %v, want a usage error: bc is not optional", err)
	}
}

// A tool that is there and does not run is missing, and doctor says why.
func TestDoctor(t *testing.T) {
	f := newFake(t, debian, "flex")
	f.write("bin/bc", "#!/bin/sh\necho cannot open shared object >&2\nexit 127\n", 0o755)
	var b strings.Builder
	err := f.Doctor(t.Context(), &b)
	if job.Code(err) != job.ExitCannotRun || !strings.Contains(err.Error(), "kbuild-run setup") {
		t.Errorf("got %v, want what to do and code %d", err, job.ExitCannotRun)
	}
	for _, want := range []string{
		`(?m)^host +\S+ +Debian GNU/Linux 12 \(bookworm\), \d+ CPUs$`,
		`(?m)^there +gcc +1\.2\.3 +kconfigs +compiles the kernel`,
		`(?m)^missing +flex +- +kconfigs +.*get it: apt-get install flex$`,
		`(?m)^missing +bc +- .*get it: apt-get install bc \(cannot open shared object\)$`,
		`(?m)^optional +b4 +- +patches +.*get it: apt-get install b4$`,
		`(?m)^there +accelerator +(tcg|kvm|kvm or tcg) `,
		`(?m)^(there|missing) +disk +[\d.]+ [GMK]iB `,
		`(?m)^(there|missing) +memory +[\d.]+ [GMK]iB `,
	} {
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("no line %s in\n%s", want, &b)
		}
	}
}

func TestDoctorComplete(t *testing.T) {
	f := newFake(t, debian)
	var b strings.Builder
	err := f.Doctor(t.Context(), &b)
	// This machine's own memory and disk may be short, its tools are not.
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "missing") && !strings.Contains(line, "disk") && !strings.Contains(line, "memory") {
			t.Errorf("got %s", line)
		}
	}
	if err != nil && !strings.Contains(b.String(), "\nmissing") {
		t.Errorf("got %v, want no error", err)
	}
}
