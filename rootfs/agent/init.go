package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// share is the file system that ksmbd exports; the host gives it as first disk.
const share = "/srv"

// env is the environment of everything in the guest.
var env = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/bbin",
	"HOME=/root", "USER=root", "SHELL=/bin/sh", "TERM=dumb", "LANG=C.UTF-8",
}

var mounts = []struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // not in every kernel
}{
	{source: "devtmpfs", target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID},
	{source: "proc", target: "/proc", fstype: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{source: "sysfs", target: "/sys", fstype: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{source: "debugfs", target: "/sys/kernel/debug", fstype: "debugfs", optional: true},
	{source: "tracefs", target: "/sys/kernel/tracing", fstype: "tracefs", optional: true},
	{source: "devpts", target: "/dev/pts", fstype: "devpts", data: "mode=0620,ptmxmode=0666"},
	{source: "tmpfs", target: "/dev/shm", fstype: "tmpfs", data: "mode=1777"},
	{source: "tmpfs", target: "/run", fstype: "tmpfs", data: "mode=0755"},
	{source: "tmpfs", target: "/tmp", fstype: "tmpfs", data: "mode=1777"},
}

// mountAll mounts what every Linux system has.
func mountAll() error {
	for _, m := range mounts {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		}
		if err != nil && !m.optional && err != unix.EBUSY { // CONFIG_DEVTMPFS_MOUNT
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// pid1 never returns: PID 1 that ends is a kernel panic. The server is a process
// of its own, since a loop that waits for any child would take the exit codes of
// the server's children from it.
func pid1() {
	os.Clearenv()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		os.Setenv(name, value)
	}
	if err := mountAll(); err != nil {
		tell(failed+"%v", err)
		powerOff()
	}
	if booted("kbuild_run.canary") {
		tell(ready)
		powerOff()
	}
	// /sbin/poweroff sends it.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	go func() {
		<-end
		powerOff()
	}()
	server := exec.Command("/proc/self/exe", "serve")
	server.Stdin, server.Stdout, server.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		tell(failed+"start agent: %v", err)
		powerOff()
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == nil && pid == server.Process.Pid {
			tell(failed+"agent ended: %s", describe(status))
			powerOff()
		}
	}
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

func powerOff() {
	unix.Unmount(share, 0)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// moveCopy makes what lies on the disk the share, and gives it to the user that
// clients log in as: the host's users mean nothing here. The share is not the disk
// itself: ksmbd lists nothing of a share that is the root of a file system.
func moveCopy() error {
	const fresh = share + "/.kbuild-run-share"
	entries, err := os.ReadDir(share)
	if err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o777); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		if err := os.Rename(share+"/"+e.Name(), fresh+"/"+e.Name()); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, share+"/share"); err != nil {
		return err
	}
	return filepath.WalkDir(share+"/share", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, 1000, 1000)
	})
}

// booted tells whether the word is on the kernel's command line.
func booted(with string) bool {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	return slices.Contains(strings.Fields(string(cmdline)), with)
}

// bootedWith returns the value of the parameter on the kernel's command line, or "".
func bootedWith(parameter string) string {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(cmdline)) {
		if value, ok := strings.CutPrefix(word, parameter+"="); ok {
			return value
		}
	}
	return ""
}

// mountShare mounts the exported file system. "share" is for everybody,
// "private" for its owner.
func mountShare() error {
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", share, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount /dev/vda on %s as ext4: %w", share, err)
	}
	if booted("kbuild_run.copy") {
		if err := moveCopy(); err != nil {
			return fmt.Errorf("make the copied folder the share: %w", err)
		}
	}
	for _, d := range []struct {
		path string
		uid  int
		mode os.FileMode
	}{{share + "/share", 0, 0o777}, {share + "/private", 1001, 0o700}} {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return err
		}
		if err := os.Chown(d.path, d.uid, d.uid); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}
