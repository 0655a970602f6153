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

// rename calls renameat2(2): exch ONE OTHER exchanges two names, as exch(1) of
// util-linux does; rename OLD NEW gives a file a name, or a directory the place of
// an empty one, where mv would move it into that.
func rename(program string, args []string, flags uint) int {
	if len(args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s NAME NAME\n", program)
		return 2
	}
	if err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], flags); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s and %s: %v\n", program, args[0], args[1], err)
		return 1
	}
	return 0
}
