package patches

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"kbuild-run/patches/job"
)

// baseRef names the base's commit in its repository.
const baseRef = "refs/heads/base"

// git returns a git command in dir that heeds nobody's configuration but the
// repository's: a signing key, a hook folder or autocrlf of the user's would
// change what is in a commit.
func git(dir string, args ...string) *job.Cmd {
	cleanEnv()
	return job.Command("git", args...).In(dir).With("GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
}

// userGit returns a git command in a tree of the user's.
func userGit(dir string, args ...string) *job.Cmd {
	cleanEnv()
	return job.Command("git", args...).In(dir)
}

// cleanEnv drops what git sets for a hook: it would point every command at the
// repository whose hook started us.
var cleanEnv = sync.OnceFunc(func() {
	for _, name := range []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"} {
		os.Unsetenv(name)
	}
})

// look runs a git command that only looks and returns what it prints.
func look(ctx context.Context, c *job.Cmd) (string, error) {
	out, err := c.Probe(ctx)
	return strings.TrimSpace(string(out)), err
}

// identity makes commits the same on every machine. The date is that of the
// first Linux release.
var identity = []string{
	"GIT_AUTHOR_NAME=kbuild-run", "GIT_AUTHOR_EMAIL=kbuild-run@localhost", "GIT_AUTHOR_DATE=1991-09-17T00:00:00Z",
	"GIT_COMMITTER_NAME=kbuild-run", "GIT_COMMITTER_EMAIL=kbuild-run@localhost", "GIT_COMMITTER_DATE=1991-09-17T00:00:00Z",
}

// initTree makes a git repository of tree.
func initTree(ctx context.Context, tree string) error {
	c := git(tree, "init", "--quiet", "--object-format=sha1", "--initial-branch=base", "--template=", ".")
	if err := c.Run(ctx); err != nil {
		return err
	}
	// Nobody repacks behind our back, and hooks there are none.
	return git(tree, "config", "gc.auto", "0").Run(ctx)
}

// commitTree makes a git repository of the unpacked tree, with all of its files
// in the first commit.
func commitTree(ctx context.Context, s *job.Step, tree, name string) error {
	if err := initTree(ctx, tree); err != nil {
		return err
	}
	// With a threshold of one byte git writes the files straight into one
	// pack: 0.3 GiB instead of ninety thousand files of 1.7 GiB.
	files := 0
	add := git(tree, "-c", "core.bigFileThreshold=1", "-c", "core.compression=1", "add", "--verbose", "--force", "--all", ".")
	add.Line = func(string) { files++; s.Progress("add %d files to git", files) }
	if err := add.Run(ctx); err != nil {
		return err
	}
	return git(tree, "commit", "--quiet", "--no-verify", "--message", name).With(identity...).Run(ctx)
}

// borrow makes a repository in tree that takes its objects from the user's
// git tree, so that nothing is ever written there.
func borrow(ctx context.Context, user, tree string) error {
	if err := initTree(ctx, tree); err != nil {
		return err
	}
	objects, err := look(ctx, userGit(user, "rev-parse", "--path-format=absolute", "--git-path", "objects"))
	if err != nil {
		return err
	}
	return writeFile(ctx, filepath.Join(tree, ".git/objects/info/alternates"), objects+"\n")
}

// follow sets the base of a borrowing repository to a commit of the user's.
func follow(ctx context.Context, user, tree, commit string) error {
	// A shallow clone says where its history ends.
	shallow, err := look(ctx, userGit(user, "rev-parse", "--path-format=absolute", "--git-path", "shallow"))
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(shallow); err == nil {
		if err := writeFile(ctx, filepath.Join(tree, ".git/shallow"), string(b)); err != nil {
			return err
		}
	}
	return git(tree, "update-ref", baseRef, commit).Run(ctx)
}

// userHead returns the commit that is checked out in a git tree of the user's.
func userHead(ctx context.Context, dir string) (commit string, err error) {
	if _, err := os.Stat(dir); err != nil {
		return "", job.Usage(fmt.Errorf("use tree: %w", err))
	}
	commit, err = look(ctx, userGit(dir, "rev-parse", "--verify", "HEAD^{commit}"))
	var ce *job.CmdError
	if errors.As(err, &ce) {
		why := strings.TrimPrefix(strings.Join(ce.Tail, " "), "fatal: ")
		return "", job.Usage(fmt.Errorf("use tree %s: %s; a git tree with a commit is wanted", dir, why))
	}
	return commit, err
}

// version reads VERSION.PATCHLEVEL.SUBLEVEL and EXTRAVERSION from the Makefile
// in a commit.
func version(ctx context.Context, dir, commit string) (string, error) {
	out, err := git(dir, "show", commit+":Makefile").Probe(ctx)
	var v = map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan() && len(v) < 4; {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			v[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	if err != nil || v["VERSION"] == "" || v["PATCHLEVEL"] == "" || v["SUBLEVEL"] == "" {
		return "", fmt.Errorf("read version of %s: its Makefile is not that of a Linux tree", dir)
	}
	return v["VERSION"] + "." + v["PATCHLEVEL"] + "." + v["SUBLEVEL"] + v["EXTRAVERSION"], nil
}
