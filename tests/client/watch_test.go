package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/servers"
)

// quiet is a Samba without inotify: its own changes alone, each reported once.
var quiet = servers.SambaOptions{Global: []string{"kernel change notify = no"}}

var names = Watch{Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME, Size: 1000}

func mustNotify(t *testing.T, f *File, w Watch) *Pending {
	t.Helper()
	p, err := f.Notify(within(t), w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func makeDir(t *testing.T, tree *Tree, name string) {
	t.Helper()
	must(t, mustCreate(t, tree, name, createDir).Close(within(t)))
}

// TestTwoWatches: the older of two requests on one open gets the first change,
// each of its own.
func TestTwoWatches(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	root := mustCreate(t, tree, "", Create{})
	first, second := mustNotify(t, root, names), mustNotify(t, root, names)
	interim(t, first)
	interim(t, second)
	makeDir(t, tree, "a")
	wantChanges(t, final(t, first), Change{smb2.FILE_ACTION_ADDED, "a"})
	select {
	case <-second.Finished():
		t.Error("the second request is finished by the first change")
	default:
	}
	makeDir(t, tree, "b")
	wantChanges(t, final(t, second), Change{smb2.FILE_ACTION_ADDED, "b"})
}

// TestRename: OLD and NEW come together, with the path below the watched directory.
func TestRename(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	makeDir(t, tree, "sub")
	root := mustCreate(t, tree, "", Create{})
	w := names
	w.Tree = true
	watch := mustNotify(t, root, w)
	interim(t, watch)
	dir := mustCreate(t, tree, `sub\old`, createDir)
	wantChanges(t, final(t, watch), Change{smb2.FILE_ACTION_ADDED, `sub\old`})
	watch = mustNotify(t, root, w)
	interim(t, watch)
	must(t, dir.Rename(within(t), `sub\new`, false))
	wantChanges(t, final(t, watch), Change{smb2.FILE_ACTION_RENAMED_OLD_NAME, `sub\old`}, Change{smb2.FILE_ACTION_RENAMED_NEW_NAME, `sub\new`})
}

// TestBuffered: an open that was armed once keeps what happens between requests.
func TestBuffered(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	root := mustCreate(t, tree, "", Create{})
	arm := mustNotify(t, root, names)
	must(t, arm.CancelMessage()) // the interim response may come or not
	wantStatus(t, final(t, arm), smb2.STATUS_CANCELLED)
	makeDir(t, tree, "a")
	makeDir(t, tree, "b")
	// smbd hears of its own changes by messages to itself: they may come in two
	// responses.
	var got []Change
	for len(got) < 2 {
		r := final(t, mustNotify(t, root, names))
		must(t, r.Err())
		got = append(got, r.Changes...)
	}
	if want := []Change{{smb2.FILE_ACTION_ADDED, "a"}, {smb2.FILE_ACTION_ADDED, "b"}}; !slices.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}

	// No room for a record, ever.
	small := mustCreate(t, tree, "", Create{})
	p := mustNotify(t, small, Watch{Filter: names.Filter, Size: 13})
	interim(t, p)
	makeDir(t, tree, "c")
	wantStatus(t, final(t, p), smb2.STATUS_NOTIFY_ENUM_DIR)
}

// TestEnds: the four ways a watch ends without a change.
func TestEnds(t *testing.T) {
	s := samba(t, quiet)
	for _, c := range []struct {
		name string
		end  func(ctx context.Context, tree *Tree, dir *File, p *Pending) error
		want smb2.NtStatus
	}{
		{"cancel by AsyncId", func(_ context.Context, _ *Tree, _ *File, p *Pending) error { return p.Cancel() }, smb2.STATUS_CANCELLED},
		{"cancel by MessageId", func(_ context.Context, _ *Tree, _ *File, p *Pending) error { return p.CancelMessage() }, smb2.STATUS_CANCELLED},
		{"close", func(ctx context.Context, _ *Tree, dir *File, _ *Pending) error { return dir.Close(ctx) }, smb2.STATUS_NOTIFY_CLEANUP},
		{"tree disconnect", func(ctx context.Context, tree *Tree, _ *File, _ *Pending) error { return tree.Disconnect(ctx) }, smb2.STATUS_NOTIFY_CLEANUP},
		{"logoff", func(ctx context.Context, tree *Tree, _ *File, _ *Pending) error { return tree.Session.Logoff(ctx) }, smb2.STATUS_NOTIFY_CLEANUP},
		{"failed reauthentication", func(ctx context.Context, tree *Tree, _ *File, _ *Pending) error {
			err := tree.Session.Reauthenticate(ctx, Credentials{User: s.User, Password: "wrong"})
			if errors.Is(err, Status(smb2.STATUS_LOGON_FAILURE)) {
				return nil
			}
			return err
		}, smb2.STATUS_NOTIFY_CLEANUP},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, tree := connect(t, s, options(s))
			root := mustCreate(t, tree, "", Create{})
			p := mustNotify(t, root, names)
			interim(t, p)
			must(t, c.end(within(t), tree, root, p))
			wantStatus(t, final(t, p), c.want)
		})
	}
}

