package smb2

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWire has bytes by the specification on one side and values on the other.
func TestWire(t *testing.T) {
	async := &Hdr{ProtocolId: SMB2_PROTO_NUMBER, StructureSize: 64, Status: STATUS_PENDING, Command: SMB2_CHANGE_NOTIFY,
		CreditRequest: 1, Flags: SMB2_FLAGS_SERVER_TO_REDIR | SMB2_FLAGS_ASYNC_COMMAND, MessageId: 12, SessionId: 0x1122334455667788}
	async.SetAsyncId(0x0A0B0C0D01020304)
	create := NewCreateReq()
	create.SetName(UTF16("a"))
	create.SetCreateContexts(AppendChain(nil, NewCreateContext(SMB2_CREATE_QUERY_MAXIMAL_ACCESS_REQUEST, nil)))
	negotiate := NewNegotiateReq()
	negotiate.DialectCount, negotiate.Dialects = 1, []Dialect{SMB311_PROT_ID}
	negotiate.NegotiateContextCount = 1
	negotiate.SetNegotiateContexts(AppendNegContexts(nil, &EncryptionNegContext{ContextType: uint16(SMB2_ENCRYPTION_CAPABILITIES), DataLength: 4, CipherCount: 1, Ciphers: []Cipher{SMB2_ENCRYPTION_AES128_GCM}}))
	for _, tt := range []struct {
		name  string
		value Message
		wire  string
	}{
		{"notify request", &ChangeNotifyReq{32, SMB2_WATCH_TREE, 1000, 0xc30b6a, 0xb9edcccc, FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_DIR_NAME, 0},
			"2000 0100 e8030000 6a0bc30000000000 ccccedb900000000 03000000 00000000"},
		{"async header", async,
			"fe534d42 4000 0000 03010000 0f00 0100 03000000 00000000 0c00000000000000 040302010d0c0b0a 8877665544332211 00000000000000000000000000000000"},
		{"create with a context", create,
			"3900 00 00 00000000 0000000000000000 0000000000000000 00000000 00000000 00000000 00000000 00000000" +
				"7800 0200 80000000 14000000 6100 000000000000" +
				"00000000 1000 0400 0000 0000 00000000 4d784163"},
		{"negotiate with a context", negotiate,
			"2400 0100 0000 0000 00000000 00000000000000000000000000000000 68000000 0100 0000 1103 0000" +
				"0200 0400 00000000 0100 0200"},
		{"lock", &LockReq{48, 1, 0, 1, 2, []LockElement{{3, 4, SMB2_LOCKFLAG_SHARED, 0}}},
			"3000 0100 00000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000 01000000 00000000"},
	} {
		want := unhex(t, tt.wire)
		if got := tt.value.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: append\ngot  %x\nwant %x", tt.name, got, want)
		}
		back := reflect.New(reflect.TypeOf(tt.value).Elem()).Interface().(Message)
		rest, err := back.Decode(want)
		if err != nil || len(rest) != 0 {
			t.Errorf("%s: decode left %x, %v", tt.name, rest, err)
		}
		if again := back.Append(nil); !bytes.Equal(again, want) {
			t.Errorf("%s: decoded and appended\ngot  %x\nwant %x", tt.name, again, want)
		}
	}
}

