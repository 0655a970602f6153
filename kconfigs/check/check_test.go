package check

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/patches/job/script"
)

func TestMain(m *testing.M) {
	script.Main(m, nil, func() []*cobra.Command { return []*cobra.Command{patches.Command(Command(boot))} })
}

// boot is what a kernel would show: a scenario for each C file, but for one that
// never comes up, and one that passes once, of the kernel without two.c.
func boot(ctx context.Context, t *patches.Tree, _ string, names ...string) (passed []string, fault string, err error) {
	files, err := t.Look(ctx, "ls-tree", "-r", "--name-only", t.Commit, "--", "fs/smb")
	if text, err := t.Look(ctx, "show", t.Commit+":fs/smb/three.c"); err == nil && strings.Contains(string(text), "nosuch") {
		return nil, "the kernel does not come up", nil
	}
	if _, err := t.Look(ctx, "cat-file", "-e", t.Commit+":fs/smb/four.c"); err == nil {
		return nil, "", nil // breaks what worked
	}
	passed = strings.Fields(string(files))
	if names == nil && !slices.Contains(passed, "fs/smb/two.c") {
		passed = append(passed, "sometimes")
	}
	return passed, "", err
}

// The scripts check series on a tree whose Makefile compiles one folder, and
// whose checkpatch.pl and kernel-doc know one fault each.
func TestScripts(t *testing.T) {
	for _, tool := range []string{"git", "make", "gcc", "flex", "bison", "bc", "perl", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	script.Run(t, testscript.Params{})
}

// A warning counts as the same when only its line differs, and as one more when
// it comes twice.
func TestFresh(t *testing.T) {
	w := func(text string) kconfigs.Warning { return kconfigs.Warning{Tool: "gcc", Text: text} }
	for _, test := range []struct {
		name          string
		before, after []kconfigs.Warning
		want          int
	}{
		{"none", nil, nil, 0},
		{"moved", []kconfigs.Warning{w("a.c:1:2: warning: x")}, []kconfigs.Warning{w("a.c:7:2: warning: x")}, 0},
		{"moved, of smatch", []kconfigs.Warning{w("a.c:9 f() warn: 'x' checked (see line 3)")}, []kconfigs.Warning{w("a.c:8 f() warn: 'x' checked (see line 2)")}, 0},
		{"twice", []kconfigs.Warning{w("a.c:1:2: warning: x")}, []kconfigs.Warning{w("a.c:1:2: warning: x"), w("a.c:9:2: warning: x")}, 1},
		{"other file", []kconfigs.Warning{w("a.c:1:2: warning: x")}, []kconfigs.Warning{w("b.c:1:2: warning: x")}, 1},
		{"other words", []kconfigs.Warning{w("a.c:1:2: warning: x")}, []kconfigs.Warning{w("a.c:1:2: warning: y")}, 1},
		{"gone", []kconfigs.Warning{w("a.c:1:2: warning: x")}, nil, 0},
	} {
		if got := len(fresh(test.before, test.after)); got != test.want {
			t.Errorf("%s: got %d new, want %d", test.name, got, test.want)
		}
	}
}

// The faults of testdata/planted.mbox, on a real tree. It takes minutes.
func TestPlanted(t *testing.T) {
	tree := os.Getenv("KBUILD_RUN_TREE")
	if tree == "" {
		t.Skip("set KBUILD_RUN_TREE to a git tree of Linux 7.3: it is compiled, for minutes")
	}
	text, err := os.ReadFile("testdata/planted.mbox")
	if err != nil {
		t.Fatal(err)
	}
	ctx := job.With(context.Background(), job.New(os.Stdout, os.Stderr))
	given, err := patches.ReadMailbox(ctx, "planted", text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Run(ctx, Options{Options: patches.Options{Dir: tree, Base: "v7.3", Given: given}})
	if err != nil {
		t.Fatal(err)
	}
	want := []map[string]Status{
		{"checkpatch": Fail},
		{"kernel-doc": Warn},
		{"y": Fail, "m": Fail},
		{},
		{"sparse": Warn},
		{"fixes": Fail},
		{"checkpatch": Warn, "codespell": Warn},
	}
	for i, row := range m.Rows {
		for _, column := range Columns {
			got := row.Cells[column].Status
			switch wanted := want[i][column]; {
			case got == Skipped:
				t.Logf("patch %d, %s: %s", i+1, column, m.Skips[column])
			case wanted != "" && got != wanted:
				t.Errorf("patch %d, %s: got %q, want %q", i+1, column, got, wanted)
			case wanted == "" && (got == Warn || got == Fail):
				t.Errorf("patch %d, %s: got %q %v, want none", i+1, column, got, row.Cells[column].Found)
			}
		}
	}
}
