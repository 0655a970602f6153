package client

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

// answer is a response to the pending CHANGE_NOTIFY of a bench, as a right server
// sends it; tests break it.
type answer struct {
	smb2.Hdr
	body     []byte
	unsigned bool
}

// bench is a connection without a server, with one CHANGE_NOTIFY pending.
type bench struct {
	c *Conn
	p *Pending
	s *Session
	t *testing.T
}

const (
	benchID    = 7 // MessageId
	benchAsync = 9 // AsyncId
)

func newBench(t *testing.T, w Watch) *bench {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	c := &Conn{
		Options: Options{Dialects: []smb2.Dialect{smb2.SMB311_PROT_ID}},
		tcp:     near, sending: make(chan struct{}, 1), granted: make(chan struct{}, 1), done: make(chan struct{}), breaks: make(chan *Response, 1),
		window: window{next: 8, credits: 3}, pending: map[uint64]*Pending{}, async: map[uint64]*Pending{},
		sessions: map[uint64]*Session{}, allowed: map[string]bool{},
	}
	key := []byte("0123456789abcdef")
	signer, err := crypt.NewSigner(smb2.SIGNING_ALG_AES_CMAC, key)
	must(t, err)
	s := &Session{Conn: c, ID: 5, signing: true, signer: signer}
	s.sealer, err = crypt.NewSealer(smb2.SMB2_ENCRYPTION_AES128_GCM, key)
	must(t, err)
	s.opener = s.sealer
	c.sessions[s.ID] = s
	tree := &Tree{Session: s, ID: 3}
	r := tree.NotifyRequest(FileID{1, 2}, w)
	h := c.header(r, benchID)
	h.Flags |= smb2.SMB2_FLAGS_SIGNED
	p := &Pending{Request: r, Hdr: h, conn: c, interimed: make(chan struct{}), finished: make(chan struct{})}
	c.pending[benchID] = p
	return &bench{c, p, s, t}
}

func (b *bench) interim() *answer {
	h := b.p.Hdr
	h.Status = smb2.STATUS_PENDING
	h.Flags = smb2.SMB2_FLAGS_SERVER_TO_REDIR | smb2.SMB2_FLAGS_ASYNC_COMMAND
	h.SetAsyncId(benchAsync)
	h.CreditRequest = 1
	return &answer{h, append(smb2.NewErrRsp().Append(nil), 0), true}
}

func (b *bench) final(status smb2.NtStatus, records ...smb2.FileNotifyInformation) *answer {
	a := b.interim()
	a.Status, a.CreditRequest, a.unsigned = status, 0, false
	if status == smb2.STATUS_SUCCESS {
		for i := range records {
			if records[i].FileNameLength == 0 {
				records[i].FileNameLength = uint32(len(records[i].FileName))
			}
		}
		rsp := smb2.NewChangeNotifyRsp()
		rsp.SetOutputBuffer(smb2.AppendChain(nil, records...))
		a.body = rsp.Append(nil)
	}
	return a
}

// atOnce is a final response without an interim one.
func (b *bench) atOnce(status smb2.NtStatus, records ...smb2.FileNotifyInformation) *answer {
	a := b.final(status, records...)
	a.Flags &^= smb2.SMB2_FLAGS_ASYNC_COMMAND
	a.ProcessId, a.TreeId = b.p.Hdr.ProcessId, b.p.Hdr.TreeId
	return a
}

func (b *bench) bytes(a *answer) []byte {
	h := a.Hdr
	if !a.unsigned {
		h.Flags |= smb2.SMB2_FLAGS_SIGNED
		must(b.t, b.s.sign(&h, a.body, true))
	}
	return append(h.Append(nil), a.body...)
}

func (b *bench) send(answers ...*answer) error {
	for _, a := range answers {
		if err := b.c.frame(b.bytes(a)); err != nil {
			return err
		}
	}
	return nil
}

func record(a smb2.FileAction, name string) smb2.FileNotifyInformation {
	return smb2.FileNotifyInformation{Action: a, FileName: smb2.UTF16(name)}
}

var (
	added   = record(smb2.FILE_ACTION_ADDED, "a")
	oldName = record(smb2.FILE_ACTION_RENAMED_OLD_NAME, "a")
	newName = record(smb2.FILE_ACTION_RENAMED_NEW_NAME, "b")
)

