package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/servers"
)

// patience is how long a test waits for what must come. It only counts when a
// test fails.
const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func samba(t *testing.T, o servers.SambaOptions) *servers.Samba {
	t.Helper()
	t.Parallel()
	s, err := servers.StartSamba(context.Background(), o)
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("smbd:\n" + s.Log())
		}
		s.Stop()
	})
	return s
}

// options are those of the server's user; tests change what they are about.
func options(s *servers.Samba, dialects ...smb2.Dialect) Options {
	return Options{User: s.User, Password: s.Password, Dialects: dialects}
}

// connect logs in and connects to the share. A failed test prints the transcript;
// a violation fails it.
func connect(t *testing.T, s *servers.Samba, o Options) (*Conn, *Tree) {
	t.Helper()
	ctx := within(t)
	c, err := Dial(ctx, s.Addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range c.Violations() {
			t.Errorf("violation: %v", v)
		}
		c.Drop()
		if t.Failed() {
			t.Log("\n" + strings.Join(c.Lines(), "\n"))
		}
	})
	session, err := c.Login(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := session.TreeConnect(ctx, s.Share)
	if err != nil {
		t.Fatal(err)
	}
	return c, tree
}

func final(t *testing.T, p *Pending) *Response {
	t.Helper()
	r, err := p.Final(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func interim(t *testing.T, p *Pending) *Response {
	t.Helper()
	r, err := p.Interim(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantChanges compares the records of a response.
func wantChanges(t *testing.T, r *Response, want ...Change) {
	t.Helper()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Changes, want) {
		t.Errorf("records %v, want %v", r.Changes, want)
	}
}

func wantStatus(t *testing.T, r *Response, want smb2.NtStatus) {
	t.Helper()
	if got := r.Status(); got != want {
		t.Errorf("%v: %v, want %v", r.Hdr.Command, got, want)
	}
}

var explorer = Watch{
	Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME | smb2.FILE_NOTIFY_CHANGE_ATTRIBUTES | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE,
	Size:   2048,
}

func forDialects(t *testing.T, test func(t *testing.T, d smb2.Dialect), dialects ...smb2.Dialect) {
	for _, d := range dialects {
		t.Run(d.String(), func(t *testing.T) { test(t, d) })
	}
}

// TestExplorer walks through what Windows Explorer does in a folder in which a
// file appears.
func TestExplorer(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	must(t, os.Mkdir(filepath.Join(s.Dir, "folder"), 0o777))
	must(t, os.Chmod(filepath.Join(s.Dir, "folder"), 0o777)) // whatever the umask
	forDialects(t, func(t *testing.T, d smb2.Dialect) {
		c, tree := connect(t, s, options(s, d))
		if c.Dialect != d {
			t.Fatalf("dialect %v, want %v", c.Dialect, d)
		}
		ctx := within(t)
		dir, watch, err := tree.CreateNotify(ctx, "folder", Create{}, explorer)
		if err != nil {
			t.Fatal(err)
		}
		wantStatus(t, interim(t, watch), smb2.STATUS_PENDING)
		must(t, s.Settle(ctx))
		name := "new " + d.String()
		if err := os.WriteFile(filepath.Join(s.Dir, "folder", name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		wantChanges(t, final(t, watch), Change{smb2.FILE_ACTION_ADDED, name})

		// What is left of the creation may be in the buffer.
		for {
			watch = mustNotify(t, dir, explorer)
			_, err := watch.Interim(ctx)
			var at *NoInterimError
			if err == nil {
				break
			}
			if !errors.As(err, &at) {
				t.Fatal(err)
			}
		}
		must(t, watch.Cancel())
		wantStatus(t, final(t, watch), smb2.STATUS_CANCELLED)
		if err := dir.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := tree.Disconnect(ctx); err != nil {
			t.Fatal(err)
		}
		if err := tree.Session.Logoff(ctx); err != nil {
			t.Fatal(err)
		}
		if c.Credits() == 0 {
			t.Error("no credit is left")
		}
	}, smb2.SMB311_PROT_ID, smb2.SMB21_PROT_ID)
}

func TestCloseEndsWatch(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	_, tree := connect(t, s, options(s))
	ctx := within(t)
	dir, err := tree.Create(ctx, "", Create{})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := dir.Notify(ctx, explorer)
	if err != nil {
		t.Fatal(err)
	}
	interim(t, watch)
	closing, err := tree.Session.Conn.Send(ctx, dir.CloseRequest())
	if err != nil {
		t.Fatal(err)
	}
	closed, cleanup := final(t, closing[0]), final(t, watch)
	wantStatus(t, closed, smb2.STATUS_SUCCESS)
	wantStatus(t, cleanup, smb2.STATUS_NOTIFY_CLEANUP)
	if closed.Seq > cleanup.Seq {
		t.Errorf("CLOSE is answered after its watch: message %d after %d", closed.Seq, cleanup.Seq)
	}
}

func TestWrongPassword(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	o := options(s)
	o.Password += "x"
	ctx := within(t)
	c, err := Dial(ctx, s.Addr, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Drop()
	if _, err := c.Login(ctx); !errors.Is(err, Status(smb2.STATUS_LOGON_FAILURE)) {
		t.Errorf("login: %v, want %v", err, smb2.STATUS_LOGON_FAILURE)
	}
}
