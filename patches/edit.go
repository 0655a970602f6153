package patches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"kbuild-run/patches/job"
)

// editDir is where the tree of a series lies when nobody says where.
func editDir(series, base string) string {
	return filepath.Join("out", "edit", series+"-"+base)
}

// edit makes a clone of the tree in dir, with the series on a branch of its name
// above the branch "base". A clone and not a linked worktree: what a person
// works in must outlive the cache.
func (t *Tree) edit(ctx context.Context, s *job.Step, dir string) error {
	s.Note("%s", dir)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("make %s: it exists; write it back with: kbuild-run series refresh %s --base %s, then remove it", dir, t.Series, t.Base)
	}
	s.Progress("write files")
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	tmp := abs + ".tmp"
	if err := remake(ctx, tmp); err != nil { // clone takes an empty folder
		return err
	}
	remove := func() {
		if !job.From(ctx).DryRun {
			os.RemoveAll(tmp)
		}
	}
	defer remove()
	// On one file system the clone has hard links to the objects.
	for _, c := range []*job.Cmd{
		git("", "clone", "--quiet", "--local", "--no-checkout", "--no-tags", "--template=", t.Repository(), tmp),
		git(tmp, "remote", "remove", "origin"),
		git(tmp, "update-ref", baseRef, t.base),
		git(tmp, "update-ref", "refs/heads/"+t.Series, t.Commit),
		git(tmp, "checkout", "--quiet", t.Series),
	} {
		if err := c.Run(ctx); err != nil {
			return err
		}
	}
	if dry(ctx, "mv "+job.Quote(tmp)+" "+job.Quote(abs)) {
		return nil
	}
	return os.Rename(tmp, abs)
}

var seriesName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// begin makes the folder of a new series in the checkout, with a cover text.
func begin(ctx context.Context, name, base string) error {
	store := checkout()
	if store == "" {
		return errors.New("start series: the working directory is in no checkout of kbuild-run; run it there")
	}
	if !seriesName.MatchString(name) {
		return job.Usage(fmt.Errorf("start series %s: a name is made of a-z, 0-9 and -", name))
	}
	if packages, _ := filepath.Glob(filepath.Join(store, name, "*.go")); packages != nil {
		return job.Usage(fmt.Errorf("start series %s: patches/%s is a package", name, name))
	}
	dir := filepath.Join(store, name, base)
	if _, err := os.Stat(dir); err == nil {
		return job.Usage(fmt.Errorf("start series %s for %s: it exists; edit it with: kbuild-run series edit %s --base %s", name, base, name, base))
	}
	cover := filepath.Join(dir, "0000-cover.md")
	if dry(ctx, "mkdir -p "+job.Quote(dir)+" && touch "+job.Quote(cover)) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(cover, []byte(name+": what it does, in one line\n\nWhat a user sees without it. What it does about that.\n"), 0o644)
}

// refresh writes the commits between "base" and HEAD of dir as mails into the
// series' folder of the checkout.
func refresh(ctx context.Context, s *job.Step, name, base, dir string) error {
	store := checkout()
	if store == "" {
		return errors.New("refresh series: the working directory is in no checkout of kbuild-run; run it there")
	}
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		return fmt.Errorf("refresh series: %s is no git tree; make it with: kbuild-run series edit %s --base %s", dir, name, base)
	}
	dirty, err := look(ctx, git(dir, "status", "--porcelain", "--untracked-files=no"))
	if err != nil {
		return err
	}
	if dirty != "" {
		return fmt.Errorf("refresh series: %s has changes that are in no commit:\n%s", dir, dirty)
	}
	if _, err := look(ctx, git(dir, "merge-base", "--is-ancestor", baseRef, "HEAD")); err != nil {
		return fmt.Errorf("refresh series: the branch base of %s is not below what is checked out; rebase onto it with: git -C %s rebase base", dir, dir)
	}
	merges, err := look(ctx, git(dir, "rev-list", "--merges", baseRef+"..HEAD"))
	if err != nil {
		return err
	}
	if merges != "" {
		return fmt.Errorf("refresh series: %.12s is a merge, which no mail can carry", merges)
	}
	tmp, err := os.MkdirTemp("", "kbuild-run-mails-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out, err := formatPatch(dir, tmp, baseRef+"..HEAD").Probe(ctx)
	if err != nil {
		return err
	}
	mails := strings.Fields(string(out))
	if len(mails) == 0 {
		return fmt.Errorf("refresh series: %s has no commit above base", dir)
	}
	to := filepath.Join(store, name, base)
	if dry(ctx, "cp "+job.Quote(tmp)+"/*.patch "+job.Quote(to)) {
		return nil
	}
	changed, err := install(mails, to)
	if err != nil {
		return err
	}
	s.Note("%s: %d patches, %d files changed", to, len(mails), changed)
	return nil
}

// formatPatch writes commits as mails that depend on nothing but the commits:
// no version of git, no hash of a commit, whole hashes of files.
func formatPatch(dir, to, commits string) *job.Cmd {
	return git(dir, "format-patch", "--zero-commit", "--no-signature", "--no-numbered", "--full-index",
		"--no-base", "--no-thread", "--no-notes", "--no-cover-letter", "--subject-prefix=PATCH", "--output-directory", to, commits)
}

// install makes mails the patches of the series in dir and returns how many
// files were written or removed.
func install(mails []string, dir string) (changed int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	old, err := filepath.Glob(filepath.Join(dir, "[0-9]*.patch"))
	if err != nil {
		return 0, err
	}
	keep := map[string]bool{}
	list := heading(filepath.Join(dir, "series"))
	for _, m := range mails {
		name := filepath.Base(m)
		text, err := os.ReadFile(m)
		if err != nil {
			return changed, err
		}
		if err := replace(filepath.Join(dir, name), text, &changed); err != nil {
			return changed, err
		}
		keep[name] = true
		list += name + "\n"
	}
	if err := replace(filepath.Join(dir, "series"), []byte(list), &changed); err != nil {
		return changed, err
	}
	for _, f := range old {
		if !keep[filepath.Base(f)] {
			if err := os.Remove(f); err != nil {
				return changed, err
			}
			changed++
		}
	}
	return changed, nil
}

// heading returns the comment on top of a series file.
func heading(file string) (text string) {
	b, _ := os.ReadFile(file)
	for l := range strings.Lines(string(b)) {
		if !strings.HasPrefix(l, "#") && strings.TrimSpace(l) != "" {
			break
		}
		text += l
	}
	return text
}

// replace gives file that text, whole or not at all.
func replace(file string, text []byte, changed *int) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, text) {
		return nil
	}
	*changed++
	if err := os.WriteFile(file+".tmp", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}
