package scenario

import (
	"context"
	"iter"
	"sync"
	"time"

	"kbuild-run/tests/client"
)

// Server is where scenarios run: a share, and who may log in.
type Server struct {
	Name  string // in words: "samba", "Linux 6.12.117 notify"
	Kind  string // "ksmbd", "samba", ByAddress
	Addr  string // host:port
	Share string
	User  client.Credentials
	Other client.Credentials // a second user; no User: there is none

	// Version is what scenarios call the server's: the base of a kernel,
	// "v6.12"; "": they know no difference between versions.
	Version string

	// Lacks says why the server has not what a scenario may need, by need.
	Lacks map[string]string

	// Allow are rules of the client that the server is known to break, see
	// client.Conn.Allow.
	Allow []string

	// Shell runs a command as a local process of the server, in a folder below
	// the share's; nil: the server has no shell for us.
	Shell func(ctx context.Context, folder, command string) error

	// Begin notes that the scenario of that name runs, until end is called; nil:
	// nobody wants to know.
	Begin func(name string) (end func())

	// Printed returns what the server printed between two times, its kernel's
	// log for one; nil: that is not known.
	Printed func(from, to time.Time) iter.Seq2[time.Time, string]

	// Traced says of a line that it printed whether it is a trace event; nil: none is.
	Traced func(line string) bool

	// Settle waits until a watch that the server has answered with
	// STATUS_PENDING is armed, and a change that it has answered is on its way to
	// the watches; nil: it is when the answer comes.
	Settle func(ctx context.Context) error

	// Holds says what the server holds for its clients; nil: that is not known.
	Holds Holds

	// Instead are servers to take for scenarios that need something, by need.
	Instead map[string]*Server

	// Slots is how many scenarios run at a time; 0: as many as the host bears.
	Slots int

	// Scale stretches waits on a slow server; 0: 1.
	Scale float64
}

// ByAddress is the kind of a server of which nothing more is known than its address.
const ByAddress = "smb"

// deadline is d on this server.
func (s *Server) deadline(d time.Duration) time.Duration {
	if s.Scale <= 1 {
		return d
	}
	return time.Duration(float64(d) * s.Scale)
}

// lacks says why a scenario that needs something cannot run here; "": it can.
func (s *Server) lacks(need string) string {
	switch {
	case need == "shell" && s.Shell == nil:
		return s.Name + " has no shell for us"
	case need == "other" && s.Other.User == "":
		return s.Name + " has no second user"
	}
	return s.Lacks[need]
}

// forScenario is the server that runs s.
func (s *Server) forScenario(scenario *Scenario) *Server {
	for _, need := range scenario.Needs {
		if other := s.Instead[need]; other != nil {
			return other
		}
	}
	return s
}

var gateWait = time.Second // a variable for the tests

// gates let one connection at a time begin, by address.
var gates sync.Map

// Dial connects and negotiates. QEMU listens for its guest with a backlog of one,
// and the host drops what else comes: under load such a connection is open but
// takes 15 s of retransmissions to say its first word. Once NEGOTIATE is answered
// it has been accepted, and the next one may come. One that is not answered keeps
// nobody waiting for long: the others, and who asks whether the server lives, are to
// see for themselves.
func (s *Server) Dial(ctx context.Context, o client.Options) (*client.Conn, error) {
	g, _ := gates.LoadOrStore(s.Addr, make(chan struct{}, 1))
	gate := g.(chan struct{})
	select {
	case gate <- struct{}{}:
		leave := sync.OnceFunc(func() { <-gate })
		defer leave()
		defer time.AfterFunc(s.deadline(gateWait), leave).Stop()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return client.Dial(ctx, s.Addr, o)
}
