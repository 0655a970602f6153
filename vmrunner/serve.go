package vmrunner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
)

func serveCommand() *cobra.Command {
	var f flags
	var share, target string
	c := &cobra.Command{
		Use:   "serve",
		Short: "serve SMB from a fresh guest on an address of this host",
		Long: `Serve boots a guest whose server clients reach on an address of this host, and ends
with Ctrl-C. The share is "share", for the users ` + userNames() + `.

--server samba has Debian's smbd serve the same share of the same disk by the same
kernel, in place of ksmbd, --server both beside it. It is downloaded once and
unpacked into the guest, never installed on the host.

--share DIR puts a copy of the folder, with its extended attributes, on the guest's
ext4 disk. It is a copy since ksmbd needs extended attributes, ACLs and fsnotify of
the file system it exports, which a folder of the host (9p, virtiofs) does not give
it: a change made on the host would notify nobody. What clients write goes with the
guest.

--expose makes the share reachable for a Windows machine elsewhere: sshd on a host
that it can reach listens on port 445 and hands connections on to us. That needs
root there, and GatewayPorts in its sshd_config.`,
		Example: "  kbuild-run vm serve --series notify --share ~/music\n" +
			"  kbuild-run vm serve --series notify --expose root@files.example.com",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := checkListen(f.o.Listen); err != nil {
				return err
			}
			if share != "" {
				remove, err := f.copyShare(ctx, share)
				if err != nil {
					return err
				}
				defer remove()
			}
			return f.run(ctx, func(vm *VM) (int, error) { return 0, serve(ctx, vm, target) })
		},
	}
	f.add(c)
	c.Flags().StringVar(&f.o.Listen, "listen", "127.0.0.1:1445", "`ADDRESS` of this host at which clients reach the server")
	c.Flags().StringVar(&share, "share", "", "serve a copy of the folder `DIR`")
	c.Flags().StringVar(&target, "expose", "", "let `[USER@]HOST[:PORT]`, by ssh, listen on its port 445 for us")
	return c
}

// checkListen says what speaks against listening on addr, before anything is built.
func checkListen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (ip == nil || ip.To4() == nil) {
		err = fmt.Errorf("%q is no IPv4 address", host) // all that QEMU's user network forwards
	}
	if err != nil {
		return job.Usage(fmt.Errorf("listen on %s: %w; write it like 127.0.0.1:1445", addr, err))
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err // says "listen tcp ADDRESS: bind: address already in use"
	}
	return l.Close()
}

// copyShare makes the disk with a copy of dir.
func (f *flags) copyShare(ctx context.Context, dir string) (remove func(), err error) {
	fi, err := os.Stat(dir)
	if err == nil && !fi.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: errors.New("not a folder")}
	}
	if err != nil {
		return nil, job.Usage(fmt.Errorf("share folder: %w", err))
	}
	temp, remove, err := scratch()
	if err != nil {
		return nil, err
	}
	f.o.Share = filepath.Join(temp, "share.ext4")
	err = job.From(ctx).Step("share", func(s *job.Step) error { return rootfs.CopyDisk(ctx, s, dir, f.o.Share) })
	if err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// serve says how to connect and returns when ctx ends or the guest dies.
func serve(ctx context.Context, vm *VM, target string) error {
	if err := vm.WaitSMB(ctx); err != nil {
		return err
	}
	j := job.From(ctx)
	host, port, _ := net.SplitHostPort(vm.Addr(portSMB))
	if net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	u := rootfs.Users[0]
	j.Logf("serving //%s/share; end it with Ctrl-C", vm.Addr(portSMB))
	j.Logf("  smbclient -p %s -U %s%%%s //%s/share", port, u.Name, u.Password, host)
	if samba := vm.samba; samba != 0 && samba != portSMB {
		j.Logf("and smbd beside ksmbd, the same share of the same disk, at %s", vm.Addr(samba))
	}
	lost := make(chan error, 1)
	if target != "" {
		t, err := expose(ctx, target, net.JoinHostPort(host, port))
		if err != nil {
			return err
		}
		defer t.Close()
		go func() { lost <- t.Wait() }()
		j.Logf("exposed on port 445 of %s", t.Host)
		windows(j, t.Host, "")
	} else {
		windows(j, host, port)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-lost:
		return fmt.Errorf("expose on %s: connection lost: %w", target, err)
	case <-vm.Done():
		return vm.fault("serve", errors.New("no more"))
	}
}

// windows prints what to type on Windows. A port other than 445 can be used since
// Windows 11 24H2 and Server 2025.
func windows(j *job.Job, host, port string) {
	u := rootfs.Users[0]
	share, tcp, since := `\\`+host+`\share`, "", ""
	if port != "" {
		tcp, since = " /TCPPORT:"+port, " (Windows 11 24H2, Server 2025)"
	}
	j.Logf("on Windows%s:", since)
	j.Logf("  net use %s /user:%s %s /persistent:no%s", share, u.Name, u.Password, tcp)
	j.Logf("and to drop what is left of an earlier connection:")
	j.Logf("  net use %s /delete /y", share)
	j.Logf("  Get-SmbConnection -ServerName %s", host)
	j.Logf("  Restart-Service LanmanWorkstation -Force")
}

// pipe copies both ways between two connections until both directions end.
func pipe(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(a, b)
		a.Close()
		close(done)
	}()
	io.Copy(b, a)
	b.Close()
	<-done
}

// splitTarget splits [USER@]HOST[:PORT].
func splitTarget(target string) (user, host, port string) {
	user, host, ok := strings.Cut(target, "@")
	if !ok {
		user, host = os.Getenv("USER"), target
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		return user, h, p
	}
	return user, strings.Trim(host, "[]"), "22"
}
