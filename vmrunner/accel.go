package vmrunner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/vmrunner/splat"
)

// Accel is how QEMU runs the guest's code.
type Accel struct {
	Name   string // "kvm" or "tcg"
	Reason string // in words; why not the other
}

func (a Accel) String() string {
	if a.Reason == "" {
		return a.Name
	}
	return a.Name + " (" + a.Reason + ")"
}

const kvmDevice = "/dev/kvm"

// firstPrint and canaryEnd are how long the canary may take to its first line and
// to its end. TCG, the slower one, needs 1 s and 2 s.
const (
	firstPrint = 10 * time.Second
	canaryEnd  = 20 * time.Second
)

// ChooseAccel returns the accelerator to use. want is "kvm", "tcg" or "" for the
// faster one that works. KVM can open, answer every ioctl and even run QEMU's
// firmware, and still never boot a Linux guest: only a guest shows it. So the
// image is booted once with a deadline, and the verdict is remembered until the
// host or QEMU changes.
func ChooseAccel(ctx context.Context, s *job.Step, i *rootfs.Image, want string) (Accel, error) {
	if err := CheckAccel(want); err != nil {
		return Accel{}, err
	}
	if want != "" {
		return Accel{want, "asked for"}, nil
	}
	if why := openKVM(); why != nil {
		return Accel{"tcg", fmt.Sprintf("kvm: %v", why)}, nil
	}
	key, err := accelKey(ctx, i)
	if err != nil {
		return Accel{}, err
	}
	meta := map[string]string{"what": "whether KVM boots a guest"}
	dir, _, err := cache.Once(ctx, "accel", key, meta, func(dir string) error {
		if job.From(ctx).DryRun {
			return errDry
		}
		s.Progress("try kvm")
		why := canary(ctx, i)
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		text := ""
		if why != nil {
			text = fmt.Sprintf("kvm: opens, but %v; using tcg", why)
		}
		return os.WriteFile(filepath.Join(dir, verdictFile), []byte(text), 0o644)
	})
	if errors.Is(err, errDry) {
		return Accel{"tcg", "kvm: not tried in a dry run"}, nil
	}
	if err != nil {
		return Accel{}, err
	}
	verdict, err := os.ReadFile(filepath.Join(dir, verdictFile))
	if err != nil {
		return Accel{}, err
	}
	if len(verdict) > 0 {
		return Accel{"tcg", string(verdict)}, nil
	}
	return Accel{"kvm", ""}, nil
}

// verdictFile holds why KVM boots no guest; it is empty if it does.
const verdictFile = "verdict"

// Verdict returns what ChooseAccel found out last: why KVM boots no guest, or "".
// What is older than boot, the start of this host, does not count.
func Verdict(boot time.Time) (why string, known bool) {
	entries, err := cache.List()
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		path := filepath.Join(e.Dir, verdictFile)
		fi, err := os.Stat(path)
		if e.Kind != "accel" || e.Meta == nil || err != nil || fi.ModTime().Before(boot) {
			continue
		}
		if text, err := os.ReadFile(path); err == nil {
			boot, why, known = fi.ModTime(), string(text), true
		}
	}
	return why, known
}

// CheckAccel says what speaks against asking for an accelerator, before anything is
// built for it.
func CheckAccel(want string) error {
	switch want {
	case "", "tcg":
		return nil
	case "kvm":
		if why := openKVM(); why != nil {
			return fmt.Errorf("use kvm: %w", why)
		}
		return nil
	}
	return job.Usage(fmt.Errorf("use accelerator %q: unknown; there are kvm and tcg", want))
}

var errDry = errors.New("dry run")

// openKVM says why KVM cannot even be opened.
func openKVM() error {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no %s", kvmDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; join its group with: sudo usermod -aG kvm $USER", err)
	case err != nil:
		return err
	}
	defer f.Close()
	const getAPIVersion = 0xae00 // KVM_GET_API_VERSION, linux/kvm.h
	if v, err := unix.IoctlRetInt(int(f.Fd()), getAPIVersion); err != nil || v != 12 {
		return fmt.Errorf("%s has API version %d, 12 wanted", kvmDevice, v)
	}
	return nil
}

// accelKey names what the verdict depends on: this boot of the host, QEMU, and the
// base of the guest's kernel. Not the kernel itself: an edit in ksmbd must not
// cost the deadline of another canary.
func accelKey(ctx context.Context, i *rootfs.Image) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	version, err := job.Command(qemuBinary, "--version").Probe(ctx)
	if err != nil {
		return "", err
	}
	return cache.Key("accel", string(boot), string(version), i.Kernel.Tree.Base, strings.Join(i.Kernel.Fragments, " ")), nil
}

// canary boots the image by KVM as far as PID 1, which then powers off. It returns
// why that did not work.
func canary(ctx context.Context, i *rootfs.Image) error {
	dir, remove, err := scratch()
	if err != nil {
		return err
	}
	defer remove()
	con, err := newConsole(filepath.Join(dir, "console.log"))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	printed := make(chan struct{}, 1)
	booted := make(chan struct{}, 1)
	con.line = func(line string, _ time.Time) {
		stamp, text := splat.CutStamp(line)
		if stamp != "" {
			notify(printed)
		}
		if text == markReady {
			notify(booted)
		}
	}
	m, err := launch(ctx, &spec{accel: "kvm", cpus: 1, memory: 512, kernel: i.Kernel.BzImage, initrd: i.Path,
		append: []string{"kbuild_run.canary"}}, con)
	if err != nil {
		return err
	}
	defer m.end()
	first, end := time.NewTimer(firstPrint), time.NewTimer(canaryEnd)
	defer first.Stop()
	defer end.Stop()
	for {
		select {
		case <-printed:
			first.Stop()
		case <-booted:
			return nil
		case <-m.done:
			select {
			case <-booted:
				return nil
			default:
				return m.err
			}
		case <-first.C:
			return fmt.Errorf("the guest printed nothing in %v", firstPrint)
		case <-end.C:
			return fmt.Errorf("the guest did not reach its first program in %v", canaryEnd)
		}
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
