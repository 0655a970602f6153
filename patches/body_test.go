package patches

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The notify series of all bases share their body: what is in files of their own
// must be the same to the byte, so that a fault is mended once.
func TestBody(t *testing.T) {
	needGit(t)
	files := []string{"fs/smb/server/notify.c", "fs/smb/server/notify.h", "fs/smb/server/notify_internal.h",
		"fs/smb/server/notify_test.c", "fs/smb/server/trace.h"}
	body := func(base string) map[string][]byte {
		s, err := FindSeries("notify", base)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		applyOnly(t, s, dir, files...)
		got := map[string][]byte{}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			got[f] = b
		}
		return got
	}
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	bases := list["notify"]
	if len(bases) < 2 {
		t.Fatalf("the notify series is kept for %v, want two bases", bases)
	}
	want := body(bases[0])
	for _, base := range bases[1:] {
		for f, b := range body(base) {
			if !bytes.Equal(b, want[f]) {
				t.Errorf("%s of %s and of %s differ", f, base, bases[0])
			}
		}
	}
}

// applyOnly applies what the series does to the files of those patterns in dir.
func applyOnly(t *testing.T, s *Series, dir string, patterns ...string) {
	t.Helper()
	args := []string{"apply", "--allow-empty"}
	for _, p := range patterns {
		args = append(args, "--include="+p)
	}
	for _, m := range s.Mails {
		git := exec.Command("git", args...)
		git.Dir, git.Stdin = dir, bytes.NewReader(m.Text)
		git.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("apply %s of %s: %v\n%s", m.Name, s.Base, err, out)
		}
	}
}
