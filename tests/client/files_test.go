package client

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/servers"
)

const accessAll = smb2.FILE_READ_DATA | smb2.FILE_WRITE_DATA | smb2.FILE_APPEND_DATA | smb2.FILE_READ_EA | smb2.FILE_WRITE_EA |
	smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_ATTRIBUTES | smb2.DELETE | smb2.READ_CONTROL | smb2.WRITE_DAC | smb2.SYNCHRONIZE

func ptr[T any](v T) *T { return &v }

var (
	create    = Create{Access: accessAll, Disposition: ptr(smb2.FILE_CREATE)}
	createDir = Create{Access: accessAll, Disposition: ptr(smb2.FILE_CREATE), Options: smb2.FILE_DIRECTORY_FILE}
	open      = Create{Access: accessAll}
)

func mustCreate(t *testing.T, tree *Tree, name string, o Create) *File {
	t.Helper()
	f, err := tree.Create(within(t), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFiles does to files what scenarios do.
func TestFiles(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	_, tree := connect(t, s, options(s))
	ctx := within(t)
	path := func(name string) string { return filepath.Join(s.Dir, name) }

	makeDir(t, tree, "dir")
	dir := mustCreate(t, tree, "dir", Create{}) // without DELETE, which forbids renames in it
	f := mustCreate(t, tree, `dir\file`, create)

	// More than one credit's worth, and more than one message's.
	big := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	must(t, f.Write(ctx, 0, big))
	must(t, f.Flush(ctx))
	on, err := os.ReadFile(path("dir/file"))
	if err != nil || !bytes.Equal(on, big) {
		t.Errorf("the server has %d bytes, %v, want the %d written", len(on), err, len(big))
	}
	if got, err := f.Read(ctx, 10, len(big)); err != nil || !bytes.Equal(got, big[10:]) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(big)-10)
	}
	if got, err := f.Read(ctx, uint64(len(big)), 1); err != nil || len(got) != 0 {
		t.Errorf("read behind the end %d bytes, %v, want none", len(got), err)
	}

	must(t, f.SetEnd(ctx, 5))
	var std smb2.FileStandardInfo
	must(t, f.Info(ctx, smb2.FILE_STANDARD_INFORMATION, &std))
	if std.EndOfFile != 5 || std.Directory != 0 {
		t.Errorf("size %d directory %d, want 5 and 0", std.EndOfFile, std.Directory)
	}

	must(t, f.SetBasic(ctx, smb2.FileBasicInfo{Attributes: smb2.FILE_ATTRIBUTE_HIDDEN, LastWriteTime: 132000000000000000}))
	var basic smb2.FileBasicInfo
	must(t, f.Info(ctx, smb2.FILE_BASIC_INFORMATION, &basic))
	if basic.Attributes&smb2.FILE_ATTRIBUTE_HIDDEN == 0 || basic.LastWriteTime != 132000000000000000 {
		t.Errorf("attributes %v, written %d, want HIDDEN and 132000000000000000", basic.Attributes, basic.LastWriteTime)
	}

	must(t, f.SetEA(ctx, "NAME", []byte("value")))
	data, err := f.Query(ctx, Query{Type: smb2.SMB2_O_INFO_FILE, Class: byte(smb2.FILE_FULL_EA_INFORMATION)})
	must(t, err)
	if eas, err := smb2.Chain[smb2.FullEaInformation](data); err != nil || len(eas) != 1 || !bytes.Contains(eas[0].EaValue, []byte("value")) {
		t.Errorf("extended attributes %v, %v, want NAME", eas, err)
	}

	sd, err := f.Security(ctx, smb2.OWNER_SECINFO|smb2.DACL_SECINFO)
	must(t, err)
	must(t, f.SetSecurity(ctx, smb2.DACL_SECINFO, sd))

	must(t, f.Link(ctx, `dir\link`, false))
	must(t, f.Rename(ctx, `dir\b`, false))
	entries, err := dir.List(ctx, "*")
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	if want := []string{".", "..", "b", "link"}; !slices.Equal(names, want) {
		t.Errorf("listed %q, want %q", names, want)
	}
	if none, err := dir.List(ctx, "no*"); err != nil || len(none) != 0 {
		t.Errorf("listed %v, %v, want nothing", none, err)
	}

	must(t, f.Delete(ctx, true))
	must(t, f.Close(ctx))
	if _, err := os.Stat(path("dir/b")); !os.IsNotExist(err) {
		t.Errorf("the deleted file: %v, want it gone", err)
	}
	_, err = tree.Create(ctx, `dir\b`, open)
	if !errors.Is(err, Status(smb2.STATUS_OBJECT_NAME_NOT_FOUND)) || !strings.Contains(err.Error(), `dir\\b`) {
		t.Errorf("open what is gone: %v, want STATUS_OBJECT_NAME_NOT_FOUND and the name", err)
	}
	must(t, dir.Close(ctx))
	must(t, tree.Session.Echo(ctx))
}

