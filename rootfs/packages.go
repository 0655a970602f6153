package rootfs

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"kbuild-run/patches"
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

// preloaded is the library of files/change-notify.c in the guest.
const preloaded = libDir + "/change-notify.so"

// suites are where packages are taken from, in order: the Debian release whose
// ksmbd-tools, 3.5, know durable handles, and which is the same on every host, then
// whatever the host has.
var suites = []string{"trixie", ""}

// packages downloads Debian packages with everything they depend on, the C library
// too, and returns the folder they are unpacked in. They are downloaded once.
func packages(ctx context.Context, s *job.Step, names ...string) (dir, key string, err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", "", fmt.Errorf("get %s: %w; only Debian and its kin are supported", names[0], err)
	}
	var tried []error
	for _, suite := range suites {
		meta := map[string]string{"what": strings.TrimSpace(names[0] + " with libraries " + suite)}
		dir, cached, err := cache.Once(ctx, "packages", cache.Key(append(names, suite)...), meta, func(dir string) (err error) {
			meta["packages"], err = patches.Unpack(ctx, s, dir, suite, names...)
			return err
		})
		if err == nil && cached {
			meta, err = cache.Meta(dir)
		}
		if err == nil {
			return dir, cache.Key("packages", meta["packages"]), nil
		}
		if tried = append(tried, err); ctx.Err() != nil {
			break
		}
	}
	return "", "", errors.Join(tried...)
}

// preload makes the library that lets ksmbd.mountd know "change notify".
func preload(ctx context.Context, s *job.Step, src string) (file, key string, err error) {
	const name = "change-notify"
	text, err := files.ReadFile("files/" + name + ".c")
	if err != nil {
		return "", "", err
	}
	release, err := job.Command("gcc", "-dumpfullversion").Probe(ctx)
	if err != nil {
		return "", "", err
	}
	args := []string{"-Wall", "-Werror", "-O2", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector", "-Wl,-z,lazy"}
	key = cache.Key(append([]string{name, string(text), string(release)}, args...)...)
	dir, _, err := cache.Once(ctx, "rootfs", key, map[string]string{"what": name + " for ksmbd.mountd"}, func(dir string) error {
		s.Progress("compile %s", name)
		return job.Command("gcc", append(args, "-o", filepath.Join(dir, name+".so"), filepath.Join(src, "rootfs/files", name+".c"))...).Run(ctx)
	})
	return filepath.Join(dir, name+".so"), key, err
}

// addTools puts ksmbd's programs, the libraries they load, and the character
// sets they need into a: program, or Debian's with a library that is preloaded. What
// else in the guest is linked to a C library, Samba, has no libnl, and is not touched
// by that.
func addTools(a *Archive, dir, program, library string) error {
	if program == "" {
		program = filepath.Join(dir, multi)
		if err := a.Copy(preloaded, library, 0o755); err != nil {
			return err
		}
		a.File("etc/ld.so.preload", []byte("/"+preloaded+"\n"), 0o644)
	}
	if err := a.Copy(multi, program, 0o755); err != nil {
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
	return addLibraries(a, dir, program, map[string]bool{})
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
	for _, d := range []string{libDir, "usr/" + libDir, "lib64", "usr/lib64", "usr/" + libDir + "/samba"} {
		p, err := filepath.EvalSymlinks(filepath.Join(dir, d, soname))
		if err == nil && strings.HasPrefix(p, dir) {
			return p, nil
		}
	}
	return "", fmt.Errorf("find library %s: not in the packages that were downloaded", soname)
}
