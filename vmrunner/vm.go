// Package vmrunner boots guests: kernel + image -> VM.
//
// A VM is QEMU with the kernel and image given directly, user networking that
// reaches nothing and is reached on 127.0.0.1 only, and a fresh ext4 disk. The
// guest is driven by ssh and sftp with keys made for that VM. Its serial console
// goes to a file and is searched for what a kernel prints when it is unwell.
package vmrunner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/vmrunner/splat"
)

// Ports of the guest that can always be reached.
const (
	portSSH = 22
	portSMB = 445
)

// PortSamba is where smbd serves beside ksmbd when nobody says where.
const PortSamba = 1445

// Servers are the words for what serves in a guest.
var Servers = []string{"ksmbd", "samba", "both"}

// SetServer sets Samba by one of Servers.
func (o *Options) SetServer(name string) error {
	switch name {
	case "", "ksmbd":
		o.Samba = 0
	case "samba":
		o.Samba = portSMB
		if len(o.Debug) > 0 {
			return job.Usage(errors.New("print debug messages of ksmbd: it does not run with --server samba"))
		}
	case "both":
		o.Samba = PortSamba
	default:
		return job.Usage(fmt.Errorf("serve by %q: there is %s", name, strings.Join(Servers, ", ")))
	}
	return nil
}

// Lines of the agent, rootfs/agent/main.go.
const (
	markStarted = "kbuild-run: agent started"
	markReady   = "kbuild-run: ready"
	markFailed  = "kbuild-run: failed: "
)

// bootLimit is how long a guest may take from power-on to an answering agent, on
// KVM with a plain kernel. Deadline scales it.
var bootLimit = 20 * time.Second // a variable for the tests

// Options say how to boot. The zero value boots with what is best here.
type Options struct {
	Accel  string          // "kvm" or "tcg"; "" is what a canary boot shows to work
	CPUs   int             // 0 means 2
	Memory int             // MiB; 0 means 1024, 2048 for a debug kernel
	Dir    string          // for console.log and capture.pcap; "" is a folder that goes with the VM
	Listen string          // address for the guest's port 445; "" is a free port of 127.0.0.1
	Share  string          // disk with what is to be in the share, rootfs.CopyDisk; "" is an empty one
	Samba  int             // port of the guest for Debian's smbd: 445 instead of ksmbd, another beside it; 0: none
	Debug  []string        // what ksmbd prints debug messages about, to the console: see DebugAreas
	Trace  []string        // trace events to print to the console, "ksmbd:*"; the kernel needs the fragment tracing
	GDB    bool            // let gdb attach, see GDBScript
	Core   bool            // keep the memory of a guest that hangs, see Hang
	Pcap   bool            // write the guest's network traffic to capture.pcap
	Ports  []int           // more guest ports to reach
	Plug   *Plug           // end of a cable to another guest
	Kernel []string        // more words for the kernel's command line
	Files  *rootfs.Archive // more files for the guest, over those of the image
	Disks  []string        // more disks, images in raw form: /dev/vdb and so on

	// Count makes the guest's clock and time-stamp counter count instructions, one
	// a nanosecond, while its CPU does not idle: exact and the same each time,
	// where the time of an emulated guest says little. It means TCG and one CPU.
	Count bool
}

// VM is a running guest.
type VM struct {
	image   *rootfs.Image
	accel   Accel
	machine *machine
	console *console
	monitor *Monitor
	ssh     *ssh.Client
	ports   map[int]string // of the guest -> address here
	gdb     string         // socket
	dir     string
	remove  func() // removes the scratch folder
	pcap    string
	slow    bool // a debug kernel
	scale   int
	cpus    int
	core    bool
	samba   int

	traced   []string // names of the trace events that are printed
	archives []string // what the initramfs is made of, before what is this VM's alone

	mu    sync.Mutex
	times Times
}

// Times are spans since power-on, the start of QEMU. Zero: not reached yet.
type Times struct {
	Agent time.Duration `json:"agent_ns"` // the agent started
	Ready time.Duration `json:"ready_ns"` // /etc/rc ended, ksmbd listens
	SMB   time.Duration `json:"smb_ns"`   // first answer to an SMB request, see WaitSMB
}

