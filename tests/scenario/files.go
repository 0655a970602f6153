package scenario

// Commands that open and change files.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// accessOpen is what a handle is opened with that is to be watched, renamed and
// deleted.
const accessOpen = client.AccessExplorer

const accessFile = smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_DATA | smb2.FILE_APPEND_DATA |
	smb2.FILE_WRITE_ATTRIBUTES | smb2.DELETE | smb2.SYNCHRONIZE

var disposition, overwrite = smb2.FILE_CREATE, smb2.FILE_OVERWRITE

// handle is an open that has a name in the script.
type handle struct {
	*client.File
	persona *Persona // of who opened it; nil: none
	watched bool     // a CHANGE_NOTIFY was sent on it
	settled bool     // see Server.Settle
	key     [16]byte // of its lease
}

// opening are the options of an open.
const opening = "-access A -share S -file -delete-on-close -lease STATE -guid WORD -replay -reconnect"

func open(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	o, err := l.create(st, p, client.Create{})
	if err != nil {
		return err
	}
	return st.opened(p, l, o)
}

// words16 are 16 bytes that stand for a word: a CreateGuid, a LeaseKey.
func words16(word string) (b [16]byte) {
	sum := sha256.Sum256([]byte(word))
	copy(b[:], sum[:])
	return b
}

// create adds the options of an open, and what p's persona opens with, to o.
func (l *line) create(st *state, p *peer, o client.Create) (_ client.Create, err error) {
	if p.persona != nil {
		o.Access, o.Options = p.persona.Access, o.Options|p.persona.Options
		if p.persona.MaximalAccess {
			o.Contexts = append(o.Contexts, client.MaximalAccess())
		}
	}
	if a, ok := l.options["-access"]; ok {
		if o.Access, err = bits("right", rights, a); err != nil {
			return o, err
		}
	}
	if s, ok := l.options["-share"]; ok {
		share, err := bits("share mode", shares, s)
		if err != nil {
			return o, err
		}
		o.Share = &share
	}
	if l.has("-file") {
		o.Options |= smb2.FILE_NON_DIRECTORY_FILE
	}
	if l.has("-delete-on-close") {
		o.Access |= accessOpen | smb2.DELETE
		o.Options |= smb2.FILE_DELETE_ON_CLOSE
	}
	if l.has("-reparse") {
		o.Options |= smb2.FILE_OPEN_REPARSE_POINT
	}
	if s, ok := l.options["-lease"]; ok {
		state, err := lookup("lease", leases, s)
		if err != nil {
			return o, err
		}
		o.Oplock = smb2.SMB2_OPLOCK_LEVEL_LEASE
		o.Contexts = append(o.Contexts, client.LeaseV2(l.leaseKey(st), [16]byte{}, state, 1))
	}
	if word, ok := l.options["-guid"]; ok {
		guid := words16(st.folder + word)
		ask := client.DurableV2(guid, 0, false)
		if l.has("-reconnect") {
			f, err := st.file(word)
			if err != nil {
				return o, err
			}
			ask = client.DurableReconnectV2(f.ID, guid, false)
		}
		o.Contexts = append(o.Contexts, ask)
	}
	return o, nil
}

// name is what the handle is to be called.
func (l *line) name() string {
	if l.as != "" {
		return l.as
	}
	return baseName(l.words[1])
}

// leaseKey is the key of the lease that the handle asks for: a reconnect names
// the one it had.
func (l *line) leaseKey(st *state) [16]byte {
	if l.has("-guid") {
		return words16(st.folder + l.options["-guid"])
	}
	return words16(st.folder + l.name())
}

// opened opens the path of the line and keeps the handle under a name.
func (st *state) opened(p *peer, l *line, o client.Create) error {
	ctx, cancel := st.answer()
	defer cancel()
	path := st.path(l.words[1])
	req := p.tree.CreateRequest(path, o)
	if l.has("-replay") {
		req.Edit = func(h *smb2.Hdr) { h.Flags |= smb2.SMB2_FLAGS_REPLAY_OPERATION }
	}
	resp, err := p.conn.Do(ctx, req)
	// The server may not have noticed yet that the connection is gone.
	for l.has("-reconnect") && errors.Is(err, client.Status(smb2.STATUS_OBJECT_NAME_NOT_FOUND)) {
		select {
		case <-time.After(retryWait):
		case <-ctx.Done():
			return err
		}
		resp, err = p.conn.Do(ctx, p.tree.CreateRequest(path, o))
	}
	if err != nil {
		return err
	}
	f, err := p.tree.Opened(path, resp)
	if err != nil {
		return err
	}
	st.files[l.name()] = &handle{File: f, persona: p.persona, key: l.leaseKey(st)}
	if want, ok := l.options["-lease"]; ok {
		got, err := f.LeaseState()
		if err != nil {
			return err
		}
		if got != leases[want] {
			return &Mismatch{Want: "a lease " + want, Got: "a lease " + leaseInWords(got), conn: p.conn}
		}
	}
	return nil
}

