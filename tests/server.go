package tests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
	"kbuild-run/tests/servers"
)

// Server is where scenarios run: a share, and who may log in.
type Server struct {
	Name  string // in words: "samba", "Linux 6.12.117 notify"
	Kind  string // "ksmbd", "samba", "smb"
	Addr  string // host:port
	Share string
	User  client.Credentials
	Other client.Credentials // a second user; no User: there is none

	NoStreams bool // named streams do not work

	// Shell runs a command as a local process of the server, in a folder below
	// the share's; nil: the server has no shell for us.
	Shell func(ctx context.Context, folder, command string) error

	// Settle waits until a watch that the server has answered with
	// STATUS_PENDING is armed; nil: it is when the answer comes.
	Settle func(ctx context.Context) error

	// WithShell is the server to take for scenarios that need a shell; nil:
	// this one.
	WithShell *Server

	// Scale stretches waits on a slow server; 0: 1.
	Scale float64
}

// deadline is d on this server.
func (s *Server) deadline(d time.Duration) time.Duration {
	if s.Scale <= 1 {
		return d
	}
	return time.Duration(float64(d) * s.Scale)
}

// forScenario is the server that runs s.
func (s *Server) forScenario(scenario *Scenario) *Server {
	if s.WithShell != nil && scenario.Has("shell") {
		return s.WithShell
	}
	return s
}

// SambaServer starts a private smbd, and a second one for the scenarios that
// need a shell; stop ends both. Samba leaves changes by local processes to
// inotify, and with that on ("kernel change notify") it reports some changes by
// clients twice.
func SambaServer(ctx context.Context) (server *Server, stop func() error, err error) {
	server, stopFirst, err := samba(ctx, "no")
	if err != nil {
		return nil, nil, err
	}
	other, stopOther, err := samba(ctx, "yes")
	if err != nil {
		return nil, nil, errors.Join(err, stopFirst())
	}
	server.WithShell = other
	return server, func() error { return errors.Join(stopFirst(), stopOther()) }, nil
}

func samba(ctx context.Context, kernel string) (*Server, func() error, error) {
	s, err := servers.StartSamba(ctx, servers.SambaOptions{Global: []string{"kernel change notify = " + kernel}})
	if err != nil {
		return nil, nil, err
	}
	server := &Server{
		Name: "samba", Kind: "samba", NoStreams: !s.Streams, Addr: s.Addr, Share: s.Share,
		User: client.Credentials{User: s.User, Password: s.Password},
		Shell: func(ctx context.Context, folder, command string) error {
			_, err := job.Command("sh", "-ec", command).In(filepath.Join(s.Dir, folder)).Probe(ctx)
			return err
		},
	}
	if kernel == "yes" {
		server.Settle = s.Settle
	}
	if s.Other != "" {
		server.Other = client.Credentials{User: s.Other, Password: s.Password}
	}
	return server, s.Stop, nil
}

// AddressServer is a server by its address: smb://user:password@host:port/share.
// A domain may stand before the user: smb://domain;user:password@host/share.
func AddressServer(address string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil {
		// Not with its text, which has the password in it.
		return nil, errors.New("server: not an address; want smb://user:password@host:port/share")
	}
	share := strings.Trim(u.Path, "/")
	if u.Scheme != "smb" || u.Hostname() == "" || share == "" || strings.Contains(share, "/") {
		return nil, fmt.Errorf("server %s: want smb://user:password@host:port/share", u.Redacted())
	}
	if u.User == nil {
		return nil, errors.New("server: no user; want smb://user:password@host:port/share")
	}
	port := u.Port()
	if port == "" {
		port = "445"
	}
	user := client.Credentials{User: u.User.Username()}
	user.Password, _ = u.User.Password()
	if domain, name, ok := strings.Cut(user.User, ";"); ok {
		user.Domain, user.User = domain, name
	}
	return &Server{Name: u.Host, Kind: "smb", Addr: net.JoinHostPort(u.Hostname(), port), Share: share, User: user}, nil
}
