// Agent is the guest's first program, and its only one of ours. By the name or
// argument it is started with it is
//
//   - PID 1: mounts the file systems, starts the server, reaps orphans;
//   - the server: sets up the network, runs /etc/rc, answers ssh and sftp;
//   - /sbin/modprobe: for people, and for the kernel's request_module();
//   - /sbin/poweroff;
//   - setfattr, exch and rename, of which the guest has no other, churn, and
//     fscost for benchmarks.
//
// It talks to the host in lines of the kernel log that begin with Mark, so that
// they stand among the kernel's own lines on the serial console.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Lines for the host. vmrunner reads them.
const (
	mark    = "kbuild-run: "
	started = "agent started"
	ready   = "ready"
	failed  = "failed: " // with the reason
)

// tell prints a line to the kernel log.
func tell(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
		if err != nil {
			fmt.Println(mark + line)
			continue
		}
		f.WriteString("<4>" + mark + line + "\n")
		f.Close()
	}
}

func main() {
	switch {
	case os.Getpid() == 1:
		pid1()
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(modprobe(os.Args[1:]))
	case filepath.Base(os.Args[0]) == "setfattr":
		os.Exit(setfattr(os.Args[1:]))
	case filepath.Base(os.Args[0]) == "churn":
		os.Exit(churn(os.Args[1:]))
	case filepath.Base(os.Args[0]) == "exch":
		os.Exit(rename("exch", os.Args[1:], unix.RENAME_EXCHANGE))
	case filepath.Base(os.Args[0]) == "rename":
		os.Exit(rename("rename", os.Args[1:], 0))
	case filepath.Base(os.Args[0]) == "cifsnotify":
		if err := cifsNotify(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "cifsnotify:", err)
			os.Exit(1)
		}
	case filepath.Base(os.Args[0]) == "fscost":
		if err := fsCost(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "fscost:", err)
			os.Exit(1)
		}
	case filepath.Base(os.Args[0]) == "farlink":
		if err := farLink(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "farlink:", err)
			os.Exit(1)
		}
	case filepath.Base(os.Args[0]) == "poweroff":
		if err := unix.Kill(1, unix.SIGTERM); err != nil {
			fmt.Fprintln(os.Stderr, "poweroff:", err)
			os.Exit(1)
		}
	case len(os.Args) == 2 && os.Args[1] == "serve":
		if err := serve(); err != nil {
			tell(failed+"%v", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "agent: not PID 1, modprobe, poweroff or cifsnotify; nothing to do")
		os.Exit(2)
	}
}
