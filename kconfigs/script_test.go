package kconfigs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kbuild-run": program})
}

// program is kbuild-run with the commands of this package.
func program() {
	j := job.New(os.Stdout, os.Stderr)
	root := &cobra.Command{Use: "kbuild-run", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().BoolVarP(&j.DryRun, "dry-run", "n", false, "")
	root.AddCommand(Command())
	err := root.ExecuteContext(job.With(context.Background(), j))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kbuild-run:", err)
	}
	os.Exit(job.Code(err))
}

// The scripts build a tree whose Makefile knows Kbuild's targets and compiles
// two files. Beside testscript's commands they have
//
//	exits CODE PROGRAM ARGS...	runs a program that must end with that code
func TestScripts(t *testing.T) {
	if err := needs(); err != nil {
		t.Skip(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
			env.Setenv("HOME", env.WorkDir)
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "A U Thor")
				env.Setenv("GIT_"+who+"_EMAIL", "author@example.com")
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
		},
	})
}
