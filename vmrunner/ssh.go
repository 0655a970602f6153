package vmrunner

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"kbuild-run/rootfs"
)

// keys are made for one VM and die with it.
type keys struct {
	host   ssh.Signer
	client ssh.Signer
	files  rootfs.Archive // for the guest
}

func newKeys() (*keys, error) {
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, clientKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	k := &keys{}
	if k.host, err = ssh.NewSignerFromKey(hostKey); err != nil {
		return nil, err
	}
	if k.client, err = ssh.NewSignerFromKey(clientKey); err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(hostKey, "")
	if err != nil {
		return nil, err
	}
	k.files.Dir("etc/ssh", 0o700)
	k.files.File("etc/ssh/host_key", pem.EncodeToMemory(block), 0o600)
	k.files.File("etc/ssh/client_key.pub", ssh.MarshalAuthorizedKey(k.client.PublicKey()), 0o600)
	return k, nil
}

// dialSSH logs in to the guest's agent.
func dialSSH(ctx context.Context, addr string, k *keys) (*ssh.Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	conn, channels, requests, err := ssh.NewClientConn(c, addr, &ssh.ClientConfig{
		User:            "root",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(k.client)},
		HostKeyCallback: ssh.FixedHostKey(k.host.PublicKey()),
	})
	if err != nil || !stop() {
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("log in to the guest: %w", err)
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// Result is what a command in the guest left.
type Result struct {
	Stdout, Stderr []byte
	Code           int // exit status; 128+n for signal n
	Time           time.Duration
}

// commandLimit is how long Run waits when its caller sets no deadline.
const commandLimit = time.Minute

// Run runs cmd by the guest's shell as root. The error is nil when the command
// ran, whatever it returned.
func (vm *VM) Run(ctx context.Context, cmd string) (*Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		limit := vm.Deadline(commandLimit)
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, limit, fmt.Errorf("no end after %v", limit))
		defer stop()
	}
	var stdout, stderr bytes.Buffer
	began := time.Now()
	code, err := vm.Exec(ctx, cmd, nil, &stdout, &stderr)
	if err != nil {
		return nil, err
	}
	return &Result{stdout.Bytes(), stderr.Bytes(), code, time.Since(began)}, nil
}

// Exec runs cmd with the given streams, for as long as ctx allows, and returns its
// exit status. stdin may be nil.
func (vm *VM) Exec(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	s, err := vm.session(ctx)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	s.Stdout, s.Stderr = stdout, stderr
	if stdin != nil {
		// Not s.Stdin: Wait would wait for it after the command has ended.
		in, err := s.StdinPipe()
		if err != nil {
			return 0, err
		}
		go func() {
			io.Copy(in, stdin)
			in.Close()
		}()
	}
	return vm.wait(ctx, s, cmd, func() error { return s.Start(cmd) })
}

// session opens a session, for as long as ctx allows: an agent that hangs answers
// not even that it cannot.
func (vm *VM) session(ctx context.Context) (*ssh.Session, error) {
	type opened struct {
		s   *ssh.Session
		err error
	}
	c := make(chan opened, 1)
	go func() {
		s, err := vm.ssh.NewSession()
		c <- opened{s, err}
	}()
	select {
	case o := <-c:
		if o.err != nil {
			return nil, vm.fault("open session", o.err)
		}
		return o.s, nil
	case <-ctx.Done():
		go func() {
			if o := <-c; o.s != nil {
				o.s.Close()
			}
		}()
		return nil, vm.fault("open session", context.Cause(ctx))
	}
}

// wait starts the session's command and waits for it.
func (vm *VM) wait(ctx context.Context, s *ssh.Session, cmd string, start func() error) (int, error) {
	ended := make(chan error, 1)
	go func() {
		err := start()
		if err == nil {
			err = s.Wait()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		var exit *ssh.ExitError
		switch {
		case err == nil:
			return 0, nil
		case errors.As(err, &exit):
			return exit.ExitStatus(), nil
		}
		return 0, vm.fault("run "+cmd, err)
	case <-ctx.Done():
		return 0, fmt.Errorf("run in guest: %s: %w", cmd, context.Cause(ctx))
	}
}

// Shell gives the terminal to a shell in the guest until that ends. in and out are
// the terminal, already in raw mode, of cols times rows characters.
func (vm *VM) Shell(ctx context.Context, in io.Reader, out io.Writer, term string, cols, rows int, resized <-chan [2]int) (int, error) {
	s, err := vm.session(ctx)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if err := s.RequestPty(term, rows, cols, ssh.TerminalModes{}); err != nil {
		return 0, vm.fault("open terminal", err)
	}
	s.Stdout, s.Stderr = out, out
	pipe, err := s.StdinPipe()
	if err != nil {
		return 0, err
	}
	go io.Copy(pipe, in)
	go func() {
		for size := range resized {
			s.WindowChange(size[1], size[0])
		}
	}()
	return vm.wait(ctx, s, "shell", s.Shell)
}

// SFTP returns a client for the guest's files. Close it.
func (vm *VM) SFTP() (*sftp.Client, error) {
	c, err := sftp.NewClient(vm.ssh, sftp.UseConcurrentWrites(true))
	if err != nil {
		return nil, vm.fault("open sftp", err)
	}
	return c, nil
}

// withFiles returns an initramfs of archives and more files, in memory.
func withFiles(archives []string, more ...*rootfs.Archive) (*os.File, error) {
	f, err := memoryFile("initramfs")
	if err != nil {
		return nil, err
	}
	add := func(archive string) error {
		src, err := os.Open(archive)
		if err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		defer src.Close()
		_, err = io.Copy(f, src)
		return err
	}
	for _, a := range archives {
		if err == nil {
			err = add(a)
		}
	}
	for _, a := range more {
		if err == nil && a != nil {
			_, err = a.WriteTo(f)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	return f, nil
}
