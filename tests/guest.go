package tests

import (
	"context"
	"fmt"
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

// GuestServer is ksmbd in a VM, of the kernel that base names.
func GuestServer(name, base string, vm *vmrunner.VM) *scenario.Server {
	user, other := rootfs.Users[0], rootfs.Users[1]
	return &scenario.Server{
		Name: name, Kind: "ksmbd", Version: base, Addr: vm.Addr(445), Share: "share",
		User:  client.Credentials{User: user.Name, Password: user.Password},
		Other: client.Credentials{User: other.Name, Password: other.Password},
		Scale: float64(vm.Deadline(time.Second)) / float64(time.Second),
		Begin: vm.Begin, Printed: vm.Printed,
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
