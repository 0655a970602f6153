package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/servers"
)

var everyDialect = []smb2.Dialect{smb2.SMB20_PROT_ID, smb2.SMB21_PROT_ID, smb2.SMB30_PROT_ID, smb2.SMB302_PROT_ID, smb2.SMB311_PROT_ID}

// exercise does a little of everything that is signed or encrypted: compound,
// interim, asynchronous final, CANCEL, data of several credits.
func exercise(t *testing.T, s *servers.Samba, o Options, name string) *Conn {
	t.Helper()
	c, tree := connect(t, s, o)
	ctx := within(t)
	dir, watch, err := tree.CreateNotify(ctx, "", Create{}, names)
	must(t, err)
	interim(t, watch)
	makeDir(t, tree, name)
	wantChanges(t, final(t, watch), Change{smb2.FILE_ACTION_ADDED, name})
	watch = mustNotify(t, dir, names)
	interim(t, watch)
	must(t, watch.Cancel())
	wantStatus(t, final(t, watch), smb2.STATUS_CANCELLED)
	f := mustCreate(t, tree, name+" file", create)
	must(t, f.Write(ctx, 0, make([]byte, 200000)))
	if got, err := f.Read(ctx, 0, 300000); err != nil || len(got) != 200000 {
		t.Errorf("read %d bytes, %v, want 200000", len(got), err)
	}
	must(t, f.Close(ctx))
	must(t, dir.Close(ctx))
	return c
}

func TestDialects(t *testing.T) {
	s := samba(t, quiet)
	forDialects(t, func(t *testing.T, d smb2.Dialect) {
		if c := exercise(t, s, options(s, d), "signed "+d.String()); c.Dialect != d {
			t.Errorf("dialect %v, want %v", c.Dialect, d)
		}
	}, everyDialect...)
}

func TestSigningAlgorithms(t *testing.T) {
	s := samba(t, quiet)
	for _, a := range []smb2.SigningAlgorithm{smb2.SIGNING_ALG_AES_GMAC, smb2.SIGNING_ALG_AES_CMAC, smb2.SIGNING_ALG_HMAC_SHA256} {
		t.Run(a.String(), func(t *testing.T) {
			o := options(s, smb2.SMB311_PROT_ID)
			o.SigningAlgorithms = []smb2.SigningAlgorithm{a}
			if c := exercise(t, s, o, a.String()); c.SigningAlgorithm != a {
				t.Errorf("algorithm %v, want %v", c.SigningAlgorithm, a)
			}
		})
	}
}

func TestCiphers(t *testing.T) {
	s := samba(t, quiet)
	for _, cipher := range []smb2.Cipher{smb2.SMB2_ENCRYPTION_AES128_CCM, smb2.SMB2_ENCRYPTION_AES128_GCM, smb2.SMB2_ENCRYPTION_AES256_CCM, smb2.SMB2_ENCRYPTION_AES256_GCM} {
		t.Run(cipher.String(), func(t *testing.T) {
			o := options(s, smb2.SMB311_PROT_ID)
			o.Encrypt = true
			o.Ciphers = []smb2.Cipher{cipher}
			c := exercise(t, s, o, cipher.String())
			if c.Cipher != cipher {
				t.Errorf("cipher %v, want %v", c.Cipher, cipher)
			}
			wantEncrypted(t, c)
		})
	}
	forDialects(t, func(t *testing.T, d smb2.Dialect) {
		o := options(s, d)
		o.Encrypt = true
		wantEncrypted(t, exercise(t, s, o, "encrypted "+d.String()))
	}, smb2.SMB30_PROT_ID, smb2.SMB302_PROT_ID)
}

// wantEncrypted: all behind SESSION_SETUP, both ways.
func wantEncrypted(t *testing.T, c *Conn) {
	t.Helper()
	for _, e := range c.Transcript() {
		first := e.Direction == Note || e.Hdr.Command <= smb2.SMB2_SESSION_SETUP
		if e.Encrypted == first {
			t.Errorf("encrypted %t: %s", e.Encrypted, e.Text)
		}
	}
}

