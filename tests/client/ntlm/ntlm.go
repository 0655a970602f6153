// Package ntlm logs a user in: name and password go in, SPNEGO tokens for
// SESSION_SETUP and the session key come out.
//
// It speaks NTLMv2 as a current Windows client does (MS-NLMP): 128 bit keys,
// key exchange, a MIC over the three messages, and the mechListMIC of SPNEGO
// (RFC 4178, MS-SPNG). NTLMv1 and LM are left out.
package ntlm

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/md4"
)

// Negotiate flags (MS-NLMP 2.2.2.5).
const (
	negotiateUnicode         = 1 << 0
	requestTarget            = 1 << 2
	negotiateSign            = 1 << 4
	negotiateNTLM            = 1 << 9
	negotiateAnonymous       = 1 << 11
	negotiateAlwaysSign      = 1 << 15
	negotiateExtendedSession = 1 << 19
	negotiateTargetInfo      = 1 << 23
	negotiateVersion         = 1 << 25
	negotiate128             = 1 << 29
	negotiateKeyExchange     = 1 << 30
	negotiate56              = 1 << 31
)

const clientFlags = negotiateUnicode | requestTarget | negotiateSign | negotiateNTLM | negotiateAlwaysSign |
	negotiateExtendedSession | negotiateTargetInfo | negotiateVersion | negotiate128 | negotiateKeyExchange | negotiate56

// Attribute ids of the target information (MS-NLMP 2.2.2.1).
const (
	avEOL             = 0
	avFlags           = 6
	avTimestamp       = 7
	avTargetName      = 9
	avChannelBindings = 10
)

const avFlagMIC = 2 // MsvAvFlags: a MIC is provided

const (
	messageNegotiate    = 1
	messageChallenge    = 2
	messageAuthenticate = 3
)

var signature = [8]byte{'N', 'T', 'L', 'M', 'S', 'S', 'P'}

// version is what Windows 10 and Server 2016 send: 10.0, build 14393, NTLM
// revision 15 (MS-NLMP 2.2.2.10).
var version = [8]byte{10, 0, 0x39, 0x38, 0, 0, 0, 15}

// payload points from a message's head to one of its variable parts.
type payload struct {
	Len, MaxLen uint16
	Offset      uint32
}

type negotiateMessage struct { // MS-NLMP 2.2.1.1
	Signature           [8]byte
	MessageType         uint32
	NegotiateFlags      uint32
	Domain, Workstation payload
	Version             [8]byte
}

type challengeMessage struct { // MS-NLMP 2.2.1.2
	Signature       [8]byte
	MessageType     uint32
	TargetName      payload
	NegotiateFlags  uint32
	ServerChallenge [8]byte
	Reserved        [8]byte
	TargetInfo      payload
}

type authenticateMessage struct { // MS-NLMP 2.2.1.3
	Signature                                      [8]byte
	MessageType                                    uint32
	LmResponse, NtResponse                         payload
	Domain, User, Workstation, EncryptedSessionKey payload
	NegotiateFlags                                 uint32
	Version                                        [8]byte
	MIC                                            [16]byte
}

// Login is one login. An empty User is an anonymous login.
type Login struct {
	User, Password, Domain, Workstation string

	// Target is the service principal, "cifs/host"; it may be empty.
	Target string

	negotiate []byte // messages so far, for the MIC
	key       []byte // ExportedSessionKey
	sign      []byte // client's signing key
	seal      *rc4.Cipher
	sequence  uint32

	// for tests with known answers
	now    func() time.Time
	random func([]byte)
}

// SessionKey returns the key both sides hold after the login, 16 bytes; nil
// for an anonymous login or before Authenticate.
func (l *Login) SessionKey() []byte { return l.key }

// Negotiate returns the first message.
func (l *Login) Negotiate() []byte {
	l.negotiate = appendBinary(nil, negotiateMessage{
		Signature:      signature,
		MessageType:    messageNegotiate,
		NegotiateFlags: clientFlags,
		Version:        version,
	})
	return l.negotiate
}

