package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// wire is a connection with a session and a tree that costs its client little:
// tests/client logs in, and from then on messages are neither judged nor
// written down nor signed, and are read by one blocking call each. What remains
// of the client in a measurement is the same for every server.
type wire struct {
	fd      int
	mid     uint64
	credits int
	session uint64
	tree    uint32

	out   []byte // frames that are not written yet
	in    []byte // what was read and not taken
	stamp time.Time
	seen  []message // responses that came while another one was waited for
}

// message is a response.
type message struct {
	smb2.Hdr
	body []byte
	at   time.Time // when its last byte passed the network device
}

// patience is how long a response may be away before the server counts as hanging.
const patience = 2 * time.Minute

// loan is the connection that a client.Conn gets: it can be taken from it.
type loan struct {
	*net.TCPConn
	taken atomic.Bool
}

func (l *loan) Read(b []byte) (int, error) {
	n, err := l.TCPConn.Read(b)
	if err != nil && l.taken.Load() {
		select {} // the client's reader has nothing to do any more
	}
	return n, err
}

// target is the server under test.
type target struct {
	addr, share    string
	user, password string
}

// dial logs in and takes the connection over.
func (t *target) dial(ctx context.Context) (*wire, error) {
	var l *loan
	c, err := client.Dial(ctx, t.addr, client.Options{
		User: t.user, Password: t.password, Signing: client.SigningEnabled, Credits: 512,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			l = &loan{TCPConn: c.(*net.TCPConn)}
			return l, nil
		},
	})
	if err != nil {
		return nil, err
	}
	session, err := c.Login(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := session.TreeConnect(ctx, t.share)
	if err != nil {
		return nil, err
	}
	p, err := c.Send(ctx, &client.Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq(), Session: session})
	if err != nil {
		return nil, err
	}
	if _, err := p[0].Final(ctx); err != nil {
		return nil, err
	}
	w := &wire{mid: p[0].Hdr.MessageId + 1, credits: c.Credits(), session: session.ID, tree: tree.ID}
	f, err := l.File() // another descriptor of the socket, in blocking mode
	if err != nil {
		return nil, err
	}
	l.taken.Store(true)
	l.TCPConn.Close()
	if w.fd, err = unix.Dup(int(f.Fd())); err != nil {
		return nil, err
	}
	f.Close()
	limit := unix.NsecToTimeval(int64(patience))
	if err := errors.Join(unix.SetNonblock(w.fd, false),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptInt(w.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)); err != nil {
		return nil, err
	}
	// The kernel begins to stamp segments some time after it was asked to.
	for began := time.Now(); time.Since(began) < patience; time.Sleep(time.Millisecond) {
		m, err := w.do(smb2.SMB2_ECHO, smb2.NewEchoReq())
		if err != nil || !m.at.IsZero() {
			return w, err
		}
	}
	return nil, errors.New("connect: the kernel gives no time of arrival")
}

func (w *wire) drop() { unix.Close(w.fd) }

// put appends a request to what flush writes, and returns its message id.
func (w *wire) put(command smb2.Command, body smb2.Message) uint64 {
	h := smb2.NewHdr()
	h.Command, h.MessageId, h.SessionId, h.TreeId = command, w.mid, w.session, w.tree
	h.CreditCharge, h.CreditRequest = 1, 1
	if w.credits < 512 {
		h.CreditRequest = 16
	}
	w.mid++
	w.credits--
	at := len(w.out)
	w.out = append(w.out, 0, 0, 0, 0)
	w.out = body.Append(h.Append(w.out))
	binary.BigEndian.PutUint32(w.out[at:], uint32(len(w.out)-at-4))
	return h.MessageId
}

// putCancel appends the CANCEL of an asynchronous request, which costs no credit.
func (w *wire) putCancel(mid, async uint64) {
	h := smb2.NewHdr()
	h.Command, h.MessageId, h.SessionId = smb2.SMB2_CANCEL, mid, w.session
	h.Flags |= smb2.SMB2_FLAGS_ASYNC_COMMAND
	h.SetAsyncId(async)
	at := len(w.out)
	w.out = append(w.out, 0, 0, 0, 0)
	w.out = smb2.NewCancelReq().Append(h.Append(w.out))
	binary.BigEndian.PutUint32(w.out[at:], uint32(len(w.out)-at-4))
}

