package vmrunner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"kbuild-run/patches/job"
)

// tunnel is a port of another host that leads to us.
type tunnel struct {
	Host string

	ssh      *ssh.Client
	listener net.Listener
}

// exposePort is the port on the other host: the only one that every Windows uses.
var exposePort = 445 // a variable for the tests

// sshTime is how long the other host may take to let us in.
const sshTime = 20 * time.Second

// expose has the sshd of target ([USER@]HOST[:PORT]) listen on port 445 and hands
// on what comes to addr. We log in as ssh(1) would: with the keys of the agent and
// those in ~/.ssh that need no passphrase, to a host that ~/.ssh/known_hosts knows.
func expose(ctx context.Context, target, addr string) (*tunnel, error) {
	user, host, port := splitTarget(target)
	config, err := clientConfig(user, net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("expose on %s: %w", target, err)
	}
	dial, stop := context.WithTimeoutCause(ctx, sshTime, fmt.Errorf("no answer in %v", sshTime))
	defer stop()
	var d net.Dialer
	c, err := d.DialContext(dial, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("expose on %s: %w", target, err)
	}
	unhook := context.AfterFunc(dial, func() { c.Close() })
	conn, channels, requests, err := ssh.NewClientConn(c, net.JoinHostPort(host, port), config)
	if err != nil || !unhook() {
		c.Close()
		if dial.Err() != nil {
			err = context.Cause(dial)
		}
		return nil, fmt.Errorf("expose on %s: log in: %w; try: ssh %s true", target, err, job.Quote(user+"@"+host))
	}
	t := &tunnel{Host: host, ssh: ssh.NewClient(conn, channels, requests)}
	if t.listener, err = t.ssh.ListenTCP(&net.TCPAddr{IP: net.IPv4zero, Port: exposePort}); err != nil {
		t.ssh.Close()
		return nil, fmt.Errorf("expose on %s: listen on port %d there: %w; it takes root, a port that is free, and GatewayPorts in sshd_config", target, exposePort, err)
	}
	go func() {
		for {
			remote, err := t.listener.Accept()
			if err != nil {
				return
			}
			go func() {
				local, err := net.Dial("tcp", addr)
				if err != nil {
					remote.Close()
					return
				}
				pipe(local, remote)
			}()
		}
	}()
	return t, nil
}

// Wait returns when the connection is lost.
func (t *tunnel) Wait() error {
	if err := t.ssh.Wait(); err != nil {
		return err
	}
	return errors.New("closed by the other host")
}

// Close gives the port back.
func (t *tunnel) Close() {
	t.listener.Close()
	t.ssh.Close()
}

// clientConfig is what ssh(1) takes from a user's home, without its config.
func clientConfig(user, addr string) (*ssh.ClientConfig, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(home, ".ssh")
	known, err := knownhosts.New(filepath.Join(dir, "known_hosts"))
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w; log in once with ssh(1)", err)
	}
	var signers []ssh.Signer
	if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
		if c, err := net.Dial("unix", sock); err == nil {
			if s, err := agent.NewClient(c).Signers(); err == nil {
				signers = s
			}
		}
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if s, err := ssh.ParsePrivateKey(b); err == nil {
			signers = append(signers, s)
		}
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("no key in the agent, and none without a passphrase in %s; add one with: ssh-add", dir)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: known, HostKeyAlgorithms: knownAlgorithms(known, addr),
	}, nil
}

// knownAlgorithms are those of the keys by which addr is known: asked for another
// kind of key, the server would show one that cannot be compared. nil: any.
func knownAlgorithms(known ssh.HostKeyCallback, addr string) (all []string) {
	var wrong *knownhosts.KeyError
	if !errors.As(known(addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &wrong) {
		return nil
	}
	for _, k := range wrong.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		}
		all = append(all, k.Key.Type())
	}
	return all
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
