package vmrunner

import (
	"os/exec"
	"strings"
	"testing"

	"kbuild-run/rootfs"
)

// Debian's smbd serves the share of ksmbd from the same disk, beside ksmbd and in
// its place.
func TestSamba(t *testing.T) {
	smbclient := func(t *testing.T, vm *VM, port int, command string) string {
		t.Helper()
		if _, err := exec.LookPath("smbclient"); err != nil {
			t.Skip("no smbclient")
		}
		u := rootfs.Users[1] // whose password is not ASCII
		_, host, _ := strings.Cut(vm.Addr(port), ":")
		out, err := exec.CommandContext(t.Context(), "smbclient", "-p", host, "-U", u.Name+"%"+u.Password, "//127.0.0.1/share", "-c", command).CombinedOutput()
		if err != nil {
			t.Errorf("smbclient on port %d: %s: %v: %s", port, command, err, out)
		}
		return string(out)
	}
	t.Run("beside", func(t *testing.T) {
		vm := start(t, Options{Samba: PortSamba})
		smbclient(t, vm, portSMB, "mkdir by-ksmbd")
		smbclient(t, vm, PortSamba, "mkdir by-smbd")
		for _, port := range []int{portSMB, PortSamba} {
			if got := smbclient(t, vm, port, "ls"); !strings.Contains(got, " by-ksmbd ") || !strings.Contains(got, " by-smbd ") {
				t.Errorf("port %d: got %s, want both folders", port, got)
			}
		}
		r, err := vm.Run(t.Context(), "ls -ld /srv/share/by-ksmbd /srv/share/by-smbd")
		if err != nil || strings.Count(string(r.Stdout), " other other ") != 2 {
			t.Errorf("got %q, %v; want both to be other's", r.Stdout, err)
		}
	})
	t.Run("alone", func(t *testing.T) {
		vm := start(t, Options{Samba: portSMB})
		if err := vm.WaitSMB(t.Context()); err != nil {
			t.Fatal(err)
		}
		smbclient(t, vm, portSMB, "mkdir by-smbd; ls")
		r, err := vm.Run(t.Context(), "lsmod | grep ksmbd; ls /srv/share")
		if got := string(r.Stdout); err != nil || got != "by-smbd\n" {
			t.Errorf("got %q, %v; want the folder and no ksmbd", got, err)
		}
	})
}
