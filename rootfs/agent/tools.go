package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setfattr sets an extended attribute: setfattr -n NAME -v VALUE FILE, as in
// setfattr(1) of the attr package.
func setfattr(args []string) int {
	if len(args) != 5 || args[0] != "-n" || args[2] != "-v" {
		fmt.Fprintln(os.Stderr, "usage: setfattr -n NAME -v VALUE FILE")
		return 2
	}
	if err := unix.Setxattr(args[4], args[1], []byte(args[3]), 0); err != nil {
		fmt.Fprintf(os.Stderr, "setfattr: %s: %v\n", args[4], err)
		return 1
	}
	return 0
}

// exch exchanges two names: exch ONE OTHER, as in exch(1) of util-linux.
func exch(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: exch ONE OTHER")
		return 2
	}
	if err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE); err != nil {
		fmt.Fprintf(os.Stderr, "exch: %s and %s: %v\n", args[0], args[1], err)
		return 1
	}
	return 0
}
