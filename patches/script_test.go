package patches

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// The scripts use small git trees of their own as bases. Beside testscript's
// commands, and the condition [send-email] that git can send mails, they have
//
//	exits CODE PROGRAM ARGS...	runs a program that must end with that code
func TestScripts(t *testing.T) {
	needGit(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(cond string) (bool, error) {
			if cond != "send-email" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			// It needs a module of Perl that not every package brings along.
			mail := filepath.Join(t.TempDir(), "0001-a.patch")
			if err := os.WriteFile(mail, []byte("From: A <a@example.com>\nSubject: [PATCH] a\n\na\n"), 0o644); err != nil {
				return false, err
			}
			git := exec.Command("git", "send-email", "--dry-run", "--confirm=never", "--to=a@example.com", mail)
			git.Env = append(os.Environ(), "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com")
			return git.Run() == nil, nil
		},
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
				err := ts.Exec(args[1], args[2:]...)
				got := "0"
				if err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if want := args[0]; got != want {
					ts.Fatalf("exit code %s, want %s", got, want)
				}
			},
		},
	})
}

func needGit(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
}
