package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
)

// Request is a message to send.
type Request struct {
	Command smb2.Command
	Body    smb2.Message

	// Session and Tree name the context; a Tree implies its Session.
	Session *Session
	Tree    *Tree

	// Related continues the request before it in a compound: its session, tree
	// and open are taken over (MS-SMB2 3.2.4.1.4).
	Related bool

	// Payload is the larger of the bytes sent and the bytes asked for; it makes
	// the CreditCharge.
	Payload int

	// Plain sends the request neither signed nor encrypted and expects nothing
	// of the response in that respect.
	Plain bool

	// Edit changes the header at last, before it is signed: for requests that
	// are wrong on purpose. What it changes is not held against the response.
	Edit func(h *smb2.Hdr)

	// Mangle changes the bytes of the message after signing.
	Mangle func(message []byte) []byte
}

// Pending is a request that was sent.
type Pending struct {
	Request *Request
	Hdr     smb2.Hdr // as sent
	Sent    []byte   // header and body as sent, signed and not encrypted

	conn      *Conn
	encrypted bool
	deferred  bool // the signature is checked by SESSION_SETUP, not by the reader
	interimed chan struct{}
	finished  chan struct{}
	interim   *Response // valid when interimed is closed
	final     *Response // valid when finished is closed
}

// Response is a message from the server.
type Response struct {
	Hdr  smb2.Hdr
	Body []byte // behind the header, padding included
	Raw  []byte // header and body
	Time time.Time

	Encrypted bool
	Seq       int // counts the messages of the connection, from 1
	Frame     int // counts the frames: parts of a compound have the same

	// Changes are the records of a CHANGE_NOTIFY response.
	Changes []Change
}

// Status returns the status of the response.
func (r *Response) Status() smb2.NtStatus { return r.Hdr.Status }

// StatusError is a status that was not wanted.
type StatusError struct {
	Command smb2.Command
	Status  smb2.NtStatus
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: %v", strings.TrimPrefix(e.Command.String(), "SMB2_"), e.Status)
}

// Is makes errors.Is(err, client.Status(x)) work.
func (e *StatusError) Is(target error) bool {
	s, ok := target.(Status)
	return ok && smb2.NtStatus(s) == e.Status
}

// Status is a status as a target of errors.Is.
type Status smb2.NtStatus

func (s Status) Error() string { return smb2.NtStatus(s).String() }

// Err returns a *StatusError unless the status is STATUS_SUCCESS or one of ok.
func (r *Response) Err(ok ...smb2.NtStatus) error {
	if r.Hdr.Status == smb2.STATUS_SUCCESS {
		return nil
	}
	for _, s := range ok {
		if s == r.Hdr.Status {
			return nil
		}
	}
	return &StatusError{r.Hdr.Command, r.Hdr.Status}
}

// Decode reads the body into m.
func (r *Response) Decode(m smb2.Message) error {
	if _, err := m.Decode(r.Body); err != nil {
		return err
	}
	return m.Check()
}

// Send sends the requests: one as it is, several as one compound. It returns
// when they are written; it waits for credits.
func (c *Conn) Send(ctx context.Context, reqs ...*Request) ([]*Pending, error) {
	if len(reqs) == 0 {
		return nil, errors.New("send: no request")
	}
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-c.done:
		return nil, c.wait(ctx, "the connection")
	case <-ctx.Done():
		return nil, c.wait(ctx, "an earlier request that waits for credits")
	}

	cost := 0
	for _, r := range reqs {
		cost += max(1, int(c.charge(r.Payload)))
	}
	mid, err := c.take(ctx, cost)
	if err != nil {
		return nil, err
	}
	all := make([]*Pending, len(reqs))
	for i, r := range reqs {
		p := &Pending{Request: r, conn: c, interimed: make(chan struct{}), finished: make(chan struct{})}
		p.Hdr = c.header(r, mid)
		p.Hdr.CreditRequest = c.ask(p.Hdr.CreditCharge)
		if i > 0 && r.Related {
			p.Hdr.Flags |= smb2.SMB2_FLAGS_RELATED_OPERATIONS
		}
		mid += uint64(max(1, p.Hdr.CreditCharge))
		all[i] = p
	}
	return all, c.transmit(ctx, all)
}

