package vmrunner

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
)

// image returns an image of the newest plain kernel in the cache that has the
// options, or skips: a test does not wait for a kernel to be built.
func image(t *testing.T, options ...string) *rootfs.Image {
	t.Helper()
	if _, err := exec.LookPath(qemuBinary); err != nil {
		t.Skip("no ", qemuBinary)
	}
	all, err := cache.List()
	if err != nil {
		t.Skip("no cache: ", err)
	}
	var newest cache.Entry
	for _, e := range all {
		file := filepath.Join(e.Dir, "config")
		if e.Kind != "kernels" || !strings.HasPrefix(e.Meta["fragments"], "base ksmbd") || debugKernel(file) || !e.Used.After(newest.Used) {
			continue
		}
		config, err := os.ReadFile(file)
		if err == nil && !slices.ContainsFunc(options, func(o string) bool { return !strings.Contains(string(config), o+"\n") }) {
			newest = e
		}
	}
	if newest.Dir == "" {
		t.Skipf("no kernel %s in the cache; build one with: kbuild-run kernel build", strings.Join(options, " "))
	}
	k := &kconfigs.Kernel{
		Tree: &patches.Tree{Base: "v6.12"}, Key: newest.Key, Release: newest.Meta["release"], Dir: newest.Dir,
		BzImage: filepath.Join(newest.Dir, "bzImage"), Modules: filepath.Join(newest.Dir, "modules"),
		Config: filepath.Join(newest.Dir, "config"), Vmlinux: filepath.Join(newest.Dir, "vmlinux"),
	}
	var i *rootfs.Image
	err = new(job.Job).Step("image", func(s *job.Step) (err error) {
		i, err = rootfs.Build(t.Context(), s, k, rootfs.Options{})
		return err
	})
	if err != nil {
		t.Skip("no image: ", err)
	}
	return i
}

// boot boots a guest as a step of a silent job.
func boot(ctx context.Context, i *rootfs.Image, o Options) (vm *VM, err error) {
	err = new(job.Job).Step("vm", func(s *job.Step) (err error) {
		vm, err = Start(ctx, s, i, o)
		return err
	})
	return vm, err
}

// start boots a guest that goes with the test.
func start(t *testing.T, o Options) *VM {
	t.Helper()
	vm, err := boot(t.Context(), image(t), o)
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

// shortTemp gives the test a TMPDIR with room for the name of a socket.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmrunner-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return dir
}

// gone fails the test unless QEMU ends soon.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || !strings.Contains(string(stat), "(qemu-") || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("qemu (pid %d) is still there", pid)
}