// Authenticate answers the server's challenge (MS-NLMP 3.1.5.1.2).
func (l *Login) Authenticate(challenge []byte) ([]byte, error) {
	var c challengeMessage
	if err := binary.Read(bytes.NewReader(challenge), binary.LittleEndian, &c); err != nil {
		return nil, fmt.Errorf("read ntlm challenge: %d bytes are too few", len(challenge))
	}
	if c.Signature != signature || c.MessageType != messageChallenge {
		return nil, fmt.Errorf("read ntlm challenge: signature %q type %d, want %q type %d", c.Signature, c.MessageType, signature, messageChallenge)
	}
	if c.NegotiateFlags&negotiateExtendedSession == 0 || c.NegotiateFlags&negotiateUnicode == 0 {
		return nil, fmt.Errorf("read ntlm challenge: flags %#x lack extended session security or unicode", c.NegotiateFlags)
	}
	info, err := cut(challenge, c.TargetInfo)
	if err != nil {
		return nil, fmt.Errorf("read ntlm target info: %w", err)
	}

	auth := authenticateMessage{
		Signature:      signature,
		MessageType:    messageAuthenticate,
		NegotiateFlags: clientFlags & c.NegotiateFlags,
		Version:        version,
	}
	var lm, nt, encrypted []byte
	if l.User == "" {
		auth.NegotiateFlags |= negotiateAnonymous
		auth.NegotiateFlags &^= negotiateKeyExchange
		lm = []byte{0}
	} else {
		lm, nt, encrypted, err = l.respond(c, info)
		if err != nil {
			return nil, err
		}
	}

	at := binary.Size(auth)
	var data []byte
	put := func(b []byte) payload {
		p := payload{uint16(len(b)), uint16(len(b)), uint32(at + len(data))}
		data = append(data, b...)
		return p
	}
	auth.Domain = put(utf16le(l.Domain))
	auth.User = put(utf16le(l.User))
	auth.Workstation = put(utf16le(l.Workstation))
	auth.LmResponse = put(lm)
	auth.NtResponse = put(nt)
	auth.EncryptedSessionKey = put(encrypted)
	if l.key != nil {
		auth.MIC = [16]byte(hmacMD5(l.key, l.negotiate, challenge, appendBinary(nil, auth), data))
		l.deriveSigning()
	}
	return append(appendBinary(nil, auth), data...), nil
}

// respond computes the NTLMv2 responses and the session key (MS-NLMP 3.3.2, 3.4.5.1).
func (l *Login) respond(c challengeMessage, info []byte) (lm, nt, encrypted []byte, err error) {
	var nonce [8]byte
	l.rand(nonce[:])
	info, stamp, err := l.targetInfo(info)
	if err != nil {
		return nil, nil, nil, err
	}
	if stamp == nil {
		stamp = binary.LittleEndian.AppendUint64(nil, filetime(l.time()))
		lm = append(hmacMD5(l.responseKey(), c.ServerChallenge[:], nonce[:]), nonce[:]...)
	} else {
		lm = make([]byte, 24) // the time stamp makes LMv2 needless
	}
	temp := append([]byte{1, 1, 0, 0, 0, 0, 0, 0}, stamp...)
	temp = append(temp, nonce[:]...)
	temp = append(temp, 0, 0, 0, 0)
	temp = append(temp, info...)
	temp = append(temp, 0, 0, 0, 0)
	proof := hmacMD5(l.responseKey(), c.ServerChallenge[:], temp)
	nt = append(proof, temp...)
	base := hmacMD5(l.responseKey(), proof)
	if c.NegotiateFlags&negotiateKeyExchange == 0 {
		l.key = base
		return lm, nt, nil, nil
	}
	l.key = make([]byte, 16)
	l.rand(l.key)
	r, err := rc4.NewCipher(base)
	if err != nil {
		return nil, nil, nil, err
	}
	encrypted = make([]byte, 16)
	r.XORKeyStream(encrypted, l.key)
	return lm, nt, encrypted, nil
}