// BootError is a guest that did not come up.
type BootError struct {
	Reason  error
	Console []string       // its last lines
	Reports []splat.Report // what the kernel complained about

	// Evidence is the folder that Hang wrote; "" if the guest did not hang or
	// Options.Dir was not given.
	Evidence string
}

// hangDir is the folder for Hang below Options.Dir.
const hangDir = "hang"

func (e *BootError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "boot guest: %v", e.Reason)
	if len(e.Console) == 0 {
		b.WriteString("; the console is empty")
		return b.String()
	}
	b.WriteString("; the console's end:")
	for _, l := range e.Console {
		b.WriteString("\n    " + l)
	}
	return b.String()
}

func (e *BootError) Unwrap() error { return e.Reason }

// Start boots the image and returns when the agent answers and /etc/rc has
// ended. The guest is gone when ctx ends, when Stop returns, and when this
// program dies. A guest that does not come up is a *BootError; one that the
// kernel itself brought down counts as failed check (job.Failed). A dry run prints
// QEMU's command and returns no VM.
func Start(ctx context.Context, s *job.Step, i *rootfs.Image, o Options) (*VM, error) {
	if o.Count {
		o.Accel, o.CPUs = "tcg", 1
	}
	accel, err := ChooseAccel(ctx, s, i, o.Accel)
	if err != nil {
		return nil, err
	}
	vm := &VM{image: i, accel: accel, slow: debugKernel(i.Kernel.Config)}
	vm.scale = scale(accel.Name, vm.slow)
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	vm.cpus, vm.core, vm.samba = o.CPUs, o.Core, o.Samba
	if o.Memory == 0 {
		o.Memory = 1024
		if vm.slow {
			o.Memory = 2048
		}
	}
	vm.archives = []string{i.Path}
	if o.Samba != 0 {
		samba, err := rootfs.Samba(ctx, s)
		if err != nil {
			return nil, err
		}
		vm.archives = append(vm.archives, samba)
	}
	if j := job.From(ctx); j.DryRun {
		ports, err := o.forward()
		if err != nil {
			return nil, err
		}
		sp := vm.spec(o, ports)
		sp.initrd = i.Path
		fmt.Fprintln(j.Out, pastable(sp.args()))
		return nil, nil
	}
	var temp string
	if temp, vm.remove, err = scratch(); err != nil {
		return nil, err
	}
	if vm.dir = o.Dir; vm.dir == "" {
		vm.dir = temp
	} else if err := os.MkdirAll(vm.dir, 0o755); err != nil {
		vm.remove()
		return nil, err
	}
	if o.GDB {
		vm.gdb = filepath.Join(temp, "gdb")
	}
	for try := 0; ; try++ {
		err := vm.boot(ctx, s, o, filepath.Join(temp, "qmp"))
		if err == nil {
			err = errors.Join(vm.debug(ctx, o.Debug), vm.trace(ctx, o.Trace))
		}
		if err == nil {
			return vm, nil
		}
		again := try < 5 && ctx.Err() == nil && vm.machine != nil && vm.machine.portTaken()
		vm.release(!again)
		if !again {
			return nil, err
		}
	}
}

// DebugAreas are what ksmbd.control(8) takes for -d.
var DebugAreas = []string{"all", "smb", "auth", "vfs", "oplock", "ipc", "conn", "rdma"}

// debug switches ksmbd's debug messages on.
func (vm *VM) debug(ctx context.Context, areas []string) error {
	for _, a := range areas {
		r, err := vm.Run(ctx, "ksmbd.control -d "+job.Quote(a))
		if err != nil {
			return err
		}
		if r.Code != 0 {
			return fmt.Errorf("switch ksmbd's debug messages about %s on: exit status %d: %s", a, r.Code, strings.TrimSpace(string(r.Stderr)))
		}
	}
	return nil
}

// CheckDebug says which of areas there is not, before anything is built for it.
func CheckDebug(areas []string) error {
	for _, a := range areas {
		if !slices.Contains(DebugAreas, a) {
			return job.Usage(fmt.Errorf("print debug messages about %q: ksmbd has %s", a, strings.Join(DebugAreas, ", ")))
		}
	}
	return nil
}

