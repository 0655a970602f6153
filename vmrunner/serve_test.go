package vmrunner

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
)

// A folder of the host's is served at an address that was asked for, there and on
// another host, to a client that others wrote; gdb finds its way around.
func TestServe(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{GDB: true, Share: filepath.Join(t.TempDir(), "share.ext4")}
	err := new(job.Job).Step("share", func(s *job.Step) error { return rootfs.CopyDisk(t.Context(), s, folder, o.Share) })
	if err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts([]int{portSMB})
	if err != nil {
		t.Fatal(err)
	}
	o.Listen = fmt.Sprintf("127.0.0.1:%d", ports[portSMB])
	if err := checkListen(o.Listen); err != nil {
		t.Fatal(err)
	}
	vm := start(t, o)
	if err := checkListen(o.Listen); err == nil {
		t.Error("an address that is in use: got no error")
	}

	other := newHost(t)
	var said syncBuffer
	ctx, stop := context.WithCancel(job.With(t.Context(), job.New(&said, &said)))
	served := make(chan error, 1)
	go func() { served <- serve(ctx, vm, other.target) }()
	select {
	case <-other.listens:
	case err := <-served:
		t.Fatalf("serve ended: %v", err)
	}

	t.Run("smbclient", func(t *testing.T) {
		if _, err := exec.LookPath("smbclient"); err != nil {
			t.Skip("no smbclient")
		}
		u := rootfs.Users[0]
		for name, port := range map[string]int{"here": ports[portSMB], "there": other.port()} {
			get := exec.CommandContext(t.Context(), "smbclient", "-p", fmt.Sprint(port), "-U", u.Name+"%"+u.Password, "//127.0.0.1/share",
				"-c", "ls; get file -; put "+filepath.Join(folder, "file")+" by-"+name)
			if out, err := get.CombinedOutput(); err != nil || !strings.Contains(string(out), "of the host") || !strings.Contains(string(out), "  file  ") {
				t.Errorf("%s: got %q, %v", name, out, err)
			}
		}
		r, err := vm.Run(t.Context(), "cat /srv/share/by-here /srv/share/by-there")
		if err != nil || string(r.Stdout) != "of the hostof the host" {
			t.Errorf("got %q, %v", r.Stdout, err)
		}
	})

	t.Run("smbtorture", func(t *testing.T) {
		if _, err := exec.LookPath("smbtorture"); err != nil {
			t.Skip("no smbtorture")
		}
		u := rootfs.Users[0]
		out, err := exec.CommandContext(t.Context(), "smbtorture", "-p", fmt.Sprint(ports[portSMB]), "-U", u.Name+"%"+u.Password, "//127.0.0.1/share",
			"smb2.connect").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "success: connect") {
			t.Errorf("got %v, %s", err, out)
		}
	})

	t.Run("gdb", func(t *testing.T) {
		if _, err := exec.LookPath("gdb"); err != nil {
			t.Skip("no gdb")
		}
		script, err := vm.GDBScript(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "gdb", "-nx", "-batch", "-x", script,
			"-ex", "info symbol jiffies", "-ex", "info symbol ksmbd_conn_alive").CombinedOutput()
		for _, want := range []string{"jiffies", "ksmbd_conn_alive in section .text of "} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("got %v, %s\nwant %q in it", err, out, want)
			}
		}
	})

	// As a Ctrl-C does.
	stop()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", other.port())); err == nil {
		c.Close()
		t.Error("the other host still listens")
	}
	for _, want := range []string{"serving //" + o.Listen + "/share", `net use \\127.0.0.1\share /user:tester`, "Get-SmbConnection"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", &said, want)
		}
	}
}

func TestCheckListen(t *testing.T) {
	for addr, want := range map[string]string{
		"1445": "missing port", "localhost:1445": "no IPv4 address", "[::1]:1445": "no IPv4 address", "127.0.0.1:0": "",
	} {
		err := checkListen(addr)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || job.Code(err) != job.ExitUsage) {
			t.Errorf("%s: got %v, want %q in it", addr, err, want)
		}
	}
}

// A host that known_hosts does not know, or knows by another key, is none to log
// in to.
func TestExposeUnknownHost(t *testing.T) {
	h := newHost(t)
	known := filepath.Join(os.Getenv("HOME"), ".ssh", "known_hosts")
	wrong := knownhosts.Line([]string{h.addr}, newSigner(t, "").PublicKey())
	for _, c := range []struct{ name, known, want string }{
		{"unknown", "", "knownhosts: key is unknown"},
		{"another key", wrong + "\n", "knownhosts: key mismatch"},
	} {
		if err := os.WriteFile(known, []byte(c.known), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := expose(t.Context(), h.target, "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
}

// sshHost is an sshd that forwards ports, and a home that can log in to it.
type sshHost struct {
	addr, target string
	listens      chan struct{} // closed when it listens for us

	mu       sync.Mutex
	listener net.Listener
}

func (h *sshHost) port() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listener.Addr().(*net.TCPAddr).Port
}

func newHost(t *testing.T) *sshHost {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	hostKey := newSigner(t, "")
	user := newSigner(t, filepath.Join(home, ".ssh", "id_ed25519"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &sshHost{addr: l.Addr().String(), target: "root@" + l.Addr().String(), listens: make(chan struct{})}
	line := knownhosts.Line([]string{h.addr}, hostKey.PublicKey()) + "\n"
	if err := os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), user.PublicKey().Marshal()) {
			return nil, fmt.Errorf("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(hostKey)
	port := exposePort
	t.Cleanup(func() { exposePort = port })
	exposePort = 0
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c, config)
		}
	}()
	return h
}

// serve answers tcpip-forward (RFC 4254 7.1) and opens a channel for each
// connection.
func (h *sshHost) serve(c net.Conn, config *ssh.ServerConfig) {
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go func() {
		for range channels {
		}
	}()
	for r := range requests {
		if r.Type != "tcpip-forward" {
			if r.Type == "cancel-tcpip-forward" {
				h.listener.Close()
			}
			r.Reply(r.Type == "cancel-tcpip-forward", nil)
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.Reply(false, nil)
			continue
		}
		h.mu.Lock()
		h.listener = l
		h.mu.Unlock()
		port := uint32(h.port())
		r.Reply(true, ssh.Marshal(struct{ Port uint32 }{port}))
		close(h.listens)
		go func() {
			for {
				in, err := l.Accept()
				if err != nil {
					return
				}
				ch, reqs, err := conn.OpenChannel("forwarded-tcpip", ssh.Marshal(struct {
					Addr       string
					Port       uint32
					OriginAddr string
					OriginPort uint32
				}{"0.0.0.0", port, "127.0.0.1", 1}))
				if err != nil {
					in.Close()
					continue
				}
				go ssh.DiscardRequests(reqs)
				go pipe(in, channelConn{ch, in})
			}
		}()
	}
}

// channelConn is a channel as a connection; its addresses are those of Conn.
type channelConn struct {
	ssh.Channel
	net.Conn
}

func (c channelConn) Read(b []byte) (int, error)  { return c.Channel.Read(b) }
func (c channelConn) Write(b []byte) (int, error) { return c.Channel.Write(b) }
func (c channelConn) Close() error                { return c.Channel.Close() }

// newSigner makes a key, and its file if that is named.
func newSigner(t *testing.T, file string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if file == "" {
		return s
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
