package gen

import (
	"os"
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
