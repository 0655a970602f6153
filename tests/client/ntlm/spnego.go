package ntlm

import (
	"encoding/asn1"
	"errors"
	"fmt"
)

var (
	oidSPNEGO = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 2}
	oidNTLM   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 2, 10}
)

// Values of negState (RFC 4178 4.2.2).
const (
	stateCompleted  = 0
	stateIncomplete = 1
	stateReject     = 2
)

type negTokenInit struct {
	MechTypes []asn1.ObjectIdentifier `asn1:"explicit,tag:0"`
	MechToken []byte                  `asn1:"explicit,optional,tag:2"`
}

type negTokenResp struct {
	NegState      asn1.Enumerated       `asn1:"explicit,optional,tag:0,default:-1"`
	SupportedMech asn1.ObjectIdentifier `asn1:"explicit,optional,tag:1"`
	ResponseToken []byte                `asn1:"explicit,optional,tag:2"`
	MechListMIC   []byte                `asn1:"explicit,optional,tag:3"`
}

// First returns the security buffer of the first SESSION_SETUP request.
func (l *Login) First() ([]byte, error) {
	token, err := asn1.MarshalWithParams(negTokenInit{
		MechTypes: []asn1.ObjectIdentifier{oidNTLM},
		MechToken: l.Negotiate(),
	}, "explicit,tag:0")
	if err != nil {
		return nil, err
	}
	mech, err := asn1.Marshal(oidSPNEGO)
	if err != nil {
		return nil, err
	}
	// GSS-API frames the first token (RFC 2743 3.1).
	return asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, Tag: 0, IsCompound: true, Bytes: append(mech, token...)})
}

// Next answers the security buffer of a SESSION_SETUP response that asks for more.
func (l *Login) Next(buffer []byte) ([]byte, error) {
	var r negTokenResp
	if _, err := asn1.UnmarshalWithParams(buffer, &r, "explicit,tag:1"); err != nil {
		return nil, fmt.Errorf("read spnego token: %w", err)
	}
	if r.NegState == stateReject {
		return nil, errors.New("read spnego token: the server rejects ntlm")
	}
	auth, err := l.Authenticate(r.ResponseToken)
	if err != nil {
		return nil, err
	}
	next := negTokenResp{NegState: stateIncomplete, ResponseToken: auth}
	if l.key != nil {
		list, err := asn1.Marshal([]asn1.ObjectIdentifier{oidNTLM})
		if err != nil {
			return nil, err
		}
		next.MechListMIC = l.mic(list)
	}
	return asn1.MarshalWithParams(next, "explicit,tag:1")
}