func TestServerDemands(t *testing.T) {
	t.Run("encryption of the session", func(t *testing.T) {
		s := samba(t, servers.SambaOptions{Global: []string{"kernel change notify = no", "server smb encrypt = required"}})
		wantEncrypted(t, exercise(t, s, options(s), "a"))
	})
	t.Run("encryption of the share", func(t *testing.T) {
		s := samba(t, servers.SambaOptions{Global: quiet.Global, Share: []string{"server smb encrypt = required"}})
		c := exercise(t, s, options(s), "a")
		for _, e := range c.Transcript() {
			if e.Hdr.Command == smb2.SMB2_CHANGE_NOTIFY && !e.Encrypted {
				t.Errorf("not encrypted: %s", e.Text)
			}
		}
	})
	t.Run("signing", func(t *testing.T) {
		s := samba(t, servers.SambaOptions{Global: []string{"kernel change notify = no", "server signing = mandatory"}})
		o := options(s, smb2.SMB21_PROT_ID)
		o.Signing = SigningEnabled
		c := exercise(t, s, o, "a")
		for _, e := range c.Transcript() {
			if e.Direction == Out && e.Hdr.Command > smb2.SMB2_SESSION_SETUP && e.Hdr.Flags&smb2.SMB2_FLAGS_SIGNED == 0 {
				t.Errorf("not signed: %s", e.Text)
			}
		}
	})
	t.Run("nothing", func(t *testing.T) {
		s := samba(t, quiet)
		o := options(s, smb2.SMB21_PROT_ID)
		o.Signing = SigningEnabled
		c := exercise(t, s, o, "a")
		for _, e := range c.Transcript() {
			if e.Hdr.Command > smb2.SMB2_SESSION_SETUP && e.Hdr.Flags&smb2.SMB2_FLAGS_SIGNED != 0 {
				t.Errorf("signed: %s", e.Text)
			}
		}
	})
}

func TestValidateNegotiate(t *testing.T) {
	s := samba(t, quiet)
	forDialects(t, func(t *testing.T, d smb2.Dialect) {
		_, tree := connect(t, s, options(s, d))
		must(t, tree.ValidateNegotiate(within(t)))
	}, smb2.SMB30_PROT_ID, smb2.SMB302_PROT_ID)
}

func TestReauthenticate(t *testing.T) {
	s := samba(t, quiet)
	for _, encrypt := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted %t", encrypt), func(t *testing.T) {
			o := options(s)
			o.Encrypt = encrypt
			_, tree := connect(t, s, o)
			p := mustNotify(t, mustCreate(t, tree, "", Create{}), names)
			interim(t, p)
			must(t, tree.Session.Reauthenticate(within(t), Credentials{User: s.User, Password: s.Password}))
			name := fmt.Sprint("after ", encrypt)
			makeDir(t, tree, name)
			wantChanges(t, final(t, p), Change{smb2.FILE_ACTION_ADDED, name})
		})
	}
}

// TestMultichannel binds a second connection to a session and works on both.
func TestMultichannel(t *testing.T) {
	s := samba(t, quiet)
	forDialects(t, func(t *testing.T, d smb2.Dialect) {
		for _, encrypt := range []bool{false, true} {
			t.Run(fmt.Sprintf("encrypted %t", encrypt), func(t *testing.T) {
				o := options(s, d)
				o.Encrypt = encrypt
				o.ClientGUID = [16]byte{1, 2, 3, byte(d), byte(len(t.Name()))}
				first, tree := connect(t, s, o)
				root := mustCreate(t, tree, "", Create{})
				p := mustNotify(t, root, names)
				interim(t, p)

				second, err := Dial(within(t), s.Addr, o)
				must(t, err)
				t.Cleanup(func() {
					for _, v := range second.Violations() {
						t.Errorf("violation on the second channel: %v", v)
					}
					second.Drop()
					if t.Failed() {
						t.Log("second channel\n" + strings.Join(second.Lines(), "\n"))
					}
				})
				channel, err := second.SessionSetup(within(t), Setup{Credentials: Credentials{User: s.User, Password: s.Password}, Bind: tree.Session})
				must(t, err)
				if channel.ID != tree.Session.ID {
					t.Errorf("session %#x on the second channel, want %#x", channel.ID, tree.Session.ID)
				}
				// The open of one channel serves requests on the other.
				q := mustNotify(t, root.On(channel), names)
				interim(t, q)
				name := fmt.Sprint(d, encrypt)
				makeDir(t, tree.On(channel), name)
				wantChanges(t, final(t, p), Change{smb2.FILE_ACTION_ADDED, name})
				makeDir(t, tree, name+"2")
				wantChanges(t, final(t, q), Change{smb2.FILE_ACTION_ADDED, name + "2"})
				first.Drop()
				must(t, channel.Echo(within(t)))
			})
		}
	}, smb2.SMB30_PROT_ID, smb2.SMB311_PROT_ID)
}

