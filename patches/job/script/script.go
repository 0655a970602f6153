// Package script: commands + scripts -> what a user types and sees, as a test.
//
// The scripts are those of testscript, in testdata/script of a package. Beside its
// commands they have
//
//	exits CODE PROGRAM ARGS...	runs a program that must end with that code
//	commit TREE SUBJECT [BODY]	commits all changes in a git tree
//
// and a cache, a home and a name of their own.
package script

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// Main is the TestMain of a package whose scripts run kbuild-run with some
// commands, and maybe other programs.
func Main(m *testing.M, others map[string]func(), commands func() []*cobra.Command) {
	programs := map[string]func(){"kbuild-run": func() { program(commands()) }}
	maps.Copy(programs, others)
	testscript.Main(m, programs)
}

func program(commands []*cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	j := job.New(os.Stdout, os.Stderr)
	root := &cobra.Command{Use: "kbuild-run", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().BoolVarP(&j.DryRun, "dry-run", "n", false, "")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return job.Usage(err) })
	root.AddCommand(commands...)
	err := root.ExecuteContext(job.With(ctx, j))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kbuild-run:", err)
	}
	os.Exit(job.Code(err))
}

// Run runs the scripts of a package, with what p has in addition.
func Run(t *testing.T, p testscript.Params) {
	if p.Dir == "" {
		p.Dir = "testdata/script"
	}
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
		env.Setenv("HOME", env.WorkDir)
		for _, who := range []string{"AUTHOR", "COMMITTER"} {
			env.Setenv("GIT_"+who+"_NAME", "A U Thor")
			env.Setenv("GIT_"+who+"_EMAIL", "author@example.com")
			env.Setenv("GIT_"+who+"_DATE", "2026-01-02T03:04:05Z")
		}
		if setup == nil {
			return nil
		}
		return setup(env)
	}
	own := p.Cmds
	p.Cmds = map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "commit": commit}
	maps.Copy(p.Cmds, own)
	testscript.Run(t, p)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
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
}

func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: commit TREE SUBJECT [BODY]")
	}
	ts.Check(ts.Exec("git", "-C", args[0], "add", "."))
	ts.Check(ts.Exec("git", "-C", args[0], "commit", "-q", "-m", strings.Join(args[1:], "\n\n")))
}