// TestViolations breaks one rule at a time and wants that rule named, alone.
func TestViolations(t *testing.T) {
	// Those that need more than one frame with one message have tests below.
	seen := map[string]bool{"signature": true, "credits": true, "unencrypted": true, "interim-compound": true, "related-flag": true}
	flat, tree := Watch{Size: 100}, Watch{Size: 100, Tree: true}
	for _, c := range []struct {
		name  string
		watch Watch
		send  func(b *bench) []*answer
		want  string // rules, in order
	}{
		{"right", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, added)} }, ""},
		{"right, at once", flat, func(b *bench) []*answer {
			a := b.atOnce(smb2.STATUS_SUCCESS, added)
			a.CreditRequest = 1
			return []*answer{a}
		}, ""},
		{"right, error body for ENUM_DIR", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_NOTIFY_ENUM_DIR)} }, ""},
		{"right, rename", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, oldName, newName, added)}
		}, ""},
		{"right, deep name", tree, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, `s\a`))}
		}, ""},

		{"interim signed", flat, func(b *bench) []*answer { a := b.interim(); a.unsigned = false; return []*answer{a} }, "interim-signed"},
		{"interim without AsyncId", flat, func(b *bench) []*answer { a := b.interim(); a.SetAsyncId(0); return []*answer{a} }, "async-id"},
		{"interim without credit", flat, func(b *bench) []*answer { a := b.interim(); a.CreditRequest = 0; return []*answer{a} }, "interim-credits"},
		{"interim without ASYNC", flat, func(b *bench) []*answer {
			a := b.interim()
			a.Flags &^= smb2.SMB2_FLAGS_ASYNC_COMMAND
			return []*answer{a}
		}, "interim-flags unsigned"},
		{"two interims", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.interim()} }, "second-interim"},
		{"interim body", flat, func(b *bench) []*answer { a := b.interim(); a.body[0] = 8; return []*answer{a} }, "error-body"},
		{"interim body cut", flat, func(b *bench) []*answer { a := b.interim(); a.body = a.body[:8]; return []*answer{a} }, "error-body"},

		{"final without ASYNC", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_CANCELLED)
			a.Flags &^= smb2.SMB2_FLAGS_ASYNC_COMMAND
			return []*answer{b.interim(), a}
		}, "final-flags"},
		{"final ASYNC without interim", flat, func(b *bench) []*answer { return []*answer{b.final(smb2.STATUS_CANCELLED)} }, "final-flags"},
		{"another AsyncId", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_CANCELLED)
			a.SetAsyncId(benchAsync + 1)
			return []*answer{b.interim(), a}
		}, "async-id"},
		{"final grants", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_CANCELLED)
			a.CreditRequest = 1
			return []*answer{b.interim(), a}
		}, "final-credits"},
		{"final unsigned", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_CANCELLED)
			a.unsigned = true
			return []*answer{b.interim(), a}
		}, "unsigned"},
		{"two finals", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_CANCELLED), b.final(smb2.STATUS_CANCELLED)}
		}, "second-response"},
		{"id never sent", flat, func(b *bench) []*answer { a := b.interim(); a.MessageId = 1000; return []*answer{a} }, "message-id"},
		{"another command", flat, func(b *bench) []*answer { a := b.interim(); a.Command = smb2.SMB2_ECHO; return []*answer{a} }, "command"},
		{"another session", flat, func(b *bench) []*answer { a := b.interim(); a.SessionId++; return []*answer{a} }, "session-id"},
		{"another tree", flat, func(b *bench) []*answer {
			a := b.atOnce(smb2.STATUS_CANCELLED)
			a.TreeId++
			return []*answer{a}
		}, "tree-id"},
		{"unknown flag", flat, func(b *bench) []*answer { a := b.interim(); a.Flags |= 0x800; return []*answer{a} }, "header"},
		{"without a request", flat, func(b *bench) []*answer { a := b.interim(); a.MessageId = unsolicited; return []*answer{a} }, "unsolicited"},
		{"two breaks nobody reads", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_SUCCESS)
			a.MessageId, a.Command = unsolicited, smb2.SMB2_OPLOCK_BREAK
			return []*answer{a, a}
		}, "breaks"},
		{"signed though the request was not", flat, func(b *bench) []*answer {
			b.p.Hdr.Flags &^= smb2.SMB2_FLAGS_SIGNED
			return []*answer{b.interim(), b.final(smb2.STATUS_CANCELLED)}
		}, "signed"},
		{"a request", flat, func(b *bench) []*answer {
			a := b.interim()
			a.Flags &^= smb2.SMB2_FLAGS_SERVER_TO_REDIR
			return []*answer{a}
		}, "response-flag"},

		{"success without records", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS)} }, "notify-empty"},
		{"more than asked for", Watch{Size: 8}, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, added)} }, "notify-length"},
		{"records with ENUM_DIR", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_SUCCESS, added)
			a.Status = smb2.STATUS_NOTIFY_ENUM_DIR
			return []*answer{b.interim(), a}
		}, "notify-body"},
		{"offset", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_SUCCESS, added)
			a.body[2]++ // OutputBufferOffset
			a.body = append(a.body, 0)
			return []*answer{b.interim(), a}
		}, "notify-body notify-list"},
		{"length beyond the message", flat, func(b *bench) []*answer {
			a := b.final(smb2.STATUS_SUCCESS, added)
			a.body[4]++ // OutputBufferLength
			return []*answer{b.interim(), a}
		}, "notify-body"},
		{"action 9", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_REMOVED_BY_DELETE, "a"))}
		}, "notify-action"},
		{"OLD alone", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, oldName)} }, "notify-rename"},
		{"NEW alone", flat, func(b *bench) []*answer { return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, newName)} }, "notify-rename"},
		{"OLD, ADDED, NEW", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, oldName, added, newName)}
		}, "notify-rename notify-rename"},
		{"empty name", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, ""))}
		}, "notify-name"},
		{"leading separator", tree, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, `\a`))}
		}, "notify-name"},
		{"leading slash", tree, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, `/a`))}
		}, "notify-name"},
		{"quotation mark", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, `a"b`))}
		}, "notify-name"},
		{"separator without tree", flat, func(b *bench) []*answer {
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, record(smb2.FILE_ACTION_ADDED, `s\a`))}
		}, "notify-separator"},
		{"half a surrogate", flat, func(b *bench) []*answer {
			r := record(smb2.FILE_ACTION_ADDED, "a")
			r.FileName = []byte{0x00, 0xd8}
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, r)}
		}, "notify-name"},
		{"odd name length", flat, func(b *bench) []*answer {
			r := record(smb2.FILE_ACTION_ADDED, "ab")
			r.FileNameLength = 3
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, r)}
		}, "notify-record"},
		{"name beyond the list", flat, func(b *bench) []*answer {
			r := record(smb2.FILE_ACTION_ADDED, "ab")
			r.FileNameLength = 60
			return []*answer{b.interim(), b.final(smb2.STATUS_SUCCESS, r)}
		}, "notify-list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.watch)
			if err := b.send(c.send(b)...); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range b.c.Violations() {
				got = append(got, v.Rule)
			}
			for _, name := range got {
				seen[name] = true
			}
			if want := strings.Fields(c.want); !slices.Equal(got, want) {
				t.Errorf("violations %v, want %v\n%v", got, want, b.c.Violations())
			}
		})
	}
	for _, r := range Rules {
		if !seen[r.Name] {
			t.Errorf("rule %s: nothing breaks it", r.Name)
		}
		delete(seen, r.Name)
	}
	for name := range seen {
		t.Errorf("violation %s: no such rule", name)
	}
}

