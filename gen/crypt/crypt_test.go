package crypt

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// The vectors named "anatomy" are those of "SMB 2 and SMB 3 security in Windows
// 10: the anatomy of signing and cryptographic keys", appendix, by Microsoft.

var preauth311 = Preauth(unhex(`0DD13628CC3ED218EF9DF9772D436D0887AB9814BFAE63A80AA845F36909DB79
	28622DDDAD522D9751640A459762C5A9D6BB084CBB3CE6BDADEF5D5BCE3C6C01`))

func TestDerive(t *testing.T) {
	for _, c := range []struct {
		name          string
		dialect       smb2.Dialect
		key           string
		sign, in, out string
		app           string
	}{
		{"anatomy 3.0", smb2.SMB30_PROT_ID, "7CD451825D0450D235424E44BA6E78CC", "0B7E9C5CAC36C0F6EA9AB275298CEDCE",
			"FAD27796665B313EBB578F388632B4F7", "B0F0427F7CEB416D1D9DCC0CD4F99447", "BB23A4575AA26C721AF525AF15A87B4F"},
		{"anatomy 3.1.1", smb2.SMB311_PROT_ID, "270E1BA896585EEB7AF3472D3B4C75A7", "73FE7A9A77BEF0BDE49C650D8CCB5F76",
			"629BCBC54422A0F572B97F45989B6073", "E2AF0DCEFAC68DA71A0DFBD0D1350D74", "6D7AD7954E9EC61E907B4D473DC178FF"},
	} {
		k := Derive(c.dialect, smb2.SMB2_ENCRYPTION_AES128_GCM, unhex(c.key), preauth311)
		for _, p := range []struct {
			name string
			got  []byte
			want string
		}{{"signing", k.Signing, c.sign}, {"encryption", k.Encryption, c.in}, {"decryption", k.Decryption, c.out}, {"application", k.Application, c.app}} {
			if !bytes.Equal(p.got, unhex(p.want)) {
				t.Errorf("%s: %s key %X, want %s", c.name, p.name, p.got, p.want)
			}
		}
	}
	k := Derive(smb2.SMB311_PROT_ID, smb2.SMB2_ENCRYPTION_AES256_GCM, make([]byte, 16), preauth311)
	if got, want := []int{len(k.Signing), len(k.Encryption), len(k.Decryption)}, []int{16, 32, 32}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("lengths of keys with AES-256 %v, want %v", got, want)
	}
	k = Derive(smb2.SMB21_PROT_ID, 0, unhex("7CD451825D0450D235424E44BA6E78CC"), preauth311)
	if !bytes.Equal(k.Signing, k.Session) || k.Encryption != nil {
		t.Errorf("2.1: signing key %X, encryption key %X, want the session key and none", k.Signing, k.Encryption)
	}
}

func TestPreauth(t *testing.T) {
	var p Preauth
	p = p.Add(unhex(`FE534D4240000100000000000000800000000000000000000100000000000000FFFE000000000000
		00000000000000000000000000000000000000000000000024000500000000003F000000ECD86F32
		6276024F9F7752B89BB33F3A70000000020000000202100200030203110300000100260000000000
		010020000100FA49E6578F1F3A9F4CD3E9CC14A67AA884B3D05844E0E5A118225C15887F32FF0000
		0200060000000000020002000100`))
	want := unhex(`DD94EFC5321BB618A2E208BA8920D2F422992526947A409B5037DE1E0FE8C736
		2B8C47122594CDE0CE26AA9DFC8BCDBDE0621957672623351A7540F1E54A0426`)
	if !bytes.Equal(p[:], want) {
		t.Errorf("hash after NEGOTIATE %X, want %X (anatomy 3.1.1)", p, want)
	}
}