func create(st *state, l *line) error {
	return st.make(l, client.Create{Access: accessFile, Disposition: &disposition, Options: smb2.FILE_NON_DIRECTORY_FILE})
}

func makedir(st *state, l *line) error {
	return st.make(l, client.Create{Access: accessOpen | smb2.DELETE, Disposition: &disposition, Options: smb2.FILE_DIRECTORY_FILE})
}

func (st *state) make(l *line, o client.Create) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	if l.has("-overwrite") {
		o.Disposition = &overwrite
	}
	// What a persona opens to watch with is not what it creates with.
	if o, err = l.create(st, &peer{}, o); err != nil {
		return err
	}
	if l.as != "" {
		return st.opened(p, l, o)
	}
	return st.with(p, l.words[1], o, func(context.Context, *client.File) error { return nil })
}

// with opens path, calls do and closes it.
func (st *state) with(p *peer, path string, o client.Create, do func(context.Context, *client.File) error) error {
	ctx, cancel := st.answer()
	defer cancel()
	f, err := p.tree.Create(ctx, st.path(path), o)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, f), f.Close(ctx))
}

// on runs do on a handle of the script when the line has n words, or on a path
// opened for it when it has n+1. do gets the words behind.
func (st *state) on(l *line, n int, access smb2.AccessMask, do func(context.Context, *client.File, []string) error) error {
	if len(l.words) == n {
		f, err := st.file(l.words[0])
		if err != nil {
			return err
		}
		ctx, cancel := st.answer()
		defer cancel()
		return do(ctx, f.File, l.words[1:])
	}
	if len(l.words) != n+1 {
		return l.wrong()
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.with(p, l.words[1], client.Create{Access: access}, func(ctx context.Context, f *client.File) error {
		return do(ctx, f, l.words[2:])
	})
}

// accessNames is what changes of names need.
const accessNames = smb2.FILE_READ_ATTRIBUTES | smb2.SYNCHRONIZE

func write(st *state, l *line) error {
	return st.on(l, 2, accessFile, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Write(ctx, 0, []byte(rest[0]))
	})
}

func copyBytes(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.with(p, l.words[1], client.Create{Access: accessFile}, func(_ context.Context, from *client.File) error {
		return st.with(p, l.words[2], client.Create{Access: accessFile}, func(ctx context.Context, to *client.File) error {
			return to.CopyFrom(ctx, from, 0, 0, 16)
		})
	})
}

func read(st *state, l *line) error {
	return st.on(l, 1, smb2.FILE_READ_DATA|accessNames, func(ctx context.Context, f *client.File, _ []string) error {
		_, err := f.Read(ctx, 0, 64)
		return err
	})
}

func rename(st *state, l *line) error {
	return st.on(l, 2, smb2.DELETE|accessNames, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Rename(ctx, st.path(rest[0]), l.has("-replace"))
	})
}

func link(st *state, l *line) error {
	return st.on(l, 2, smb2.FILE_WRITE_ATTRIBUTES|accessNames, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Link(ctx, st.path(rest[0]), false)
	})
}

func remove(st *state, l *line) error {
	return st.on(l, 1, smb2.DELETE|accessNames, func(ctx context.Context, f *client.File, _ []string) error {
		return f.Delete(ctx, true)
	})
}