func TestGuest(t *testing.T) {
	vm := start(t, Options{Pcap: true, Debug: []string{"conn", "smb"}})
	ctx := t.Context()
	t.Logf("accelerator %s", vm.Accel())

	t.Run("exec", func(t *testing.T) {
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
			{"pwd", "/root\n", "", 0},
		} {
			r, err := vm.Run(ctx, c.cmd)
			if err != nil {
				t.Errorf("run %q: %v", c.cmd, err)
				continue
			}
			if !strings.HasPrefix(string(r.Stdout), c.stdout) || string(r.Stderr) != c.stderr || r.Code != c.code {
				t.Errorf("run %q: got %q, %q, %d; want %q, %q, %d", c.cmd, r.Stdout, r.Stderr, r.Code, c.stdout, c.stderr, c.code)
			}
		}
	})

	t.Run("stdin", func(t *testing.T) {
		var out strings.Builder
		code, err := vm.Exec(ctx, "cat", strings.NewReader("through the guest"), &out, io.Discard)
		if err != nil || code != 0 || out.String() != "through the guest" {
			t.Errorf("got %q, %d, %v", out.String(), code, err)
		}
	})

	t.Run("shell", func(t *testing.T) {
		ctx, stop := context.WithTimeout(ctx, vm.Deadline(10*time.Second))
		defer stop()
		var out strings.Builder
		code, err := vm.Shell(ctx, strings.NewReader("stty -a; echo $TERM terminal\nexit\n"), &out, "vt100", 100, 30, nil)
		if err != nil || code != 0 || !strings.Contains(out.String(), "\nvt100 terminal\r\n") {
			t.Errorf("got %q, %d, %v", out.String(), code, err)
		}
	})

	t.Run("deadline", func(t *testing.T) {
		ctx, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if _, err := vm.Run(ctx, "sleep 1000"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if err := vm.Err(); err != nil {
			t.Errorf("the guest is gone with the command: %v", err)
		}
	})

	t.Run("sftp", func(t *testing.T) {
		c, err := vm.SFTP()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := strings.Repeat("0123456789abcdef", 1<<16)
		f, err := c.Create("/srv/share/file")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadFrom(strings.NewReader(want)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r, err := vm.Run(ctx, "wc -c /srv/share/file && rm /srv/share/file")
		if err != nil || !strings.HasPrefix(strings.TrimSpace(string(r.Stdout)), "1048576") {
			t.Errorf("got %q, %v; want 1048576 bytes", r.Stdout, err)
		}
	})

	t.Run("request_module", func(t *testing.T) {
		// The kernel asks for "fs-cifs", which only modules.alias knows.
		r, err := vm.Run(ctx, "mount -t cifs //127.0.0.1/share /mnt; lsmod")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(r.Stdout), "\ncifs ") {
			t.Errorf("no module cifs after mount -t cifs; got\n%s", r.Stdout)
		}
	})

	t.Run("adduser", func(t *testing.T) {
		// Needs the C library's UTF-16; must make of the password what
		// rootfs made.
		u := rootfs.Users[1]
		r, err := vm.Run(ctx, "cp /etc/ksmbd/ksmbdpwd.db /tmp/db && ksmbd.adduser -P /tmp/db -a -p '"+u.Password+"' new && cat /tmp/db")
		if err != nil {
			t.Fatal(err)
		}
		hash := map[string]string{}
		for line := range strings.Lines(string(r.Stdout)) {
			name, h, _ := strings.Cut(strings.TrimSpace(line), ":")
			hash[name] = h
		}
		if b, err := base64.StdEncoding.DecodeString(hash["new"]); err != nil || len(b) != 16 || hash["new"] != hash[u.Name] {
			t.Errorf("got hash %q of ksmbd.adduser, want %q; output %q, %q", hash["new"], hash[u.Name], r.Stdout, r.Stderr)
		}
	})

	t.Run("smb", func(t *testing.T) {
		if err := vm.WaitSMB(ctx); err != nil {
			t.Error(err)
		}
		times := vm.Times()
		t.Logf("times %+v", times)
		if !(0 < times.Agent && times.Agent < times.Ready && times.Ready < times.SMB) {
			t.Errorf("times are out of order: %+v", times)
		}
	})

	t.Run("debug", func(t *testing.T) {
		log, err := os.ReadFile(vm.ConsolePath())
		if err != nil || !strings.Contains(string(log), "ksmbd: SMB2 data length ") {
			t.Errorf("no debug message on the console after a request: %v", err)
		}
	})

	t.Run("monitor", func(t *testing.T) {
		if got, err := vm.Monitor().Status(ctx); err != nil || got != "running" {
			t.Errorf("status: got %q, %v; want running", got, err)
		}
		if got, err := vm.Monitor().KVM(ctx); err != nil || got != (vm.Accel().Name == "kvm") {
			t.Errorf("KVM: got %t, %v; the guest should run by %s", got, err, vm.Accel())
		}
		// Events nobody asked for must not block the next command.
		for range 20 {
			for _, c := range []string{"stop", "cont"} {
				if err := vm.Monitor().Command(ctx, c, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := vm.Monitor().Command(ctx, "no-such-command", nil, nil); err == nil {
			t.Error("unknown command: got no error")
		}
	})

	t.Run("link", func(t *testing.T) {
		cut, stop := context.WithTimeout(ctx, vm.Deadline(300*time.Millisecond))
		defer stop()
		if err := vm.Monitor().SetLink(ctx, NetCard, false); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Run(cut, "true"); err == nil {
			t.Error("a guest without a link answers")
		}
		if err := vm.Monitor().SetLink(ctx, NetCard, true); err != nil {
			t.Fatal(err)
		}
		// TCP sends again what was lost: the connection lives.
		if _, err := vm.Run(ctx, "true"); err != nil {
			t.Error(err)
		}
	})

	if reports, err := vm.Reports(); err != nil || len(reports) != 0 {
		t.Errorf("reports of a clean boot: got %v, %v; want none", reports, err)
	}
	if fi, err := os.Stat(vm.PcapPath()); err != nil || fi.Size() < 1000 {
		t.Errorf("pcap: got %v, %v", fi, err)
	}
}

// A guest whose clock counts instructions needs the same for the same each time, but
// for what lies elsewhere in its caches.
func TestCount(t *testing.T) {
	vm := start(t, Options{Count: true})
	var runs [3]map[string]float64 // the first fills the kernel's caches
	for i := range runs {
		r, err := vm.Run(t.Context(), "fscost /tmp/cost 200 3 30")
		if err != nil || r.Code != 0 {
			t.Fatalf("fscost: %v, %+v", err, r)
		}
		runs[i] = map[string]float64{}
		for line := range strings.Lines(string(r.Stdout)) {
			var op string
			var depth, n float64
			if _, err := fmt.Sscan(line, &op, &depth, &n); err != nil {
				t.Fatalf("read %q: %v", line, err)
			}
			runs[i][fmt.Sprint(op, " at ", depth)] = n
		}
	}
	if len(runs[1]) != 10 {
		t.Fatalf("got %v, want five operations at two depths", runs[1])
	}
	// How full the slabs of its kernel are made 3.3 % once: 12915 against 12501.
	for what, n := range runs[1] {
		if again := runs[2][what]; n < 500 || math.Abs(again/n-1) > 0.05 {
			t.Errorf("%s: got %v and %v instructions, want 500 or more, and the same within 5 %%", what, n, again)
		}
	}
}

// Guests at the same time must not get into each other's way.
func TestTwoGuests(t *testing.T) {
	i := image(t)
	var vms [2]*VM
	var all sync.WaitGroup
	for n := range vms {
		all.Go(func() {
			vm, err := boot(t.Context(), i, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			vms[n] = vm
			if _, err := vm.Run(t.Context(), fmt.Sprintf("echo %d > /srv/share/number", n)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for n, vm := range vms {
		if vm == nil {
			continue
		}
		r, err := vm.Run(t.Context(), "cat /srv/share/number")
		if got, want := string(r.Stdout), fmt.Sprintln(n); err != nil || got != want {
			t.Errorf("guest %d: got %q, %v; want %q", n, got, err, want)
		}
		if err := vm.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A guest that does not come up says why, at once, with its console's end.
func TestBootErrors(t *testing.T) {
	i := image(t)
	notKernel := *i
	k := *i.Kernel
	k.BzImage = i.Path
	notKernel.Kernel = &k
	noImage := *i
	noImage.Path = filepath.Join(t.TempDir(), "gone.cpio")
	badRC := &rootfs.Archive{}
	badRC.File("etc/rc", []byte("set -e\necho about to fail\nmodprobe nosuchmodule\n"), 0o644)
	silent := &rootfs.Archive{}
	silent.File("etc/rc", []byte("sleep 1000\n"), 0o644)

	limit := bootLimit
	defer func() { bootLimit = limit }()
	for _, c := range []struct {
		name  string
		image *rootfs.Image
		o     Options
		limit time.Duration
		want  []string
		code  int
	}{
		{"panic", i, Options{Kernel: []string{"rdinit=/nosuch", "root=/dev/nosuch"}}, 0,
			[]string{"boot guest: panic: VFS: Unable to mount root fs", "Kernel panic - not syncing"}, job.ExitFailed},
		{"rc", i, Options{Files: badRC}, 0,
			[]string{"boot guest: failed: /etc/rc: exit status 1: modprobe: ", "nosuchmodule", "rc: about to fail"}, job.ExitCannotRun},
		{"no answer", i, Options{Files: silent}, 3 * time.Second,
			[]string{"boot guest: no answer in ", "the console's end", "agent started"}, job.ExitCannotRun},
		{"not a kernel", &notKernel, Options{}, 0,
			[]string{"qemu ended: ", "kernel"}, job.ExitCannotRun},
		{"no image", &noImage, Options{}, 0,
			[]string{"read image: ", "gone.cpio: no such file"}, job.ExitCannotRun},
		{"memory", i, Options{Memory: 1 << 30}, 0,
			[]string{"qemu ended: ", "memory"}, job.ExitCannotRun},
		{"accelerator", i, Options{Accel: "xen"}, 0,
			[]string{`use accelerator "xen": unknown; there are kvm and tcg`}, job.ExitUsage},
	} {
		t.Run(c.name, func(t *testing.T) {
			if bootLimit = limit; c.limit != 0 {
				bootLimit = c.limit
			}
			temp := shortTemp(t)
			vm, err := boot(t.Context(), c.image, c.o)
			if err == nil {
				vm.Stop(t.Context())
				t.Fatal("got a guest")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v\nwant %q in it", err, w)
				}
			}
			if got := job.Code(err); got != c.code {
				t.Errorf("got exit code %d, want %d", got, c.code)
			}
			if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A port that another program took in the meantime is no error.
func TestPortTaken(t *testing.T) {
	i := image(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	choose := freePorts
	defer func() { freePorts = choose }()
	tries := 0
	freePorts = func(guest []int) (map[int]int, error) {
		ports, err := choose(guest)
		if tries++; tries == 1 && err == nil {
			ports[portSMB] = l.Addr().(*net.TCPAddr).Port
		}
		return ports, err
	}
	vm, err := boot(t.Context(), i, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if tries != 2 {
		t.Errorf("got %d tries, want 2", tries)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever runs when the context ends, no QEMU and no file stay.
func TestInterrupt(t *testing.T) {
	i := image(t)
	temp := shortTemp(t)
	ctx, stop := context.WithCancel(t.Context())
	vm, err := boot(ctx, i, Options{})
	if err != nil {
		t.Fatal(err)
	}
	pid := vm.machine.cmd.Process.Pid
	ran := make(chan error, 1)
	go func() {
		_, err := vm.Run(ctx, "sleep 1000")
		ran <- err
	}()
	stop()
	if err := <-ran; err == nil {
		t.Error("run: got no error")
	}
	gone(t, pid)
	vm.Stop(context.Background())

	ctx, stop = context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, stop) // somewhere in the boot
	if vm, err := boot(ctx, i, Options{}); err == nil {
		vm.Stop(context.Background())
		t.Error("boot: got a guest")
	} else if job.Code(err) != job.ExitInterrupt {
		t.Errorf("boot: got %v, code %d; want code %d", err, job.Code(err), job.ExitInterrupt)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// QEMU dies with the program even when that gets no chance to say so.
func TestKilled(t *testing.T) {
	i := image(t)
	if os.Getenv("VMRUNNER_TEST_CHILD") != "" {
		vm, err := boot(t.Context(), i, Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid %d\n", vm.machine.cmd.Process.Pid)
		select {}
	}
	child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), "VMRUNNER_TEST_CHILD=1", "TMPDIR="+shortTemp(t))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscanf(out, "pid %d\n", &pid)
	child.Process.Kill()
	child.Wait()
	if err != nil {
		t.Fatalf("child booted no guest: %v", err)
	}
	gone(t, pid)
}

// What a killed program left is removed by the next, what another one uses is not.
func TestScratch(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp")
	long := time.Now().Add(-time.Hour)
	left, err := os.MkdirTemp("", "kbuild-run-vm-")
	if err != nil {
		t.Fatal(err)
	}
	used, remove, err := scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	for _, d := range []string{left, used} {
		if err := os.Chtimes(d, long, long); err != nil {
			t.Fatal(err)
		}
	}
	_, remove2, err := scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer remove2()
	if _, err := os.Stat(left); err == nil {
		t.Errorf("%s is still there", left)
		os.Remove(left)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("a folder in use is gone: %v", err)
	}
}

// A guest whose kernel dies under a command says so in that command's error.
func TestPanicUnderCommand(t *testing.T) {
	vm, err := boot(t.Context(), image(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = vm.Run(t.Context(), "echo c > /proc/sysrq-trigger")
	if err == nil || !strings.Contains(err.Error(), "guest died: panic: sysrq triggered crash") || job.Code(err) != job.ExitFailed {
		t.Errorf("got %v, code %d", err, job.Code(err))
	}
	if reports, err := vm.Reports(); err != nil || len(reports) != 1 || reports[0].Title != "panic: sysrq triggered crash" {
		t.Errorf("reports: got %+v, %v", reports, err)
	}
	if err := vm.Stop(t.Context()); err == nil {
		t.Error("stop of a dead guest: got no error")
	}
}

// A guest whose disk stands still and whose agent is stopped does not answer. Its
// kernel tells where it is all the same.
func TestHang(t *testing.T) {
	i := image(t, "CONFIG_MAGIC_SYSRQ_SERIAL=y")
	dir := t.TempDir()
	vm, err := boot(t.Context(), i, Options{Dir: dir, Core: true, Memory: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop(context.Background())
	ctx := t.Context()
	if err := vm.Responds(ctx); err != nil {
		t.Fatal(err)
	}
	slow := map[string]any{"device": "virtio0", "bps": 0, "bps_rd": 0, "bps_wr": 1, "iops": 0, "iops_rd": 0, "iops_wr": 0}
	if err := vm.Monitor().Command(ctx, "block_set_io_throttle", slow, nil); err != nil {
		t.Fatal(err)
	}
	defer vm.Begin("some-scenario")()
	// The last word of the agent is that it stops.
	stopped, stop := context.WithTimeout(ctx, vm.Deadline(300*time.Millisecond))
	defer stop()
	if r, err := vm.Run(stopped, "echo x > /srv/share/x; sync & kill -SIGSTOP $PPID"); err == nil {
		t.Fatalf("the agent is there: %+v", r)
	}
	limit := respondLimit
	defer func() { respondLimit = limit }()
	respondLimit = time.Second
	why := vm.Responds(ctx)
	if why == nil {
		t.Fatal("a guest whose agent is stopped answers")
	}
	report, err := vm.Hang(ctx, filepath.Join(dir, "hang"), why)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(report.Title, "hang: blocked in ") || !slices.Equal(report.During, []string{"some-scenario"}) {
		t.Errorf("got %q during %q", report.Title, report.During)
	}
	for file, want := range map[string]string{
		"status.txt":    "running\n",
		"registers.txt": "CPU 1\n",
		"cpus.txt":      "NMI backtrace for cpu",
		"blocked.txt":   "state:D",
		"tasks.txt":     "task:ksmbd",
		"memory.elf":    "\x7fELF",
		"screen.png":    "\x89PNG",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, "hang", file)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: want %q in it; %v", file, want, err)
		}
	}
	if vm.Err() == nil {
		t.Error("the guest still runs")
	}
	// What the kernel was asked for is no complaint.
	if reports, err := vm.Reports(); err != nil || len(reports) != 0 {
		t.Errorf("reports: got %v, %v; want none", reports, err)
	}
}