// boot starts QEMU once. What it opened is in vm, for release.
func (vm *VM) boot(ctx context.Context, s *job.Step, o Options, qmpPath string) error {
	keys, err := newKeys()
	if err != nil {
		return err
	}
	initrd, err := withFiles(vm.archives, o.Files, &keys.files)
	if err != nil {
		return err
	}
	defer initrd.Close()
	qmp, err := listenQMP(qmpPath)
	if err != nil {
		return err
	}
	defer os.Remove(qmpPath)
	defer qmp.Close()
	if vm.ports, err = o.forward(); err != nil {
		return err
	}
	sp := vm.spec(o, vm.ports)
	sp.files, sp.initrd, sp.qmp = []*os.File{initrd, qmp}, "/proc/self/fd/3", "4"
	sp.temp = filepath.Dir(qmpPath)
	if o.Pcap {
		vm.pcap = filepath.Join(vm.dir, "capture.pcap")
		sp.pcap = vm.pcap
	}
	if vm.console, err = newConsole(filepath.Join(vm.dir, "console.log")); err != nil {
		return err
	}
	if t := vm.image.Kernel.Tree; t.Series == "" {
		vm.console.bare = t.Base
	}
	events := make(chan string, 16)
	var power time.Time
	vm.console.line = func(line string, at time.Time) {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		_, text := splat.CutStamp(line)
		switch {
		case text == markStarted:
			vm.times.Agent = at.Sub(power)
		case text == markReady:
			vm.times.Ready = at.Sub(power)
		case !strings.HasPrefix(text, markFailed) && !strings.HasPrefix(text, "Kernel panic"):
			return
		}
		select {
		case events <- text:
		default:
		}
	}
	power = time.Now()
	if vm.machine, err = launch(ctx, sp, vm.console); err != nil {
		return err
	}
	qmp.Close() // QEMU's alone now: when it dies, the connection breaks
	if vm.monitor, err = dialMonitor(ctx, qmpPath, vm.machine.kill); err != nil {
		select {
		case <-vm.machine.done: // its own words say more
			return vm.bootError(ctx, vm.machine.err)
		case <-time.After(time.Second):
			return vm.bootError(ctx, err)
		}
	}
	s.Progress("boot %s (%s)", vm.image.Kernel.Release, vm.accel.Name)
	limit := vm.Deadline(bootLimit)
	late := time.NewTimer(limit)
	defer late.Stop()
	type login struct {
		client *ssh.Client
		err    error
	}
	logins := make(chan login, 1)
	for waiting := 2; waiting > 0; { // for the agent's word and for the login
		select {
		case e := <-events:
			switch e {
			case markStarted:
				go func() {
					c, err := dialSSH(ctx, vm.Addr(portSSH), keys)
					logins <- login{c, err}
				}()
			case markReady:
				waiting--
			default:
				if !strings.HasPrefix(e, markFailed) {
					// Let the kernel print the rest of its panic.
					select {
					case <-vm.machine.done:
					case <-time.After(vm.Deadline(time.Second)):
					}
				}
				return vm.bootError(ctx, errors.New(strings.TrimPrefix(e, "kbuild-run: ")))
			}
		case l := <-logins:
			if l.err != nil {
				return vm.bootError(ctx, l.err)
			}
			vm.ssh = l.client
			waiting--
		case <-vm.machine.done:
			return vm.bootError(ctx, vm.machine.err)
		case <-late.C:
			return vm.bootHang(ctx, o, fmt.Errorf("no answer in %v", limit))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// spec returns what QEMU is to run, but for what is open in this program.
func (vm *VM) spec(o Options, ports map[int]string) *spec {
	sp := &spec{
		accel: vm.accel.Name, cpus: o.CPUs, memory: o.Memory,
		kernel: vm.image.Kernel.BzImage, append: o.Kernel,
		disk: vm.image.Disk, disks: o.Disks, forward: ports, gdb: vm.gdb, count: o.Count,
	}
	if o.Share != "" {
		sp.disk, sp.append = o.Share, append(slices.Clone(sp.append), "kbuild_run.copy")
	}
	if o.Samba != 0 {
		sp.append = append(slices.Clone(sp.append), fmt.Sprintf("kbuild_run.samba=%d", o.Samba))
	}
	if sp.plug = o.Plug; o.Plug != nil {
		sp.append = append(slices.Clone(sp.append), o.Plug.word())
	}
	if o.Trace != nil {
		sp.append = append(slices.Clone(sp.append), "tp_printk")
	}
	if o.GDB || o.Count { // hash tables are keyed by addresses
		sp.append = append(slices.Clone(sp.append), "nokaslr")
	}
	return sp
}

// forward chooses the addresses at which ports of the guest are reached.
func (o *Options) forward() (map[int]string, error) {
	guest := append([]int{portSSH, portSMB}, o.Ports...)
	if o.Samba != 0 && !slices.Contains(guest, o.Samba) {
		guest = append(guest, o.Samba)
	}
	ports, err := freePorts(guest)
	if err != nil {
		return nil, err
	}
	all := map[int]string{}
	for guest, host := range ports {
		all[guest] = net.JoinHostPort("127.0.0.1", strconv.Itoa(host))
	}
	if o.Listen != "" {
		all[portSMB] = o.Listen
	}
	return all, nil
}

// bootError ends the guest and says what it printed.
func (vm *VM) bootError(ctx context.Context, reason error) error {
	vm.machine.end()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if vm.machine.portTaken() {
		return reason
	}
	e := &BootError{Reason: reason, Console: vm.console.tail()}
	reports, err := vm.console.scan()
	if err != nil {
		return errors.Join(e, err)
	}
	if err := decode(ctx, vm.image.Kernel, reports); err != nil {
		return errors.Join(e, err)
	}
	if e.Reports = reports; len(reports) > 0 {
		e.Reason = fmt.Errorf("%s (%w)", reports[0].Title, reason)
		return job.Failed(e)
	}
	return e
}

// bootHang is bootError for a guest that neither comes up nor dies.
func (vm *VM) bootHang(ctx context.Context, o Options, why error) error {
	e := &BootError{Console: vm.console.tail()} // before the kernel is asked
	dir := filepath.Join(vm.dir, hangDir)
	report, err := vm.Hang(ctx, dir, why)
	if err != nil || ctx.Err() != nil {
		return errors.Join(why, err, context.Cause(ctx))
	}
	if o.Dir != "" {
		e.Evidence = dir
	}
	e.Reason, e.Reports = fmt.Errorf("%w: %s", why, report.Title), []splat.Report{report}
	return e // not job.Failed: the host may be slow, or a program of the guest at fault
}

// release ends the guest and frees what it had. all: the scratch folder too.
func (vm *VM) release(all bool) {
	if vm.ssh != nil {
		vm.ssh.Close()
		vm.ssh = nil
	}
	if vm.machine != nil {
		vm.machine.end()
	}
	if vm.monitor != nil {
		vm.monitor.close()
		vm.monitor = nil
	}
	if vm.console != nil {
		vm.console.close()
	}
	if all {
		vm.remove()
	}
}

// Stop powers the guest off and waits until QEMU is gone; a guest that does not
// go by itself is killed. The error is that the console could not be kept whole,
// or that the guest had died before.
func (vm *VM) Stop(ctx context.Context) error {
	died := vm.Err()
	if died == nil {
		off, stop := context.WithTimeout(ctx, vm.Deadline(5*time.Second))
		vm.Exec(off, "poweroff", nil, nil, nil)
		select {
		case <-vm.machine.done:
		case <-off.Done():
		}
		stop()
	}
	vm.machine.end()
	_, err := vm.Reports()
	vm.release(true)
	return errors.Join(died, err)
}

// Done is closed when the guest is gone. Err says why.
func (vm *VM) Done() <-chan struct{} { return vm.machine.done }

// Err returns nil while the guest runs, and afterwards why it does not.
func (vm *VM) Err() error {
	select {
	case <-vm.machine.done:
		return vm.machine.err
	default:
		return nil
	}
}

// fault turns an error of the connection into what happened to the guest, if
// that is the cause.
func (vm *VM) fault(what string, err error) error {
	// The connection often breaks a moment before QEMU is reaped.
	select {
	case <-vm.machine.done:
	case <-time.After(200 * time.Millisecond):
	}
	if died := vm.Err(); died != nil {
		if reports, _ := vm.console.scan(); len(reports) > 0 {
			return job.Failed(fmt.Errorf("%s: guest died: %s (%w)", what, reports[len(reports)-1].Title, died))
		}
		return fmt.Errorf("%s: guest died: %w", what, died)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Addr returns where a client on this host reaches a port of the guest: one of
// Options.Ports, Options.Samba, 22 or 445.
func (vm *VM) Addr(guestPort int) string {
	addr, ok := vm.ports[guestPort]
	if !ok {
		panic(fmt.Sprintf("vmrunner: port %d was not asked for in Options.Ports", guestPort))
	}
	return addr
}

// Accel returns the accelerator the guest runs on, with the reason.
func (vm *VM) Accel() Accel { return vm.accel }

// ConsolePath returns the file with everything the guest printed. It is gone
// after Stop unless Options.Dir was given.
func (vm *VM) ConsolePath() string { return vm.console.path }

// PcapPath returns the capture of the guest's network, or "".
func (vm *VM) PcapPath() string { return vm.pcap }

// Printed returns the lines that the guest printed between two times of this host.
func (vm *VM) Printed(from, to time.Time) iter.Seq2[time.Time, string] {
	return vm.console.printed(from, to)
}

// Reports returns what the kernel complained about until now, but for what the
// allow list names. A console that cannot be read is an error, never a clean log.
func (vm *VM) Reports() ([]splat.Report, error) { return vm.console.scan() }

// Decode adds files and lines to reports, if the kernel was built with debug
// information.
func (vm *VM) Decode(ctx context.Context, reports []splat.Report) error {
	return decode(ctx, vm.image.Kernel, reports)
}

func decode(ctx context.Context, k *kconfigs.Kernel, reports []splat.Report) error {
	t := k.Tree
	return splat.Symbols{Repository: t.Repository(), Commit: t.Commit, Vmlinux: k.Vmlinux, Modules: k.Modules}.Decode(ctx, reports)
}

// Begin notes on the console that something runs, until end is called: reports
// of the kernel say what they came during.
func (vm *VM) Begin(what string) (end func()) { return vm.console.begin(what) }

// During returns what ran at any time between two.
func (vm *VM) During(from, to time.Time) []string { return vm.console.during(from, to) }

// Monitor returns QEMU's monitor.
func (vm *VM) Monitor() *Monitor { return vm.monitor }

// Times returns how long the guest took to come up.
func (vm *VM) Times() Times {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.times
}

// Deadline scales a time that is right for a plain kernel on KVM to this guest.
func (vm *VM) Deadline(d time.Duration) time.Duration { return d * time.Duration(vm.scale) }

// Slow says that the kernel checks itself, which makes it several times slower.
func (vm *VM) Slow() bool { return vm.slow }

// scale is 1 for a plain kernel on KVM. A debug kernel needs 55 s under TCG from
// power-on to serving where a plain one needs 2.5 s, but is far less slow once up;
// bootLimit leaves room for both. 15 at most, so that nobody waits long for a dead
// guest.
func scale(accel string, slow bool) int {
	n := 1
	if accel != "kvm" {
		n *= 3
	}
	if slow {
		n *= 5
	}
	return n
}

// debugKernel tells whether the kernel's .config asks for checks that make it
// several times slower.
func debugKernel(config string) bool {
	f, err := os.Open(config)
	if err != nil {
		return false
	}
	defer f.Close()
	slow := []string{"CONFIG_KASAN=y", "CONFIG_KCSAN=y", "CONFIG_PROVE_LOCKING=y", "CONFIG_DEBUG_KMEMLEAK=y"}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if slices.Contains(slow, lines.Text()) {
			return true
		}
	}
	return false
}
