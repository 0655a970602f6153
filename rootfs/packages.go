package rootfs

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// tools is the package with ksmbd's daemon. It conflicts with samba, so it is
// never installed on the host, only unpacked.
const tools = "ksmbd-tools"

// libDir is Debian's folder for libraries, where its loader looks first.
const libDir = "lib/x86_64-linux-gnu"

// multi is the one program behind ksmbd.mountd, .adduser, .addshare, .control.
const multi = "usr/libexec/ksmbd.tools"

// packages downloads tools with everything it depends on, the C library too, and
// returns the folder they are unpacked in. So the guest's programs and libraries
// fit each other whatever the host has.
func packages(ctx context.Context, s *job.Step) (dir, key string, err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", "", fmt.Errorf("get %s: %w; only Debian and its kin are supported", tools, err)
	}
	versions, err := resolve(ctx)
	if err != nil {
		return "", "", err
	}
	key = cache.Key(append([]string{"packages"}, versions...)...)
	var names []string
	for _, v := range versions {
		name, _, _ := strings.Cut(v, " ")
		names = append(names, name)
	}
	meta := map[string]string{"what": tools + " with libraries", "packages": strings.Join(versions, ", ")}
	dir, _, err = cache.Once(ctx, "packages", key, meta, func(dir string) error {
		s.Progress("download %s", tools)
		debs := filepath.Join(dir, "debs")
		if err := job.Command("mkdir", "-p", debs).Run(ctx); err != nil {
			return err
		}
		// apt checks what it downloads against the signed index. Its sandbox
		// user may not enter our cache.
		get := job.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, names...)...)
		if err := get.In(debs).Run(ctx); err != nil {
			return fmt.Errorf("download %s: %w; refresh the package lists with: sudo apt-get update", tools, err)
		}
		files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
		if err != nil {
			return err
		}
		if job.From(ctx).DryRun {
			files = []string{filepath.Join(debs, "PACKAGE.deb")} // for each
		} else if len(files) != len(names) {
			return fmt.Errorf("download %s: %d files for %d packages", tools, len(files), len(names))
		}
		for _, f := range files {
			if err := job.Command("dpkg-deb", "-x", f, dir).Run(ctx); err != nil {
				return err
			}
		}
		return job.Command("rm", "-r", debs).Run(ctx)
	})
	return dir, key, err
}

// resolve returns "name version" of tools and what it depends on. The answer is
// remembered until the package lists change: apt-cache needs most of a second.
func resolve(ctx context.Context) ([]string, error) {
	state := ""
	for _, p := range []string{"/var/lib/apt/lists", "/etc/apt/sources.list", "/etc/apt/sources.list.d"} {
		if fi, err := os.Stat(p); err == nil {
			state += fmt.Sprintf("%s %d\n", p, fi.ModTime().UnixNano())
		}
	}
	var versions []string
	const file = "versions"
	meta := map[string]string{"what": "versions of " + tools + " and its libraries"}
	dir, _, err := cache.Once(ctx, "packages", cache.Key("versions", state), meta, func(dir string) error {
		depends, err := job.Command("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests",
			"--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", tools).Probe(ctx)
		if err != nil {
			return missing(err)
		}
		var names []string
		for line := range strings.Lines(string(depends)) {
			// Packages stand at the margin, virtual ones in <>.
			if name := strings.TrimSpace(line); name != "" && !strings.ContainsAny(line[:1], " <|") {
				names = append(names, name)
			}
		}
		show, err := job.Command("apt-cache", append([]string{"show", "--no-all-versions"}, names...)...).Probe(ctx)
		if err != nil {
			return missing(err)
		}
		for record := range strings.SplitSeq(string(show), "\n\n") {
			field := map[string]string{}
			for line := range strings.Lines(record) {
				if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && field[k] == "" {
					field[k] = v
				}
			}
			if field["Package"] != "" {
				versions = append(versions, field["Package"]+" "+field["Version"])
			}
		}
		if len(versions) == 0 {
			return missing(errors.New("apt does not know it"))
		}
		sort.Strings(versions)
		if job.From(ctx).DryRun {
			return nil
		}
		return os.WriteFile(filepath.Join(dir, file), []byte(strings.Join(versions, "\n")), 0o644)
	})
	if err != nil || versions != nil {
		return versions, err
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.Split(string(b), "\n"), err
}

func missing(err error) error {
	return fmt.Errorf("find package %s: %w; refresh the package lists with: sudo apt-get update", tools, err)
}

// addTools puts ksmbd's programs, the libraries they load, and the character
// sets they need into a.
func addTools(a *Archive, dir string) error {
	if err := a.Copy(multi, filepath.Join(dir, multi), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"mountd", "adduser", "addshare", "control"} {
		a.Link("usr/sbin/ksmbd."+name, "/"+multi)
	}
	// Character sets are loaded by dlopen(3): no dependency names them.
	const gconv = "usr/" + libDir + "/gconv/"
	if err := a.Copy(gconv+"UTF-16.so", filepath.Join(dir, gconv, "UTF-16.so"), 0o755); err != nil {
		return err
	}
	return addLibraries(a, dir, filepath.Join(dir, multi), map[string]bool{})
}

// addLibraries adds, under their sonames, the libraries the ELF file program
// needs, and what those need. seen holds what is in already.
func addLibraries(a *Archive, dir, program string, seen map[string]bool) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	need, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read %s: %w", program, err)
	}
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			return fmt.Errorf("read %s: %w", program, err)
		}
		interp := string(bytes.TrimRight(b, "\x00"))
		lib, err := findLibrary(dir, path.Base(interp))
		if err != nil {
			return err
		}
		if err := a.Copy(interp, lib, 0o755); err != nil {
			return err
		}
		seen[path.Base(interp)] = true
	}
	for _, name := range need {
		if seen[name] {
			continue
		}
		seen[name] = true
		lib, err := findLibrary(dir, name)
		if err != nil {
			return fmt.Errorf("%w; wanted by %s", err, filepath.Base(program))
		}
		if err := a.Copy(path.Join(libDir, name), lib, 0o755); err != nil {
			return err
		}
		if err := addLibraries(a, dir, lib, seen); err != nil {
			return err
		}
	}
	return nil
}

// findLibrary returns the file behind a soname among the unpacked packages.
func findLibrary(dir, soname string) (string, error) {
	for _, d := range []string{libDir, "usr/" + libDir, "lib64", "usr/lib64"} {
		p, err := filepath.EvalSymlinks(filepath.Join(dir, d, soname))
		if err == nil && strings.HasPrefix(p, dir) {
			return p, nil
		}
	}
	return "", fmt.Errorf("find library %s: not in the packages %s depends on", soname, tools)
}
