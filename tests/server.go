package tests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/servers"
)

// SambaServer starts a private smbd, and others for the scenarios that need a
// shell and a share without CHANGE_NOTIFY; stop ends all. Samba leaves changes by
// local processes to inotify, and with that on ("kernel change notify") it
// reports some changes by clients twice.
func SambaServer(ctx context.Context) (server *scenario.Server, stop func() error, err error) {
	var stops []func() error
	stop = func() (err error) {
		for _, s := range stops {
			err = errors.Join(err, s())
		}
		return err
	}
	one := func(global string) *scenario.Server {
		if err != nil {
			return nil
		}
		var s *scenario.Server
		var end func() error
		if s, end, err = samba(ctx, global); err == nil {
			stops = append(stops, end)
		}
		return s
	}
	server = one("kernel change notify = no")
	shell, quiet := one(inotify), one("change notify = no")
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	server.Instead = map[string]*scenario.Server{"shell": shell, "quiet": quiet}
	return server, stop, nil
}

// sambaSlots is how many scenarios run at a time on Samba. Its processes tell each
// other of watches and changes by datagrams to one of them, notifyd. When the
// kernel holds no more for it (net.unix.max_dgram_qlen, 10), they are sent later,
// and a change may overtake the watch that it is for.
const sambaSlots = 4

// inotify makes smbd report what local processes do.
const inotify = "kernel change notify = yes"

func samba(ctx context.Context, global string) (*scenario.Server, func() error, error) {
	s, err := servers.StartSamba(ctx, servers.SambaOptions{Global: []string{global}})
	if err != nil {
		return nil, nil, err
	}
	server := &scenario.Server{
		Name: "samba", Kind: "samba", Settle: s.Settle, Slots: sambaSlots, Addr: s.Addr, Share: s.Share,
		User: client.Credentials{User: s.User, Password: s.Password},
		Shell: func(ctx context.Context, folder, command string) error {
			_, err := job.Command("sh", "-ec", command).In(filepath.Join(s.Dir, folder)).Probe(ctx)
			return err
		},
	}
	server.Lacks = map[string]string{
		"mount":   "the mounts of this machine are left alone",
		"restart": "ksmbd alone has a module to be taken out",
		"waiting": "it has no such share",
	}
	if !s.Streams {
		server.Lacks["streams"] = "named streams need Debian's package samba-vfs-modules"
	}
	for _, tool := range []string{"exch", "setfattr"} {
		if _, err := exec.LookPath(tool); err != nil {
			server.Lacks["tools"] = "this machine has no " + tool
		}
	}
	if s.Other != "" {
		server.Other = client.Credentials{User: s.Other, Password: s.Password}
	}
	return server, s.Stop, nil
}

// AddressServer is a server by its address: smb://user:password@host:port/share.
// A domain may stand before the user: smb://domain;user:password@host/share. A
// password that is not to be seen in the list of processes is in the environment,
// in PASSWD as for smbclient.
func AddressServer(address string) (*scenario.Server, error) {
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
	if password, ok := u.User.Password(); ok {
		user.Password = password
	} else {
		user.Password = os.Getenv("PASSWD")
	}
	if domain, name, ok := strings.Cut(user.User, ";"); ok {
		user.Domain, user.User = domain, name
	}
	return &scenario.Server{Name: u.Host, Kind: scenario.ByAddress, Addr: net.JoinHostPort(u.Hostname(), port), Share: share, User: user,
		Lacks: map[string]string{
			"quiet":   "whether a share of it is not to notify, nobody has told us",
			"waiting": "whether watches of a share only wait, nobody has told us",
		}}, nil
}
