package check

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kbuild-run": program})
}

// program is kbuild-run with the command of this package.
func program() {
	j := job.New(os.Stdout, os.Stderr)
	root := &cobra.Command{Use: "kbuild-run", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().BoolVarP(&j.DryRun, "dry-run", "n", false, "")
	root.AddCommand(patches.Command(Command(boot)))
	err := root.ExecuteContext(job.With(context.Background(), j))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kbuild-run:", err)
	}
	os.Exit(job.Code(err))
}

// boot is what a kernel would show: a scenario for each C file, but for one that
// never comes up.
func boot(ctx context.Context, t *patches.Tree, _ string) (passed []string, fault string, err error) {
	files, err := t.Look(ctx, "ls-tree", "-r", "--name-only", t.Commit, "--", "fs/smb")
	if text, err := t.Look(ctx, "show", t.Commit+":fs/smb/three.c"); err == nil && strings.Contains(string(text), "nosuch") {
		return nil, "the kernel does not come up", nil
	}
	if _, err := t.Look(ctx, "cat-file", "-e", t.Commit+":fs/smb/four.c"); err == nil {
		return nil, "", nil // breaks what worked
	}
	return strings.Fields(string(files)), "", err
}

// The scripts check series on a tree whose Makefile compiles one folder, and
// whose checkpatch.pl and kernel-doc know one fault each. Beside testscript's
// commands they have
//
//	exits CODE PROGRAM ARGS...	runs a program that must end with that code
//	commit TREE SUBJECT [BODY]	commits all changes
func TestScripts(t *testing.T) {
	for _, tool := range []string{"git", "make", "gcc", "flex", "bison", "bc", "perl", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
			env.Setenv("HOME", env.WorkDir)
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "A U Thor")
				env.Setenv("GIT_"+who+"_EMAIL", "author@example.com")
				env.Setenv("GIT_"+who+"_DATE", "2026-01-02T03:04:05Z")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
				}
				got := "0"
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if want := args[0]; got != want {
					ts.Fatalf("exit code %s, want %s", got, want)
				}
			},
			"commit": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 || len(args) > 3 {
					ts.Fatalf("usage: commit TREE SUBJECT [BODY]")
				}
				ts.Check(ts.Exec("git", "-C", args[0], "add", "."))
				ts.Check(ts.Exec("git", "-C", args[0], "commit", "-q", "-m", strings.Join(args[1:], "\n\n")))
			},
		},
	})
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
