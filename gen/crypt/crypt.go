// Package crypt does SMB2's cryptography: session key and messages go in,
// derived keys, signatures and sealed messages come out. It knows nothing of
// headers; the caller hands over the bytes that are covered.
package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pion/dtls/v3/pkg/crypto/ccm"
	"github.com/tink-crypto/tink-go/v2/mac/subtle"

	"kbuild-run/gen/smb2"
)

// KDF is the counter mode of SP800-108 with HMAC-SHA256 and a 32 bit counter
// (MS-SMB2 3.1.4.2). It returns bits/8 bytes; bits is 128 or 256.
func KDF(key []byte, label, context string, bits int) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{0, 0, 0, 1}) // one round gives 256 bits
	h.Write([]byte(label))
	h.Write([]byte{0})
	h.Write([]byte(context))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
	return h.Sum(nil)[:bits/8]
}

// Preauth is a preauthentication integrity hash (MS-SMB2 3.1.4.4.1).
type Preauth [sha512.Size]byte

// Add returns the hash with message hashed in.
func (p Preauth) Add(message []byte) Preauth {
	return sha512.Sum512(append(p[:len(p):len(p)], message...))
}

// Keys are the keys of a session (MS-SMB2 3.2.5.3.1). Encryption is what the
// client encrypts with, Decryption what it decrypts with.
type Keys struct {
	Session, Signing, Encryption, Decryption, Application []byte
}

// Derive makes the keys of a session. The preauthentication hash counts for
// 3.1.1 only. A cipher of 256 bits makes its two keys longer, no others.
func Derive(dialect smb2.Dialect, cipherID smb2.Cipher, sessionKey []byte, p Preauth) Keys {
	bits := 128
	if cipherID == smb2.SMB2_ENCRYPTION_AES256_CCM || cipherID == smb2.SMB2_ENCRYPTION_AES256_GCM {
		bits = 256
	}
	k := Keys{Session: sessionKey}
	switch {
	case dialect < smb2.SMB30_PROT_ID:
		k.Signing, k.Application = sessionKey, sessionKey
	case dialect < smb2.SMB311_PROT_ID:
		k.Signing = KDF(sessionKey, "SMB2AESCMAC\x00", "SmbSign\x00", 128)
		k.Encryption = KDF(sessionKey, "SMB2AESCCM\x00", "ServerIn \x00", bits)
		k.Decryption = KDF(sessionKey, "SMB2AESCCM\x00", "ServerOut\x00", bits)
		k.Application = KDF(sessionKey, "SMB2APP\x00", "SmbRpc\x00", 128)
	default:
		k.Signing = KDF(sessionKey, "SMBSigningKey\x00", string(p[:]), 128)
		k.Encryption = KDF(sessionKey, "SMBC2SCipherKey\x00", string(p[:]), bits)
		k.Decryption = KDF(sessionKey, "SMBS2CCipherKey\x00", string(p[:]), bits)
		k.Application = KDF(sessionKey, "SMBAppKey\x00", string(p[:]), 128)
	}
	return k
}

// Nonce is what AES-GMAC needs to know of a message (MS-SMB2 3.1.4.1).
type Nonce struct {
	MessageID uint64
	Server    bool // sent by the server
	Cancel    bool // an SMB2_CANCEL
}

// Signer signs messages with one key.
type Signer func(message []byte, n Nonce) ([16]byte, error)

// NewSigner returns the signer for an algorithm of SMB2_SIGNING_CAPABILITIES
// (MS-SMB2 2.2.3.1.7). The message's signature field must be zero.
func NewSigner(algorithm smb2.SigningAlgorithm, key []byte) (Signer, error) {
	switch algorithm {
	case smb2.SIGNING_ALG_HMAC_SHA256:
		return func(m []byte, _ Nonce) ([16]byte, error) {
			h := hmac.New(sha256.New, key)
			h.Write(m)
			return [16]byte(h.Sum(nil)), nil
		}, nil
	case smb2.SIGNING_ALG_AES_CMAC:
		mac, err := subtle.NewAESCMAC(key, 16)
		if err != nil {
			return nil, err
		}
		return func(m []byte, _ Nonce) ([16]byte, error) {
			sum, err := mac.ComputeMAC(m)
			if err != nil {
				return [16]byte{}, err
			}
			return [16]byte(sum), nil
		}, nil
	case smb2.SIGNING_ALG_AES_GMAC:
		gcm, err := newGCM(key)
		if err != nil {
			return nil, err
		}
		return func(m []byte, n Nonce) ([16]byte, error) {
			iv := binary.LittleEndian.AppendUint64(nil, n.MessageID)
			var role uint32
			if n.Server {
				role |= 1
			}
			if n.Cancel {
				role |= 2
			}
			iv = binary.LittleEndian.AppendUint32(iv, role)
			return [16]byte(gcm.Seal(nil, iv, nil, m)), nil
		}, nil
	}
	return nil, fmt.Errorf("sign messages: no algorithm %v", algorithm)
}

// Sealer encrypts or decrypts messages with one key.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer returns the sealer for a cipher of SMB2_ENCRYPTION_CAPABILITIES
// (MS-SMB2 2.2.3.1.2).
func NewSealer(cipherID smb2.Cipher, key []byte) (*Sealer, error) {
	var aead cipher.AEAD
	var err error
	switch cipherID {
	case smb2.SMB2_ENCRYPTION_AES128_CCM, smb2.SMB2_ENCRYPTION_AES256_CCM:
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			aead, err = ccm.NewCCM(block, 16, 11)
		}
	case smb2.SMB2_ENCRYPTION_AES128_GCM, smb2.SMB2_ENCRYPTION_AES256_GCM:
		aead, err = newGCM(key)
	default:
		err = fmt.Errorf("no cipher %v", cipherID)
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt messages: %w", err)
	}
	return &Sealer{aead}, nil
}

// NonceSize is how many bytes of a transform header's nonce are used.
func (s *Sealer) NonceSize() int { return s.aead.NonceSize() }

// Seal encrypts message. Only the head of the transform header's nonce is used:
// 11 bytes for CCM, 12 for GCM (MS-SMB2 2.2.41). additional is that header
// behind its signature.
func (s *Sealer) Seal(nonce [16]byte, message, additional []byte) (sealed []byte, signature [16]byte) {
	out := s.aead.Seal(nil, nonce[:s.aead.NonceSize()], message, additional)
	return out[:len(message)], [16]byte(out[len(message):])
}

// ErrSeal says that an encrypted message is not what its sender sealed.
var ErrSeal = errors.New("message authentication failed")

// Open decrypts a message.
func (s *Sealer) Open(nonce [16]byte, sealed []byte, signature [16]byte, additional []byte) ([]byte, error) {
	out, err := s.aead.Open(nil, nonce[:s.aead.NonceSize()], append(sealed[:len(sealed):len(sealed)], signature[:]...), additional)
	if err != nil {
		return nil, ErrSeal
	}
	return out, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
