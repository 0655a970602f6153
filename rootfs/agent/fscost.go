package main

import (
	"flag"
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

// fsCost measures operations on a file system: fscost [-inotify DIR] [-op NAME] DIR
// COUNT DEPTH... does each, or the one of that name, COUNT times in a directory at
// each depth below DIR, and prints a line for each with the tenth percentile of the
// time-stamp counter's steps: what it takes when nothing comes on top. Interrupts,
// other threads, a slab's next page and the search for room on a disk befall some of
// them; half of the mkdirs on ext4, so that a median would fall on either side.
// Meanwhile inotify watches the directory that -inotify names.
//
// The operations name entries of an open directory, and are raw system calls:
// looking up a long path and Go's scheduler would hide what the depth costs.
func fsCost(args []string) error {
	set := flag.NewFlagSet("fscost", flag.ContinueOnError)
	watched := set.String("inotify", "", "watch `DIR` by inotify")
	only := set.String("op", "", "do the operation `NAME` only")
	if err := set.Parse(args); err != nil {
		return err
	}
	if args = set.Args(); len(args) < 3 {
		return fmt.Errorf("want DIR COUNT DEPTH...")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if *watched != "" {
		fd, err := unix.InotifyInit1(0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, err := unix.InotifyAddWatch(fd, *watched, unix.IN_ALL_EVENTS); err != nil {
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
		if err := costs(dir, *only, depth, count); err != nil {
			return fmt.Errorf("in %s: %w", dir, err)
		}
	}
	return nil
}

// costs measures each operation, or only that of the name, in one directory.
func costs(dir, only string, depth, count int) error {
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
		if only != "" && only != op.name {
			continue
		}
		steps := make([]uint64, count)
		for i := range steps {
			if i%50 == 0 {
				if err := calm(fd); err != nil {
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
		fmt.Printf("%s %d %d\n", op.name, depth, steps[count/10])
	}
	return nil
}

// calm brings the file system of an open directory to where it was before the round
// that it ends, so that each round finds the same: the journal is written, what was
// freed can be taken again, and a timer tick was just now. xfs frees the inodes of
// removed files in the background, a tick later, and at once when it is asked for
// its free space.
func calm(fd int) error {
	if err := unix.Syncfs(fd); err != nil {
		return err
	}
	var space unix.Statfs_t
	if err := unix.Fstatfs(fd, &space); err != nil {
		return err
	}
	var now, tick unix.Timespec // the coarse clock stands still between two ticks
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return err
	}
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return err
	}
	later := unix.NsecToTimespec(now.Nano() + 2*tick.Nano())
	for {
		err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &later, nil)
		if err != unix.EINTR {
			return err
		}
	}
}
