package coverage

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"kbuild-run/patches/job"
)

const program = `int twice(int n)
{
	if (n > 1000)
		return 0;
	return 2 * n;
}

int never(void)
{
	return 1;
}

int main(void)
{
	return twice(1) != 2 ? never() : 0;
}
`

// What a real program counts is read back line by line; the series' lines have a
// figure of their own, and those of it that did not run are named.
func TestCoverage(t *testing.T) {
	for _, tool := range []string{"gcc", "gcov"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "fs/smb/server")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "a.c"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx := job.With(t.Context(), &job.Job{})
	run := func(name string, args ...string) {
		t.Helper()
		if _, err := job.Command(name, args...).In(dir).Probe(ctx); err != nil {
			t.Fatal(err)
		}
	}
	run("gcc", "-O0", "-fprofile-arcs", "-ftest-coverage", "-c", "-o", "a.o", filepath.Join(src, "a.c"))
	run("gcc", "--coverage", "-o", "a", "a.o")
	run("./a")
	run("./a")
	c, err := Read(ctx, dir, dir, "fs/smb/server")
	if err != nil {
		t.Fatal(err)
	}
	const file = "fs/smb/server/a.c"
	want := map[int]int64{1: 2, 3: 2, 4: 0, 5: 2, 8: 0, 10: 0, 13: 2, 15: 2}
	if f := c[file]; f == nil || !reflect.DeepEqual(f.Lines, want) {
		t.Fatalf("got %+v, want %v", f, want)
	}
	c.Mark(map[string][]int{file: {4, 5, 6, 7, 8, 9, 10}, "elsewhere.c": {1}})
	if got, want := c.Sum((*File).All), (Figure{8, 5}); got != want {
		t.Errorf("all: got %v, want %v", got, want)
	}
	if got, want := c.Sum((*File).Series).String(), "25.0 % of 4 lines"; got != want {
		t.Errorf("own: got %s, want %s", got, want)
	}
	if got, want := c[file].missed(), []missed{{4, 4, "twice"}, {8, 10, "never"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("missed: got %v, want %v", got, want)
	}

	out := filepath.Join(dir, "out")
	if err := c.Write(out, "coverage", func(string) (string, error) { return program, nil }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"coverage.info":          "SF:fs/smb/server/a.c\nFN:1,twice\nFN:8,never\nFN:13,main\nFNDA:2,twice\nFNDA:0,never\nFNDA:2,main\nFNF:3\nFNH:2\nDA:1,2\nDA:3,2\nDA:4,0\n",
		"index.html":             `<a href="fs-smb-server-a.c.html#L8">fs/smb/server/a.c:8-10</a></td><td>never</td>`,
		"fs-smb-server-a.c.html": `<span id="L10" class="not own"><i>    10           0</i>	return 1;</span>`,
	} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: got %v, %s, want in it %s", name, err, b, want)
		}
	}
	if genhtml, err := exec.LookPath("genhtml"); err == nil { // lcov's own opinion
		run(genhtml, "-q", "-o", "html", "out/coverage.info")
	}

	// Counts of another object are no counts.
	run("gcc", "-O0", "-DX", "-fprofile-arcs", "-ftest-coverage", "-include", "stdio.h", "-c", "-o", "a.o", filepath.Join(src, "a.c"))
	if _, err := Read(ctx, dir, dir, "fs/smb/server"); err == nil || !strings.Contains(err.Error(), "mismatch") {
		t.Errorf("with other notes: got %v, want that they do not match", err)
	}
}