// targetInfo adds the client's attributes to the server's and returns the
// server's time stamp, if it sent one.
func (l *Login) targetInfo(info []byte) (out, stamp []byte, err error) {
	pair := func(id uint16, value []byte) {
		out = binary.LittleEndian.AppendUint16(out, id)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(value)))
		out = append(out, value...)
	}
	var flags uint32
	for len(info) > 0 {
		if len(info) < 4 {
			return nil, nil, errors.New("read ntlm target info: half an attribute")
		}
		id, n := binary.LittleEndian.Uint16(info), int(binary.LittleEndian.Uint16(info[2:]))
		if id == avEOL {
			break
		}
		if len(info) < 4+n {
			return nil, nil, fmt.Errorf("read ntlm target info: attribute %d of %d bytes, %d left", id, n, len(info)-4)
		}
		value := info[4 : 4+n]
		info = info[4+n:]
		switch id {
		case avFlags:
			if n == 4 {
				flags = binary.LittleEndian.Uint32(value)
			}
			continue
		case avTimestamp:
			stamp = bytes.Clone(value)
		}
		pair(id, value)
	}
	if stamp != nil {
		pair(avFlags, binary.LittleEndian.AppendUint32(nil, flags|avFlagMIC))
		pair(avChannelBindings, make([]byte, 16))
		pair(avTargetName, utf16le(l.Target))
	}
	pair(avEOL, nil)
	return out, stamp, nil
}

// responseKey is NTOWFv2 (MS-NLMP 3.3.2).
func (l *Login) responseKey() []byte {
	h := md4.New()
	h.Write(utf16le(l.Password))
	return hmacMD5(h.Sum(nil), utf16le(strings.ToUpper(l.User)+l.Domain))
}

// deriveSigning makes the client's signing and sealing keys (MS-NLMP 3.4.5.2, 3.4.5.3).
func (l *Login) deriveSigning() {
	sign := md5.Sum(append(bytes.Clone(l.key), "session key to client-to-server signing key magic constant\x00"...))
	seal := md5.Sum(append(bytes.Clone(l.key), "session key to client-to-server sealing key magic constant\x00"...))
	l.sign = sign[:]
	l.seal, _ = rc4.NewCipher(seal[:]) // 16 bytes are always accepted
	l.sequence = 0
}

// mic returns the message signature over data with extended session security
// and key exchange (MS-NLMP 3.4.4.2).
func (l *Login) mic(data []byte) []byte {
	sequence := binary.LittleEndian.AppendUint32(nil, l.sequence)
	l.sequence++
	sum := hmacMD5(l.sign, sequence, data)[:8]
	l.seal.XORKeyStream(sum, sum)
	return append(append([]byte{1, 0, 0, 0}, sum...), sequence...)
}

func (l *Login) time() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}

func (l *Login) rand(b []byte) {
	if l.random != nil {
		l.random(b)
		return
	}
	rand.Read(b)
}

// filetime counts 100 ns since 1601 (MS-DTYP 2.3.3).
func filetime(t time.Time) uint64 {
	const unixEpoch = 11644473600 // seconds from 1601 to 1970
	return uint64(t.Unix()+unixEpoch)*1e7 + uint64(t.Nanosecond()/100)
}

func cut(b []byte, p payload) ([]byte, error) {
	if int64(p.Offset)+int64(p.Len) > int64(len(b)) {
		return nil, fmt.Errorf("%d bytes at %d lie outside of %d", p.Len, p.Offset, len(b))
	}
	return b[p.Offset:][:p.Len], nil
}

func hmacMD5(key []byte, data ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(nil)
}

// appendBinary appends v, a struct of fixed size, in wire order.
func appendBinary(b []byte, v any) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err) // only for types without a fixed size
	}
	return b
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