// TestCompoundResponse: an interim response may not be the second part of a
// compound, and a second part says that it is one.
func TestCompoundResponse(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	b.p.Request.Related = true
	echo := &Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq(), Session: b.s}
	h := b.c.header(echo, benchID-1)
	h.Flags |= smb2.SMB2_FLAGS_SIGNED
	b.c.pending[h.MessageId] = &Pending{Request: echo, Hdr: h, conn: b.c, interimed: make(chan struct{}), finished: make(chan struct{})}
	h.Flags = smb2.SMB2_FLAGS_SERVER_TO_REDIR
	h.NextCommand = smb2.HdrSize + 8
	first := &answer{Hdr: h, body: append(smb2.NewEchoRsp().Append(nil), 0, 0, 0, 0)}
	must(t, b.c.frame(append(b.bytes(first), b.bytes(b.interim())...)))
	var got []string
	for _, v := range b.c.Violations() {
		got = append(got, v.Rule)
	}
	if want := []string{"related-flag", "interim-compound"}; !slices.Equal(got, want) {
		t.Errorf("violations %v, want %v", got, want)
	}
}

func TestBadSignature(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	must(t, b.send(b.interim()))
	raw := b.bytes(b.final(smb2.STATUS_SUCCESS, added))
	raw[len(raw)-1] ^= 1
	must(t, b.c.frame(raw))
	if v := b.c.Violations(); len(v) == 0 || v[0].Rule != "signature" {
		t.Errorf("violations %v, want signature first", v)
	}
}

// TestLostCredits: a server may not leave the client unable to send.
func TestLostCredits(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	b.c.window.credits = 0
	must(t, b.send(b.atOnce(smb2.STATUS_CANCELLED)))
	if v := b.c.Violations(); len(v) != 1 || v[0].Rule != "credits" {
		t.Errorf("violations %v, want credits", v)
	}
	if _, err := b.c.take(within(t), 1); err == nil || !strings.Contains(err.Error(), "0 are held") {
		t.Errorf("take: %v, want an error at once", err)
	}
}

