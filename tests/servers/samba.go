// Package servers starts file servers: a configuration goes in, the address,
// user and exported folder of a running server come out.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"kbuild-run/patches/job"
)

// ErrNoSamba says that the host lacks smbd or pdbedit: a reason to skip.
var ErrNoSamba = errors.New("smbd and pdbedit are not installed; install them with: apt-get install samba")

// SambaOptions is what a private smbd is started with.
type SambaOptions struct {
	// Global are more lines of the [global] section. With "kernel change notify =
	// no" smbd reports what its clients do, and all of it, in order. Without, it
	// reports what happens to names by inotify, through another process that is
	// not waited for: what happens right after STATUS_PENDING can be lost.
	Global []string
	Share  []string // more lines of the share's section
}

// Samba is a smbd of our own on a loopback port. Its configuration, its users
// and its state lie in one temporary folder; nothing of the host's Samba is
// read or written.
type Samba struct {
	Addr     string // 127.0.0.1:port
	Share    string // name of the share; quiet is another name of it
	Dir      string // folder the share exports
	User     string // who may log in
	Password string

	// Other is a second user with the same password, without rights of his
	// own in Dir; "" when the test does not run as root.
	Other string

	// Streams says that named streams work: their module lies in a package of
	// its own on Debian, samba-vfs-modules.
	Streams bool

	smbd, pdbedit string // paths of the programs
	root          string
	cancel        context.CancelFunc
	done          chan struct{} // closed when smbd has ended
	err           error         // why it ended; valid after done

	mu         sync.Mutex
	notifydPID string
	log        []string
}

const sambaPassword = "kbuild-run 1"

// StartSamba starts a smbd and returns when it accepts connections. Without
// Samba on the host the error is ErrNoSamba. The server ends with Stop or with
// ctx, and dies with this process.
func StartSamba(ctx context.Context, o SambaOptions) (*Samba, error) {
	s := &Samba{Share: "share", Password: sambaPassword, smbd: program("smbd"), pdbedit: program("pdbedit")}
	if s.smbd == "" || s.pdbedit == "" {
		return nil, ErrNoSamba
	}
	if err := s.accounts(); err != nil {
		return nil, fmt.Errorf("start samba: %w", err)
	}
	streams, err := s.hasModule(ctx, "streams_xattr")
	if err != nil {
		return nil, fmt.Errorf("start samba: %w", err)
	}
	s.Streams = streams
	// The port is free when we look and may be taken when smbd binds it.
	for range 5 {
		var port int
		if port, err = freePort(); err != nil {
			break
		}
		if err = s.start(ctx, o, port); !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("start samba: %w", err)
	}
	return s, nil
}

var errPortTaken = errors.New("somebody else listens on the port")

// startPatience is how long smbd may take to listen; half a second is usual.
const startPatience = time.Minute

// accounts picks the Unix accounts the users of the server are. A user without
// rights over the host is wanted, since smbd skips checks for root; the
// accounts daemon and games are part of every distribution's base.
func (s *Samba) accounts() error {
	if os.Getuid() == 0 {
		s.User, s.Other = "daemon", "games"
		return nil
	}
	u, err := user.Current()
	if err != nil {
		return err
	}
	s.User = u.Username
	return nil
}

