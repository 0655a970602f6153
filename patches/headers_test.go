package patches

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"kbuild-run/gen"
	"kbuild-run/gen/kernel"
	"kbuild-run/patches/cache"
)

// What the notify series does to the headers that client and server share, and to the
// client's own, is printed from the tables: it is what kbuild-run gen -w makes of the
// base, to the byte. After it every declaration is as the tables have it.
func TestHeaders(t *testing.T) {
	needGit(t)
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	set, err := gen.Tables()
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range list["notify"] {
		t.Run(base, func(t *testing.T) {
			entry, ok := cache.Have("bases", base)
			if !ok {
				t.Skipf("%s is not in the cache; get it with: kbuild-run series apply notify --base %s", base, base)
			}
			s, err := FindSeries("notify", base)
			if err != nil {
				t.Fatal(err)
			}
			mails, tables := t.TempDir(), t.TempDir()
			for _, dir := range []string{mails, tables} {
				archive := exec.Command("sh", "-c", "git archive "+baseRef+` Makefile fs/smb | tar -x -C "$1"`, "sh", dir)
				archive.Dir = filepath.Join(entry, "tree")
				if out, err := archive.CombinedOutput(); err != nil {
					t.Fatalf("unpack the headers: %v\n%s", err, out)
				}
			}
			shared := []string{"fs/smb/common/*.h", "fs/smb/client/*.h"}
			applyOnly(t, s, mails, shared...)

			tree, err := kernel.ReadTree(tables)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := kernel.Rewrite(set, tree, tables, kernel.Compare(set, tree)); err != nil {
				t.Fatal(err)
			}
			compared := 0
			for _, p := range shared {
				paths, err := filepath.Glob(filepath.Join(tables, p))
				if err != nil {
					t.Fatal(err)
				}
				for _, path := range paths {
					rel, _ := filepath.Rel(tables, path)
					want, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					got, err := os.ReadFile(filepath.Join(mails, rel))
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Errorf("the series does not make of it what kbuild-run gen -w --tree does\n%s",
							diff.Diff(rel+" by the series", got, rel+" by the tables", want))
					}
					compared++
				}
			}
			if compared < 20 {
				t.Errorf("%d headers compared, want those of client and server", compared)
			}

			if tree, err = kernel.ReadTree(mails); err != nil {
				t.Fatal(err)
			}
			for _, f := range kernel.Compare(set, tree) {
				if f.Verdict != kernel.Same {
					t.Errorf("with the series: %s\n%s", f, f.Diff)
				}
			}
		})
	}
}
