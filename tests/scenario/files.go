package scenario

// Commands that open and change files.

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// accessOpen is what a handle is opened with that is to be watched, renamed and
// deleted.
const accessOpen = client.AccessExplorer

func open(st *state, args []string) error {
	l, err := readLine(args, "-access A -delete-on-close")
	if err != nil {
		return err
	}
	if err := l.need(2, 2, vocabulary["open"].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	o, err := l.create()
	if err != nil {
		return err
	}
	return st.opened(p, l.words[1], l.as, o)
}

// create reads the options of an open.
func (l *line) create() (o client.Create, err error) {
	if a, ok := l.options["-access"]; ok {
		if o.Access, err = bits("right", rights, a); err != nil {
			return o, err
		}
	}
	if l.has("-delete-on-close") {
		o.Access |= accessOpen | smb2.DELETE
		o.Options |= smb2.FILE_DELETE_ON_CLOSE
	}
	return o, nil
}

// opened opens path and keeps the handle under a name.
func (st *state) opened(p *peer, path, as string, o client.Create) error {
	ctx, cancel := st.answer()
	defer cancel()
	f, err := p.tree.Create(ctx, st.path(path), o)
	if err != nil {
		return err
	}
	if as == "" {
		as = baseName(path)
	}
	st.files[as] = f
	return nil
}

const accessFile = smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_DATA | smb2.FILE_APPEND_DATA |
	smb2.FILE_WRITE_ATTRIBUTES | smb2.DELETE | smb2.SYNCHRONIZE

var disposition, overwrite = smb2.FILE_CREATE, smb2.FILE_OVERWRITE

func create(st *state, args []string) error {
	return st.make("create", args, client.Create{Access: accessFile, Disposition: &disposition, Options: smb2.FILE_NON_DIRECTORY_FILE})
}

func makedir(st *state, args []string) error {
	return st.make("makedir", args, client.Create{Access: accessOpen | smb2.DELETE, Disposition: &disposition, Options: smb2.FILE_DIRECTORY_FILE})
}

func (st *state) make(name string, args []string, o client.Create) error {
	l, err := readLine(args, "-overwrite")
	if err != nil {
		return err
	}
	if err := l.need(2, 2, vocabulary[name].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	if l.has("-overwrite") {
		o.Disposition = &overwrite
	}
	if l.as != "" {
		return st.opened(p, l.words[1], l.as, o)
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
func (st *state) on(name string, l *line, n int, access smb2.AccessMask, do func(context.Context, *client.File, []string) error) error {
	if len(l.words) == n {
		f, err := st.file(l.words[0])
		if err != nil {
			return err
		}
		ctx, cancel := st.answer()
		defer cancel()
		return do(ctx, f, l.words[1:])
	}
	if len(l.words) != n+1 {
		return fmt.Errorf("usage: %s", vocabulary[name].usage)
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.with(p, l.words[1], client.Create{Access: access}, func(ctx context.Context, f *client.File) error {
		return do(ctx, f, l.words[2:])
	})
}

func write(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("write", l, 2, accessFile, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Write(ctx, 0, []byte(rest[0]))
	})
}

func read(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("read", l, 1, smb2.FILE_READ_DATA|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, _ []string) error {
		_, err := f.Read(ctx, 0, 64)
		return err
	})
}

func rename(st *state, args []string) error {
	l, err := readLine(args, "-replace")
	if err != nil {
		return err
	}
	return st.on("rename", l, 2, smb2.DELETE|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Rename(ctx, st.path(rest[0]), l.has("-replace"))
	})
}

func link(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("link", l, 2, smb2.FILE_WRITE_ATTRIBUTES|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Link(ctx, st.path(rest[0]), false)
	})
}

func remove(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("delete", l, 1, smb2.DELETE|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, _ []string) error {
		return f.Delete(ctx, true)
	})
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

func set(st *state, args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: %s", vocabulary["set"].usage)
	}
	p, err := st.peer(args[0])
	if err != nil {
		return err
	}
	access := smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_ATTRIBUTES | smb2.SYNCHRONIZE
	var do func(context.Context, *client.File) error
	basic := func(info smb2.FileBasicInfo) {
		do = func(ctx context.Context, f *client.File) error { return f.SetBasic(ctx, info) }
	}
	switch what, rest := args[2], args[3:]; {
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
		do = func(ctx context.Context, f *client.File) error {
			_, err := f.Tree.Control(ctx, f.ID, client.Control{Code: smb2.FSCTL_SET_SPARSE, Size: 0x10})
			return err
		}
	case what == "zeros":
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error {
			// FileOffset 0 and BeyondFinalZero 16 (MS-FSCC 2.3.71).
			_, err := f.Tree.Control(ctx, f.ID, client.Control{Code: smb2.FSCTL_SET_ZERO_DATA, Input: []byte{8: 16, 15: 0}, Size: 16})
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
		return fmt.Errorf("usage: %s", vocabulary["set"].usage)
	}
	return st.with(p, args[1], client.Create{Access: access}, do)
}
