package vmrunner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbuild-run/patches/job"
)

const qemuBinary = "qemu-system-x86_64"

// cmdline is the kernel's command line. After an oops the program that met it often
// hangs for good: oops=panic ends the guest instead. panic=-1 with QEMU's -no-reboot makes a
// panic end QEMU at once; reboot=t is the way to restart that needs no firmware;
// devkmsg=on keeps the agent's lines from being limited; no_timer_check: on a busy
// host an emulated timer may be late, and the kernel panics that it does not work.
// The screen has the same lines, for a picture of a guest whose serial line is dead;
// the last console is the one that programs get.
var cmdline = []string{"console=tty0", "console=ttyS0", "oops=panic", "panic=-1", "reboot=t", "printk.devkmsg=on", "no_timer_check"}

// machine is a running QEMU.
type machine struct {
	cmd     *exec.Cmd
	console *console
	stdin   io.WriteCloser // the guest's serial line
	stderr  tail
	began   time.Time

	done chan struct{} // closed when QEMU is gone
	err  error         // why; valid after done
}

// spec is what a machine is made of.
type spec struct {
	accel   string
	cpus    int
	memory  int // MiB
	kernel  string
	append  []string
	initrd  string   // a path; or nil and initrdFile
	disk    string   // opened with a snapshot: what the guest writes goes with QEMU
	disks   []string // more of them
	count   bool     // instructions instead of time
	pcap    string
	forward map[int]string // guest port -> address here
	plug    *Plug
	gdb     string     // socket for gdb
	temp    string     // folder for what QEMU makes itself, which it leaves when killed: the snapshot
	files   []*os.File // inherited, from descriptor 3 on
	qmp     string     // number of the listening descriptor
}

// args returns QEMU's command line. q35 and not microvm: under TCG that starts no
// sooner, and without PIT and PIC it hangs. Page tables have four levels: with five,
// an interrupt while identify_cpu() has cleared the CPU's capabilities, LA57 among
// them, makes KASAN take the direct map for wild memory, and report nothing more.
func (s *spec) args() []string {
	cpu := "max,la57=off"
	accel := "tcg,thread=multi"
	if s.accel == "kvm" {
		cpu, accel = "host", "kvm"
	}
	if s.count {
		accel = "tcg" // instructions are counted by one thread only
	}
	a := []string{qemuBinary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(s.cpus), "-m", fmt.Sprint(s.memory),
		"-kernel", s.kernel, "-initrd", s.initrd,
		"-append", strings.Join(append(append([]string{}, cmdline...), s.append...), " "),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-rng-pci", "-device", "VGA,vgamem_mb=1"}
	if s.qmp != "" {
		a = append(a, "-chardev", "socket,id=qmp,server=on,wait=off,fd="+s.qmp, "-mon", "chardev=qmp,mode=control")
	}
	if s.count {
		a = append(a, "-icount", "shift=0")
	}
	for _, disk := range append([]string{s.disk}, s.disks...) {
		if disk != "" {
			a = append(a, "-drive", "if=virtio,format=raw,snapshot=on,file="+escape(disk))
		}
	}
	if s.gdb != "" {
		a = append(a, "-chardev", "socket,id=gdb,server=on,wait=off,path="+escape(s.gdb), "-gdb", "chardev:gdb")
	}
	if len(s.forward) > 0 {
		var b strings.Builder
		b.WriteString("user,id=net,restrict=on,ipv6=off")
		for _, guest := range slices.Sorted(maps.Keys(s.forward)) {
			fmt.Fprintf(&b, ",hostfwd=tcp:%s-:%d", s.forward[guest], guest)
		}
		a = append(a, "-netdev", b.String(), "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	if s.plug != nil {
		a = append(a, s.plug.args()...)
	}
	if s.pcap != "" {
		a = append(a, "-object", "filter-dump,id=pcap,netdev=net,file="+escape(s.pcap))
	}
	return a
}

// escape protects commas in a value of QEMU's option lists.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// launch starts QEMU. It is killed when ctx ends, and by the kernel when this
// program dies in whatever way. Its standard output is the guest's console: a
// goroutine reads it all the time, since a guest stalls on a console that nobody
// reads.
func launch(ctx context.Context, s *spec, con *console) (*machine, error) {
	args := s.args()
	if j := job.From(ctx); j.Verbose {
		j.Logf("$ %s", pastable(args))
	}
	x := exec.Command(args[0], args[1:]...)
	x.ExtraFiles = s.files
	if s.temp != "" {
		x.Env = append(os.Environ(), "TMPDIR="+s.temp)
	}
	// A group of its own: a Ctrl-C is for us, and we end the guest in order.
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	m := &machine{cmd: x, console: con, done: make(chan struct{})}
	x.Stdout, x.Stderr = con, &m.stderr
	var err error
	if m.stdin, err = x.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig comes when the thread ends that forked the child
		// (prctl(2)): so this one must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		m.began = time.Now()
		err := x.Start()
		started <- err
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, m.kill)
		err = x.Wait()
		stop()
		con.close()
		m.err = m.describe(err)
		close(m.done)
	}()
	if err := <-started; err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("start %s: %w; install it with: kbuild-run setup", qemuBinary, err)
		}
		return nil, fmt.Errorf("start %s: %w", qemuBinary, err)
	}
	return m, nil
}

