package patches

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/patches/job"
)

// keyring is Debian's, where the host has it as a file of its own; otherwise
// the keys that apt trusts are asked.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// aptConf is read after the host's configuration (apt.conf(5)): proxies and
// passwords stay the host's, everything apt reads or writes beside them lies in
// one folder of ours, and nothing unsigned is taken. Hooks are cleared because
// they may clean the host's own cache.
const aptConf = `#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
`

// fromPackage unpacks the newest version of a Debian package linux-source-*,
// taken from the mirror the host is set up with. It needs no root and leaves
// the host's apt as it was.
func (src source) fromPackage(ctx context.Context, s *job.Step, dir, tree string) (from string, err error) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("download %s: %w: this is no Debian", src.Package, err)
		}
	}
	apt := filepath.Join(dir, "apt")
	defer func() {
		if !job.From(ctx).DryRun {
			os.RemoveAll(apt)
		}
	}()
	conf, err := PrivateApt(ctx, s, apt, src.Suite)
	if err != nil {
		return "", fmt.Errorf("download %s: %w", src.Package, err)
	}
	get := job.Command("apt-get", "-c", conf, "-q", "-o", "APT::Sandbox::User=", "-o", "APT::Status-Fd=1", "download", src.Package).In(apt)
	get.Line = func(l string) {
		// dlstatus:1:12.5:Retrieving file 1 of 1 (5s remaining)
		if f := strings.SplitN(l, ":", 4); len(f) == 4 && f[0] == "dlstatus" {
			s.Progress("download %s: %.0s%s%%", src.Package, f[1], strings.SplitN(f[2], ".", 2)[0])
		}
	}
	if err := get.Run(ctx); err != nil {
		return "", aptError("download "+src.Package, err)
	}

	deb := filepath.Join(apt, src.Package+"_VERSION_all.deb")
	version := "VERSION"
	if !job.From(ctx).DryRun {
		found, _ := filepath.Glob(filepath.Join(apt, src.Package+"_*.deb"))
		if len(found) != 1 {
			return "", fmt.Errorf("download %s: %d packages came", src.Package, len(found))
		}
		deb = found[0]
		out, err := job.Command("dpkg-deb", "-f", deb, "Version").Probe(ctx)
		if err != nil {
			return "", err
		}
		version = strings.TrimSpace(string(out))
	}
	s.Progress("unpack %s", filepath.Base(deb))
	if err := job.Command("dpkg-deb", "-x", deb, apt).Run(ctx); err != nil {
		return "", err
	}
	return src.Package + " " + version, untar(ctx, s, filepath.Join(apt, "usr/src", src.Package+".tar.xz"), tree)
}

// PrivateApt makes a configuration of apt-get in dir, which becomes a new folder,
// whose only packages are those of one Debian suite on the host's mirror, and
// downloads their list. The host's apt is left as it is, and no root is needed.
// Use it with: apt-get -c conf -o APT::Sandbox::User=
func PrivateApt(ctx context.Context, s *job.Step, dir, suite string) (conf string, err error) {
	s.Progress("find the host's Debian mirror")
	mirror, err := hostMirror(ctx, suite)
	if err != nil {
		return "", err
	}
	signed := ""
	if _, err := os.Stat(keyring); err == nil {
		signed = "[signed-by=" + keyring + "] "
	}
	for _, d := range []string{"", "state/lists/partial", "cache/archives/partial"} {
		if err := remake(ctx, filepath.Join(dir, d)); err != nil {
			return "", err
		}
	}
	for name, text := range map[string]string{
		"apt.conf":     fmt.Sprintf(aptConf, dir),
		"sources.list": fmt.Sprintf("deb %s%s %s main\n", signed, mirror, suite),
		"status":       "",
	} {
		if err := writeFile(ctx, filepath.Join(dir, name), text); err != nil {
			return "", err
		}
	}
	s.Progress("read the package list of %s", suite)
	conf = filepath.Join(dir, "apt.conf")
	if err := job.Command("apt-get", "-c", conf, "-q", "update").Run(ctx); err != nil {
		return "", aptError("read the package list of "+suite, err)
	}
	return conf, nil
}

