package torture

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
	"kbuild-run/tests/servers"
)

// Frames of smbtorture 4.17 and Samba without AES-GMAC: smb2.notify.double and
// smb2.lock.cancel.
const (
	notify7    = "fe534d4240000100000000000f0001001000000000000000070000000000000000000000d733346e03aab693000000000000000000000000000000000000000020000100e8030000ee68857600000000a8b28c49000000000300000000000000"
	pending7   = "fe534d4240000000030100000f00010013000000000000000700000000000000080000000000000003aab693000000000000000000000000000000000000000009000000000000000021"
	cancel0    = "fe534d4240000000000000000c00000010000000000000000000000000000000000000000000000003aab693000000000000000000000000000000000000000004000000"
	cancelled7 = "fe534d4240000100200100c00f0001001100000000000000070000000000000000000000d733346e03aab6930000000000000000000000000000000000000000090000000000000000"
	cancelLock = "fe534d4240000000000000000c000000120000000000000000000000000000000a000000000000000241eb70000000000000000000000000000000000000000004000000"
)

// with returns frame with another MessageId or other flags, in hex.
func with(frame string, at int, bytes string) string {
	return frame[:2*at] + bytes + frame[2*at+len(bytes):]
}

const atFlags, atMessageID = 16, 24

func TestLedger(t *testing.T) {
	cancel7 := with(cancel0, atMessageID, "07")
	notify8 := with(notify7, atMessageID, "08")
	encrypted := with(cancel0, 0, "fd")
	signed := with(cancel0, atFlags, "18")
	for _, test := range []struct {
		name   string
		frames []string // ">" is from the client
		want   string   // the last one, when it comes out changed
	}{
		{"a cancel without MessageId", []string{">" + notify7, ">" + cancel0}, cancel7},
		{"behind STATUS_PENDING that was not read yet", []string{">" + notify7, "<" + pending7, ">" + cancel0}, cancel7},
		{"of the last request", []string{">" + notify7, ">" + notify8, ">" + cancel0}, with(cancel0, atMessageID, "08")},
		{"of the one before, the last being cancelled", []string{">" + notify7, ">" + notify8, ">" + cancel0, ">" + cancel0}, cancel7},
		{"of the one before, the last being answered", []string{">" + notify7, ">" + notify8, "<" + with(cancelled7, atMessageID, "08"), ">" + cancel0}, cancel7},
		{"nothing to cancel", []string{">" + notify7, "<" + cancelled7, ">" + cancel0}, ""},
		{"by AsyncId", []string{">" + notify7, ">" + cancelLock}, ""},
		{"by MessageId", []string{">" + notify7, ">" + with(cancel0, atMessageID, "05")}, ""},
		{"signed", []string{">" + notify7, ">" + signed}, ""},
		{"encrypted", []string{">" + notify7, ">" + encrypted}, ""},
		{"no cancel", []string{">" + notify7, ">" + notify8}, ""},
		{"too short", []string{">" + notify7, ">" + cancel0[:100]}, ""},
		{"a compound", []string{">" + with(notify7, 20, "68") + "0000000000000000" + cancel0}, with(notify7, 20, "68") + "0000000000000000" + cancel7},
		{"a compound that ends too early", []string{">" + with(notify7, 20, "f800"), ">" + with(cancel0, 20, "f800")}, with(with(cancel0, 20, "f800"), atMessageID, "07")},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l ledger
			var last, was []byte
			n := 0
			for _, f := range test.frames {
				b, err := hex.DecodeString(f[1:])
				if err != nil {
					t.Fatal(err)
				}
				if f[0] == '<' {
					l.response(b)
					continue
				}
				last, was = b, append([]byte(nil), b...)
				n = l.request(b)
			}
			want := test.want
			if want == "" {
				want = hex.EncodeToString(was)
			}
			if got := hex.EncodeToString(last); got != want || (n > 0) != (test.want != "") {
				t.Errorf("got %s, %d named; want %s", got, n, want)
			}
		})
	}
}

// Without AES-GMAC smbtorture cannot say what it cancels: with the relay the test
// passes, on the server that it hangs on without.
func TestRelay(t *testing.T) {
	ctx := job.With(context.Background(), &job.Job{})
	p, err := Installed(ctx)
	if err != nil {
		t.Skip(err)
	}
	samba, err := servers.StartSamba(ctx, servers.SambaOptions{Global: []string{"kernel change notify = no", "server smb3 signing algorithms = aes-128-cmac"}})
	if err != nil {
		t.Skip(err)
	}
	defer samba.Stop()
	server := Server{Addr: samba.Addr, Share: samba.Share, User: client.Credentials{User: samba.User, Password: samba.Password}, Kind: "samba"}
	got, err := p.Run(ctx, server, []string{"smb2.notify.double"}, Options{Deadline: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r := got[0]; r.Outcome != Passed || !strings.Contains(r.Output, "the relay put the MessageId into 2 CANCEL requests") {
		t.Errorf("got %s %s\n%s", r.Outcome, r.Reason, r.Output)
	}
}