// pastable returns args as one line for a shell.
func pastable(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = job.Quote(a)
	}
	return strings.Join(q, " ")
}

func (m *machine) kill() { unix.Kill(-m.cmd.Process.Pid, unix.SIGKILL) }

// end kills QEMU and waits until it is gone.
func (m *machine) end() {
	m.kill()
	<-m.done
}

// describe says why QEMU ended, in its own words if it left any.
func (m *machine) describe(err error) error {
	said := strings.TrimSpace(m.stderr.String())
	switch {
	case err == nil && said == "":
		return errors.New("qemu ended: the guest powered off or reset")
	case err == nil:
		return fmt.Errorf("qemu ended: %s", said)
	case said == "":
		return fmt.Errorf("qemu ended: %w", err)
	}
	return fmt.Errorf("qemu ended: %w: %s", err, said)
}

// portTaken tells whether QEMU ended since another program was faster to bind a
// port that freePorts had chosen.
func (m *machine) portTaken() bool {
	return strings.Contains(m.stderr.String(), "Could not set up host forwarding rule")
}

// freePorts chooses a port of 127.0.0.1 for each guest port. A variable for the
// tests.
var freePorts = func(guest []int) (map[int]int, error) {
	ports := map[int]int{}
	for _, g := range guest {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("choose a port for guest port %d: %w", g, err)
		}
		defer l.Close() // all at the end, so that no port is chosen twice
		ports[g] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// memoryFile returns a file that exists only as long as a descriptor of it.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// scratch returns a folder for the files of one VM. Folders of programs that were
// killed are removed on the way: the lock of a folder goes with its program.
func scratch() (dir string, remove func(), err error) {
	const prefix = "kbuild-run-vm-"
	root := os.TempDir()
	if len(root) > 60 {
		root = "/tmp" // a socket's path has 107 bytes at most (unix(7))
	}
	old, _ := filepath.Glob(filepath.Join(root, prefix+"*"))
	for _, d := range old {
		// A young one may not be locked yet.
		if fi, err := os.Lstat(d); err != nil || !fi.IsDir() || time.Since(fi.ModTime()) < time.Minute {
			continue
		}
		if f, err := lockDir(d); err == nil {
			os.RemoveAll(d)
			f.Close()
		}
	}
	if dir, err = os.MkdirTemp(root, prefix); err != nil {
		return "", nil, err
	}
	f, err := lockDir(dir)
	if err != nil {
		os.Remove(dir)
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir); f.Close() }, nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// listenQMP returns a listening socket for QEMU to inherit, so that there is no
// moment at which it does not exist yet.
func listenQMP(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, p...); len(t.b) > 4096 {
		t.b = bytes.Clone(t.b[len(t.b)-4096:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