func TestDeletedDirectory(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	dir := mustCreate(t, tree, "dir", createDir)
	p := mustNotify(t, dir, names)
	interim(t, p)
	other := mustCreate(t, tree, "dir", open)
	must(t, other.Delete(within(t), true))
	must(t, other.Close(within(t)))
	wantStatus(t, final(t, p), smb2.STATUS_DELETE_PENDING)
}

// TestPreviousSession: a new session takes the place of one on another connection.
func TestPreviousSession(t *testing.T) {
	s := samba(t, quiet)
	old, tree := connect(t, s, options(s))
	p := mustNotify(t, mustCreate(t, tree, "", Create{}), names)
	interim(t, p)
	c, err := Dial(within(t), s.Addr, options(s))
	must(t, err)
	defer c.Drop()
	_, err = c.SessionSetup(within(t), Setup{Credentials: Credentials{User: s.User, Password: s.Password}, Previous: tree.Session.ID})
	must(t, err)
	select {
	case <-p.Finished():
		wantStatus(t, final(t, p), smb2.STATUS_NOTIFY_CLEANUP)
	case <-old.Done(): // allowed too: MS-SMB2 3.3.5.5.3 lets the server close the connection
	case <-within(t).Done():
		t.Error("the watch of the old session does not end")
	}
}

// TestDrop: after a dropped connection every wait ends, and the server lives.
func TestDrop(t *testing.T) {
	s := samba(t, quiet)
	c, tree := connect(t, s, options(s))
	p := mustNotify(t, mustCreate(t, tree, "", Create{}), names)
	interim(t, p)
	c.Drop()
	if _, err := p.Final(within(t)); !errors.Is(err, ErrDropped) {
		t.Errorf("final response: %v, want %v", err, ErrDropped)
	}
	if _, err := c.Send(within(t), &Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq(), Session: tree.Session}); !errors.Is(err, ErrDropped) {
		t.Errorf("send: %v, want %v", err, ErrDropped)
	}
	_, tree = connect(t, s, options(s))
	must(t, tree.Session.Conn.Echo(within(t)))
}

// TestWaitEnds: a wait ends with its context and says what it waited for.
func TestWaitEnds(t *testing.T) {
	s := samba(t, quiet)
	_, tree := connect(t, s, options(s))
	p := mustNotify(t, mustCreate(t, tree, "", Create{}), names)
	interim(t, p)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := p.Final(ctx)
	if got, want := err.Error(), "wait for the response to CHANGE_NOTIFY, message id 5: enough"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

// TestTwoSessions: two users and two trees on one connection.
func TestTwoSessions(t *testing.T) {
	s := samba(t, quiet)
	if s.Other == "" {
		t.Skip("a second user needs root")
	}
	c, tree := connect(t, s, options(s))
	other, err := c.SessionSetup(within(t), Setup{Credentials: Credentials{User: s.Other, Password: s.Password}})
	must(t, err)
	otherTree, err := other.TreeConnect(within(t), s.Share)
	must(t, err)
	if tree.Session.ID == other.ID || tree.ID == otherTree.ID {
		t.Errorf("sessions %#x and %#x, trees %d and %d are not different", tree.Session.ID, other.ID, tree.ID, otherTree.ID)
	}
	p := mustNotify(t, mustCreate(t, otherTree, "", Create{}), names)
	interim(t, p)
	makeDir(t, tree, "mine")
	wantChanges(t, final(t, p), Change{smb2.FILE_ACTION_ADDED, "mine"})
	_, err = otherTree.Create(within(t), "theirs", createDir)
	if !errors.Is(err, Status(smb2.STATUS_ACCESS_DENIED)) {
		t.Errorf("create without rights: %v, want STATUS_ACCESS_DENIED", err)
	}
}

// TestManyWatches: more requests than the window is wide, all pending, and the
// connection still works: the interim responses bring the credits back.
func TestManyWatches(t *testing.T) {
	s := samba(t, quiet)
	o := options(s)
	o.Credits = 8
	c, tree := connect(t, s, o)
	root := mustCreate(t, tree, "", Create{})
	var all []*Pending
	for range 100 {
		all = append(all, mustNotify(t, root, names))
	}
	for _, p := range all {
		interim(t, p)
	}
	if c.Credits() < 1 {
		t.Errorf("%d credits are left, want at least 1", c.Credits())
	}
	must(t, root.Close(within(t)))
	for _, p := range all {
		wantStatus(t, final(t, p), smb2.STATUS_NOTIFY_CLEANUP)
	}
}

// TestLocal: what a program on the server does reaches the client.
func TestLocal(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	_, tree := connect(t, s, options(s))
	p := mustNotify(t, mustCreate(t, tree, "", Create{}), names)
	interim(t, p)
	must(t, s.Settle(within(t)))
	must(t, os.Mkdir(filepath.Join(s.Dir, "ä 😀"), 0o777))
	wantChanges(t, final(t, p), Change{smb2.FILE_ACTION_ADDED, "ä 😀"})
}
