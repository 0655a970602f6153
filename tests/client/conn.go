package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

// Signing is how the client signs.
type Signing int

const (
	SigningRequired Signing = iota // every message, as Windows 11 and Server 2025 do
	SigningEnabled                 // when the server requires it
)

// Options is how a connection is made. The zero value is a Windows 11 client
// without a user.
type Options struct {
	// Dialects offered; nil: all from 2.0.2 to 3.1.1.
	Dialects []smb2.Dialect

	// Who logs in with Conn.Login. An empty User is anonymous.
	User, Password, Domain string

	Signing Signing

	// SigningAlgorithms and Ciphers offered with 3.1.1, best first; nil: what
	// Windows 11 offers.
	SigningAlgorithms []smb2.SigningAlgorithm
	Ciphers           []smb2.Cipher

	// Encrypt makes every session encrypt, whether the server asks for it or not.
	Encrypt bool

	// Capabilities of the NEGOTIATE request; nil: all of a dialect's.
	Capabilities *smb2.GlobalCap

	// ClientGUID names the client to the server; connections that belong to one
	// session (multichannel) need the same. Zero: a random one.
	ClientGUID [16]byte

	// Credits is how many credits the client tries to hold; 0: 64.
	Credits int

	// Strict ends the connection at the first violation: every wait returns it.
	Strict bool

	// Dial opens the TCP connection; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Negotiated is what client and server agreed on.
type Negotiated struct {
	Dialect          smb2.Dialect
	SecurityMode     smb2.SecurityMode
	Capabilities     smb2.GlobalCap
	ServerGUID       [16]byte
	MaxTransactSize  uint32
	MaxReadSize      uint32
	MaxWriteSize     uint32
	SigningAlgorithm smb2.SigningAlgorithm
	Cipher           smb2.Cipher // 0: none
	SystemTime       uint64
}

// Conn is one TCP connection. Its methods may be called from several goroutines.
type Conn struct {
	Options Options
	Negotiated

	addr    string
	tcp     net.Conn
	preauth crypt.Preauth // after NEGOTIATE

	sending chan struct{} // held by the Send that takes message ids
	writing sync.Mutex    // held while a message goes out: transcript and wire agree
	granted chan struct{} // credits came in
	done    chan struct{} // closed when the reader has ended
	breaks  chan *Response

	mu         sync.Mutex
	err        error // why the reader ended
	closing    bool
	window     window
	pending    map[uint64]*Pending // by MessageId
	async      map[uint64]*Pending // by AsyncId, until the final response
	sessions   map[uint64]*Session
	keys       []string // of the sessions
	violations []Violation
	allowed    map[string]bool
	transcript []Entry
	received   int
	frames     int
}

// Dial connects to addr (host:port; the port may be absent) and negotiates.
func Dial(ctx context.Context, addr string, o Options) (*Conn, error) {
	c, err := Connect(ctx, addr, o)
	if err != nil {
		return nil, err
	}
	if err := c.Negotiate(ctx); err != nil {
		c.Drop()
		return nil, err
	}
	return c, nil
}

// Connect is Dial without the negotiation, for tests of what comes before it.
func Connect(ctx context.Context, addr string, o Options) (*Conn, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(addr, "445")
	}
	if len(o.Dialects) == 0 {
		o.Dialects = []smb2.Dialect{smb2.SMB20_PROT_ID, smb2.SMB21_PROT_ID, smb2.SMB30_PROT_ID, smb2.SMB302_PROT_ID, smb2.SMB311_PROT_ID}
	}
	if o.SigningAlgorithms == nil {
		o.SigningAlgorithms = []smb2.SigningAlgorithm{smb2.SIGNING_ALG_AES_GMAC, smb2.SIGNING_ALG_AES_CMAC, smb2.SIGNING_ALG_HMAC_SHA256}
	}
	if o.Ciphers == nil {
		o.Ciphers = []smb2.Cipher{smb2.SMB2_ENCRYPTION_AES128_GCM, smb2.SMB2_ENCRYPTION_AES128_CCM, smb2.SMB2_ENCRYPTION_AES256_GCM, smb2.SMB2_ENCRYPTION_AES256_CCM}
	}
	if o.ClientGUID == ([16]byte{}) {
		rand.Read(o.ClientGUID[:])
	}
	if o.Credits == 0 {
		o.Credits = 64
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	tcp, err := o.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{
		Options:  o,
		addr:     addr,
		tcp:      tcp,
		sending:  make(chan struct{}, 1),
		granted:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		breaks:   make(chan *Response, 64),
		window:   window{credits: 1},
		pending:  map[uint64]*Pending{},
		async:    map[uint64]*Pending{},
		sessions: map[uint64]*Session{},
		allowed:  map[string]bool{},
	}
	c.note("connected to %s", addr)
	go c.read()
	return c, nil
}

// ErrDropped is what every wait returns after Drop.
var ErrDropped = errors.New("connection dropped by the client")

// Drop closes the TCP connection without a word to the server.
func (c *Conn) Drop() {
	c.fail(ErrDropped)
	<-c.done
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the connection with err, unless it has ended.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.noteLocked("connection ended: %v", err)
	c.tcp.Close() // wakes the reader, which closes done
}

// Breaks gives the oplock and lease breaks the server sends of its own accord.
func (c *Conn) Breaks() <-chan *Response { return c.breaks }

// wait turns the end of a wait into an error in words.
func (c *Conn) wait(ctx context.Context, what string) error {
	if err := c.Err(); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
}

// window is the client's side of the credits: CommandSequenceWindow of MS-SMB2
// 3.2.4.1.2, which never has holes, since message ids are taken in order.
type window struct {
	next    uint64 // first message id that is not used
	credits int    // how many from there on the server allows
}

// Credits returns how many credits the client holds.
func (c *Conn) Credits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.window.credits
}

