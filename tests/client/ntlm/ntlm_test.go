package ntlm

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// example is the login of MS-NLMP 4.2.1 and 4.2.4: client challenge of 0xaa,
// session key of 0x55, time 0.
func example() *Login {
	draws := 0
	return &Login{
		User: "User", Password: "Password", Domain: "Domain", Workstation: "COMPUTER",
		now: func() time.Time { return time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC) },
		random: func(b []byte) {
			v := []byte{0xaa, 0x55}[draws]
			draws++
			for i := range b {
				b[i] = v
			}
		},
	}
}

// challenge is a CHALLENGE_MESSAGE with the target information of MS-NLMP 4.2.4.
func challenge(flags uint32, info []byte) []byte {
	c := challengeMessage{
		Signature:      signature,
		MessageType:    messageChallenge,
		NegotiateFlags: flags,
	}
	copy(c.ServerChallenge[:], unhex("0123456789abcdef"))
	c.TargetInfo = payload{uint16(len(info)), uint16(len(info)), uint32(binary.Size(c))}
	return append(appendBinary(nil, c), info...)
}

var exampleInfo = unhex("02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000")

func TestVectors(t *testing.T) {
	l := example()
	if got, want := l.responseKey(), unhex("0c868a403bfd7a93a3001ef22ef02e3f"); !bytes.Equal(got, want) {
		t.Errorf("NTOWFv2 %x, want %x (MS-NLMP 4.2.4.1.1)", got, want)
	}
	l.Negotiate()
	msg, err := l.Authenticate(challenge(clientFlags, exampleInfo))
	if err != nil {
		t.Fatal(err)
	}
	var a authenticateMessage
	if err := binary.Read(bytes.NewReader(msg), binary.LittleEndian, &a); err != nil {
		t.Fatal(err)
	}
	part := func(p payload) []byte {
		b, err := cut(msg, p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"LMv2 response (4.2.4.2.1)", part(a.LmResponse), "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa"},
		{"NTProofStr (4.2.4.2.2)", part(a.NtResponse)[:16], "68cd0ab851e51c96aabc927bebef6a1c"},
		{"encrypted session key (4.2.4.2.3)", part(a.EncryptedSessionKey), "c5dad2544fc9799094ce1ce90bc9d03e"},
		{"session key", l.SessionKey(), "55555555555555555555555555555555"},
		{"signing key (4.2.4.4)", l.sign, "4788dc861b4782f35d43fd98fe1a2d39"},
		{"user", part(a.User), "5500730065007200"},
	} {
		if !bytes.Equal(c.got, unhex(c.want)) {
			t.Errorf("%s %x, want %s", c.name, c.got, c.want)
		}
	}
	// The example seals "Plaintext" first, so the stream is 18 bytes on.
	sealed := utf16le("Plaintext")
	plain := bytes.Clone(sealed)
	l.seal.XORKeyStream(sealed, sealed)
	if got, want := sealed, unhex("54e50165bf1936dc996020c1811b0f06fb5f"); !bytes.Equal(got, want) {
		t.Errorf("sealed %x, want %x (4.2.4.4)", got, want)
	}
	if got, want := l.mic(plain), unhex("010000007fb38ec5c55d497600000000"); !bytes.Equal(got, want) {
		t.Errorf("signature %x, want %x (4.2.4.4)", got, want)
	}
}

func TestNoKeyExchange(t *testing.T) {
	l := example()
	l.Negotiate()
	if _, err := l.Authenticate(challenge(clientFlags&^negotiateKeyExchange, exampleInfo)); err != nil {
		t.Fatal(err)
	}
	if got, want := l.SessionKey(), unhex("8de40ccadbc14a82f15cb0ad0de95ca3"); !bytes.Equal(got, want) {
		t.Errorf("session base key %x, want %x (MS-NLMP 4.2.4.1.2)", got, want)
	}
}

func TestTimestampAsksForMIC(t *testing.T) {
	stamp := unhex("0700 0800 0102030405060708")
	l := example()
	out, got, err := l.targetInfo(append(stamp, 0, 0, 0, 0))
	if err != nil || !bytes.Equal(got, stamp[4:]) {
		t.Fatalf("stamp %x, %v, want %x", got, err, stamp[4:])
	}
	if want := unhex("0600 0400 02000000"); !bytes.Contains(out, want) {
		t.Errorf("target info %x, want flags %x in it", out, want)
	}
}

func TestBadChallenge(t *testing.T) {
	good := challenge(clientFlags, exampleInfo)
	outside := bytes.Clone(good)
	outside = outside[:len(outside)-1]
	for _, c := range []struct {
		name, want string
		msg        []byte
	}{
		{"empty", "too few", nil},
		{"another type", "type 1", append(append([]byte{}, good[:8]...), append([]byte{1, 0, 0, 0}, good[12:]...)...)},
		{"outside", "lie outside", outside},
		{"no extended session security", "lack", challenge(clientFlags&^negotiateExtendedSession, exampleInfo)},
		{"attribute too long", "attribute 2", challenge(clientFlags, unhex("0200 ff00 4400"))},
		{"half an attribute", "half", challenge(clientFlags, unhex("0200"))},
	} {
		l := example()
		l.Negotiate()
		_, err := l.Authenticate(c.msg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
}

func TestSPNEGO(t *testing.T) {
	l := example()
	first, err := l.First()
	if err != nil {
		t.Fatal(err)
	}
	// GSS frame, SPNEGO's OID, NegTokenInit with NTLM's OID: the constant head
	// every Windows trace shows for a token of this length.
	if got, want := first[:4], unhex("60480606"); !bytes.Equal(got, want) {
		t.Errorf("first token begins %x, want %x", got, want)
	}
	if !bytes.Contains(first, l.negotiate) {
		t.Error("first token lacks the negotiate message")
	}
	resp, err := asn1.MarshalWithParams(negTokenResp{NegState: stateIncomplete, SupportedMech: oidNTLM, ResponseToken: challenge(clientFlags, exampleInfo)}, "explicit,tag:1")
	if err != nil {
		t.Fatal(err)
	}
	next, err := l.Next(resp)
	if err != nil {
		t.Fatal(err)
	}
	var r negTokenResp
	if _, err := asn1.UnmarshalWithParams(next, &r, "explicit,tag:1"); err != nil {
		t.Fatal(err)
	}
	if len(r.ResponseToken) == 0 || len(r.MechListMIC) != 16 || r.NegState != stateIncomplete {
		t.Errorf("next token: state %d, %d bytes, mechListMIC of %d bytes, want state 1, a message, 16 bytes", r.NegState, len(r.ResponseToken), len(r.MechListMIC))
	}
	reject, _ := asn1.MarshalWithParams(negTokenResp{NegState: stateReject}, "explicit,tag:1")
	if _, err := l.Next(reject); err == nil || !strings.Contains(err.Error(), "rejects") {
		t.Errorf("reject: error %v, want it to say so", err)
	}
}
