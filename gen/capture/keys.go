package capture

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

// Keys opens the encrypted frames and checks the signatures of sessions whose session
// keys it has. It has to see every frame, in order: the keys in use depend on the
// negotiation and the login ([MS-SMB2] 3.2.5.3.1).
type Keys struct {
	session map[uint64][][]byte // by session id, which a server can give out again
	conns   map[int]*keyConn
}

// keyConn is what a connection has agreed on.
type keyConn struct {
	dialect  smb2.Dialect
	cipher   smb2.Cipher
	signing  smb2.SigningAlgorithm
	preauth  crypt.Preauth
	login    map[uint64]crypt.Preauth // by session id
	asked    map[uint64]crypt.Preauth // with the SESSION_SETUP request, by message id
	sessions map[uint64]*keySession
}

// keySession is a session that is set up.
type keySession struct {
	sign                   crypt.Signer
	fromClient, fromServer *crypt.Sealer // nil without encryption
}

// ReadKeys reads session keys, a line each, in the form Wireshark has them in its
// smb2_seskey_list: the eight bytes of the session id as they are on the wire, a
// comma, the session key; both in hexadecimal, and what follows is left out. Of several
// keys of one id the one counts that signed the end of the login.
func ReadKeys(r io.Reader) (*Keys, error) {
	k := &Keys{session: map[uint64][][]byte{}, conns: map[int]*keyConn{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		cells := strings.Split(strings.TrimSpace(line), ",")
		if cells[0] == "" {
			continue
		}
		id, err := hex.DecodeString(strings.TrimSpace(cells[0]))
		if err != nil || len(id) != 8 || len(cells) < 2 {
			return nil, fmt.Errorf("line %d: %q, want SESSIONID,KEY with 16 and 32 digits", n, lines.Text())
		}
		key, err := hex.DecodeString(strings.TrimSpace(cells[1]))
		if err != nil || len(key) < 16 {
			return nil, fmt.Errorf("line %d: session key %q, want 32 digits", n, cells[1])
		}
		var number uint64
		for i, b := range id {
			number |= uint64(b) << (8 * i)
		}
		k.session[number] = append(k.session[number], key)
	}
	return k, lines.Err()
}

func (k *Keys) conn(n int) *keyConn {
	if k.conns[n] == nil {
		k.conns[n] = &keyConn{cipher: smb2.SMB2_ENCRYPTION_AES128_CCM, signing: smb2.SIGNING_ALG_AES_CMAC,
			login: map[uint64]crypt.Preauth{}, asked: map[uint64]crypt.Preauth{}, sessions: map[uint64]*keySession{}}
	}
	return k.conns[n]
}

// See takes note of a plain frame: of NEGOTIATE and SESSION_SETUP.
func (k *Keys) See(f *Frame) error {
	var h smb2.Hdr
	body, err := h.Decode(f.Data)
	if f.Kind != SMB2 || err != nil {
		return nil
	}
	c := k.conn(f.Conn)
	response := h.Flags&smb2.SMB2_FLAGS_SERVER_TO_REDIR != 0
	switch {
	case h.Command == smb2.SMB2_NEGOTIATE:
		c.preauth = c.preauth.Add(f.Data)
		if response && h.Status == smb2.STATUS_SUCCESS {
			return c.negotiated(body)
		}
	case h.Command != smb2.SMB2_SESSION_SETUP:
	case !response:
		p, ok := c.login[h.SessionId]
		if !ok {
			p = c.preauth
		}
		c.asked[h.MessageId] = p.Add(f.Data)
	case h.Status == smb2.STATUS_MORE_PROCESSING_REQUIRED:
		c.login[h.SessionId] = c.asked[h.MessageId].Add(f.Data)
	case h.Status == smb2.STATUS_SUCCESS && c.sessions[h.SessionId] == nil:
		delete(c.login, h.SessionId)
		for _, key := range k.session[h.SessionId] {
			s, err := c.loggedIn(key, c.asked[h.MessageId])
			if err != nil {
				return err
			}
			if c.sessions[h.SessionId] == nil || s.verify(f.Data) == nil {
				c.sessions[h.SessionId] = s
			}
		}
	}
	return nil
}

func (c *keyConn) negotiated(body []byte) error {
	var m smb2.NegotiateRsp
	if _, err := m.Decode(body); err != nil {
		return err
	}
	if c.dialect = m.DialectRevision; c.dialect < smb2.SMB30_PROT_ID {
		c.signing = smb2.SIGNING_ALG_HMAC_SHA256
	}
	if c.dialect != smb2.SMB311_PROT_ID {
		return nil
	}
	b, err := m.NegotiateContexts()
	if err != nil {
		return err
	}
	contexts, err := smb2.NegContexts(b, int(m.NegotiateContextCount))
	for _, x := range contexts {
		switch raw := x.Append(nil); x.ContextType {
		case smb2.SMB2_ENCRYPTION_CAPABILITIES:
			var e smb2.EncryptionNegContext
			if _, err := e.Decode(raw); err == nil && len(e.Ciphers) > 0 {
				c.cipher = e.Ciphers[0]
			}
		case smb2.SMB2_SIGNING_CAPABILITIES:
			var s smb2.SigningCapabilities
			if _, err := s.Decode(raw); err == nil && len(s.SigningAlgorithms) > 0 {
				c.signing = s.SigningAlgorithms[0]
			}
		}
	}
	return err
}

// loggedIn returns the session that a login with a key makes.
func (c *keyConn) loggedIn(key []byte, p crypt.Preauth) (*keySession, error) {
	keys := crypt.Derive(c.dialect, c.cipher, key, p)
	s := &keySession{}
	var err error
	if s.sign, err = crypt.NewSigner(c.signing, keys.Signing); err != nil {
		return nil, err
	}
	if c.dialect >= smb2.SMB30_PROT_ID {
		if s.fromClient, err = crypt.NewSealer(c.cipher, keys.Encryption); err != nil {
			return nil, err
		}
		if s.fromServer, err = crypt.NewSealer(c.cipher, keys.Decryption); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Open returns what is in an encrypted frame.
func (k *Keys) Open(f *Frame) ([]byte, error) {
	var t smb2.TransformHdr
	sealed, err := t.Decode(f.Data)
	if err != nil {
		return nil, err
	}
	s := k.conn(f.Conn).sessions[t.SessionId]
	if s == nil || s.fromClient == nil {
		return nil, fmt.Errorf("no key of session %#x, or its login is not in the capture", t.SessionId)
	}
	sealer := s.fromServer
	if f.FromClient {
		sealer = s.fromClient
	}
	// The signature covers the header from the nonce on.
	return sealer.Open(t.Nonce, sealed, t.Signature, f.Data[4+len(t.Signature):smb2.TransformHdrSize])
}

// Verify returns an error for a message with a wrong signature, and whether there was
// a key to check it with.
func (k *Keys) Verify(m *Message) (checked bool, err error) {
	s := k.conn(m.Frame.Conn).sessions[m.Header.Number("SessionId")]
	if s == nil {
		return false, nil
	}
	return true, s.verify(m.Raw)
}

// verify returns an error for a message with another signature than the session's.
func (s *keySession) verify(raw []byte) error {
	var h smb2.Hdr
	rest, err := h.Decode(raw)
	if err != nil {
		return err
	}
	signature := h.Signature
	h.Signature = [16]byte{}
	got, err := s.sign(append(h.Append(nil), rest...), crypt.Nonce{MessageID: h.MessageId,
		Server: h.Flags&smb2.SMB2_FLAGS_SERVER_TO_REDIR != 0, Cancel: h.Command == smb2.SMB2_CANCEL})
	if err == nil && got != signature {
		err = fmt.Errorf("signature %x, want %x", signature, got)
	}
	return err
}