// charge is the CreditCharge of a request that sends or asks for payload bytes
// (MS-SMB2 3.1.5.2). Without multi-credit it is 0 and costs one credit.
func (c *Conn) charge(payload int) uint16 {
	switch {
	case c.Dialect == smb2.SMB20_PROT_ID, c.Dialect == 0 && slices.Max(c.Options.Dialects) == smb2.SMB20_PROT_ID:
		return 0
	case c.Dialect != 0 && c.Capabilities&smb2.SMB2_GLOBAL_CAP_LARGE_MTU == 0:
		return 0
	case payload <= 0:
		return 1
	}
	return uint16((payload-1)/65536 + 1)
}

// chunk is how much of a long read or write one message moves: what the server
// allows, and at most half of the credits, so that others can send.
func (c *Conn) chunk(limit uint32) int {
	return min(int(limit), 65536*max(1, c.Credits()/2))
}

// take waits for n credits and returns the first message id. c.sending is held.
func (c *Conn) take(ctx context.Context, n int) (uint64, error) {
	for {
		c.mu.Lock()
		if c.window.credits >= n {
			first := c.window.next
			c.window.next += uint64(n)
			c.window.credits -= n
			c.mu.Unlock()
			return first, nil
		}
		held := c.window.credits
		coming := false
		for _, p := range c.pending {
			// A final response behind an interim one grants nothing, unless that
			// did not either.
			coming = coming || p.interim == nil || p.interim.Hdr.CreditRequest == 0
		}
		c.mu.Unlock()
		if !coming {
			return 0, fmt.Errorf("send: %d credits are needed, %d are held and no response is due that could grant more", n, held)
		}
		select {
		case <-c.granted:
		case <-c.done:
			return 0, c.wait(ctx, "credits")
		case <-ctx.Done():
			return 0, c.wait(ctx, fmt.Sprintf("%d credits, %d are held", n, held))
		}
	}
}

// grant adds what a response grants. c.mu is held.
func (c *Conn) grant(n uint16) {
	c.window.credits += int(n)
	select {
	case c.granted <- struct{}{}:
	default:
	}
}

// now is the time of the transcript.
func now() time.Time { return time.Now() }
