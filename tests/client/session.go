package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client/ntlm"
)

// Session is a user on a connection. A session with several connections
// (multichannel) has a Session on each.
type Session struct {
	Conn  *Conn
	ID    uint64
	Flags smb2.SessionFlags // of the last SESSION_SETUP response
	Keys  crypt.Keys

	signing        bool // every request is signed
	encryptAll     bool
	established    bool
	signer         crypt.Signer
	sealer, opener *crypt.Sealer
}

// Credentials name a user. An empty User is anonymous.
type Credentials struct {
	User, Password, Domain string
}

// Setup is what a SESSION_SETUP is for.
type Setup struct {
	Credentials

	// Previous is the id of a session that the new one replaces.
	Previous uint64

	// Reauth authenticates this session anew, Bind adds this connection to a
	// session of another one. Both nil: a new session.
	Reauth *Session
	Bind   *Session
}

// Login makes a session for the user of the Options.
func (c *Conn) Login(ctx context.Context) (*Session, error) {
	o := c.Options
	return c.SessionSetup(ctx, Setup{Credentials: Credentials{o.User, o.Password, o.Domain}})
}

// SessionSetup makes a session, authenticates one anew, or binds one to this
// connection (MS-SMB2 3.2.4.2.3, 3.2.5.3).
func (c *Conn) SessionSetup(ctx context.Context, setup Setup) (*Session, error) {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	login := &ntlm.Login{User: setup.User, Password: setup.Password, Domain: setup.Domain, Workstation: "KBUILDRUN", Target: "cifs/" + host}
	token, err := login.First()
	if err != nil {
		return nil, err
	}
	s := &Session{Conn: c}
	req := smb2.NewSessSetupReq()
	switch {
	case setup.Reauth != nil:
		s = setup.Reauth
	case setup.Bind != nil:
		// The request is signed with the key of the first channel until the
		// second has its own.
		req.Flags = smb2.SMB2_SESSION_REQ_FLAG_BINDING
		*s = *setup.Bind
		s.Conn, s.signing, s.encryptAll, s.established = c, true, false, false
	}
	req.SecurityMode = byte(smb2.SMB2_NEGOTIATE_SIGNING_ENABLED)
	if c.Options.Signing == SigningRequired {
		req.SecurityMode |= byte(smb2.SMB2_NEGOTIATE_SIGNING_REQUIRED)
	}
	req.Capabilities = smb2.SMB2_GLOBAL_CAP_DFS
	req.PreviousSessionId = setup.Previous

	preauth := c.preauth
	for {
		req.Buffer = nil
		req.SetSecurityBuffer(token)
		p, err := c.Send(ctx, &Request{Command: smb2.SMB2_SESSION_SETUP, Body: req, Session: s})
		if err != nil {
			return nil, err
		}
		resp, err := p[0].Final(ctx)
		if err != nil {
			return nil, err
		}
		preauth = preauth.Add(p[0].Sent)
		if err := resp.Err(smb2.STATUS_MORE_PROCESSING_REQUIRED); err != nil {
			return nil, err
		}
		var rsp smb2.SessSetupRsp
		if err := resp.Decode(&rsp); err != nil {
			return nil, err
		}
		if resp.Status() == smb2.STATUS_SUCCESS {
			s.Flags = rsp.SessionFlags
			return s, c.established(s, setup, login.SessionKey(), preauth, resp)
		}
		preauth = preauth.Add(resp.Raw)
		s.ID = resp.Hdr.SessionId
		buffer, err := rsp.SecurityBuffer()
		if err != nil {
			return nil, err
		}
		if token, err = login.Next(buffer); err != nil {
			return nil, fmt.Errorf("log in as %q: %w", setup.User, err)
		}
	}
}

// established makes the keys of a session and checks the signature of the
// response that ends its setup (MS-SMB2 3.2.5.3.1 to 3.2.5.3.3).
func (c *Conn) established(s *Session, setup Setup, key []byte, preauth crypt.Preauth, resp *Response) error {
	const nobody = smb2.SMB2_SESSION_FLAG_IS_GUEST | smb2.SMB2_SESSION_FLAG_IS_NULL
	if key == nil || s.Flags&nobody != 0 {
		if setup.User != "" && s.Flags&nobody != 0 {
			return fmt.Errorf("log in as %q: the server took %v", setup.User, s.Flags)
		}
		c.register(s)
		return nil
	}
	if setup.Reauth == nil {
		if err := s.derive(key, preauth, setup.Bind); err != nil {
			return err
		}
	}
	s.signing = c.Options.Signing == SigningRequired || c.SecurityMode&smb2.SMB2_NEGOTIATE_SIGNING_REQUIRED != 0
	if c.Options.Encrypt && s.sealer == nil {
		return errors.New("log in: encryption is wanted and the server has no cipher")
	}
	s.encryptAll = s.sealer != nil && (c.Options.Encrypt || s.Flags&smb2.SMB2_SESSION_FLAG_ENCRYPT_DATA != 0)
	s.established = true
	c.register(s)

	c.mu.Lock()
	defer c.mu.Unlock()
	signed := resp.Hdr.Flags&smb2.SMB2_FLAGS_SIGNED != 0
	switch {
	case resp.Encrypted:
	case signed:
		if err := verify(s, resp); err != nil {
			c.violate("signature", resp.Hdr, "SESSION_SETUP: %v", err)
		}
	case c.Dialect == smb2.SMB311_PROT_ID || s.signing:
		c.violate("unsigned", resp.Hdr, "SESSION_SETUP: the response that ends it is not signed")
	}
	return nil
}

