package patches

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job/script"
)

func TestMain(m *testing.M) {
	script.Main(m, nil, func() []*cobra.Command { return []*cobra.Command{Command()} })
}

// The scripts use small git trees of their own as bases, and have the condition
// [send-email] that git can send mails.
func TestScripts(t *testing.T) {
	needGit(t)
	script.Run(t, testscript.Params{
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
	})
}

func needGit(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
}