// Unpack unpacks Debian packages of a suite, with everything they depend on, the C
// library too, into dir, a new folder, and returns them as "name version, ...". So
// their programs and libraries fit each other whatever the host has, and nothing is
// installed. A suite of "" takes them from the host's own apt sources.
func Unpack(ctx context.Context, s *job.Step, dir, suite string, names ...string) (packages string, err error) {
	name := names[0]
	apt := filepath.Join(dir, "apt")
	defer func() {
		if !job.From(ctx).DryRun {
			os.RemoveAll(apt)
		}
	}()
	var args []string
	if suite != "" {
		conf, err := PrivateApt(ctx, s, apt, suite)
		if err != nil {
			return "", fmt.Errorf("download %s of %s: %w", name, suite, err)
		}
		args = []string{"-c", conf}
	} else {
		if err := remake(ctx, filepath.Join(apt, "cache/archives/partial")); err != nil {
			return "", err
		}
		if err := writeFile(ctx, filepath.Join(apt, "status"), ""); err != nil {
			return "", err
		}
		args = []string{"-o", "Dir::State::status=" + filepath.Join(apt, "status"), "-o", "Dir::Cache=" + filepath.Join(apt, "cache")}
	}
	s.Progress("download %s", name)
	// With an empty list of installed packages, apt finds all that it needs. It
	// checks what it downloads against the signed index.
	get := job.Command("apt-get", slices.Concat(args, []string{"-q", "-y", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
		"--no-install-recommends", "--download-only", "install"}, names)...)
	if err := get.Run(ctx); err != nil {
		return "", fmt.Errorf("%w; refresh the package lists with: sudo apt-get update", aptError("download "+name, err))
	}
	debs, err := filepath.Glob(filepath.Join(apt, "cache/archives/*.deb"))
	if err != nil {
		return "", err
	}
	if job.From(ctx).DryRun {
		debs = []string{filepath.Join(apt, "cache/archives/PACKAGE.deb")} // for each
	}
	var all []string
	for _, deb := range debs {
		s.Progress("unpack %s", filepath.Base(deb))
		if err := job.Command("dpkg-deb", "-x", deb, dir).Run(ctx); err != nil {
			return "", err
		}
		// Deb names its files name_version_arch.deb (deb-version(7)).
		all = append(all, strings.Join(strings.SplitN(filepath.Base(deb), "_", 3)[:min(2, strings.Count(deb, "_"))], " "))
	}
	return strings.Join(all, ", "), nil
}

// releaseURI takes the archive and the suite out of a line of `apt-get update
// --print-uris`: 'http://mirror/debian/dists/bookworm/InRelease' name 0.
var releaseURI = regexp.MustCompile(`(?m)^'([^']+)/dists/([^']+)/InRelease'`)

// hostMirror returns the address of the Debian archive that carries suite, from
// the host's own apt sources. apt-get itself reads them, so every form they may
// have is understood; --print-uris only prints, and works without root and
// without any list downloaded.
func hostMirror(ctx context.Context, suite string) (string, error) {
	out, err := job.Command("apt-get", "update", "--print-uris").Probe(ctx)
	if err != nil {
		return "", err
	}
	if m := pickMirror(string(out), suite); m != "" {
		return m, nil
	}
	return "", fmt.Errorf("the apt sources of this host name no Debian archive with %s", suite)
}

// pickMirror prefers the archive that has the suite by name. Otherwise security
// updates lie in an archive of their own, and everything else in the other.
func pickMirror(uris, suite string) (mirror string) {
	security := strings.HasSuffix(suite, "-security")
	for _, m := range releaseURI.FindAllStringSubmatch(uris, -1) {
		uri, has := m[1], m[2]
		switch {
		case has == suite:
			return uri
		case mirror == "" && strings.HasSuffix(has, "-security") == security && strings.Contains(path.Base(uri), "debian"):
			mirror = uri
		}
	}
	return mirror
}

// aptError says what apt complained about, without the rest of its output.
func aptError(doing string, err error) error {
	var ce *job.CmdError
	if !errors.As(err, &ce) {
		return err
	}
	var why []string
	for _, l := range ce.Tail {
		if w, ok := strings.CutPrefix(l, "E: "); ok {
			why = append(why, w)
		}
	}
	if len(why) == 0 {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: apt-get: %s", doing, strings.Join(why, "; "))
}

// writeFile writes text to name, or prints the command that would.
func writeFile(ctx context.Context, name, text string) error {
	if dry(ctx, fmt.Sprintf("cat > %s <<'EOF'\n%sEOF", job.Quote(name), text)) {
		return nil
	}
	return os.WriteFile(name, []byte(text), 0o644)
}
