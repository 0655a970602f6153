package client

import (
	"errors"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/servers"
)

// TestCompounds: related and unrelated chains, and where they break.
func TestCompounds(t *testing.T) {
	s := samba(t, quiet)
	c, tree := connect(t, s, options(s))
	makeDir(t, tree, "dir")
	send := func(t *testing.T, reqs ...*Request) []*Response {
		t.Helper()
		all, err := c.Send(within(t), reqs...)
		must(t, err)
		var out []*Response
		for _, p := range all {
			out = append(out, final(t, p))
		}
		return out
	}
	related := func(r *Request) *Request { r.Related = true; return r }
	byID := func() *File { return &File{Tree: tree, ID: RelatedID} }

	t.Run("create, query, close", func(t *testing.T) {
		r := send(t, tree.CreateRequest("dir", open),
			related(byID().QueryRequest(Query{Type: smb2.SMB2_O_INFO_FILE, Class: byte(smb2.FILE_STANDARD_INFORMATION), Size: 100})),
			related(byID().CloseRequest()))
		for _, r := range r {
			wantStatus(t, r, smb2.STATUS_SUCCESS)
		}
		if r[0].Frame != r[2].Frame {
			t.Errorf("responses in frames %d to %d, want one", r[0].Frame, r[2].Frame)
		}
	})
	t.Run("what follows a failure fails alike", func(t *testing.T) {
		r := send(t, tree.CreateRequest("missing", open), related(tree.NotifyRequest(RelatedID, names)), related(byID().CloseRequest()))
		for _, r := range r {
			wantStatus(t, r, smb2.STATUS_OBJECT_NAME_NOT_FOUND)
		}
	})
	t.Run("unrelated parts stand for themselves", func(t *testing.T) {
		r := send(t, tree.CreateRequest("missing", open), tree.CreateRequest("dir", open))
		wantStatus(t, r[0], smb2.STATUS_OBJECT_NAME_NOT_FOUND)
		wantStatus(t, r[1], smb2.STATUS_SUCCESS)
	})
	t.Run("related from the start", func(t *testing.T) {
		notify := tree.NotifyRequest(RelatedID, names)
		notify.Plain = true // the server has no session to sign with
		notify.Edit = func(h *smb2.Hdr) { h.Flags |= smb2.SMB2_FLAGS_RELATED_OPERATIONS }
		r := send(t, notify)
		wantStatus(t, r[0], smb2.STATUS_INVALID_PARAMETER)
	})
}

// TestWrongRequests: one thing wrong at a time, and the status for it.
func TestWrongRequests(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	root := mustCreate(t, tree, "", Create{})
	file := mustCreate(t, tree, "file", create)
	blind := mustCreate(t, tree, "", Create{Access: smb2.FILE_READ_ATTRIBUTES})
	for _, c := range []struct {
		name string
		make func() *Request
		want smb2.NtStatus
	}{
		{"file", func() *Request { return tree.NotifyRequest(file.ID, names) }, smb2.STATUS_INVALID_PARAMETER},
		{"no right to list", func() *Request { return tree.NotifyRequest(blind.ID, names) }, smb2.STATUS_ACCESS_DENIED},
		{"unknown FileId", func() *Request { return tree.NotifyRequest(FileID{1, 2}, names) }, smb2.STATUS_FILE_CLOSED},
		{"unknown TreeId", func() *Request {
			r := tree.NotifyRequest(root.ID, names)
			r.Edit = func(h *smb2.Hdr) { h.TreeId++ }
			return r
		}, smb2.STATUS_NETWORK_NAME_DELETED},
		{"unknown SessionId", func() *Request {
			r := tree.NotifyRequest(root.ID, names)
			r.Edit = func(h *smb2.Hdr) { h.SessionId++ }
			return r
		}, smb2.STATUS_USER_SESSION_DELETED},
		{"StructureSize", func() *Request {
			r := tree.NotifyRequest(root.ID, names)
			r.Body.(*smb2.ChangeNotifyReq).StructureSize = 33
			return r
		}, smb2.STATUS_INVALID_PARAMETER},
		{"credit charge too small", func() *Request {
			w := names
			w.Size = 65537
			r := tree.NotifyRequest(root.ID, w)
			r.Payload = 0
			return r
		}, smb2.STATUS_INVALID_PARAMETER},
		{"not signed", func() *Request {
			r := tree.NotifyRequest(root.ID, names)
			r.Plain = true
			return r
		}, smb2.STATUS_ACCESS_DENIED},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := tree.Session.Conn.Send(within(t), c.make())
			must(t, err)
			wantStatus(t, final(t, p[0]), c.want)
		})
	}
}

// TestBadRequestSignature: a server that lets a tampered request pass is caught.
func TestBadRequestSignature(t *testing.T) {
	s := samba(t, quiet)
	c, tree := connect(t, s, options(s))
	c.Allow("unsigned", "signature") // how the refusal is signed is not the point
	r := tree.NotifyRequest(mustCreate(t, tree, "", Create{}).ID, names)
	r.Mangle = func(m []byte) []byte { m[len(m)-1] ^= 1; return m }
	p, err := c.Send(within(t), r)
	must(t, err)
	resp, err := p[0].Final(within(t))
	if err == nil {
		wantStatus(t, resp, smb2.STATUS_ACCESS_DENIED)
	} else if c.Err() == nil {
		t.Error(err)
	}
}

// TestGarbage: bytes that are no SMB end the connection and nothing else.
func TestGarbage(t *testing.T) {
	s := samba(t, quiet)
	for _, b := range [][]byte{{}, []byte("GET / HTTP/1.0\r\n\r\n"), make([]byte, 64)} {
		c, err := Connect(within(t), s.Addr, options(s))
		must(t, err)
		must(t, c.SendRaw(b))
		if len(b) > 0 {
			select {
			case <-c.Done():
			case <-within(t).Done():
				t.Errorf("the server keeps the connection after %q", b)
			}
		}
		c.Drop()
	}
	connect(t, s, options(s))
}

// TestPicksFromOffer: the highest dialect of both sides, with its algorithms.
func TestPicksFromOffer(t *testing.T) {
	s := samba(t, servers.SambaOptions{Global: []string{"server max protocol = SMB3_02"}})
	c, err := Dial(within(t), s.Addr, options(s))
	must(t, err)
	defer c.Drop()
	if got, want := c.Dialect, smb2.SMB302_PROT_ID; got != want {
		t.Errorf("dialect %v, want %v", got, want)
	}
	_, err = Dial(within(t), s.Addr, options(s, smb2.SMB311_PROT_ID))
	if !errors.Is(err, Status(smb2.STATUS_NOT_SUPPORTED)) {
		t.Errorf("3.1.1 alone: %v, want STATUS_NOT_SUPPORTED", err)
	}
}
