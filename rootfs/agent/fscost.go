package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tsc reads the time-stamp counter. Under QEMU's -icount shift=0 it counts the
// instructions that the guest has executed, as long as the CPU does not idle.
func tsc() uint64

// What the system calls of fsCost point to: not on a stack, which may move.
var (
	costPage      [4096]byte
	costEntry     = [...]byte{'e', 'n', 't', 'r', 'y', 0}
	costOther     = [...]byte{'o', 't', 'h', 'e', 'r', 0}
	costAttribute = [...]byte{'u', 's', 'e', 'r', '.', 'c', 'o', 's', 't', 0}
	costValue     [16]byte
)

// fsCost measures operations on a file system: fscost DIR COUNT DEPTH... does each
// COUNT times in a directory at each depth below DIR, and prints a line for each
// with the median of the time-stamp counter's steps. The median leaves out what
// befalls only some of them: interrupts, other threads, a slab's next page, the
// journal.
//
// With a directory in FSCOST_INOTIFY it watches that by inotify meanwhile.
//
// The operations name entries of an open directory, and are raw system calls:
// looking up a long path and Go's scheduler would hide what the depth costs.
func fsCost(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("want DIR COUNT DEPTH...")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if dir := os.Getenv("FSCOST_INOTIFY"); dir != "" {
		fd, err := unix.InotifyInit1(0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_ALL_EVENTS); err != nil {
			return err
		}
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	for _, a := range args[2:] {
		depth, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		dir := args[0]
		for range depth {
			dir = filepath.Join(dir, "d")
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := costs(dir, depth, count); err != nil {
			return fmt.Errorf("in %s: %w", dir, err)
		}
	}
	return nil
}

// costs measures each operation in one directory.
func costs(dir string, depth, count int) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer unix.Unlinkat(fd, "file", 0)
	defer unix.Close(file)
	f, err := unix.Openat(fd, "other", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	unix.Close(f)
	defer unix.Unlinkat(fd, "other", 0)
	call := func(trap, a, b, c, d, e uintptr) (uintptr, syscall.Errno) {
		r, _, errno := syscall.RawSyscall6(trap, a, b, c, d, e, 0)
		return r, errno
	}
	at, entry, other := uintptr(fd), uintptr(unsafe.Pointer(&costEntry)), uintptr(unsafe.Pointer(&costOther))
	for _, op := range []struct {
		name string
		do   func() syscall.Errno
	}{
		{"create+unlink", func() syscall.Errno {
			f, e := call(unix.SYS_OPENAT, at, entry, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644, 0)
			if e != 0 {
				return e
			}
			call(unix.SYS_CLOSE, f, 0, 0, 0, 0)
			_, e = call(unix.SYS_UNLINKAT, at, entry, 0, 0, 0)
			return e
		}},
		{"mkdir+rmdir", func() syscall.Errno {
			if _, e := call(unix.SYS_MKDIRAT, at, entry, 0o755, 0, 0); e != 0 {
				return e
			}
			_, e := call(unix.SYS_UNLINKAT, at, entry, unix.AT_REMOVEDIR, 0, 0)
			return e
		}},
		{"rename", func() syscall.Errno { // there and back
			if _, e := call(unix.SYS_RENAMEAT2, at, other, at, entry, 0); e != 0 {
				return e
			}
			_, e := call(unix.SYS_RENAMEAT2, at, entry, at, other, 0)
			return e
		}},
		{"write", func() syscall.Errno {
			_, e := call(unix.SYS_PWRITE64, uintptr(file), uintptr(unsafe.Pointer(&costPage)), uintptr(len(costPage)), 0, 0)
			return e
		}},
		{"setxattr", func() syscall.Errno {
			_, e := call(unix.SYS_FSETXATTR, uintptr(file), uintptr(unsafe.Pointer(&costAttribute)), uintptr(unsafe.Pointer(&costValue)), uintptr(len(costValue)), 0)
			return e
		}},
	} {
		steps := make([]uint64, count)
		for i := range steps {
			// What was freed can be taken again when that is on the disk, and a
			// journal that is full is written while we wait.
			if i%50 == 0 {
				if err := unix.Syncfs(fd); err != nil {
					return err
				}
			}
			began := tsc()
			e := op.do()
			steps[i] = tsc() - began
			if e != 0 {
				return fmt.Errorf("%s: %w", op.name, e)
			}
		}
		slices.Sort(steps)
		fmt.Printf("%s %d %d\n", op.name, depth, steps[count/2])
	}
	return nil
}
