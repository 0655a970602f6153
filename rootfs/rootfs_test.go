package rootfs

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/mkuimage/cpio"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
)

func TestNTHash(t *testing.T) {
	for _, c := range []struct{ password, want string }{
		{"", "31d6cfe0d16ae931b73c59d7e0c089c0"},           // MS-NLMP: the hash of nothing
		{"Password", "a4f49c406510bdcab6824ee7c30fd852"},   // MS-NLMP 4.2.2.1.2
		{"pässwörd €", "184efd7dde8ebdbdd9869d2f4cef8ab6"}, // ksmbd.adduser 3.4.7
	} {
		if got := hex.EncodeToString(ntHash(c.password)); got != c.want {
			t.Errorf("%q: got %s, want %s", c.password, got, c.want)
		}
	}
}

// read returns the records of a row of archives by name, later ones over earlier
// ones, as the kernel unpacks them.
func read(t *testing.T, b []byte) map[string]cpio.Record {
	t.Helper()
	all := map[string]cpio.Record{}
	for len(b) > 0 {
		end := bytes.Index(b, []byte("TRAILER!!!"))
		if end < 0 {
			t.Fatal("an archive has no end")
		}
		r := cpio.Newc.Reader(bytes.NewReader(b))
		for {
			rec, err := r.ReadRecord()
			if err == io.EOF || err == nil && rec.Name == cpio.Trailer {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			all[rec.Name] = rec
		}
		b = bytes.TrimLeft(b[end+len("TRAILER!!!"):], "\x00")
	}
	return all
}

func TestArchive(t *testing.T) {
	build := func() []byte {
		var a Archive
		a.File("/usr/bin/tool", []byte("#!"), 0o755)
		a.Link("sbin/tool", "/usr/bin/tool")
		a.Dir("/", 0o755)
		a.Dir("tmp", 0o777|fs.ModeSticky)
		a.File("etc/x", []byte("old"), 0o644)
		a.File("etc/x", []byte("new"), 0o600)
		var b bytes.Buffer
		if _, err := a.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	b := build()
	if len(b)%512 != 0 {
		t.Errorf("got %d bytes, want whole blocks", len(b))
	}
	if !bytes.Equal(b, build()) {
		t.Error("the same files gave other bytes")
	}
	all := read(t, b)
	for _, c := range []struct {
		name string
		mode uint64
	}{
		{".", cpio.S_IFDIR | 0o755},
		{"usr", cpio.S_IFDIR | 0o755},
		{"usr/bin", cpio.S_IFDIR | 0o755},
		{"usr/bin/tool", cpio.S_IFREG | 0o755},
		{"sbin/tool", cpio.S_IFLNK | 0o777},
		{"tmp", cpio.S_IFDIR | 0o1777},
		{"etc/x", cpio.S_IFREG | 0o600},
	} {
		if got := all[c.name].Mode; got != c.mode {
			t.Errorf("%s: got mode %o, want %o", c.name, got, c.mode)
		}
	}
	if len(all) != 9 {
		t.Errorf("got %d records, want 9", len(all))
	}
}

// kernel returns a kernel that is enough for packing.
func kernel(t *testing.T) *kconfigs.Kernel {
	k := &kconfigs.Kernel{Release: "6.12.0", Key: "test", Modules: t.TempDir()}
	dir := filepath.Join(k.Modules, "lib", "modules", k.Release)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

// build builds an image as a step of a silent job.
func build(ctx context.Context, k *kconfigs.Kernel, o Options) (i *Image, err error) {
	err = new(job.Job).Step("image", func(s *job.Step) (err error) {
		i, err = Build(ctx, s, k, o)
		return err
	})
	return i, err
}

func TestBuild(t *testing.T) {
	for _, tool := range []string{"apt-get", "dpkg-deb", "mke2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	k := kernel(t)
	i, err := build(t.Context(), k, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(i.Path)
	if err != nil {
		t.Fatal(err)
	}
	all := read(t, b)
	for _, name := range []string{
		"init", "bbin/bb", "bbin/ls", "bin/sh", "sbin/modprobe", "etc/rc", "etc/passwd",
		"etc/ksmbd/ksmbd.conf", "etc/ksmbd/ksmbdpwd.db", "usr/sbin/ksmbd.mountd", "usr/libexec/ksmbd.tools",
		"lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libnl-genl-3.so.200",
		"lib/x86_64-linux-gnu/change-notify.so", "etc/ld.so.preload", "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", "usr/lib/x86_64-linux-gnu/gconv/gconv-modules",
		"lib/modules/6.12.0/modules.dep",
	} {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name, r := range all {
		if r.UID != 0 || r.GID != 0 || r.Mode&cpio.S_IFMT == cpio.S_IFDIR && r.Mode&0o022 != 0 && name != "tmp" {
			t.Errorf("%s: owner %d:%d, mode %o", name, r.UID, r.GID, r.Mode)
		}
	}
	if got := all["."].Mode; got != cpio.S_IFDIR|0o755 {
		t.Errorf("/: got mode %o, want 755", got)
	}
	again, err := build(t.Context(), k, Options{})
	if err != nil || !again.Cached || again.Key != i.Key {
		t.Errorf("second build: got %+v, %v; want the first one, cached", again, err)
	}
	k.Key = "other"
	other, err := build(t.Context(), k, Options{})
	if err != nil || other.Key == i.Key {
		t.Errorf("another kernel: got key %v, %v", other, err)
	}

	own, err := build(t.Context(), k, Options{Tools: "/bin/true"})
	if err != nil || own.Key == other.Key {
		t.Fatalf("other tools: got %+v, %v", own, err)
	}
	if b, err = os.ReadFile(own.Path); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	all = read(t, b)
	r := all["usr/libexec/ksmbd.tools"]
	if got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize))); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other tools: got %d bytes, %v; want the %d of /bin/true", len(got), err, len(want))
	}
	if _, ok := all["etc/ld.so.preload"]; ok {
		t.Error("other tools: a library is preloaded")
	}
	if _, err := build(t.Context(), k, Options{Tools: "rootfs_test.go"}); err == nil || !strings.Contains(err.Error(), "is no program") {
		t.Errorf("a text for tools: got %v", err)
	}
}

// The guest's modules have no debug information, the kernel's keep it.
func TestStripped(t *testing.T) {
	for _, tool := range []string{"gcc", "strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	lib := t.TempDir()
	c := exec.Command("gcc", "-g", "-x", "c", "-c", "-o", filepath.Join(lib, "a.ko"), "-")
	c.Stdin = strings.NewReader("int a;\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(lib, "modules.dep"), []byte("a.ko:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	to, err := stripped(t.Context(), t.TempDir(), lib)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{lib: true, to: false} {
		b, err := os.ReadFile(filepath.Join(dir, "a.ko"))
		if got := bytes.Contains(b, []byte(".debug_info")); err != nil || got != want {
			t.Errorf("%s: got debug information %v, %v; want %v", dir, got, err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(to, "modules.dep")); err != nil || string(b) != "a.ko:\n" {
		t.Errorf("got %q, %v", b, err)
	}
}

// fakes puts scripts in front of PATH and gives the test a cache of its own.
func fakes(t *testing.T, scripts map[string]string) (cacheDir string) {
	t.Helper()
	bin := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cacheDir = t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cacheDir)
	return cacheDir
}

// entries lists what is in the cache, but for locks.
func entries(t *testing.T, dir string) (all []string) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(dir, "kbuild-run", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !strings.HasSuffix(d, ".lock") {
			all = append(all, d)
		}
	}
	return all
}

func TestPackageErrors(t *testing.T) {
	// The first suite is not to be had, so the host's own sources are asked.
	const uris = `--print-uris*) ;;`
	for _, c := range []struct {
		name    string
		scripts map[string]string
		want    []string
	}{
		{"no lists", map[string]string{
			"apt-get": `case "$*" in *` + uris + ` *) echo E: Unable to locate package >&2; exit 100 ;; esac`},
			[]string{"name no Debian archive with trixie", "download ksmbd-tools: ", "Unable to locate package", "apt-get update"}},
		{"corrupt", map[string]string{
			"apt-get": `case "$*" in *` + uris + ` *) for d in $XDG_CACHE_HOME/kbuild-run/packages/*.tmp; do echo x > $d/apt/cache/archives/libc6_2_amd64.deb; done ;; esac`},
			[]string{"dpkg-deb -x ", "libc6_2_amd64.deb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := fakes(t, c.scripts)
			err := new(job.Job).Step("packages", func(s *job.Step) error {
				_, _, err := packages(t.Context(), s, tools)
				return err
			})
			if err == nil {
				t.Fatal("got no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v\nwant %q in it", err, w)
				}
			}
			if got := job.Code(err); got != job.ExitCannotRun {
				t.Errorf("got exit code %d, want %d", got, job.ExitCannotRun)
			}
			if left := entries(t, dir); len(left) > 0 {
				t.Errorf("half an entry is in the cache: %v", left)
			}
		})
	}
}

// An interrupted build leaves no entry and no process.
func TestInterrupt(t *testing.T) {
	dir := fakes(t, map[string]string{"go": `case $1 in env) echo go1.26 ;; *) echo $$ > $XDG_CACHE_HOME/pid; exec sleep 1000 ;; esac`})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failed := make(chan error, 1)
	go func() {
		_, err := build(ctx, kernel(t), Options{})
		failed <- err
	}()
	pid := filepath.Join(dir, "pid")
	for {
		if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
			pid = strings.TrimSpace(string(b))
			break
		}
		select {
		case err := <-failed:
			t.Fatalf("the build ended by itself: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) || job.Code(err) != job.ExitInterrupt {
		t.Errorf("got %v, code %d; want %v", err, job.Code(err), context.Canceled)
	}
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Errorf("process %s is still there", pid)
	}
	if got := entries(t, dir); len(got) != 0 {
		t.Errorf("left in the cache: %v", got)
	}
}

// Debian's smbd can be had, with every library that one of its programs names.
func TestSamba(t *testing.T) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	var file string
	err := new(job.Job).Step("samba", func(s *job.Step) (err error) {
		file, err = Samba(t.Context(), s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := read(t, b)
	for _, name := range []string{"usr/sbin/smbd", "usr/bin/smbcontrol", "usr/libexec/samba/rpcd_classic",
		"usr/lib/x86_64-linux-gnu/samba/vfs/streams_xattr.so", "lib/x86_64-linux-gnu/libc.so.6", "etc/samba/smb.conf"} {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	want := "tester:1000:" + strings.Repeat("X", 32) + ":" + strings.ToUpper(hex.EncodeToString(ntHash("tester-password"))) + ":[U          ]:LCT-00000001:\n"
	if got := smbpasswd(); !strings.HasPrefix(got, want) {
		t.Errorf("smbpasswd: got %q, want %q at its beginning", got, want)
	}
}
