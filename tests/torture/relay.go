package torture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"kbuild-run/gen/smb2"
)

// relay passes on the connections of smbtorture to a server, and puts into its
// CANCEL requests the MessageId that they lack.
//
// A CANCEL names the request it means by its AsyncId once STATUS_PENDING has come
// for it, and before that by its MessageId (MS-SMB2 3.2.4.24). The client library
// of Samba sends MessageId 0 there, from 4.15 to 4.25 at least, unless it signs by
// AES-GMAC (libcli/smb/smbXcli_base.c, smb2cli_req_compound_submit), and almost
// every test of smb2.notify cancels a request that way. A server can only ignore
// such a CANCEL (3.3.5.16), and the test waits for ever.
//
// So only a CANCEL that is not signed, has no SMB2_FLAGS_ASYNC_COMMAND and has
// MessageId 0 is changed, and nothing else of it but its MessageId. It is meant
// for the last request that has no answer yet and was not cancelled before:
// smbtorture cancels right after it has sent. Everything else, and all that is
// encrypted, passes as it is.
type relay struct {
	host, port string
	named      atomic.Int64 // CANCEL requests that were changed

	server   string
	listener net.Listener
	wg       sync.WaitGroup
	cancel   context.CancelFunc
}

func startRelay(ctx context.Context, server string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start relay: %w", err)
	}
	r := &relay{server: server, listener: l}
	if r.host, r.port, err = net.SplitHostPort(l.Addr().String()); err != nil {
		return nil, err
	}
	ctx, r.cancel = context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { l.Close() })
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.connection(ctx, c) })
		}
	})
	return r, nil
}

// stop drops all connections.
func (r *relay) stop() {
	r.cancel()
	r.wg.Wait()
}

// connection passes one connection on until both sides have ended it.
func (r *relay) connection(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", r.server)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	var l ledger
	var wg sync.WaitGroup
	pass := func(from, to net.Conn, look func(message []byte)) {
		// What is on its way in the other direction still arrives.
		defer to.(*net.TCPConn).CloseWrite()
		for {
			frame, err := readFrame(from)
			if err != nil {
				return
			}
			look(frame[frameHead:])
			if _, err := to.Write(frame); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		pass(client, server, func(m []byte) { r.named.Add(int64(l.request(m))) })
	})
	pass(server, client, l.response)
	wg.Wait()
}

// A message on TCP stands behind a zero and its length in three bytes,
// big-endian (MS-SMB2 2.1).
const frameHead = 4

// readFrame reads a message with what stands before it.
func readFrame(r io.Reader) ([]byte, error) {
	b := make([]byte, frameHead)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b)
	if n >= 1<<24 {
		return nil, errors.New("read frame: it does not begin with 0")
	}
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[frameHead:])
	return b, err
}

// ledger knows the requests of a connection that have no final answer.
type ledger struct {
	mu   sync.Mutex
	open []uint64 // MessageIds, in the order they were sent; without the cancelled
}

// request enters the requests in m, and names in the CANCEL requests among them
// what they cancel. It returns how many those are.
func (l *ledger) request(m []byte) (named int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	headers(m, func(h *smb2.Hdr, b []byte) {
		if h.Command != smb2.SMB2_CANCEL {
			l.open = append(l.open, h.MessageId)
			return
		}
		if h.MessageId != 0 || h.Flags&(smb2.SMB2_FLAGS_ASYNC_COMMAND|smb2.SMB2_FLAGS_SIGNED) != 0 || len(l.open) == 0 {
			return
		}
		last := len(l.open) - 1
		h.MessageId = l.open[last]
		l.open = l.open[:last]
		copy(b, h.Append(nil))
		named++
	})
	return named
}

// response crosses out the requests that m answers for good.
func (l *ledger) response(m []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	headers(m, func(h *smb2.Hdr, _ []byte) {
		if h.Status == smb2.STATUS_PENDING && h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND != 0 {
			return
		}
		l.open = slices.DeleteFunc(l.open, func(id uint64) bool { return id == h.MessageId })
	})
}

// headers calls do with each header of the compound m, and the bytes it was read
// from. What is not SMB2, or encrypted, has none.
func headers(m []byte, do func(h *smb2.Hdr, b []byte)) {
	for {
		var h smb2.Hdr
		if _, err := h.Decode(m); err != nil || h.Check() != nil {
			return
		}
		next := h.NextCommand
		do(&h, m[:smb2.HdrSize])
		if next < smb2.HdrSize || uint64(next) >= uint64(len(m)) {
			return
		}
		m = m[next:]
	}
}