func TestSign(t *testing.T) {
	const rfc4493Key = "2b7e151628aed2a6abf7158809cf4f3c"
	const rfc4493Message = `6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
		30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710`
	for _, c := range []struct {
		name      string
		algorithm smb2.SigningAlgorithm
		key       string
		message   string
		n         Nonce
		want      string
	}{
		{"RFC 4493 empty", smb2.SIGNING_ALG_AES_CMAC, rfc4493Key, "", Nonce{}, "bb1d6929e95937287fa37d129b756746"},
		{"RFC 4493 64 bytes", smb2.SIGNING_ALG_AES_CMAC, rfc4493Key, rfc4493Message, Nonce{}, "51f0bebf7e3b9d92fc49741779363cfe"},
		{"anatomy 3.1.1 SESSION_SETUP response", smb2.SIGNING_ALG_AES_CMAC, "73FE7A9A77BEF0BDE49C650D8CCB5F76",
			`FE534D4240000100000000000100800009000000000000000300000000000000FFFE000000000000
			 1900000000100000000000000000000000000000000000000900000048001D00A11B3019A0030A01
			 00A3120410010000003B453CDC3524164200000000`, Nonce{}, "EBE146DA120BA25FC3376A49DFE31BC1"},
		{"RFC 4231 case 2, cut", smb2.SIGNING_ALG_HMAC_SHA256, "4a656665", hex.EncodeToString([]byte("what do ya want for nothing?")), Nonce{},
			"5bdcc146bf60754e6a042426089575c7"},
		{"GCM specification case 1: no text, no data, zero nonce", smb2.SIGNING_ALG_AES_GMAC, "00000000000000000000000000000000", "", Nonce{},
			"58e2fccefa7e3061367f1d57a4e7455a"},
	} {
		s, err := NewSigner(c.algorithm, unhex(c.key))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s(unhex(c.message), c.n)
		if err != nil || !bytes.Equal(got[:], unhex(c.want)) {
			t.Errorf("%s: %x, %v, want %s", c.name, got, err, c.want)
		}
	}
	if _, err := NewSigner(9, make([]byte, 16)); err == nil {
		t.Error("algorithm 9 gives a signer, want an error")
	}
}

func TestNonceCounts(t *testing.T) {
	s, err := NewSigner(smb2.SIGNING_ALG_AES_GMAC, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[16]byte]Nonce{}
	for _, n := range []Nonce{{}, {MessageID: 1}, {Server: true}, {Cancel: true}, {MessageID: 1 << 32}} {
		sum, _ := s([]byte("message"), n)
		if other, ok := seen[sum]; ok {
			t.Errorf("nonces %+v and %+v give one signature", n, other)
		}
		seen[sum] = n
	}
}

func TestSeal(t *testing.T) {
	var key, nonce []byte // 0, 1, 2, … and 1, 2, 3, …
	for i := range byte(32) {
		key = append(key, i)
	}
	for i := range byte(16) {
		nonce = append(nonce, i+1)
	}
	for _, c := range []struct {
		name string
		id   smb2.Cipher
		size int
		want string // text and tag as OpenSSL 3 computes them
	}{
		{"AES-128-CCM", smb2.SMB2_ENCRYPTION_AES128_CCM, 16, "ac2d97a346a6d3231da9f8293446a2bc50c1ae34ba38f1"},
		{"AES-128-GCM", smb2.SMB2_ENCRYPTION_AES128_GCM, 16, "6b601b5552923a2cfe8e51c1bad8a0f5d7594bc3eee78b"},
		{"AES-256-CCM", smb2.SMB2_ENCRYPTION_AES256_CCM, 32, "989742febbce5f7debf774cd23c14921ac4a0b40833cf9"},
		{"AES-256-GCM", smb2.SMB2_ENCRYPTION_AES256_GCM, 32, "688f29a68df39583bc316b6d6d0649a2e8c31fb1fe227a"},
	} {
		s, err := NewSealer(c.id, key[:c.size])
		if err != nil {
			t.Fatal(err)
		}
		sealed, tag := s.Seal([16]byte(nonce), []byte("message"), []byte("header"))
		if got := hex.EncodeToString(append(bytes.Clone(sealed), tag[:]...)); got != c.want {
			t.Errorf("%s: sealed %s, want %s", c.name, got, c.want)
		}
		got, err := s.Open([16]byte(nonce), sealed, tag, []byte("header"))
		if err != nil || string(got) != "message" {
			t.Errorf("%s: opened %q, %v, want %q", c.name, got, err, "message")
		}
		if _, err := s.Open([16]byte(nonce), sealed, tag, []byte("Header")); err != ErrSeal {
			t.Errorf("%s: another header opens with %v, want %v", c.name, err, ErrSeal)
		}
	}
	if _, err := NewSealer(9, make([]byte, 16)); err == nil {
		t.Error("cipher 9 gives a sealer, want an error")
	}
}
