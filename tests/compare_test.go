package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kbuild-run/patches/job"
	"kbuild-run/tests/servers"
)

// Compare runs the scenarios on each server and leaves the report in a folder.
func TestCompare(t *testing.T) {
	var out strings.Builder
	ctx := job.With(t.Context(), &job.Job{Out: &out})
	dir := t.TempDir()
	err := Compare(ctx, []string{"samba", "samba"}, Options{Scenarios: []string{"close", "pipe"}, Out: dir})
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# samba and samba\n", "| scenario | samba | samba | differences |\n", "| close | passed | passed | "} {
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("want %q once in\n%s", want, out.String())
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*-compare", "compare.*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("got files %v, %v; want compare.json and compare.md", files, err)
	}
	if b, err := os.ReadFile(files[1]); err != nil || string(b) != out.String() {
		t.Errorf("%s: got %q, %v; want what was printed", files[1], b, err)
	}
}
