package kconfigs

import (
	"os"
	"path/filepath"
	"testing"
)

// A scratch has the folder for itself and the rest of the tree by links, so that
// "../common/x.h" is found and a changed file is not the tree's.
func TestScratchCopy(t *testing.T) {
	tree := t.TempDir()
	for name, text := range map[string]string{
		"Makefile": "top", "fs/nls/nls.h": "nls", "fs/smb/common/pdu.h": "pdu", "fs/smb/server/mgmt/user.c": "user", "fs/smb/server/notify.c": "notify",
	} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &Scratch{f: &folder{tree: tree}, root: t.TempDir(), folder: "fs/smb/server"}
	if err := c.copy(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"fs/smb/server/notify.c": "notify", "fs/smb/server/mgmt/user.c": "user", "fs/smb/server/../common/pdu.h": "pdu", "fs/smb/server/../../nls/nls.h": "nls",
	} {
		if got, err := os.ReadFile(c.root + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(c.root, "fs/smb/server/notify.c"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(tree, "fs/smb/server/notify.c")); err != nil || string(got) != "notify" {
		t.Errorf("the tree's file: got %q, %v; want it as it was", got, err)
	}
	if got, err := c.Read("fs/smb/server/notify.c"); err != nil || string(got) != "changed" {
		t.Errorf("read: got %q, %v", got, err)
	}
	if _, err := c.Read("fs/smb/common/pdu.h"); err == nil {
		t.Error("read of another folder: got no error")
	}
}