func (s *Samba) start(ctx context.Context, o SambaOptions, port int) (err error) {
	if s.root, err = os.MkdirTemp("", "kbuild-run-samba-"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.root)
		}
	}()
	s.Dir = filepath.Join(s.root, s.Share)
	if err := s.folders(); err != nil {
		return err
	}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	conf := s.conf()
	if err := os.WriteFile(conf, []byte(s.config(port, o)), 0o644); err != nil {
		return err
	}
	for _, name := range []string{s.User, s.Other} {
		if name == "" {
			continue
		}
		add := job.Command(s.pdbedit, "-s", conf, "-a", "-t", "-u", name)
		add.Stdin = strings.NewReader(s.Password + "\n" + s.Password + "\n")
		if _, err := add.Probe(ctx); err != nil {
			return fmt.Errorf("add user %s: %w", name, err)
		}
	}

	run, cancel := context.WithCancel(ctx)
	s.cancel, s.done = cancel, make(chan struct{})
	ready, taken := make(chan struct{}), make(chan struct{}, 8)
	smbd := job.Command(s.smbd, "--foreground", "--no-process-group", "--debug-stdout", "-s", conf)
	smbd.Line = func(line string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, line)
		switch {
		case strings.Contains(line, "waiting for connections") && ready != nil:
			close(ready)
			ready = nil
		case strings.Contains(line, "Address already in use"):
			// It goes on with the addresses that are left.
			select {
			case taken <- struct{}{}:
			default:
			}
		}
	}
	up := ready
	go func() {
		defer close(s.done)
		s.err = smbd.Run(run)
	}()
	// A connection that finds no notify daemon has no change notification as
	// long as it lives; the daemon is a child of smbd that enters its name here.
	names := filepath.Join(s.root, "lock", "names.tdb")
	daemon := time.NewTicker(2 * time.Millisecond)
	defer daemon.Stop()
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	for listening := false; ; {
		select {
		case <-taken:
			s.Stop()
			return errPortTaken
		case <-up:
			listening, up = true, nil
		case <-daemon.C:
			if b, _ := os.ReadFile(names); listening && len(taken) == 0 && bytes.Contains(b, []byte("notify-daemon")) {
				return nil
			}
		case <-s.done:
			if s.err == nil && job.From(ctx).DryRun {
				return nil // it has not begun
			}
			if s.err == nil {
				return errors.New("smbd ended before it listened")
			}
			return s.err
		case <-patience.C:
			s.Stop()
			return fmt.Errorf("smbd does not listen after %v; it said:\n%s", startPatience, s.Log())
		case <-ctx.Done():
			s.Stop()
			return context.Cause(ctx)
		}
	}
}

// conf is the path of the configuration.
func (s *Samba) conf() string { return filepath.Join(s.root, "smb.conf") }

// folders makes the exported folder, owned by the user, and the private ones.
func (s *Samba) folders() error {
	// MkdirTemp keeps others out; the server's users have to pass.
	if err := os.Chmod(s.root, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"private", "state", "lock", "cache", "run", "ncalrpc", s.Share} {
		if err := os.Mkdir(filepath.Join(s.root, name), 0o755); err != nil {
			return err
		}
	}
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup(s.User)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(s.Dir, uid, gid)
}

func (s *Samba) config(port int, o SambaOptions) string {
	global := []string{
		"server role = standalone server",
		"netbios name = KBUILDRUN",
		"disable netbios = yes",
		"interfaces = lo",
		"bind interfaces only = yes",
		"smb ports = " + strconv.Itoa(port),
		"private dir = " + filepath.Join(s.root, "private"),
		"passdb backend = tdbsam",
		"state directory = " + filepath.Join(s.root, "state"),
		"lock directory = " + filepath.Join(s.root, "lock"),
		"cache directory = " + filepath.Join(s.root, "cache"),
		"pid directory = " + filepath.Join(s.root, "run"),
		"ncalrpc dir = " + filepath.Join(s.root, "ncalrpc"),
		"log level = 2", // "waiting for connections" is of level 2
		"max log size = 0",
		"load printers = no",
		"printcap name = /dev/null",
		"disable spoolss = yes",
		"server min protocol = SMB2_02",
		"server multi channel support = yes",
		"ea support = yes",
		"store dos attributes = yes",
	}
	share := []string{
		"path = " + s.Dir,
		"read only = no",
		"veto files = /*.vetoed/",
		// Durable handles need locks that other processes do not see.
		"kernel oplocks = no",
		"kernel share modes = no",
		"posix locking = no",
	}
	if s.Streams {
		share = append(share, "vfs objects = streams_xattr")
	}
	var b strings.Builder
	section := func(name string, lines []string) {
		fmt.Fprintf(&b, "[%s]\n\t%s\n", name, strings.Join(lines, "\n\t"))
	}
	section("global", append(global, o.Global...))
	section(s.Share, append(share, o.Share...))
	section("quiet", share)
	return b.String()
}

// Stop ends the server, waits for it and removes its folder.
func (s *Samba) Stop() error {
	s.cancel()
	<-s.done
	return os.RemoveAll(s.root)
}

// Log returns what smbd has printed so far.
func (s *Samba) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, "\n")
}

// program returns the path of a program, or "". The search path of a user who is
// not root may lack the folder that servers lie in.
func program(name string) string {
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if p, err := exec.LookPath(path); err == nil {
			return p
		}
	}
	return ""
}

// hasModule looks for a VFS module where smbd does.
func (s *Samba) hasModule(ctx context.Context, name string) (bool, error) {
	out, err := job.Command(s.smbd, "-b").Probe(ctx)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(out)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "MODULESDIR: "); ok {
			_, err := os.Stat(filepath.Join(dir, "vfs", name+".so"))
			return err == nil, nil
		}
	}
	return false, nil
}

// freePort returns a TCP port nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
