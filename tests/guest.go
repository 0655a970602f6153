package tests

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
	"kbuild-run/vmrunner"
)

// guestShare is where rootfs/files/ksmbd.conf has the share.
const guestShare = "/srv/share"

// slowSlots is how many scenarios run at a time on a debug kernel. With more logins at
// once it gets no answer from ksmbd.mountd within the two seconds that it waits
// (IPC_WAIT_TIMEOUT), and refuses them.
const slowSlots = 4

// GuestServer is ksmbd in a VM, of the kernel that base names.
func GuestServer(name, base string, vm *vmrunner.VM) *scenario.Server {
	user, other := rootfs.Users[0], rootfs.Users[1]
	slots := 0
	if vm.Slow() {
		slots = slowSlots
	}
	return &scenario.Server{
		Name: name, Kind: "ksmbd", Version: base, Addr: vm.Addr(445), Share: "share", Slots: slots,
		User:  client.Credentials{User: user.Name, Password: user.Password},
		Other: client.Credentials{User: other.Name, Password: other.Password},
		Scale: float64(vm.Deadline(time.Second)) / float64(time.Second),
		Begin: vm.Begin, Printed: vm.Printed, Traced: vm.Traced,
		Shell: func(ctx context.Context, folder, command string) error {
			r, err := vm.Run(ctx, "set -e\ncd "+job.Quote(strings.TrimSuffix(guestShare+"/"+folder, "/"))+"\n"+command)
			if err != nil {
				return err
			}
			if r.Code != 0 {
				return fmt.Errorf("run %s in the guest: exit status %d: %s", command, r.Code, strings.TrimSpace(string(r.Stderr)))
			}
			return nil
		},
	}
}

// holds prints what ksmbd has, a line each: a number and a name. A cache is shrunk
// first, for the objects of a slab that a CPU works with count as used. fsnotify has
// a connector for each inode and file system with a mark on it, and ksmbd is the only
// one in the guest that makes marks. Each connection has a reference of the module.
// What the kernel counts itself is in /proc since 7.x, and the series' own in sysfs before.
const holds = `
for d in /sys/kernel/slab/ksmbd_* /sys/kernel/slab/fsnotify_*connector; do
	[ -e $d/objects ] || continue
	echo 1 > $d/shrink
	read n rest < $d/objects
	echo $n ${d##*/}
done
read n < /sys/module/ksmbd/refcnt && echo $n references of the module
if [ -e /proc/fs/ksmbd/server ]; then
	while read name n rest; do
		case $name in
		sessions:|tree_connects:|notify_watches:|notify_requests:|notify_bytes:) echo $n ${name%:} ;;
		esac
	done < /proc/fs/ksmbd/server
fi
if [ -e /sys/class/ksmbd-control/notify ]; then
	read watches requests bytes rest < /sys/class/ksmbd-control/notify
	echo $watches notify_watches
	echo $requests notify_requests
	echo $bytes notify_bytes
fi
`

// heldNames are what the slabs hold, in words.
var heldNames = map[string]string{
	"ksmbd_file_cache": "open files", "ksmbd_work_cache": "requests",
	"fsnotify_mark_connector": "marks", "fsnotify_inode_mark_connector": "marks on inodes",
}

// guestHolds asks the guest what ksmbd holds for its clients.
func guestHolds(vm *vmrunner.VM) scenario.Holds {
	return func(ctx context.Context) (scenario.Held, error) {
		ctx, stop := context.WithTimeout(ctx, vm.Deadline(10*time.Second))
		defer stop()
		r, err := vm.Run(ctx, holds)
		if err != nil {
			return nil, err
		}
		if r.Code != 0 {
			return nil, fmt.Errorf("exit status %d: %s", r.Code, strings.TrimSpace(string(r.Stderr)))
		}
		held := scenario.Held{}
		for l := range strings.Lines(string(r.Stdout)) {
			number, name, _ := strings.Cut(strings.TrimSpace(l), " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				return nil, fmt.Errorf("read %q: want a number and a name", l)
			}
			held[cmp.Or(heldNames[name], name)] = n
		}
		return held, nil
	}
}