func list(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	want := slices.Sorted(slices.Values(l.words[2:]))
	var got []string
	err = st.with(p, l.words[1], client.Create{}, func(ctx context.Context, f *client.File) error {
		all, err := f.List(ctx, "*")
		for _, e := range all {
			if e.Name != "." && e.Name != ".." {
				got = append(got, e.Name)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return &Mismatch{Want: fmt.Sprintf("%q", want), Got: fmt.Sprintf("%q", got), conn: p.conn}
	}
	return nil
}

// lease waits for the break of a handle's lease, or that none comes. It must be
// the only lease of the connection.
func lease(st *state, l *line) error {
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	conn := f.Tree.Session.Conn
	ctx, cancel := st.answer()
	defer cancel()
	if l.words[1] == "kept" {
		ctx, cancel := context.WithTimeout(ctx, st.server.deadline(quietWait))
		defer cancel()
		b, err := conn.Break(ctx)
		if err == nil {
			return &Mismatch{Want: "no break", Got: breakInWords(b), conn: conn}
		}
		if conn.Err() != nil {
			return err
		}
		return context.Cause(st.ctx)
	}
	want, err := lookup("lease", leases, l.words[1])
	if err != nil {
		return err
	}
	b, err := conn.Break(ctx)
	if err != nil {
		return &Mismatch{Want: "a break to " + l.words[1], Got: err.Error(), conn: conn}
	}
	if b.Lease == nil || b.Lease.LeaseKey != f.key || b.Lease.NewLeaseState != want {
		return &Mismatch{Want: "a break of this lease to " + l.words[1], Got: breakInWords(b), conn: conn}
	}
	if b.Lease.Flags&smb2.SMB2_NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED == 0 {
		return nil
	}
	return f.Tree.AckLease(ctx, f.key, want)
}

func breakInWords(b *client.Break) string {
	if b.Lease == nil {
		return "a break of an oplock"
	}
	return fmt.Sprintf("a break of lease %x to %s", b.Lease.LeaseKey, leaseInWords(b.Lease.NewLeaseState))
}

// aDay is a FILETIME of long ago: 2001-09-09, in 100 ns since 1601.
const aDay = 126_444_000_000_000_000

// everyone is a self-relative security descriptor (MS-DTYP 2.4.6) with one
// access-allowed entry: everybody, S-1-1-0, may do everything.
var everyone = []byte{
	1, 0, 4, 0x80, // revision, SE_DACL_PRESENT | SE_SELF_RELATIVE
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // no owner, group, SACL
	20, 0, 0, 0, // DACL
	2, 0, 28, 0, 1, 0, 0, 0, // revision, size, one entry
	0, 0, 20, 0, 0xff, 0x01, 0x1f, 0x00, // ACCESS_ALLOWED_ACE, size, mask
	1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // S-1-1-0
}

// symlink is a REPARSE_DATA_BUFFER (MS-FSCC 2.1.2.4): a relative symbolic link to
// "file".
var symlink = []byte{
	0x0c, 0, 0, 0xa0, 28, 0, 0, 0, // IO_REPARSE_TAG_SYMLINK, length
	8, 0, 8, 0, 0, 0, 8, 0, // substitute name, print name: offset, length
	1, 0, 0, 0, // SYMLINK_FLAG_RELATIVE
	'f', 0, 'i', 0, 'l', 0, 'e', 0, 'f', 0, 'i', 0, 'l', 0, 'e', 0,
}

// label is a FileFsLabelInformation (MS-FSCC 2.5.5): "new".
var label = []byte{6, 0, 0, 0, 'n', 0, 'e', 0, 'w', 0}

func set(st *state, l *line) error {
	f, words := st.files[l.words[0]], l.words[1:]
	var p *peer
	if f == nil {
		var err error
		if p, err = st.peer(l.words[0]); err != nil {
			return err
		}
		words = l.words[2:]
	}
	if len(words) == 0 {
		return l.wrong()
	}
	access := smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_ATTRIBUTES | smb2.SYNCHRONIZE
	var do func(context.Context, *client.File) error
	basic := func(info smb2.FileBasicInfo) {
		do = func(ctx context.Context, f *client.File) error { return f.SetBasic(ctx, info) }
	}
	switch what, rest := words[0], words[1:]; {
	case what == "hidden":
		basic(smb2.FileBasicInfo{Attributes: smb2.FILE_ATTRIBUTE_HIDDEN})
	case what == "normal":
		basic(smb2.FileBasicInfo{Attributes: smb2.FILE_ATTRIBUTE_NORMAL})
	case what == "last_write":
		basic(smb2.FileBasicInfo{LastWriteTime: aDay})
	case what == "last_access":
		basic(smb2.FileBasicInfo{LastAccessTime: aDay})
	case what == "creation":
		basic(smb2.FileBasicInfo{CreationTime: aDay})
	case what == "change":
		basic(smb2.FileBasicInfo{ChangeTime: aDay})
	case what == "keep":
		// 0 and -1 leave a time as it is (MS-FSCC 2.4.7).
		basic(smb2.FileBasicInfo{LastWriteTime: ^uint64(0), LastAccessTime: ^uint64(0)})
	case what == "security":
		access |= smb2.WRITE_DAC
		do = func(ctx context.Context, f *client.File) error {
			return f.SetSecurity(ctx, smb2.DACL_SECINFO, everyone)
		}
	case what == "sparse":
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error { return f.SetSparse(ctx) }
	case what == "zeros":
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error { return f.Zero(ctx, 0, 16) }
	case what == "reparse":
		do = func(ctx context.Context, f *client.File) error {
			_, err := f.Tree.Control(ctx, f.ID, client.Control{Code: smb2.FSCTL_SET_REPARSE_POINT, Input: symlink})
			return err
		}
	case what == "label":
		do = func(ctx context.Context, f *client.File) error {
			s := client.Set{Type: smb2.SMB2_O_INFO_FILESYSTEM, Class: byte(smb2.FS_LABEL_INFORMATION), Data: label}
			_, err := f.Tree.Session.Conn.Do(ctx, f.SetRequest(s))
			return err
		}
	case what == "size" && len(rest) == 1:
		n, err := strconv.ParseUint(rest[0], 0, 64)
		if err != nil {
			return fmt.Errorf("size %s: want a number", rest[0])
		}
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error { return f.SetEnd(ctx, n) }
	case what == "ea" && len(rest) == 2:
		access |= smb2.FILE_WRITE_EA
		do = func(ctx context.Context, f *client.File) error { return f.SetEA(ctx, rest[0], []byte(rest[1])) }
	default:
		return l.wrong()
	}
	if f != nil {
		ctx, cancel := st.answer()
		defer cancel()
		return do(ctx, f.File)
	}
	return st.with(p, l.words[1], client.Create{Access: access}, do)
}
