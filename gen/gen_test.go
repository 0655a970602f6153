package gen

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kbuild-run/gen/emit"
)

// TestGenerated holds the checkout against its tables.
func TestGenerated(t *testing.T) {
	changes, err := regenerate(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		t.Errorf("%s", c.diff())
	}
	if len(changes) > 0 {
		t.Error("generated files are out of date; run: go run . gen")
	}
}

func TestOrphan(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "tables"), os.DirFS("tables")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "smb2"), 0o777); err != nil {
		t.Fatal(err)
	}
	changes, err := regenerate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(dir, changes); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dir, "smb2", "gone.go")
	if err := os.WriteFile(orphan, []byte(emit.Mark+"/gone.tbl; DO NOT EDIT.\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	byHand := filepath.Join(dir, "smb2", "hand.go")
	if err := os.WriteFile(byHand, []byte("package smb2\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	changes, err = regenerate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || changes[0].path != "smb2/gone.go" || changes[0].new != nil {
		t.Fatalf("changes %v, want the removal of smb2/gone.go", changes)
	}
	if err := write(dir, changes); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("stat of the orphan: %v, want that it does not exist", err)
	}
}

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
	set, err := Tables()
	if err != nil {
		t.Fatal(err)
	}
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
