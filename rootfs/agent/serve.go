package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Keys of this one VM, put into its initramfs by vmrunner.
const (
	hostKey   = "/etc/ssh/host_key"
	clientKey = "/etc/ssh/client_key.pub"
)

// address is what QEMU's user network expects its first guest to have.
const address = "10.0.2.15/24"

// serve makes the guest usable and answers the host. It tells "ready" when
// /etc/rc has ended well and the servers listen.
func serve() error {
	if err := network(); err != nil {
		return err
	}
	config, err := sshConfig()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":22")
	if err != nil {
		return err
	}
	tell(started)
	booted := make(chan error, 1)
	go func() { booted <- boot() }()
	go func() {
		if err := <-booted; err != nil {
			tell(failed+"%v", err)
			return
		}
		tell(ready)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept on port 22: %w", err)
		}
		go answer(c, config)
	}
}

func network() error {
	unix.Sethostname([]byte("guest"))
	// Of the families that netlink has, a kernel may lack all others.
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w; the kernel lacks CONFIG_VIRTIO_NET", err)
	}
	if err := addAddress(h, eth, address); err != nil {
		return err
	}
	cable := bootedWith("kbuild_run.cable")
	if cable == "" {
		return nil
	}
	if eth, err = h.LinkByName("eth1"); err != nil {
		return fmt.Errorf("find eth1: %w", err)
	}
	return addAddress(h, eth, cable)
}

// addAddress gives a link its address and sets it up.
func addAddress(h *netlink.Handle, link netlink.Link, address string) error {
	name := link.Attrs().Name
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("set %s on %s: %w", address, name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

// boot mounts the share and runs /etc/rc, which starts the server under test.
func boot() error {
	if err := mountShare(); err != nil {
		return err
	}
	log, err := os.Create("/run/rc.log") // no pipe: a daemon would keep it open
	if err != nil {
		return err
	}
	defer log.Close()
	rc := exec.Command("/bin/sh", "/etc/rc")
	rc.Env = append(os.Environ(), "SAMBA_PORT="+bootedWith("kbuild_run.samba"))
	rc.Stdout, rc.Stderr = log, log
	err = rc.Run()
	out, _ := os.ReadFile(log.Name())
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != "" {
		tell("rc: %s", strings.Join(lines, "\nrc: "))
	}
	if err != nil {
		return fmt.Errorf("/etc/rc: %w: %s", err, lines[len(lines)-1])
	}
	for _, port := range []string{"445", bootedWith("kbuild_run.samba")} {
		if n, err := strconv.Atoi(port); err == nil {
			if err := listening(n, 30*time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

// listening waits until a socket listens on the port. It reads the kernel's
// table instead of connecting: a connection that says nothing leaves a line in
// ksmbd's log.
func listening(port int, limit time.Duration) error {
	want := fmt.Sprintf(":%04X", port)
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			f, err := os.Open(table)
			if err != nil {
				continue
			}
			for s := bufio.NewScanner(f); s.Scan(); {
				// sl local_address rem_address st; st 0A is LISTEN
				if w := strings.Fields(s.Text()); len(w) > 3 && strings.HasSuffix(w[1], want) && w[3] == "0A" {
					f.Close()
					return nil
				}
			}
			f.Close()
		}
	}
	return fmt.Errorf("nothing listens on port %d after %v; /etc/rc ended well", port, limit)
}

func sshConfig() (*ssh.ServerConfig, error) {
	pem, err := os.ReadFile(hostKey)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", hostKey, err)
	}
	line, err := os.ReadFile(clientKey)
	if err != nil {
		return nil, err
	}
	client, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", clientKey, err)
	}
	want := client.Marshal()
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), want) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	return config, nil
}

func answer(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for nc := range channels {
		if nc.ChannelType() != "session" {
			nc.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go session(ch, reqs)
	}
}

// session serves one channel: exec, shell, sftp, each at most once.
func session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	defer ch.Close()
	s := &process{ch: ch}
	for r := range reqs {
		var str struct{ S string }
		ok := false
		switch r.Type {
		case "env":
			var kv struct{ K, V string }
			if ok = ssh.Unmarshal(r.Payload, &kv) == nil; ok {
				s.env = append(s.env, kv.K+"="+kv.V)
			}
		case "pty-req":
			ok = s.openTerminal(r.Payload) == nil
		case "window-change":
			ok = s.resize(r.Payload) == nil
		case "signal":
			if ssh.Unmarshal(r.Payload, &str) == nil {
				s.signal(str.S)
			}
		case "shell":
			ok = s.start()
		case "exec":
			ok = ssh.Unmarshal(r.Payload, &str) == nil && s.start("-c", str.S)
		case "subsystem":
			ok = ssh.Unmarshal(r.Payload, &str) == nil && str.S == "sftp" && s.startSFTP()
		}
		if r.WantReply {
			r.Reply(ok, nil)
		}
		if ok && s.run != nil {
			// The answer to exec and subsystem must go before the first
			// output: a client waits for it before it reads.
			run := s.run
			s.run = nil
			go func() {
				status := run()
				ch.CloseWrite()
				ch.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{status}))
				ch.Close()
			}()
		}
	}
	s.hangup()
}
