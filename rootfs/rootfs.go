// Package rootfs makes an image: programs + files -> image (initramfs).
//
// The image is a row of cpio archives that the kernel unpacks one behind the
// other: the u-root commands, ksmbd-tools with its libraries, our agent and
// files, the modules of the kernel. Each is made once and kept by content.
// vmrunner adds one more with the keys of its VM.
//
// The exported file system is not in the image: vmrunner gives the guest a fresh
// ext4 disk, which has the xattrs and ACLs that ksmbd stores.
package rootfs

import (
	"bytes"
	"context"
	"debug/elf"
	"embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //nolint:staticcheck // the NT hash is MD4

	"kbuild-run/kconfigs"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

//go:embed files
var files embed.FS

// Image is what a VM boots.
type Image struct {
	Kernel *kconfigs.Kernel
	Path   string // initramfs, uncompressed: unpacking gzip costs more than reading
	Key    string
	Cached bool
	Disk   string // ext4 image for the share; open it with a snapshot only
}

const initramfs = "initramfs.cpio"

// space is what a first build may need: the Go tool's intermediate files, mostly.
const space = 1 << 30

// Options change what is in the image.
type Options struct {
	// Tools is a ksmbd.tools, the program behind ksmbd.mountd and the others, to
	// take in place of Debian's and of the library beside that. What it loads comes
	// from Debian's packages.
	Tools string
}

// tools returns what is told from other tools by key.
func (o Options) tools() (key string, err error) {
	if o.Tools == "" {
		return "", nil
	}
	b, err := os.ReadFile(o.Tools)
	if err != nil {
		return "", fmt.Errorf("read ksmbd-tools: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		return "", fmt.Errorf("read ksmbd-tools: %s is no program; give the ksmbd.tools that a build of ksmbd-tools makes", o.Tools)
	}
	return cache.Key("tools", string(b)), nil
}

// User is an account of the guest and of ksmbd.
type User struct {
	Name, Password string
	UID            int
}

// Users are the accounts a client may log in with. The password of the second
// is not ASCII.
var Users = []User{
	{"tester", "tester-password", 1000},
	{"other", "pässwörd €", 1001},
}

// Build returns the image for k.
func Build(ctx context.Context, s *job.Step, k *kconfigs.Kernel, o Options) (*Image, error) {
	src, err := sources()
	if err != nil {
		return nil, err
	}
	if !job.From(ctx).DryRun {
		if err := cache.NeedSpace(space); err != nil {
			return nil, err
		}
	}
	toolsKey, err := o.tools()
	if err != nil {
		return nil, err
	}
	programs, err := commands()
	if err != nil {
		return nil, err
	}
	busyboxFile, commandsKey, err := busybox(ctx, s, src, programs)
	if err != nil {
		return nil, err
	}
	pid1, agentKey, err := agent(ctx, s, src)
	if err != nil {
		return nil, err
	}
	unpacked, packagesKey, err := packages(ctx, s, tools)
	if err != nil {
		return nil, err
	}
	library, libraryKey, err := preload(ctx, s, src)
	if err != nil {
		return nil, err
	}
	i := &Image{Kernel: k}
	if i.Disk, err = disk(ctx, s); err != nil {
		return nil, err
	}
	system, err := systemFiles()
	if err != nil {
		return nil, err
	}
	var own strings.Builder
	if _, err := system.WriteTo(&own); err != nil {
		return nil, err
	}
	i.Key = cache.Key("image", "stripped", commandsKey, agentKey, packagesKey, libraryKey, own.String(), k.Key, toolsKey)
	meta := map[string]string{"what": "initramfs for Linux " + k.Release, "kernel": k.Key}
	dir, cached, err := cache.Once(ctx, "rootfs", i.Key, meta, func(dir string) error {
		s.Progress("pack")
		if job.From(ctx).DryRun {
			return nil
		}
		if err := addTools(system, unpacked, o.Tools, library); err != nil {
			return err
		}
		if err := system.Copy("init", pid1, 0o755); err != nil {
			return err
		}
		lib := filepath.Join(k.Modules, "lib", "modules")
		if _, err := os.Stat(filepath.Join(lib, k.Release, "modules.dep")); err != nil {
			return fmt.Errorf("pack modules: %w; build the kernel again with: kbuild-run kernel build", err)
		}
		if lib, err = stripped(ctx, dir, lib); err != nil {
			return fmt.Errorf("pack modules: %w", err)
		}
		if err := system.Tree("lib/modules", lib); err != nil {
			return fmt.Errorf("pack modules: %w", err)
		}
		if err := os.RemoveAll(filepath.Join(dir, modulesCopy)); err != nil {
			return err
		}
		rest := filepath.Join(dir, "rest.cpio")
		f, err := os.Create(rest)
		if err != nil {
			return err
		}
		defer os.Remove(rest)
		defer f.Close()
		if _, err := system.WriteTo(f); err != nil {
			return fmt.Errorf("write %s: %w", rest, err)
		}
		return concat(filepath.Join(dir, initramfs), busyboxFile, rest)
	})
	if err != nil {
		return nil, err
	}
	if cached {
		s.Cached()
	}
	if fi, err := os.Stat(filepath.Join(dir, initramfs)); err == nil {
		s.Note("%s, %d programs and %s", cache.Bytes(uint64(fi.Size())), len(programs), tools)
	}
	i.Path, i.Cached = filepath.Join(dir, initramfs), cached
	return i, nil
}

const modulesCopy = "modules"

// stripped returns a copy of the modules below dir without debug information: that
// of a debug kernel's modules is twice the rest of the image, and stays in the
// guest's memory. What decodes addresses and gdb take the originals.
func stripped(ctx context.Context, dir, lib string) (string, error) {
	to := filepath.Join(dir, modulesCopy)
	if err := job.Command("cp", "-r", lib, to).Run(ctx); err != nil {
		return "", err
	}
	return to, job.Command("find", to, "-name", "*.ko", "-exec", "strip", "--strip-debug", "{}", "+").Run(ctx)
}

// systemFiles returns the files that are ours. The archive sets the mode of /
// too: a server that takes on the identity of users needs 0755 there.
func systemFiles() (*Archive, error) {
	a := &Archive{}
	a.Dir("/", 0o755)
	for _, d := range []string{"dev", "proc", "sys", "run", "srv", "mnt", "var/log"} {
		a.Dir(d, 0o755)
	}
	a.Dir("root", 0o700)
	a.Dir("tmp", 0o777|fs.ModeSticky)
	for _, name := range []string{"sbin/modprobe", "bin/setfattr", "bin/exch", "bin/rename", "bin/churn", "bin/farlink", "bin/fscost"} {
		a.Link(name, "/init")
	}
	a.Link("sbin/poweroff", "/init")
	a.Link("bin/cifsnotify", "/init")
	for from, to := range map[string]string{
		"rc":            "etc/rc",
		"passwd":        "etc/passwd",
		"group":         "etc/group",
		"ksmbd.conf":    "etc/ksmbd/ksmbd.conf",
		"gconv-modules": "usr/" + libDir + "/gconv/gconv-modules",
	} {
		b, err := files.ReadFile(path.Join("files", from))
		if err != nil {
			return nil, err
		}
		a.File(to, b, 0o644)
	}
	a.File("etc/hosts", []byte("127.0.0.1 localhost\n10.0.2.15 guest\n"), 0o644)
	var db strings.Builder
	for _, u := range Users {
		fmt.Fprintf(&db, "%s:%s\n", u.Name, base64.StdEncoding.EncodeToString(ntHash(u.Password)))
	}
	a.File("etc/ksmbd/ksmbdpwd.db", []byte(db.String()), 0o600)
	return a, nil
}

// ntHash is what ksmbdpwd.db(5) keeps of a password: MD4 over UTF-16LE. Made
// here, ksmbd.adduser need not run at each boot.
func ntHash(password string) []byte {
	h := md4.New()
	binary.Write(h, binary.LittleEndian, utf16.Encode([]rune(password)))
	return h.Sum(nil)
}

// disk makes the empty ext4 file system of the share. The host makes it, sparse,
// in a tenth of the time that an emulated guest needs.
func disk(ctx context.Context, s *job.Step) (string, error) {
	const size = "2G"
	args := ext4("-L", "share")
	dir, _, err := cache.Once(ctx, "rootfs", cache.Key(append([]string{"disk", size}, args...)...),
		map[string]string{"what": "ext4 disk for the share, " + size}, func(dir string) error {
			s.Progress("make the disk of the share")
			return job.Command("mke2fs", append(args, filepath.Join(dir, "share.ext4"), size)...).Run(ctx)
		})
	return filepath.Join(dir, "share.ext4"), err
}

// ext4 returns the arguments of mke2fs, with more before them. hash_seed and UUID
// are fixed: two runs list a folder in the same order.
func ext4(more ...string) []string {
	const uuid = "6b627569-6c64-4d72-956e-000000000001"
	return append([]string{"-q", "-F", "-t", "ext4", "-b", "4096"}, append(more, "-U", uuid, "-J", "size=16",
		"-E", "hash_seed="+uuid+",lazy_itable_init=0,lazy_journal_init=0")...)
}

// CopyDisk makes the ext4 image file with a copy of the folder dir, its extended
// attributes too, and room to write as much again. The guest gives everything on
// it to the first of Users.
func CopyDisk(ctx context.Context, s *job.Step, dir, file string) error {
	s.Progress("copy %s", dir)
	var size uint64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			size += uint64(fi.Size()) + 4096
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", dir, err)
	}
	s.Note("%s of %s", cache.Bytes(size), dir)
	blocks := fmt.Sprint((2*size + 1<<30) / 4096)
	return job.Command("mke2fs", append(ext4("-L", "copy", "-d", dir), file, blocks)...).Run(ctx)
}
