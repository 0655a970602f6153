package clients

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// smbclient runs Samba's smbclient with its command notify, which prints a record
// as "0001 name" for as long as it is left to.
func smbclient(ctx context.Context, s *Server, folder string) (saw []string, err error) {
	for _, tool := range []string{"smbclient", "stdbuf"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, &Missing{tool + " is not installed; install it with: apt-get install smbclient coreutils"}
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	host, port := split(s.Addr)
	// Its output is for terminals, and comes in blocks anywhere else.
	said, ended, err := program(ctx, "stdbuf", "-oL", "smbclient", "//"+host+"/"+s.Share, "-p", port,
		"-s", os.DevNull, "-U", s.User+"%"+s.Password, "-c", "notify "+folder)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]string, error) {
		stop()
		return saw, refused(err, ended())
	}
	line, err := s.stir(ctx, "touch "+folder+"/new-{n}", said)
	if err != nil {
		return fail(err)
	}
	number, name, ok := strings.Cut(line, " ")
	if !ok || !strings.HasPrefix(name, "new-") || record(number, name) != "added "+name {
		return fail(fmt.Errorf("got %q, want a record of a new file", line))
	}
	saw = append(saw, record(number, name))
	if err := s.Local(ctx, "mv "+folder+"/"+name+" "+folder+"/renamed"); err != nil {
		return fail(err)
	}
	for _, want := range []string{"old name " + name, "new name renamed"} {
		for {
			if line, err = s.next(ctx, said); err != nil {
				return fail(fmt.Errorf("%w: %s", err, want))
			}
			number, name, _ := strings.Cut(line, " ")
			if got := record(number, name); got == want {
				saw = append(saw, got)
				break
			} else if !strings.HasPrefix(name, "new-") {
				return fail(fmt.Errorf("got %s, want %s", got, want))
			}
		}
	}
	stop()
	ended()
	return saw, nil
}

//go:embed notify.py
var notifyPy string

// systemPython is the interpreter that Debian's python3-samba is for.
const systemPython = "/usr/bin/python3"

// python asks Samba's Python bindings. They connect to port 445 only, so it is
// given a loopback address of its own there.
func python(ctx context.Context, s *Server, folder string) (saw []string, err error) {
	if err := exec.CommandContext(ctx, systemPython, "-c", "import samba.samba3.libsmb_samba_internal").Run(); err != nil {
		return nil, &Missing{"the bindings are not installed; install them with: apt-get install python3-samba"}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	host, port := split(s.Addr)
	if port != "445" {
		f, err := forward(ctx, s.Addr)
		if err != nil {
			return nil, &Missing{fmt.Sprintf("it connects to port 445 only, and here nobody can listen there: %v", err)}
		}
		defer f.stop()
		host = f.host
	}
	said, ended, err := program(ctx, systemPython, "-c", notifyPy, host, s.Share, folder, s.User, s.Password)
	if err != nil {
		return nil, err
	}
	line, err := s.stir(ctx, "touch "+folder+"/new-{n}", said)
	stop()
	if err == nil {
		number, name, _ := strings.Cut(line, " ")
		if saw = []string{record(number, name)}; !strings.HasPrefix(saw[0], "added new-") {
			err = fmt.Errorf("got %q, want a record of a new file", line)
		}
	}
	return saw, refused(err, ended())
}

// forwarder passes connections to port 445 of a loopback address on.
type forwarder struct {
	host     string
	listener net.Listener
	wg       sync.WaitGroup
}

// forward listens on the first loopback address whose port 445 is free.
func forward(ctx context.Context, addr string) (f *forwarder, err error) {
	f = &forwarder{}
	for n := 2; n < 10; n++ {
		f.host = fmt.Sprintf("127.0.0.%d", n)
		if f.listener, err = net.Listen("tcp", f.host+":445"); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	f.wg.Go(func() {
		for {
			c, err := f.listener.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			to, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				c.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{c, to}, {to, c}} {
				f.wg.Go(func() {
					io.Copy(pair[0], pair[1])
					c.Close()
					to.Close()
				})
			}
			context.AfterFunc(ctx, func() { c.Close(); to.Close() })
		}
	})
	return f, nil
}

func (f *forwarder) stop() {
	f.listener.Close()
	f.wg.Wait()
}

// cifs has the guest's kernel mount the share of its own server, and watches by
// the two ioctls of its client.
func cifs(ctx context.Context, s *Server, folder string) (saw []string, err error) {
	if s.Guest == nil {
		return nil, &Missing{"the server is in no guest of ours"}
	}
	run := func(command string) error {
		var stderr strings.Builder
		code, err := s.Guest(ctx, command, io.Discard, &stderr)
		if err == nil && code != 0 {
			err = errors.New(strings.TrimSpace(stderr.String()))
		}
		return err
	}
	if err := run("modprobe cifs"); err != nil {
		return nil, &Missing{fmt.Sprintf("the guest's kernel has no module cifs: %v", err)}
	}
	const at = "/run/cifs"
	host := cmp.Or(s.GuestAddr, "127.0.0.1")
	options := fmt.Sprintf("ip=%s,username=%s,password=%s,vers=3.1.1", host, s.User, s.Password)
	if err := run(fmt.Sprintf("mkdir -p %s && mount -t cifs -o %s //%s/%s %s", at, options, host, s.Share, at)); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer func() {
		if e := run("umount " + at); err == nil && e != nil {
			err = fmt.Errorf("unmount: %w", e)
		}
	}()
	if err := s.Local(ctx, "mkdir -p "+folder+"/sub"); err != nil {
		return nil, err
	}
	for _, test := range []struct{ flags, makes, want string }{
		{"-plain", "a-{n}", "returned"},
		{"", "b-{n}", "1 b-"},
		{"-tree", "sub/c-{n}", `1 sub\c-`},
	} {
		w, said := lines()
		var stderr strings.Builder
		done := make(chan error, 1)
		go func() {
			_, err := s.Guest(ctx, "cifsnotify "+test.flags+" "+at+"/"+folder, w, &stderr)
			w.Close()
			done <- err
		}()
		line, err := s.stir(ctx, "touch "+folder+"/"+test.makes, said)
		if err != nil {
			// One that is not answered hangs until the mount goes.
			return saw, refused(err, stderr.String())
		}
		if err := <-done; err != nil {
			return saw, err
		}
		if !strings.HasPrefix(line, test.want) {
			return saw, fmt.Errorf("cifsnotify %s: got %q, want it to begin with %q", test.flags, line, test.want)
		}
		if number, name, ok := strings.Cut(line, " "); ok {
			line = record(number, name)
		}
		saw = append(saw, line)
	}
	return saw, nil
}