// TestWindow: message ids are taken in order, and no more than were granted.
func TestWindow(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	ctx, cancel := context.WithCancelCause(t.Context())
	for _, want := range []uint64{8, 9} {
		if got, err := b.c.take(ctx, int(want-7)); err != nil || got != want {
			t.Fatalf("first message id %d, %v, want %d", got, err, want)
		}
	}
	if got := b.c.Credits(); got != 0 {
		t.Errorf("%d credits are left, want 0", got)
	}
	cancel(errors.New("enough"))
	_, err := b.c.take(ctx, 1)
	if err == nil || err.Error() != "wait for 1 credits, 0 are held: enough" {
		t.Errorf("take without credits: %v, want the end of the wait", err)
	}
	must(t, b.send(b.interim())) // grants one
	if got, err := b.c.take(t.Context(), 1); err != nil || got != 11 {
		t.Errorf("message id after the grant %d, %v, want 11", got, err)
	}
}

// TestStuckServer: a server that does not read holds a send no longer than its
// context.
func TestStuckServer(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := b.c.Send(ctx, &Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq()})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("send: %v, want %v", err, os.ErrDeadlineExceeded)
	}
}

func TestUnencryptedInterim(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	b.p.encrypted = true
	must(t, b.send(b.interim()))
	if v := b.c.Violations(); len(v) != 1 || v[0].Rule != "unencrypted" {
		t.Errorf("violations %v, want unencrypted", v)
	}
	b = newBench(t, Watch{Size: 100})
	b.p.encrypted = true
	must(t, b.c.frame(b.s.seal(b.bytes(b.interim()))))
	if v := b.c.Violations(); len(v) != 0 {
		t.Errorf("violations %v of an encrypted interim response, want none", v)
	}
	sealed := b.s.seal(b.bytes(b.interim()))
	sealed[len(sealed)-1] ^= 1
	if err := b.c.frame(sealed); err == nil || !strings.Contains(err.Error(), crypt.ErrSeal.Error()) {
		t.Errorf("message sealed wrongly: %v, want %v", err, crypt.ErrSeal)
	}
}

// TestStrict: the first violation ends the connection.
func TestStrict(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	b.c.Options.Strict = true
	a := b.interim()
	a.CreditRequest = 0
	if err := b.send(a); err == nil || !strings.HasPrefix(err.Error(), "interim-credits: message id 7") {
		t.Errorf("frame: %v, want the violation", err)
	}
}

func TestAllow(t *testing.T) {
	for _, c := range []struct {
		allow string
		want  int
	}{{"interim-credits", 0}, {"interim-credits/CHANGE_NOTIFY", 0}, {"interim-credits/ECHO", 1}, {"final-credits", 1}} {
		b := newBench(t, Watch{Size: 100})
		b.c.Allow(c.allow)
		a := b.interim()
		a.CreditRequest = 0
		must(t, b.send(a))
		if v := b.c.Violations(); len(v) != c.want {
			t.Errorf("allow %s: violations %v, want %d", c.allow, v, c.want)
		}
		if told := strings.Contains(strings.Join(b.c.Lines(), "\n"), "allowed: interim-credits"); told != (c.want == 0) {
			t.Errorf("allow %s: transcript %q", c.allow, b.c.Lines())
		}
	}
}

// TestBrokenFrames: what cannot be read ends the connection with a reason, and
// never with a panic.
func TestBrokenFrames(t *testing.T) {
	b := newBench(t, Watch{Size: 100})
	good := b.bytes(b.interim())
	for _, c := range []struct {
		name, want string
		frame      []byte
	}{
		{"short", "decode Hdr", good[:63]},
		{"another protocol", "protocol id", append([]byte{0xff}, good[1:]...)},
		{"NextCommand beyond", "NextCommand", func() []byte { h := b.p.Hdr; h.NextCommand = 4096; return append(h.Append(nil), 0) }()},
		{"NextCommand inside", "NextCommand", func() []byte { h := b.p.Hdr; h.NextCommand = 8; return append(h.Append(nil), make([]byte, 200)...) }()},
		{"unknown session encrypts", "no such session", append((&smb2.TransformHdr{ProtocolId: smb2.SMB2_TRANSFORM_PROTO_NUM, SessionId: 99}).Append(nil), 1, 2, 3)},
	} {
		if err := b.c.frame(c.frame); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzFrame: no bytes of a server make the client panic.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, frame []byte) {
		b := newBench(t, Watch{Size: 100})
		b.c.frame(frame)
	})
}

func TestParseChangesFollowsLinks(t *testing.T) {
	// Records aligned to 8 with padding behind the last one: some servers do so.
	a := added
	a.FileNameLength = uint32(len(a.FileName))
	a.NextEntryOffset = 24
	list := append(a.Append(nil), make([]byte, 24-14)...)
	n := newName
	n.FileNameLength = uint32(len(n.FileName))
	list = append(n.Append(list), 0, 0)
	got, err := ParseChanges(list)
	want := []Change{{smb2.FILE_ACTION_ADDED, "a"}, {smb2.FILE_ACTION_RENAMED_NEW_NAME, "b"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("changes %v, %v, want %v", got, err, want)
	}
}