// TestDurable: a handle outlives its connection and is taken up again.
func TestDurable(t *testing.T) {
	s := samba(t, quiet)
	guid := [16]byte{0xd0, 1}
	for _, c := range []struct {
		name      string
		ask       smb2.CreateContext
		answer    string
		reconnect func(id FileID) smb2.CreateContext
	}{
		{"v1", Durable(), smb2.SMB2_CREATE_DURABLE_HANDLE_REQUEST, DurableReconnect},
		{"v2", DurableV2(guid, 60000, false), smb2.SMB2_CREATE_DURABLE_HANDLE_REQUEST_V2, func(id FileID) smb2.CreateContext { return DurableReconnectV2(id, guid, false) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(s, smb2.SMB311_PROT_ID)
			o.ClientGUID = [16]byte{9, c.name[1]}
			key := [16]byte{0x1e, c.name[1]}
			lease := LeaseV2(key, [16]byte{}, smb2.SMB2_LEASE_READ_CACHING|smb2.SMB2_LEASE_HANDLE_CACHING|smb2.SMB2_LEASE_WRITE_CACHING, 1)
			conn, tree := connect(t, s, o)
			want := create
			want.Oplock = smb2.SMB2_OPLOCK_LEVEL_LEASE
			want.Contexts = []smb2.CreateContext{c.ask, lease}
			f := mustCreate(t, tree, "durable "+c.name, want)
			if data, err := f.Context(c.answer); err != nil || data == nil {
				t.Fatalf("context %s of the response: %x, %v, want one", c.answer, data, err)
			}
			must(t, f.Write(within(t), 0, []byte("before")))
			conn.Drop()

			again, tree2 := connect(t, s, o)
			back := Create{Access: accessAll, Oplock: smb2.SMB2_OPLOCK_LEVEL_LEASE, Contexts: []smb2.CreateContext{c.reconnect(f.ID), lease}}
			g, err := reopen(within(t), tree2, f.Name, back)
			must(t, err)
			if g.ID.Persistent != f.ID.Persistent {
				t.Errorf("%v after the reconnect, want the persistent part of %v", g.ID, f.ID)
			}
			if got, err := g.Read(within(t), 0, 100); err != nil || string(got) != "before" {
				t.Errorf("read %q, %v, want %q", got, err, "before")
			}
			_ = again
		})
	}
}

// reopen opens until the server has noticed that the first connection is gone.
func reopen(ctx context.Context, tree *Tree, name string, o Create) (*File, error) {
	for {
		f, err := tree.Create(ctx, name, o)
		if err == nil || ctx.Err() != nil || !errors.Is(err, Status(smb2.STATUS_OBJECT_NAME_NOT_FOUND)) && !errors.Is(err, Status(smb2.STATUS_SHARING_VIOLATION)) {
			return f, err
		}
	}
}

// TestLeaseBreak: a lease is granted, broken by another client and acknowledged.
func TestLeaseBreak(t *testing.T) {
	s := samba(t, quiet)
	c, tree := connect(t, s, options(s))
	_, other := connect(t, s, options(s))
	key := [16]byte{0x1e, 0xa5, 0xe}
	const rhw = smb2.SMB2_LEASE_READ_CACHING | smb2.SMB2_LEASE_HANDLE_CACHING | smb2.SMB2_LEASE_WRITE_CACHING
	want := create
	want.Oplock = smb2.SMB2_OPLOCK_LEVEL_LEASE
	want.Contexts = []smb2.CreateContext{LeaseV2(key, [16]byte{}, rhw, 1)}
	f := mustCreate(t, tree, "leased", want)
	if state, err := f.LeaseState(); err != nil || state != rhw {
		t.Errorf("lease %v, %v, want %v", state, err, rhw)
	}
	p, err := other.Session.Conn.Send(within(t), other.CreateRequest("leased", open))
	must(t, err)
	b, err := c.Break(within(t))
	must(t, err)
	if b.Lease == nil || b.Lease.LeaseKey != key || b.Lease.CurrentLeaseState != rhw {
		t.Fatalf("break %+v, want one of lease %x", b, key)
	}
	must(t, tree.AckLease(within(t), key, b.Lease.NewLeaseState))
	wantStatus(t, final(t, p[0]), smb2.STATUS_SUCCESS)
}

// TestOplockBreak is TestLeaseBreak with an oplock.
func TestOplockBreak(t *testing.T) {
	s := samba(t, quiet)
	c, tree := connect(t, s, options(s, smb2.SMB21_PROT_ID))
	_, other := connect(t, s, options(s))
	want := create
	want.Oplock = smb2.SMB2_OPLOCK_LEVEL_BATCH
	f := mustCreate(t, tree, "oplocked", want)
	if got, want := f.Created.OplockLevel, smb2.SMB2_OPLOCK_LEVEL_BATCH; got != want {
		t.Errorf("oplock %v, want %v", got, want)
	}
	p, err := other.Session.Conn.Send(within(t), other.CreateRequest("oplocked", open))
	must(t, err)
	b, err := c.Break(within(t))
	must(t, err)
	if b.Oplock == nil {
		t.Fatalf("break %+v, want one of an oplock", b)
	}
	must(t, f.AckOplock(within(t), b.Oplock.OplockLevel))
	wantStatus(t, final(t, p[0]), smb2.STATUS_SUCCESS)
}

func TestAnonymous(t *testing.T) {
	s := samba(t, quiet)
	o := options(s)
	o.User, o.Password = "", ""
	c, err := Dial(within(t), s.Addr, o)
	must(t, err)
	defer c.Drop()
	session, err := c.Login(within(t))
	must(t, err)
	if _, err := session.TreeConnect(within(t), s.Share); !errors.Is(err, Status(smb2.STATUS_ACCESS_DENIED)) {
		t.Errorf("connect to the share: %v, want STATUS_ACCESS_DENIED", err)
	}
}
