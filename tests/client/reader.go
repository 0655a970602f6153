package client

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

// read gives each message of the server to the request it answers, until the
// connection ends.
func (c *Conn) read() {
	defer close(c.done)
	for {
		b, err := readFrame(c.tcp)
		if err == nil {
			err = c.frame(b)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			err = errors.New("the server closed the connection")
		case errors.Is(err, net.ErrClosed):
			err = ErrDropped
		}
		c.fail(err)
		return
	}
}

// frame takes one frame apart: what is encrypted, then the compound.
func (c *Conn) frame(b []byte) error {
	encrypted := false
	var t smb2.TransformHdr
	if rest, err := t.Decode(b); err == nil && t.ProtocolId == smb2.SMB2_TRANSFORM_PROTO_NUM {
		c.mu.Lock()
		s := c.sessions[t.SessionId]
		c.mu.Unlock()
		if s == nil || s.opener == nil {
			return fmt.Errorf("decrypt message of session %#x: no such session encrypts", t.SessionId)
		}
		if b, err = s.open(t, rest); err != nil {
			return fmt.Errorf("decrypt message of session %#x: %w", t.SessionId, err)
		}
		encrypted = true
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	for first := true; len(b) > 0; first = false {
		var h smb2.Hdr
		if _, err := h.Decode(b); err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		if err := h.Check(); err != nil {
			c.violate("header", h, "%v", err)
		}
		if h.ProtocolId != smb2.SMB2_PROTO_NUMBER {
			return fmt.Errorf("read message: protocol id %#x, want %#x", h.ProtocolId, smb2.SMB2_PROTO_NUMBER)
		}
		raw := b
		if h.NextCommand != 0 {
			if h.NextCommand < smb2.HdrSize || int(h.NextCommand) > len(b)-smb2.HdrSize {
				return fmt.Errorf("read compound: NextCommand %d, %d bytes are left", h.NextCommand, len(b))
			}
			raw = b[:h.NextCommand]
		}
		b = b[len(raw):]
		c.received++
		r := &Response{Hdr: h, Raw: raw, Body: raw[smb2.HdrSize:], Time: now(), Encrypted: encrypted, Seq: c.received, Frame: c.frames}
		c.recordLocked(In, h, raw, encrypted, "")
		c.grant(h.CreditRequest)
		c.deliver(r, first)
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// unsolicited is the MessageId of what the server sends of its own accord.
const unsolicited = ^uint64(0)

// deliver gives a response to its request. c.mu is held.
func (c *Conn) deliver(r *Response, first bool) {
	h := r.Hdr
	if h.Flags&smb2.SMB2_FLAGS_SERVER_TO_REDIR == 0 {
		c.violate("response-flag", h, "SMB2_FLAGS_SERVER_TO_REDIR is not set")
	}
	if h.MessageId == unsolicited {
		if h.Command != smb2.SMB2_OPLOCK_BREAK {
			c.violate("unsolicited", h, "%v without a request", h.Command)
		}
		select {
		case c.breaks <- r:
		default:
			c.violate("breaks", h, "%d breaks wait to be read", cap(c.breaks))
		}
		return
	}
	p := c.pending[h.MessageId]
	if p == nil {
		if h.MessageId < c.window.next {
			c.violate("second-response", h, "%v %v: the request was answered, or never sent", h.Command, h.Status)
		} else {
			c.violate("message-id", h, "%v %v: the id is beyond what was granted", h.Command, h.Status)
		}
		return
	}
	c.check(p, r, first)

	if h.Status == smb2.STATUS_PENDING && h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND != 0 {
		if p.interim != nil {
			c.violate("second-interim", h, "%v: AsyncId %d after %d", h.Command, h.AsyncId(), p.interim.Hdr.AsyncId())
			return
		}
		p.interim = r
		c.async[h.AsyncId()] = p
		close(p.interimed)
		return
	}
	if h.Command == smb2.SMB2_CHANGE_NOTIFY && h.Status == smb2.STATUS_SUCCESS {
		r.Changes = changes(r)
	}
	delete(c.pending, h.MessageId)
	if p.interim != nil {
		delete(c.async, p.interim.Hdr.AsyncId())
	}
	if len(c.pending) == 0 && c.window.credits == 0 {
		c.violate("credits", h, "%v leaves the client without a credit and without a request that could bring one (MS-SMB2 3.3.1.2)", h.Command)
	}
	p.final = r
	close(p.finished)
}

// verify checks the signature of a response with the keys of a session.
func verify(s *Session, r *Response) error {
	h := r.Hdr
	if err := s.sign(&h, r.Body, true); err != nil {
		return err
	}
	if h.Signature != r.Hdr.Signature {
		return fmt.Errorf("signature %x, want %x", r.Hdr.Signature, h.Signature)
	}
	return nil
}

// sign fills the signature of a message (MS-SMB2 3.1.4.1).
func (s *Session) sign(h *smb2.Hdr, body []byte, server bool) error {
	h.Signature = [16]byte{}
	sum, err := s.signer(append(h.Append(nil), body...), crypt.Nonce{
		MessageID: h.MessageId,
		Server:    server,
		Cancel:    h.Command == smb2.SMB2_CANCEL,
	})
	h.Signature = sum
	return err
}

// additional is the part of the transform header that is authenticated: what
// stands behind its signature (MS-SMB2 3.1.4.3).
func additional(t smb2.TransformHdr) []byte {
	return t.Append(nil)[binary.Size(t.ProtocolId)+len(t.Signature):]
}

// seal puts a message, or a chain of them, behind a transform header.
func (s *Session) seal(message []byte) []byte {
	t := smb2.NewTransformHdr()
	rand.Read(t.Nonce[:s.sealer.NonceSize()])
	t.OriginalMessageSize = uint32(len(message))
	t.SessionId = s.ID
	sealed, tag := s.sealer.Seal(t.Nonce, message, additional(*t))
	t.Signature = tag
	return append(t.Append(nil), sealed...)
}

func (s *Session) open(t smb2.TransformHdr, sealed []byte) ([]byte, error) {
	if int(t.OriginalMessageSize) != len(sealed) {
		return nil, fmt.Errorf("OriginalMessageSize %d, %d bytes are there", t.OriginalMessageSize, len(sealed))
	}
	return s.opener.Open(t.Nonce, sealed, t.Signature, additional(t))
}