func TestControls(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	_, tree := connect(t, s, options(s))
	ctx := within(t)
	f, g := mustCreate(t, tree, "a", create), mustCreate(t, tree, "b", create)
	must(t, f.Write(ctx, 0, []byte("0123456789")))
	must(t, g.CopyFrom(ctx, f, 2, 0, 8))
	if got, err := g.Read(ctx, 0, 100); err != nil || string(got) != "23456789" {
		t.Errorf("copy %q, %v, want %q", got, err, "23456789")
	}
	must(t, f.SetSparse(ctx))
	must(t, f.Zero(ctx, 3, 5))
	if got, err := f.Read(ctx, 0, 100); err != nil || string(got) != "012\x00\x0056789" {
		t.Errorf("zeroed %q, %v, want %q", got, err, "012\x00\x0056789")
	}
}

func TestLargeListing(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	for i := range 700 {
		name := strings.Repeat("long name ", 8) + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		must(t, os.WriteFile(filepath.Join(s.Dir, name), nil, 0o666))
	}
	_, tree := connect(t, s, options(s))
	root := mustCreate(t, tree, "", Create{})
	entries, err := root.List(within(t), "*")
	must(t, err)
	if got, want := len(entries), 702; got != want {
		t.Errorf("listed %d names, want %d", got, want)
	}
}

func TestStreams(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	if !s.Streams {
		t.Skip("smbd has no module streams_xattr; install it with: apt-get install samba-vfs-modules")
	}
	_, tree := connect(t, s, options(s))
	ctx := within(t)
	must(t, mustCreate(t, tree, "file", create).Close(ctx))
	f := mustCreate(t, tree, "file:stream", create)
	must(t, f.Write(ctx, 0, []byte("data")))
	must(t, f.Close(ctx))
}

func TestMaximalAccess(t *testing.T) {
	s := samba(t, servers.SambaOptions{})
	_, tree := connect(t, s, options(s))
	f := mustCreate(t, tree, "", Create{Contexts: []smb2.CreateContext{MaximalAccess(), OnDiskID()}})
	data, err := f.Context(smb2.SMB2_CREATE_QUERY_MAXIMAL_ACCESS_REQUEST)
	must(t, err)
	var m smb2.MaximalAccessResponse
	if _, err := m.Decode(data); err != nil || m.MaximalAccess&smb2.FILE_READ_DATA == 0 {
		t.Errorf("maximal access %v, %v, want FILE_READ_DATA in it", m.MaximalAccess, err)
	}
	if data, err := f.Context(smb2.SMB2_CREATE_QUERY_ON_DISK_ID); err != nil || len(data) != smb2.QueryOnDiskIdResponseSize {
		t.Errorf("on-disk id of %d bytes, %v, want %d", len(data), err, smb2.QueryOnDiskIdResponseSize)
	}
	if data, err := f.Context("none"); err != nil || data != nil {
		t.Errorf("context that was not asked for: %x, %v", data, err)
	}
}
