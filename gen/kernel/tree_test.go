package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"kbuild-run/gen/emit"
	"kbuild-run/gen/table"
)

func tables(t *testing.T) *table.Set {
	t.Helper()
	set, err := table.Load(os.DirFS("../tables"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// kernelTree writes what the tables want into a folder, as a kernel tree of that
// version, and returns the folder.
func kernelTree(t *testing.T, set *table.Set, version string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	major, minor, _ := strings.Cut(version, ".")
	write("Makefile", "VERSION = "+major+"\nPATCHLEVEL = "+minor+"\n")
	text := map[string]string{}
	for _, d := range set.Decls() {
		path, _, _ := strings.Cut(d.Into.Path, "|")
		switch {
		case path == "":
		case d.Kind == table.Struct:
			text[path] += "\n" + emit.CSee(d) + "\n" + emit.CStruct(set, d)
		default:
			text[path] += "\n" + emit.CConstants(d)
		}
	}
	text["fs/smb/client/cifspdu.h"] = "struct lone {\n\t__u8 A;\n} __packed;\n"
	for path, s := range text {
		write(path, "#ifndef _H\n#define _H\n"+s+"\n#endif /* _H */\n")
	}
	return dir
}

// verdicts returns what is not the same, as lines.
func verdicts(t *testing.T, set *table.Set, dir string) string {
	t.Helper()
	tree, err := ReadTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range Compare(set, tree) {
		if f.Verdict != Same {
			b.WriteString(strings.Join(strings.Fields(f.String()), " ") + "\n" + f.Diff)
		}
	}
	return b.String()
}

const (
	pdu  = "fs/smb/common/smb2pdu.h"
	fscc = "fs/smb/common/fscc.h"
)

// TestTree spoils a tree that is the same, one thing at a time, and has it written
// back.
func TestTree(t *testing.T) {
	set := tables(t)
	for _, tt := range []struct {
		name, path, from, to string
		want                 string // part of what is reported
		kept                 bool   // what is written back is not byte for byte what was there
	}{
		{name: "nothing", path: pdu},
		{name: "type", path: pdu, from: "\t__le16\tOutputBufferOffset;", to: "\t__le32\tOutputBufferOffset;",
			want: "differs smb2_change_notify_rsp " + pdu},
		{name: "byte order", path: pdu, from: "\t__le32\tCompletionFilter;", to: "\t__u32\tCompletionFilter;",
			want: "-  88 __u32 CompletionFilter\n+  88 __le32 CompletionFilter\n"},
		{name: "name", path: pdu, from: "\t__le32\tCompletionFilter;", to: "\t__le32\tFilter;",
			want: "-  88 __le32 Filter\n+  88 __le32 CompletionFilter\n"},
		{name: "not packed", path: pdu, from: "\t__u32\tReserved;\n} __packed;", to: "\t__u32\tReserved;\n};",
			want: "-not __packed\n"},
		{name: "structure gone", path: pdu, from: "struct smb2_flush_rsp {\n\tstruct smb2_hdr hdr;\n\t__le16 StructureSize; /* Must be 4 */\n\t__le16 Reserved;\n} __packed;\n", to: "",
			want: "missing smb2_flush_rsp\n", kept: true},
		{name: "value", path: pdu, from: "FILE_NOTIFY_CHANGE_EA\t\t\t0x00000080", to: "FILE_NOTIFY_CHANGE_EA\t\t\t0x00000081",
			want: ": FILE_NOTIFY_CHANGE_EA\n"},
		{name: "byte order of a value", path: pdu, from: "cpu_to_le16(0x0001)", to: "0x0001", want: "differs close_flags"},
		{name: "value gone", path: pdu, from: "#define FILE_NOTIFY_CHANGE_EA\t\t\t0x00000080\n", to: "",
			want: "missing completion_filter (13) " + pdu},
		{name: "group gone", path: pdu, from: "/* See MS-SMB2 2.2.35 */\n#define SMB2_WATCH_TREE\t\t\t0x0001\n", to: "",
			want: "missing notify_flags (1)\n", kept: true},
		{name: "error number", path: "fs/smb/common/smb2status.h", from: "cpu_to_le32(0x00000103) // -EIO", to: "cpu_to_le32(0x00000103) // -EINVAL",
			want: "-#define STATUS_PENDING cpu_to_le32(0x00000103) // -EINVAL\n"},
		{name: "form that gen_smb2_mapping leaves out", path: "fs/smb/common/smb2status.h", from: "cpu_to_le32(0x00000103) // -EIO", to: "cpu_to_le32(0x00000103) /* -EIO */",
			want: "-#define STATUS_PENDING cpu_to_le32(0x00000103) /* -EIO */\n+#define STATUS_PENDING cpu_to_le32(0x00000103) // -EIO\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := kernelTree(t, set, "7.3")
			path := filepath.Join(dir, tt.path)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			spoilt := strings.Replace(string(text), tt.from, tt.to, 1)
			if tt.from != "" && spoilt == string(text) {
				t.Fatalf("%q is not in %s", tt.from, tt.path)
			}
			if err := os.WriteFile(path, []byte(spoilt), 0o666); err != nil {
				t.Fatal(err)
			}
			got := verdicts(t, set, dir)
			if !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("got\n%s\nwant %q", got, tt.want)
			}
			rewrite(t, set, dir)
			back, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(back) != string(text) && !tt.kept {
				t.Errorf("written back:\n%s", lineDiff(string(text), string(back)))
			}
		})
	}
}

// rewrite corrects the tree and fails if that does not make everything the same.
func rewrite(t *testing.T, set *table.Set, dir string) {
	t.Helper()
	tree, err := ReadTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rewrite(set, tree, dir, Compare(set, tree)); err != nil {
		t.Fatal(err)
	}
	if got := verdicts(t, set, dir); got != "" {
		t.Errorf("after the rewrite\n%s", got)
	}
}

func lineDiff(a, b string) string {
	return string(diff.Diff("before", []byte(a), "after", []byte(b)))
}

// TestStrayed has declarations of a notification in the client's own header, as v6.12
// has them, where the server cannot include them. They move, and leave nothing behind.
func TestStrayed(t *testing.T) {
	set := tables(t)
	const client = "fs/smb/client/cifspdu.h"
	for _, tt := range []struct{ name, start, end string }{
		{"file_notify_information", "\n/* See MS-FSCC 2.7.1 */\nstruct file_notify_information {", "} __packed;\n"},
		{"file_action (11)", "\n/* See MS-FSCC 2.7.1 */\n#define FILE_ACTION_ADDED", "TUNNELLED_ID_COLLISION\t0x0000000B\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := kernelTree(t, set, "7.3")
			read := func(path string) string {
				text, err := os.ReadFile(filepath.Join(dir, path))
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			home, stray := read(fscc), read(client)
			i := strings.Index(home, tt.start)
			if i < 0 || strings.Index(home[i:], tt.end) < 0 {
				t.Fatalf("%q to %q is not in %s", tt.start, tt.end, fscc)
			}
			j := i + strings.Index(home[i:], tt.end) + len(tt.end)
			for path, text := range map[string]string{fscc: home[:i] + home[j:],
				client: strings.Replace(stray, "\n#endif", home[i:j]+"\n#endif", 1)} {
				if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got := verdicts(t, set, dir)
			if want := "strayed " + tt.name + " " + client + ":"; !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
				t.Errorf("got\n%s\nwant %s", got, want)
			}
			rewrite(t, set, dir)
			for path, want := range map[string]string{fscc: home, client: stray} {
				if got := read(path); got != want {
					t.Errorf("%s", lineDiff(want, got))
				}
			}
		})
	}
}

// TestOlderTree does not ask a kernel for what it does not have yet.
func TestOlderTree(t *testing.T) {
	set := tables(t)
	dir := kernelTree(t, set, "6.12")
	path := filepath.Join(dir, "fs/smb/common/smb2status.h")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range strings.Split(string(text), "\n") {
		if !strings.Contains(l, "STATUS_SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP") {
			l, _, _ = strings.Cut(l, " // ")
			lines = append(lines, l)
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := verdicts(t, set, dir); got != "" {
		t.Errorf("got\n%s\nwant everything the same", got)
	}
}

// TestBodySizes has the array by which the server tells a request's size.
func TestBodySizes(t *testing.T) {
	set := tables(t)
	array := func(change func(name, size string) string) string {
		text := "static const __le16 smb2_req_struct_sizes[NUMBER_OF_SMB2_COMMANDS] = {\n"
		for _, v := range set.Lookup("smb2_command").Values {
			first, _, _ := strings.Cut(v.Holds[0], "|")
			text += "\t/* " + v.Name + " */ " + change(v.Name, "cpu_to_le16("+set.Lookup(first).Field("StructureSize").Want+"),") + "\n"
		}
		return text + "};\n"
	}
	for _, tt := range []struct {
		name, want string
		change     func(name, size string) string
	}{
		{"right", "", func(_, size string) string { return size }},
		{"lease", "", func(name, size string) string {
			if name == "SMB2_OPLOCK_BREAK" {
				return "cpu_to_le16(36)"
			}
			return size
		}},
		{"wrong", "-SMB2_CHANGE_NOTIFY 33\n+SMB2_CHANGE_NOTIFY 32\n", func(name, size string) string {
			if name == "SMB2_CHANGE_NOTIFY" {
				return "cpu_to_le16(33),"
			}
			return size
		}},
		{"short", "differs smb2_req_struct_sizes (19) fs/smb/server/smb2misc.c:1\n", func(name, size string) string {
			if name == "SMB2_ECHO" {
				return ""
			}
			return size
		}},
	} {
		dir := kernelTree(t, set, "7.3")
		if err := os.MkdirAll(filepath.Join(dir, "fs/smb/server"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "fs/smb/server/smb2misc.c"), []byte(array(tt.change)), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := verdicts(t, set, dir); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: got\n%s\nwant %q", tt.name, got, tt.want)
		}
	}
}