// Do sends one request and waits for its final response. A status that is
// neither success nor one of ok is an error, with the response.
func (c *Conn) Do(ctx context.Context, r *Request, ok ...smb2.NtStatus) (*Response, error) {
	p, err := c.Send(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := p[0].Final(ctx)
	if err != nil {
		return nil, err
	}
	return resp, resp.Err(ok...)
}

// ask returns the CreditRequest that keeps the window filled.
func (c *Conn) ask(charge uint16) uint16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := c.Options.Credits - c.window.credits
	return uint16(max(1, int(charge), want))
}

// session returns the session a request belongs to, or nil.
func (r *Request) session() *Session {
	if r.Tree != nil {
		return r.Tree.Session
	}
	return r.Session
}

// header fills the header of a request (MS-SMB2 3.2.4.1).
func (c *Conn) header(r *Request, mid uint64) smb2.Hdr {
	h := smb2.NewHdr()
	h.Command = r.Command
	h.CreditCharge = c.charge(r.Payload)
	h.MessageId = mid
	h.ProcessId = 0xfeff // what Windows sends; reserved in the specification
	if s := r.session(); s != nil {
		h.SessionId = s.ID
	}
	if r.Tree != nil {
		h.TreeId = r.Tree.ID
	}
	return *h
}

// secured says how a request of this session goes out.
func (c *Conn) secured(r *Request) (sign, encrypt bool) {
	s := r.session()
	if r.Plain || s == nil || s.signer == nil {
		return false, false
	}
	if s.encrypting() || r.Tree != nil && r.Tree.encrypt && s.sealer != nil {
		// The last message of a session that is being set up anew still has to
		// pass as the first did: unencrypted messages are dropped.
		return false, r.Command != smb2.SMB2_SESSION_SETUP || s.established
	}
	// TREE_CONNECT is signed with 3.1.1 in any case (MS-SMB2 3.2.4.1.1).
	return s.signing || r.Command == smb2.SMB2_TREE_CONNECT && c.Dialect == smb2.SMB311_PROT_ID, false
}

// transmit encodes, signs, encrypts and writes a chain of requests, and makes
// their pendings known to the reader.
func (c *Conn) transmit(ctx context.Context, chain []*Pending) error {
	first := chain[0].Request
	_, encrypt := c.secured(first)
	var frame []byte
	for i, p := range chain {
		r := p.Request
		body := r.Body.Append(nil)
		if i+1 < len(chain) {
			body = append(body, make([]byte, -len(body)&7)...)
			p.Hdr.NextCommand = uint32(smb2.HdrSize + len(body))
		}
		sign, _ := c.secured(r)
		sign = sign && !encrypt
		if sign {
			p.Hdr.Flags |= smb2.SMB2_FLAGS_SIGNED
		}
		if r.Edit != nil {
			r.Edit(&p.Hdr)
		}
		if sign {
			if err := r.session().sign(&p.Hdr, body, false); err != nil {
				return err
			}
		}
		p.encrypted = encrypt
		p.deferred = r.Command == smb2.SMB2_SESSION_SETUP
		p.Sent = append(p.Hdr.Append(nil), body...)
		if r.Mangle != nil {
			p.Sent = r.Mangle(p.Sent)
		}
		frame = append(frame, p.Sent...)
	}
	if encrypt {
		frame = first.session().seal(frame)
	}

	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	for _, p := range chain {
		c.pending[p.Hdr.MessageId] = p
		c.recordLocked(Out, p.Hdr, p.Sent, p.encrypted, "")
	}
	c.mu.Unlock()
	return c.write(ctx, frame)
}

// writePatience is how long a message without a context of its own may take to
// go out: it counts only when the server has stopped to read.
const writePatience = 10 * time.Second

// write writes a frame; c.writing is held. A frame that is cut by the end of ctx
// ends the connection.
func (c *Conn) write(ctx context.Context, frame []byte) error {
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.tcp.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	err := writeFrame(c.tcp, frame)
	if !stop() {
		<-cut
		c.tcp.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		c.fail(fmt.Errorf("send: %w", err))
		return c.Err()
	}
	return nil
}

// SendRaw writes bytes as one frame, whatever they are. The responses, if any,
// are not expected by anybody: see Conn.Allow.
func (c *Conn) SendRaw(message []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.note("raw frame of %d bytes sent", len(message))
	ctx, stop := context.WithTimeout(context.Background(), writePatience)
	defer stop()
	return c.write(ctx, message)
}