func (w *wire) flush() error {
	for len(w.out) > 0 {
		n, err := unix.Write(w.fd, w.out)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		w.out = w.out[n:]
	}
	w.out = nil
	return nil
}

// fill reads what there is, at least a byte, and when it came in: the kernel stamps
// each segment as it passes the network device, so that the time does not depend on
// when this program is scheduled.
func (w *wire) fill() error {
	var b [65536]byte
	var oob [128]byte
	for {
		n, on, _, _, err := unix.Recvmsg(w.fd, b[:], oob[:], 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return fmt.Errorf("receive: nothing in %v", patience)
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case n == 0:
			return errors.New("receive: the server closed the connection")
		}
		w.in = append(w.in, b[:n]...)
		w.stamp = time.Time{}
		control, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil {
			return err
		}
		for _, c := range control {
			if c.Header.Level == unix.SOL_SOCKET && c.Header.Type == unix.SO_TIMESTAMPNS && len(c.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
				t := (*unix.Timespec)(unsafe.Pointer(&c.Data[0]))
				w.stamp = time.Unix(t.Sec, t.Nsec)
			}
		}
		return nil
	}
}

// next returns the next response off the socket.
func (w *wire) next() (message, error) {
	for {
		if len(w.in) >= 4 {
			n := int(binary.BigEndian.Uint32(w.in) & 0xffffff)
			if len(w.in) >= 4+n {
				b := w.in[4 : 4+n : 4+n]
				w.in = w.in[4+n:]
				m := message{at: w.stamp}
				rest, err := m.Hdr.Decode(b)
				if err != nil {
					return m, err
				}
				if m.NextCommand != 0 {
					return m, errors.New("receive: a compound response to single requests")
				}
				m.body = rest
				w.credits += int(m.CreditRequest)
				return m, nil
			}
		}
		if err := w.fill(); err != nil {
			return message{}, err
		}
	}
}

// final waits for the final response of a request; others are kept.
func (w *wire) final(mid uint64) (message, error) {
	return w.wait(func(m *message) bool { return m.MessageId == mid && m.Status != smb2.STATUS_PENDING })
}

// answer waits for the first response of a request: the interim one of one that
// goes on, the final one of any other.
func (w *wire) answer(mid uint64) (message, error) {
	return w.wait(func(m *message) bool { return m.MessageId == mid })
}

func (w *wire) wait(wanted func(*message) bool) (message, error) {
	for i := range w.seen {
		if m := w.seen[i]; wanted(&m) {
			w.seen = append(w.seen[:i], w.seen[i+1:]...)
			return m, nil
		}
	}
	for {
		m, err := w.next()
		if err != nil || wanted(&m) {
			return m, err
		}
		w.seen = append(w.seen, m)
	}
}

// do sends one request and waits for its final response, which must be a success.
func (w *wire) do(command smb2.Command, body smb2.Message) (message, error) {
	mid := w.put(command, body)
	if err := w.flush(); err != nil {
		return message{}, err
	}
	m, err := w.final(mid)
	if err == nil && m.Status != smb2.STATUS_SUCCESS {
		err = fmt.Errorf("%v: %v", command, m.Status)
	}
	return m, err
}

// depth is how many requests of one connection are on their way at once.
const depth = 64

// each sends n requests, several at once, and hands the first response of each to
// done; everything else goes to other. It stops after limit, with errLate.
func (w *wire) each(n int, limit time.Time, request func(i int) (smb2.Command, smb2.Message), done func(i int, m message) error, other func(m message) error) error {
	first, sent, open := w.mid, 0, 0
	for sent < n || open > 0 {
		late := time.Now().After(limit)
		for ; !late && sent < n && w.credits > 0 && open < depth; sent, open = sent+1, open+1 {
			w.put(request(sent))
		}
		if late && open == 0 {
			return errLate
		}
		if err := w.flush(); err != nil {
			return err
		}
		m, err := w.next()
		if err != nil {
			return err
		}
		if i := m.MessageId - first; i < uint64(sent) {
			open--
			err = done(int(i), m)
		} else {
			err = other(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errLate says that a step was cut short.
var errLate = errors.New("the time was over")