// derive makes the keys. A second channel has a signing key of its own and the
// session's keys for encryption.
func (s *Session) derive(key []byte, preauth crypt.Preauth, bind *Session) (err error) {
	c := s.Conn
	keys := crypt.Derive(c.Dialect, c.Cipher, key, preauth)
	if bind != nil {
		keys.Encryption, keys.Decryption = bind.Keys.Encryption, bind.Keys.Decryption
	}
	s.Keys = keys
	if s.signer, err = crypt.NewSigner(c.SigningAlgorithm, keys.Signing); err != nil {
		return err
	}
	if c.Cipher == 0 || keys.Encryption == nil {
		return nil
	}
	if s.sealer, err = crypt.NewSealer(c.Cipher, keys.Encryption); err != nil {
		return err
	}
	s.opener, err = crypt.NewSealer(c.Cipher, keys.Decryption)
	return err
}

// EncryptWith makes the session encrypt with a key that is not its own, for both
// directions: for tests of what a server takes.
func (s *Session) EncryptWith(cipher smb2.Cipher, key []byte) error {
	sealer, err := crypt.NewSealer(cipher, key)
	if err != nil {
		return err
	}
	s.Conn.mu.Lock()
	defer s.Conn.mu.Unlock()
	s.sealer, s.opener, s.encryptAll = sealer, sealer, true
	return nil
}

func (c *Conn) register(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[s.ID] = s
	if len(s.Keys.Session) > 0 {
		c.keys = append(c.keys, s.Wireshark())
	}
}

// Keys returns what opens the messages of the connection in a capture, a line for
// each session it ever had: see Session.Wireshark.
func (c *Conn) Keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.keys)
}

func (s *Session) encrypting() bool { return s.encryptAll && s.sealer != nil }

// Wireshark returns the line that decrypts the session in Wireshark, for
// -o uat:smb2_seskey_list:
func (s *Session) Wireshark() string {
	var id strings.Builder
	for i := range 8 {
		fmt.Fprintf(&id, "%02x", byte(s.ID>>(8*i)))
	}
	return fmt.Sprintf(`%s,%x,"",""`, &id, s.Keys.Session)
}

// Logoff ends the session.
func (s *Session) Logoff(ctx context.Context) error {
	_, err := s.Conn.Do(ctx, &Request{Command: smb2.SMB2_LOGOFF, Body: smb2.NewLogoffReq(), Session: s})
	return err
}

// Reauthenticate logs the session's user in anew.
func (s *Session) Reauthenticate(ctx context.Context, who Credentials) error {
	_, err := s.Conn.SessionSetup(ctx, Setup{Credentials: who, Reauth: s})
	return err
}

// Tree is a share that a session is connected to.
type Tree struct {
	Session       *Session
	ID            uint32
	Path          string // \\host\share
	ShareType     smb2.ShareType
	ShareFlags    smb2.ShareFlags
	Capabilities  smb2.ShareCap
	MaximalAccess smb2.AccessMask

	encrypt bool
}

// TreeConnect connects the session to a share.
func (s *Session) TreeConnect(ctx context.Context, share string) (*Tree, error) {
	host, _, err := net.SplitHostPort(s.Conn.addr)
	if err != nil {
		return nil, err
	}
	t := &Tree{Session: s, Path: `\\` + host + `\` + share}
	req := smb2.NewTreeConnectReq()
	req.SetPathName(smb2.UTF16(t.Path))
	resp, err := s.Conn.Do(ctx, &Request{Command: smb2.SMB2_TREE_CONNECT, Body: req, Session: s})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Path, err)
	}
	var rsp smb2.TreeConnectRsp
	if err := resp.Decode(&rsp); err != nil {
		return nil, err
	}
	t.ID = resp.Hdr.TreeId
	t.ShareType, t.ShareFlags, t.Capabilities, t.MaximalAccess = rsp.ShareType, rsp.ShareFlags, rsp.Capabilities, rsp.MaximalAccess
	t.encrypt = rsp.ShareFlags&smb2.SHI1005_FLAGS_ENCRYPT_DATA != 0
	return t, nil
}

// On returns the same tree for requests on another channel of the session.
func (t *Tree) On(s *Session) *Tree {
	other := *t
	other.Session = s
	return &other
}

// Disconnect ends the tree connect.
func (t *Tree) Disconnect(ctx context.Context) error {
	_, err := t.Session.Conn.Do(ctx, &Request{Command: smb2.SMB2_TREE_DISCONNECT, Body: smb2.NewTreeDisconnectReq(), Tree: t})
	return err
}
