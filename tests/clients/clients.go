// Package clients runs SMB clients that others wrote: the address of a server goes
// in, what each client was told of changes in a folder comes out.
//
// They are what people use, so they show what the scenarios' own client cannot:
// that a client which knows nothing of our reading of the protocol is content.
package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// Server is where the clients connect to.
type Server struct {
	Addr           string // host:port
	Share          string
	User, Password string

	// Local runs a command as a local process of the server, in the share's
	// folder.
	Local func(ctx context.Context, command string) error

	// Guest runs a command in the guest that the server is in; nil: it is in
	// none, and the kernel's own client is skipped. The exit status is returned.
	Guest func(ctx context.Context, command string, stdout, stderr io.Writer) (int, error)

	// GuestAddr is where the guest's kernel reaches the server; "": it is there itself.
	GuestAddr string

	// Patience is how long a client may take to hear of a change; 0: 15 s.
	Patience time.Duration
}

// Result is what a client did and saw.
type Result struct {
	Client string // "smbclient"
	Did    string // in words
	Saw    string // the records it was told: "added new-1; renamed new-1 to new-1-b"
	Err    error  // it did not see what happened; a *Missing: it did not run
	Time   time.Duration
}

// Missing says why a client did not run.
type Missing struct{ Reason string }

func (m *Missing) Error() string { return m.Reason }

// client is a program to try. run has a folder of its own in the share.
type client struct {
	name, did string
	run       func(ctx context.Context, s *Server, folder string) (saw []string, err error)
}

var all = []client{
	{"smbclient", "notify in a folder, while a local process makes and renames a file there", smbclient},
	{"python3-samba", "Conn.notify in a folder, while a local process makes a file there", python},
	{"cifs.ko", "mount; CIFS_IOC_NOTIFY, CIFS_IOC_NOTIFY_INFO and the latter for a tree, while a local process makes files", cifs},
}

// defaultPatience is Server.Patience unless that is set.
const defaultPatience = 15 * time.Second

// Run runs the clients of these names at a time, without a name all, and returns a
// result for each. The error is one of making their folders.
func Run(ctx context.Context, s *Server, names ...string) ([]Result, error) {
	all := slices.DeleteFunc(slices.Clone(all), func(c client) bool { return names != nil && !slices.Contains(names, c.name) })
	if s.Patience == 0 {
		with := *s
		with.Patience = defaultPatience
		s = &with
	}
	results := make([]Result, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		folder := "client-" + c.name
		if err := s.Local(ctx, "mkdir -p "+folder+" && chmod 777 "+folder); err != nil {
			return nil, fmt.Errorf("make folder for %s: %w", c.name, err)
		}
		wg.Go(func() {
			start := time.Now()
			// Logging in may take as long as hearing of a change.
			ctx, stop := context.WithTimeoutCause(ctx, 3*s.Patience, fmt.Errorf("no end after %v", 3*s.Patience))
			defer stop()
			saw, err := c.run(ctx, s, folder)
			results[i] = Result{c.name, c.did, strings.Join(saw, "; "), err, time.Since(start)}
		})
	}
	wg.Wait()
	return results, ctx.Err()
}

// between is the time from one change to the next while a client is not heard of:
// there is no way to know when it has begun to watch.
const between = 200 * time.Millisecond

// stir makes changes until the client says something; change n is
// strings.ReplaceAll(command, "{n}", n). It returns the line.
func (s *Server) stir(ctx context.Context, command string, said <-chan string) (string, error) {
	late := time.NewTimer(2 * s.Patience)
	defer late.Stop()
	for n := 1; ; n++ {
		if err := s.Local(ctx, strings.ReplaceAll(command, "{n}", fmt.Sprint(n))); err != nil {
			return "", err
		}
		select {
		case line, ok := <-said:
			if !ok {
				return "", errors.New("it ended and was told nothing")
			}
			return line, nil
		case <-time.After(between):
		case <-late.C:
			return "", fmt.Errorf("it was told nothing of %d changes", n)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// next returns the next line that the client says.
func (s *Server) next(ctx context.Context, said <-chan string) (string, error) {
	select {
	case line, ok := <-said:
		if !ok {
			return "", errors.New("it ended before it was told all")
		}
		return line, nil
	case <-time.After(s.Patience):
		return "", errors.New("it was not told all")
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// actions are FILE_ACTION_* in words (MS-FSCC 2.7.1).
var actions = map[string]string{"1": "added", "2": "removed", "3": "modified", "4": "old name", "5": "new name"}

// record is a record in words from its number and name.
func record(number, name string) string {
	action, ok := actions[strings.TrimLeft(number, "0")]
	if !ok {
		action = "action " + number
	}
	return action + " " + name
}

// lines gives what is written to it, a line at a time; the channel is closed with
// the writer.
func lines() (io.WriteCloser, <-chan string) {
	r, w := io.Pipe()
	c := make(chan string, 64)
	go func() {
		defer close(c)
		for s := bufio.NewScanner(r); s.Scan(); {
			c <- s.Text()
		}
	}()
	return w, c
}

// program starts a program of the host and gives its lines until ctx ends. ended
// returns what it said to its standard error.
func program(ctx context.Context, name string, args ...string) (said <-chan string, ended func() string, err error) {
	var stderr strings.Builder
	w, said := lines()
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr, c.WaitDelay = w, &stderr, time.Second
	if err := c.Start(); err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Wait()
		w.Close()
	}()
	return said, func() string { <-done; return stderr.String() }, nil
}

// refused adds to err what the client itself said of it: the last line counts.
func refused(err error, said string) error {
	said = strings.TrimSpace(said)
	if err == nil || said == "" {
		return err
	}
	return fmt.Errorf("%w; it said: %s", err, said[strings.LastIndexByte(said, '\n')+1:])
}

// split is the host and the port of an address.
func split(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}