// TestShort cuts a message at every length: Decode takes it or says what is missing.
func TestShort(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(types)) {
		full := New(name).Append(nil)
		for n := range full {
			var e *ShortError
			if _, err := New(name).Decode(full[:n]); err != nil && !errors.As(err, &e) {
				t.Errorf("%s of %d bytes: %v, want a ShortError", name, n, err)
			}
		}
		if _, err := New(name).Decode(full); err != nil {
			t.Errorf("%s of zeros: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	entry := func(action FileAction, name string) *FileNotifyInformation {
		return &FileNotifyInformation{Action: action, FileNameLength: uint32(len(name)), FileName: []byte(name)}
	}
	far := NewSessSetupReq()
	far.SetSecurityBuffer([]byte("abc"))
	far.SecurityBufferOffset++
	for _, tt := range []struct {
		name  string
		value Message
		want  string // "" when no rule is broken
	}{
		{"notify", NewChangeNotifyReq(), ""},
		{"size", &ChangeNotifyReq{StructureSize: 31}, "check ChangeNotifyReq.StructureSize: 31, want 32 (MS-SMB2 2.2.35)"},
		{"bits", &ChangeNotifyReq{StructureSize: 32, CompletionFilter: 0x1001},
			"check ChangeNotifyReq.CompletionFilter: 0x1000, want only bits of completion_filter (MS-SMB2 2.2.35)"},
		{"action", entry(12, "ab"), "check FileNotifyInformation.Action: FileAction(0xc), want a value of file_action (MS-FSCC 2.7.1)"},
		{"odd", entry(1, "abc"), "check FileNotifyInformation.FileNameLength: 3, want a multiple of 2 (MS-FSCC 2.7.1)"},
		{"length", &FileNotifyInformation{Action: 1, FileNameLength: 4, FileName: []byte("ab")},
			"check FileNotifyInformation.FileName: 2 bytes, want FileNameLength 4 (MS-FSCC 2.7.1)"},
		{"pointer", far, "check SessSetupReq.SecurityBuffer: offset 89 length 3, want within 88 to 91 (MS-SMB2 2.2.5)"},
		{"nested", &LockReq{48, 1, 0, 0, 0, []LockElement{{Flags: 8}}},
			"check LockElement.Flags: 0x8, want only bits of lock_flags (MS-SMB2 2.2.26.1)"},
	} {
		got := ""
		if err := tt.value.Check(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestString(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{CompletionFilter(0x1003).String(), "FILE_NOTIFY_CHANGE_FILE_NAME|FILE_NOTIFY_CHANGE_DIR_NAME|0x1000"},
		{NotifyFlags(0).String(), "0"},
		{HdrFlags(0x19).String(), "SMB2_FLAGS_SERVER_TO_REDIR|SMB2_FLAGS_SIGNED|0x10"},
		{STATUS_NOTIFY_ENUM_DIR.String(), "STATUS_NOTIFY_ENUM_DIR"},
		{NtStatus(0xdeadbeef).String(), "NtStatus(0xdeadbeef)"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

// TestChain reads lists of names as servers send them.
func TestChain(t *testing.T) {
	for _, tt := range []struct {
		name, wire, want, err string
	}{
		{"empty", "", "", ""},
		{"one", "00000000 01000000 02000000 6100", "FILE_ACTION_ADDED a\n", ""},
		{"padded to 4 and counted", "10000000 04000000 02000000 6100 0000 00000000 05000000 02000000 6200 0000",
			"FILE_ACTION_RENAMED_OLD_NAME a\nFILE_ACTION_RENAMED_NEW_NAME b\n", ""},
		{"padded to 8", "18000000 01000000 06000000 610062006300 000000000000 00000000 02000000 02000000 6200",
			"FILE_ACTION_ADDED abc\nFILE_ACTION_REMOVED b\n", ""},
		{"next beyond the end", "40000000 01000000 02000000 6100 0000", "", "decode record 0: 16 left, want 64"},
		{"name beyond the next", "0c000000 01000000 02000000 00000000 01000000 00000000", "", "decode FileNotifyInformation.FileName: 0 left, want 2"},
		{"next inside the head", "04000000 01000000 00000000 00000000", "", "decode FileNotifyInformation: 4 left, want 12"},
	} {
		list, err := Chain[FileNotifyInformation](unhex(t, tt.wire))
		got, gotErr := "", ""
		for _, r := range list {
			got += r.Action.String() + " " + FromUTF16(r.FileName) + "\n"
		}
		if err != nil {
			gotErr = err.Error()
		}
		if got != tt.want || gotErr != tt.err {
			t.Errorf("%s:\ngot  %q %q\nwant %q %q", tt.name, got, gotErr, tt.want, tt.err)
		}
	}
	wire := AppendChain(nil,
		FileNotifyInformation{Action: 4, FileNameLength: 2, FileName: UTF16("a"), NextEntryOffset: 99},
		FileNotifyInformation{Action: 5, FileNameLength: 2, FileName: UTF16("b")})
	if want := unhex(t, "10000000 04000000 02000000 6100 0000 00000000 05000000 02000000 6200"); !bytes.Equal(wire, want) {
		t.Errorf("append\ngot  %x\nwant %x", wire, want)
	}
}

// FuzzDecode reads anything as any message. What was read is written back as it
// was, and no rule is too much for it.
func FuzzDecode(f *testing.F) {
	all := slices.Sorted(maps.Keys(types))
	for i, name := range all {
		f.Add(uint8(i), append(New(name).Append(nil), "0123456789abcdefghijklmnopqrstuvwxyz"...))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		name := all[int(which)%len(all)]
		m := New(name)
		rest, err := m.Decode(b)
		if err != nil {
			return
		}
		read := b[:len(b)-len(rest)]
		if got := m.Append(nil); !bytes.Equal(got, read) {
			t.Errorf("%s: read %x, wrote %x", name, read, got)
		}
		m.Check()
	})
}

// FuzzChain reads anything as a chain of names, and as negotiate contexts.
func FuzzChain(f *testing.F) {
	f.Add([]byte("\x10\x00\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00\x00b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := Chain[FileNotifyInformation](b); err == nil {
			again, err := Chain[FileNotifyInformation](AppendChain(nil, list...))
			if err != nil || len(again) != len(list) {
				t.Errorf("%d records, again %d, %v", len(list), len(again), err)
			}
		}
		Chain[CreateContext](b)
		NegContexts(b, 1000)
	})
}
