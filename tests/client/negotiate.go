package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"slices"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

// Negotiate sends NEGOTIATE and takes over what the server picks (MS-SMB2
// 3.2.4.2.2.2, 3.2.5.2).
func (c *Conn) Negotiate(ctx context.Context) error {
	req, err := c.negotiateRequest()
	if err != nil {
		return err
	}
	p, err := c.Send(ctx, &Request{Command: smb2.SMB2_NEGOTIATE, Body: req})
	if err != nil {
		return err
	}
	resp, err := p[0].Final(ctx)
	if err != nil {
		return err
	}
	if err := resp.Err(); err != nil {
		return err
	}
	var n smb2.NegotiateRsp
	if err := resp.Decode(&n); err != nil {
		return err
	}
	if !slices.Contains(c.Options.Dialects, n.DialectRevision) {
		return fmt.Errorf("negotiate: the server picks %v, offered were %v", n.DialectRevision, c.Options.Dialects)
	}
	c.Negotiated = Negotiated{
		Dialect:         n.DialectRevision,
		SecurityMode:    n.SecurityMode,
		Capabilities:    n.Capabilities,
		ServerGUID:      n.ServerGUID,
		MaxTransactSize: n.MaxTransactSize,
		MaxReadSize:     n.MaxReadSize,
		MaxWriteSize:    n.MaxWriteSize,
		SystemTime:      n.SystemTime,
	}
	switch {
	case n.DialectRevision < smb2.SMB30_PROT_ID:
		c.SigningAlgorithm = smb2.SIGNING_ALG_HMAC_SHA256
	case n.DialectRevision < smb2.SMB311_PROT_ID:
		c.SigningAlgorithm = smb2.SIGNING_ALG_AES_CMAC
		if n.Capabilities&smb2.SMB2_GLOBAL_CAP_ENCRYPTION != 0 {
			c.Cipher = smb2.SMB2_ENCRYPTION_AES128_CCM
		}
	default:
		c.SigningAlgorithm = smb2.SIGNING_ALG_AES_CMAC
		if err := c.negotiateContexts(&n); err != nil {
			return err
		}
		var h crypt.Preauth
		c.preauth = h.Add(p[0].Sent).Add(resp.Raw)
	}
	return nil
}

func (c *Conn) negotiateRequest() (*smb2.NegotiateReq, error) {
	o := c.Options
	req := smb2.NewNegotiateReq()
	req.Dialects = o.Dialects
	req.DialectCount = uint16(len(o.Dialects))
	req.SecurityMode = smb2.SMB2_NEGOTIATE_SIGNING_ENABLED
	if o.Signing == SigningRequired {
		req.SecurityMode |= smb2.SMB2_NEGOTIATE_SIGNING_REQUIRED
	}
	best := slices.Max(append([]smb2.Dialect{smb2.SMB20_PROT_ID}, o.Dialects...))
	if best > smb2.SMB20_PROT_ID {
		req.ClientGUID = o.ClientGUID
	}
	req.Capabilities = c.capabilities(best)
	if best < smb2.SMB311_PROT_ID {
		return req, nil
	}

	preauth := smb2.NewPreauthNegContext()
	preauth.HashAlgorithms = smb2.SMB2_PREAUTH_INTEGRITY_SHA512
	rand.Read(preauth.Salt[:])
	contexts := []smb2.Message{preauth}
	if len(o.Ciphers) > 0 {
		e := smb2.NewEncryptionNegContext()
		e.Ciphers = o.Ciphers
		e.CipherCount = uint16(len(o.Ciphers))
		e.DataLength = dataLength(e)
		contexts = append(contexts, e)
	}
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	name := smb2.UTF16(host)
	contexts = append(contexts, &smb2.NegContext{
		ContextType: smb2.SMB2_NETNAME_NEGOTIATE_CONTEXT_ID,
		DataLength:  uint16(len(name)),
		Data:        name,
	})
	if len(o.SigningAlgorithms) > 0 {
		s := smb2.NewSigningCapabilities()
		s.SigningAlgorithms = o.SigningAlgorithms
		s.SigningAlgorithmCount = uint16(len(o.SigningAlgorithms))
		s.DataLength = dataLength(s)
		contexts = append(contexts, s)
	}
	req.NegotiateContextCount = uint16(len(contexts))
	req.SetNegotiateContexts(smb2.AppendNegContexts(nil, contexts...))
	return req, nil
}

// capabilities are what a client of the best dialect it offers says it can do.
func (c *Conn) capabilities(best smb2.Dialect) smb2.GlobalCap {
	switch {
	case c.Options.Capabilities != nil:
		return *c.Options.Capabilities
	case best < smb2.SMB30_PROT_ID:
		return 0 // a field of SMB 3 (MS-SMB2 2.2.3)
	}
	return smb2.SMB2_GLOBAL_CAP_DFS | smb2.SMB2_GLOBAL_CAP_LEASING | smb2.SMB2_GLOBAL_CAP_LARGE_MTU |
		smb2.SMB2_GLOBAL_CAP_MULTI_CHANNEL | smb2.SMB2_GLOBAL_CAP_PERSISTENT_HANDLES |
		smb2.SMB2_GLOBAL_CAP_DIRECTORY_LEASING | smb2.SMB2_GLOBAL_CAP_ENCRYPTION
}

// dataLength is the DataLength of a context: what stands behind its head.
func dataLength(context smb2.Message) uint16 {
	return uint16(len(context.Append(nil)) - smb2.NegContextSize)
}

// negotiateContexts takes over the contexts of a 3.1.1 response.
func (c *Conn) negotiateContexts(n *smb2.NegotiateRsp) error {
	data, err := n.NegotiateContexts()
	if err != nil {
		return err
	}
	contexts, err := smb2.NegContexts(data, int(n.NegotiateContextCount))
	if err != nil {
		return err
	}
	hashed := false
	for _, ctx := range contexts {
		whole := ctx.Append(nil)
		switch ctx.ContextType {
		case smb2.SMB2_PREAUTH_INTEGRITY_CAPABILITIES:
			hashed = true
		case smb2.SMB2_ENCRYPTION_CAPABILITIES:
			var e smb2.EncryptionNegContext
			if _, err := e.Decode(whole); err != nil {
				return err
			}
			if len(e.Ciphers) != 1 {
				return fmt.Errorf("negotiate: %d ciphers in the response, want 1", len(e.Ciphers))
			}
			if e.Ciphers[0] != 0 && !slices.Contains(c.Options.Ciphers, e.Ciphers[0]) {
				return fmt.Errorf("negotiate: the server picks %v, offered were %v", e.Ciphers[0], c.Options.Ciphers)
			}
			c.Cipher = e.Ciphers[0]
		case smb2.SMB2_SIGNING_CAPABILITIES:
			var s smb2.SigningCapabilities
			if _, err := s.Decode(whole); err != nil {
				return err
			}
			if len(s.SigningAlgorithms) != 1 {
				return fmt.Errorf("negotiate: %d signing algorithms in the response, want 1", len(s.SigningAlgorithms))
			}
			if !slices.Contains(c.Options.SigningAlgorithms, s.SigningAlgorithms[0]) {
				return fmt.Errorf("negotiate: the server picks %v, offered were %v", s.SigningAlgorithms[0], c.Options.SigningAlgorithms)
			}
			c.SigningAlgorithm = s.SigningAlgorithms[0]
		}
	}
	if !hashed {
		return fmt.Errorf("negotiate: %v without a preauthentication hash", n.DialectRevision)
	}
	return nil
}
