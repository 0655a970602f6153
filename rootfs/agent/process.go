package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// process is what one session runs.
type process struct {
	ch  ssh.Channel
	env []string
	pty *os.File // nil without a terminal
	tty *os.File

	run     func() uint32 // what to do after the request was answered
	started bool

	mu  sync.Mutex
	pid int // of the running shell; also its process group
}

// start prepares /bin/sh with args.
func (p *process) start(args ...string) bool {
	if p.started {
		return false
	}
	p.started = true
	p.run = func() uint32 { return p.shell(args) }
	return true
}

func (p *process) startSFTP() bool {
	if p.started {
		return false
	}
	p.started = true
	p.run = func() uint32 {
		server, err := sftp.NewServer(p.ch)
		if err == nil {
			err = server.Serve()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 1
		}
		return 0
	}
	return true
}

// shell runs /bin/sh to its end and returns its exit status as a shell would
// report it.
func (p *process) shell(args []string) uint32 {
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Dir = "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.tty != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.tty, p.tty, p.tty
		cmd.SysProcAttr.Setctty = true
	} else {
		// Not cmd.Stdin: Wait would wait for the client to close it.
		in, err := cmd.StdinPipe()
		if err != nil {
			return p.fail(err)
		}
		go func() {
			io.Copy(in, p.ch)
			in.Close()
		}()
		cmd.Stdout, cmd.Stderr = p.ch, p.ch.Stderr()
	}
	if err := cmd.Start(); err != nil {
		return p.fail(err)
	}
	p.mu.Lock()
	p.pid = cmd.Process.Pid
	p.mu.Unlock()
	var copied sync.WaitGroup
	if p.pty != nil {
		p.tty.Close()
		copied.Go(func() { io.Copy(p.ch, p.pty) })
		go io.Copy(p.pty, p.ch)
	}
	err := cmd.Wait()
	p.mu.Lock()
	p.pid = 0
	p.mu.Unlock()
	if p.pty != nil {
		copied.Wait()
		p.pty.Close()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + uint32(ws.Signal())
		}
		return uint32(exit.ExitCode())
	}
	return p.fail(err)
}

func (p *process) fail(err error) uint32 {
	fmt.Fprintln(p.ch.Stderr(), "agent:", err)
	return 127
}

// signal passes a signal named as in RFC 4254 6.9 to the session's processes.
func (p *process) signal(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sig := unix.SignalNum("SIG" + name); sig != 0 && p.pid != 0 {
		unix.Kill(-p.pid, sig)
	}
}

// hangup ends what the client left behind when it went.
func (p *process) hangup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 {
		unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// openTerminal serves pty-req (RFC 4254 6.2).
func (p *process) openTerminal(payload []byte) error {
	var req struct {
		Term                 string
		Cols, Rows, PxW, PxH uint32
		Modes                string
	}
	if err := ssh.Unmarshal(payload, &req); err != nil {
		return err
	}
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	fd := int(pty.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		pty.Close()
		return err
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		pty.Close()
		return err
	}
	p.pty, p.tty = pty, tty
	p.env = append(p.env, "TERM="+req.Term)
	return setSize(pty, req.Cols, req.Rows)
}

// resize serves window-change (RFC 4254 6.7).
func (p *process) resize(payload []byte) error {
	var req struct{ Cols, Rows, PxW, PxH uint32 }
	if err := ssh.Unmarshal(payload, &req); err != nil {
		return err
	}
	if p.pty == nil {
		return errors.New("no terminal")
	}
	return setSize(p.pty, req.Cols, req.Rows)
}

func setSize(f *os.File, cols, rows uint32) error {
	return unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)})
}
