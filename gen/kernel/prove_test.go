package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kbuild-run/gen/emit"
)

// shim is what the kernel gives its headers.
const shim = `#include <assert.h>
#include <stddef.h>
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __u16, __le16, __be16;
typedef uint32_t __u32, __le32, __be32;
typedef uint64_t __u64, __le64, __be64;
#define __packed __attribute__((packed))
#define cpu_to_le16(x) ((__le16)(x))
#define cpu_to_le32(x) ((__le32)(x))
#define cpu_to_le64(x) ((__le64)(x))
`

// TestC compiles the C of every table with its asserts.
func TestC(t *testing.T) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc to compile the C with")
	}
	set := tables(t)
	compile := func(text string) ([]byte, error) {
		file := filepath.Join(t.TempDir(), "wire.c")
		if err := os.WriteFile(file, []byte(shim+text), 0o666); err != nil {
			t.Fatal(err)
		}
		return exec.Command(cc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", file).CombinedOutput()
	}
	text := "#undef static_assert\n#define static_assert(x) _Static_assert(x, #x)\n" + string(emit.CHeader(set))
	if out, err := compile(text); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := compile(text + "static_assert(sizeof(struct smb2_hdr) == 63);\n"); err == nil {
		t.Error("a wrong static_assert compiles: the test proves nothing")
	}
}

// TestLayout builds a kernel of one file from the tables, spoilt in one place, and
// reads what the compiler made of it.
func TestLayout(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to compile the C with")
	}
	set := tables(t)
	var decls strings.Builder
	for _, line := range strings.SplitAfter(string(emit.CHeader(set)), "\n") {
		if !strings.HasPrefix(line, "static_assert") {
			decls.WriteString(line)
		}
	}
	for _, tt := range []struct{ name, from, to, want string }{
		{name: "nothing"},
		{"type", "\t__le32\tCompletionFilter;", "\t__u32\tCompletionFilter;", "-  88 __u32 CompletionFilter\n+  88 __le32 CompletionFilter\n"},
		{"size", "\t__le32\tOutputBufferLength;\n\t__u8\tBuffer[];", "\t__le64\tOutputBufferLength;\n\t__u8\tBuffer[];", "-  76 __u8 Buffer[]\n"},
		{"in a union", "\t\t__le64 AsyncId;", "\t\t__u64 AsyncId;", "+  32 __le64 Id.AsyncId\n"},
		{"union with the flexible member", "\tchar FileName[];",
			"\tunion {\n\t\tchar __pad;\n\t\tstruct { struct { } __empty; char FileName[]; };\n\t};", ""},
		{"group", "\t__le16 NameOffset;\n\t__le16 NameLength;\n\t__le16 Reserved;",
			"\tunion {\n\t\tstruct { __le16 NameOffset, NameLength; } __packed;\n\t\tstruct group { __le16 NameOffset, NameLength; } __packed grp;\n\t};\n\t__le16 Reserved;", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(decls.String(), tt.from, tt.to, 1)
			if tt.from != "" && text == decls.String() {
				t.Fatalf("%q is not in the C", tt.from)
			}
			build, temp := t.TempDir(), t.TempDir()
			source := filepath.Join(build, "wire.c")
			for path, text := range map[string]string{
				"wire.c":                        shim + text,
				"include/config/kernel.release": "7.3.1-test\n",
				"fs/smb/server/.smb2pdu.o.cmd":  "savedcmd_fs/smb/server/smb2pdu.o := gcc -Wp,-MMD,fs/smb/server/.smb2pdu.o.d -std=gnu11 -O2 -c -o fs/smb/server/smb2pdu.o " + source + " ; ./tools/objtool fs/smb/server/smb2pdu.o\n\nsource := x\n",
			} {
				path = filepath.Join(build, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			objects, err := Objects(t.Context(), build, temp)
			if err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(build, "fs/smb/server/*")); len(left) != 1 {
				t.Errorf("the build folder got %v", left)
			}
			findings, err := Prove(set, Release(build), true, objects...)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, f := range findings {
				if f.Verdict != Same {
					got.WriteString(f.String() + "\n" + f.Diff)
				}
			}
			if !strings.Contains(got.String(), tt.want) || (got.Len() == 0) != (tt.want == "") {
				t.Errorf("got\n%s\nwant %q", got.String(), tt.want)
			}
			if len(findings) < 80 {
				t.Errorf("%d structures compared, want them all", len(findings))
			}
		})
	}
}

func TestNoDebugInformation(t *testing.T) {
	set := tables(t)
	if _, err := Objects(t.Context(), t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "kbuild-run kernel build") {
		t.Errorf("an empty build folder: %v, want the command that builds", err)
	}
	if _, err := Prove(set, Version{}, false, os.Args[0]+".nosuch"); err == nil {
		t.Error("an object that does not exist is read")
	}
}
