package vmrunner

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
)

// image returns the image under test, or skips.
func image(t *testing.T) *rootfs.Image {
	t.Helper()
	if _, err := exec.LookPath(qemuBinary); err != nil {
		t.Skip("no ", qemuBinary)
	}
	k := &rootfs.Kernel{Base: "v6.12", Release: "6.12.117+", Key: "interim", Modules: "/tmp/k/mod612",
		BzImage: "/tmp/k/b612/arch/x86/boot/bzImage", Config: "/tmp/k/b612/.config"}
	var i *rootfs.Image
	err := new(job.Job).Step("image", func(s *job.Step) (err error) {
		i, err = rootfs.Build(t.Context(), s, k, rootfs.Options{})
		return err
	})
	if err != nil {
		t.Skip("no image: ", err)
	}
	return i
}

// start boots a guest that goes with the test.
func start(t *testing.T, o Options) *VM {
	t.Helper()
	i := image(t)
	var vm *VM
	err := job.New(os.Stdout, os.Stderr).Step("vm", func(s *job.Step) (err error) {
		vm, err = Start(t.Context(), s, i, o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return vm
}

func TestGuest(t *testing.T) {
	vm := start(t, Options{Pcap: true})
	t.Logf("accelerator %s", vm.Accel())
	for _, c := range []struct {
		cmd, stdout, stderr string
		code                int
	}{
		{"echo hi", "hi\n", "", 0},
		{"echo out; echo err >&2; exit 3", "out\n", "err\n", 3},
		{"nosuchcommand", "", "\"nosuchcommand\": executable file not found in $PATH\n", 127},
		{"kill -9 $$", "", "", 137},
		{"ls -ld /", "drwxr-xr-x", "", 0}, // ksmbd takes on the identity of users
		{"cat /proc/sys/kernel/modprobe", "/sbin/modprobe\n", "", 0},
		{"id tester", "uid=1000(tester)", "", 0},
	} {
		r, err := vm.Run(t.Context(), c.cmd)
		if err != nil {
			t.Errorf("run %q: %v", c.cmd, err)
			continue
		}
		if !strings.HasPrefix(string(r.Stdout), c.stdout) || string(r.Stderr) != c.stderr || r.Code != c.code {
			t.Errorf("run %q: got %q, %q, %d; want %q, %q, %d", c.cmd, r.Stdout, r.Stderr, r.Code, c.stdout, c.stderr, c.code)
		}
	}
	if err := vm.WaitSMB(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("times %+v", vm.Times())
	if got, err := vm.Monitor().Status(t.Context()); err != nil || got != "running" {
		t.Errorf("status: got %q, %v; want running", got, err)
	}
	if reports, err := vm.Reports(); err != nil || len(reports) != 0 {
		t.Errorf("reports of a clean boot: got %v, %v; want none", reports, err)
	}
}