// SendTCP writes bytes to the TCP connection without a frame.
func (c *Conn) SendTCP(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.note("%d bytes without a frame sent", len(b))
	_, err := c.tcp.Write(b)
	return err
}

// NoInterimError says that the final response came without an interim one.
type NoInterimError struct{ Final *Response }

func (e *NoInterimError) Error() string {
	return fmt.Sprintf("%s: final response %v without an interim one", e.Final.Hdr.Command, e.Final.Hdr.Status)
}

// Interim waits for the interim response, STATUS_PENDING. When the final one
// comes without it the error is a *NoInterimError.
func (p *Pending) Interim(ctx context.Context) (*Response, error) {
	select {
	case <-p.interimed:
		return p.interim, nil
	default:
	}
	select {
	case <-p.interimed:
		return p.interim, nil
	case <-p.finished:
		// The reader closes interimed first.
		select {
		case <-p.interimed:
			return p.interim, nil
		default:
			return nil, &NoInterimError{p.final}
		}
	case <-p.conn.done:
	case <-ctx.Done():
	}
	return nil, p.conn.wait(ctx, p.what("the interim response to"))
}

// Final waits for the final response. Its status is not an error: see
// Response.Err.
func (p *Pending) Final(ctx context.Context) (*Response, error) {
	select {
	case <-p.finished:
		return p.final, nil
	default:
	}
	select {
	case <-p.finished:
		return p.final, nil
	case <-p.conn.done:
		// What the reader read before it ended counts.
		select {
		case <-p.finished:
			return p.final, nil
		default:
		}
	case <-ctx.Done():
	}
	return nil, p.conn.wait(ctx, p.what("the response to"))
}

// Finished is closed when the final response is there.
func (p *Pending) Finished() <-chan struct{} { return p.finished }

// AsyncID returns the AsyncId of the interim response, 0 without one.
func (p *Pending) AsyncID() uint64 {
	select {
	case <-p.interimed:
		return p.interim.Hdr.AsyncId()
	default:
		return 0
	}
}

func (p *Pending) what(s string) string {
	return fmt.Sprintf("%s %s, message id %d", s, strings.TrimPrefix(p.Hdr.Command.String(), "SMB2_"), p.Hdr.MessageId)
}

// Cancel sends an SMB2_CANCEL for the request: by AsyncId when the interim
// response has come, by MessageId before. A CANCEL takes no credit and has no
// response (MS-SMB2 3.2.4.24).
func (p *Pending) Cancel() error {
	if id := p.AsyncID(); id != 0 {
		return p.CancelAsync(id)
	}
	return p.CancelMessage()
}

// CancelMessage cancels by MessageId.
func (p *Pending) CancelMessage() error { return p.CancelAsync(0) }

// CancelAsync cancels by an AsyncId, the right one or another; 0 is CancelMessage.
func (p *Pending) CancelAsync(id uint64) error {
	r := p.Request
	return p.conn.cancel(r.session(), p.Hdr.MessageId, id, r.Plain, p.encrypted)
}

// Cancel sends an SMB2_CANCEL that belongs to no Pending of this connection: for
// a MessageId, or for an AsyncId when it is not 0.
func (s *Session) Cancel(message, async uint64) error {
	return s.Conn.cancel(s, message, async, false, false)
}

func (c *Conn) cancel(s *Session, mid, async uint64, plain, encrypt bool) error {
	r := &Request{Command: smb2.SMB2_CANCEL, Body: smb2.NewCancelReq(), Session: s, Plain: plain}
	h := c.header(r, mid)
	h.CreditCharge = 0
	if async != 0 {
		h.Flags |= smb2.SMB2_FLAGS_ASYNC_COMMAND
		h.SetAsyncId(async)
	}
	// A share may encrypt where its session does not.
	sign, sealed := c.secured(r)
	encrypt = encrypt || sealed
	if sign && !encrypt {
		h.Flags |= smb2.SMB2_FLAGS_SIGNED
		if err := s.sign(&h, r.Body.Append(nil), false); err != nil {
			return err
		}
	}
	message := append(h.Append(nil), r.Body.Append(nil)...)
	frame := message
	if encrypt {
		frame = s.seal(message)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	c.recordLocked(Out, h, message, encrypt, "")
	c.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), writePatience)
	defer stop()
	return c.write(ctx, frame)
}
