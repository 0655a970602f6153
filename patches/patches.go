// Package patches: base + series -> tree.
//
// A base is a Linux kernel: a git tree of the user's, a kernel.org tarball or a
// distribution's source package. The last two are unpacked once into a git
// repository whose first commit is the same on every machine that got the same
// source. A series is a folder NAME/BASE of mails that git am applies, with a
// file `series` that gives their order and a cover text. The tree is the commit
// with the series applied; it lies in the cache, and each base has one worktree
// into which a tree is put when it is to be built.
//
// Inside a checkout of this project series are read from disk, so that what
// `series refresh` wrote counts at once; elsewhere the program has them built in.
package patches

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Tree is a Linux tree in the cache.
type Tree struct {
	Base    string // "v6.12"
	Version string // "6.12.117", from the Makefile
	Source  string // in words: "linux-source-6.12 6.12.117-1~deb12u1"
	Series  string // "notify"; "" for the bare base
	Commit  string // of the base's repository, with the series applied
	Key     string // git's hash of the tree: what is in it, not how it came there

	base  string // commit of the bare base
	entry string // the base's folder in the cache
}

// Options of Prepare.
type Options struct {
	Base   string // "" is the default, or the one that fits the version of Dir
	Series string // "" is the bare base
	Dir    string // a git tree of the user's, whose HEAD is the base

	// Given is a series that is not kept here, in place of the one of that name.
	Given *Series
}

// Prepare gets the base, once, and applies the series. The worktree of the base
// is not touched. A name that does not exist is a job.Usage error and a patch
// that does not apply a job.Failed one; both leave everything as it was.
func Prepare(ctx context.Context, s *job.Step, o Options) (*Tree, error) {
	base, head, err := o.base(ctx)
	if err != nil {
		return nil, err
	}
	var series *Series
	if o.Given != nil {
		series = o.Given
		series.Base = base.Name
	} else if o.Series != "" {
		if series, err = FindSeries(o.Series, base.Name); err != nil {
			return nil, err
		}
	}
	t, got, err := base.tree(ctx, s, o.Dir, head)
	if err != nil {
		return nil, err
	}
	if series == nil {
		if got {
			s.Cached()
		}
		s.Note("%s", t)
		return t, nil
	}
	applied, err := t.apply(ctx, s, series)
	if err != nil {
		return nil, err
	}
	if got && applied {
		s.Cached()
	}
	s.Note("%s", t)
	return t, nil
}

// String says in a line what the tree is.
func (t *Tree) String() string {
	if t.Series == "" {
		return fmt.Sprintf("%s (%s)", t.Base, t.Source)
	}
	return fmt.Sprintf("%s (%s) + %s", t.Base, t.Source, t.Series)
}

// Repository returns the folder of the git repository that holds Commit.
func (t *Tree) Repository() string { return filepath.Join(t.entry, "tree") }

// Steps returns the trees on the way from the bare base, which comes first, to
// t, which comes last: one more a patch.
func (t *Tree) Steps(ctx context.Context) ([]*Tree, error) {
	out, err := look(ctx, git(t.Repository(), "log", "--reverse", "--format=%H %T", t.base+".."+t.Commit))
	if err != nil {
		return nil, err
	}
	first := *t
	first.Series = ""
	if err := first.at(ctx, t.base); err != nil {
		return nil, err
	}
	steps := []*Tree{&first}
	for l := range strings.Lines(out) {
		step := *t
		step.Commit, step.Key, _ = strings.Cut(strings.TrimSpace(l), " ")
		steps = append(steps, &step)
	}
	return steps, nil
}

// Look runs a git command that only looks, in the repository of the tree, and
// returns what it prints.
func (t *Tree) Look(ctx context.Context, args ...string) ([]byte, error) {
	return git(t.Repository(), args...).Probe(ctx)
}

// Added returns the lines that the series adds below a folder, by file.
func (t *Tree) Added(ctx context.Context, folder string) (map[string][]int, error) {
	out, err := t.Look(ctx, "diff", "--no-ext-diff", "--no-color", "--no-renames", "--unified=0", t.base, t.Commit, "--", folder)
	if err != nil {
		return nil, err
	}
	return added(string(out)), nil
}

var hunk = regexp.MustCompile(`^@@ -\S+ \+(\d+)(?:,(\d+))? @@`)

// added reads a diff without context.
func added(diff string) map[string][]int {
	all := map[string][]int{}
	file := ""
	for l := range strings.Lines(diff) {
		if name, ok := strings.CutPrefix(l, "+++ b/"); ok {
			file = strings.TrimSpace(name)
		}
		m := hunk.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		first, _ := strconv.Atoi(m[1])
		n := 1
		if m[2] != "" {
			n, _ = strconv.Atoi(m[2])
		}
		for i := range n {
			all[file] = append(all[file], first+i)
		}
	}
	return all
}

// Same says whether some paths (git's pathspecs) are in the tree as they are in
// another commit of the same repository. A commit that is gone is not the same.
func (t *Tree) Same(ctx context.Context, commit string, paths ...string) bool {
	args := append([]string{"diff", "--quiet", "--no-ext-diff", commit, t.Commit, "--"}, paths...)
	_, err := git(t.Repository(), args...).Probe(ctx)
	return err == nil
}

// base returns the base that is asked for, and the commit of the user's tree.
func (o Options) base(ctx context.Context) (base Base, head string, err error) {
	if base, err = FindBase(o.Base); err != nil || o.Dir == "" {
		return base, "", err
	}
	if head, err = userHead(ctx, o.Dir); err != nil || o.Base != "" {
		return base, head, err
	}
	v, err := version(ctx, o.Dir, head)
	if err != nil {
		return base, "", job.Usage(err)
	}
	return baseOf(v), head, nil
}

// tree returns the bare base, and true when it was there already.
func (b Base) tree(ctx context.Context, s *job.Step, user, head string) (t *Tree, cached bool, err error) {
	t = &Tree{Base: b.Name}
	key, meta := b.Name, map[string]string{}
	fill := func(dir string) (err error) {
		meta["source"], err = b.unpack(ctx, s, dir)
		meta["what"] = b.Name + " from " + meta["source"]
		return err
	}
	if user != "" {
		top, err := look(ctx, userGit(user, "rev-parse", "--show-toplevel"))
		if err != nil {
			return nil, false, err
		}
		key = "tree-" + cache.Key(top)
		meta = map[string]string{"what": "git tree " + top, "source": top}
		fill = func(dir string) error {
			if err := remake(ctx, filepath.Join(dir, "tree")); err != nil {
				return err
			}
			return borrow(ctx, top, filepath.Join(dir, "tree"))
		}
	}
	if t.entry, cached, err = cache.Once(ctx, "bases", key, meta, fill); err != nil {
		return nil, false, err
	}
	if user != "" {
		if err := follow(ctx, user, t.Repository(), head); err != nil {
			return nil, false, err
		}
		changed, err := look(ctx, userGit(user, "status", "--porcelain", "--untracked-files=no"))
		if err != nil {
			return nil, false, err
		}
		if changed != "" {
			job.From(ctx).Logf("%s has changes that are in no commit: they are left out", user)
		}
		t.Source = fmt.Sprintf("%s at %.12s", meta["source"], head)
	} else if cached {
		if meta, err = cache.Meta(t.entry); err != nil {
			return nil, false, err
		}
	}
	if t.Source == "" {
		t.Source = meta["source"]
	}
	if job.From(ctx).DryRun && !cached {
		t.Version, t.Commit, t.Key, t.base = "VERSION", "base", "KEY", "base"
		return t, false, nil
	}
	if head == "" {
		head = baseRef
	}
	if err := t.at(ctx, head); err != nil {
		return nil, false, err
	}
	t.base = t.Commit
	t.Version, err = version(ctx, t.Repository(), t.Commit)
	return t, cached, err
}

// at sets the tree to a commit of the repository.
func (t *Tree) at(ctx context.Context, rev string) error {
	out, err := look(ctx, git(t.Repository(), "rev-parse", rev+"^{commit}", rev+"^{tree}"))
	if err != nil {
		return err
	}
	var ok bool
	if t.Commit, t.Key, ok = strings.Cut(out, "\n"); !ok {
		return fmt.Errorf("read commit %s of %s: git says %q", rev, t.Repository(), out)
	}
	return nil
}

// apply applies the series and returns true when that was done before.
func (t *Tree) apply(ctx context.Context, s *job.Step, series *Series) (cached bool, err error) {
	parts := []string{t.Commit}
	for _, m := range series.Mails {
		parts = append(parts, string(m.Text))
	}
	t.Series = series.Name
	ref := "refs/series/" + series.Name + "/" + cache.Key(parts...)
	if t.at(ctx, ref) == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	// What an interrupted run left there is ours to remove: we hold the lock.
	scratch := filepath.Join(t.entry, "apply")
	leave, err := t.take(ctx, scratch)
	if err != nil {
		return false, err
	}
	defer leave()
	clear := func(ctx context.Context) error {
		if !dry(ctx, "rm -rf "+job.Quote(scratch)) {
			if err := os.RemoveAll(scratch); err != nil {
				return err
			}
		}
		return git(t.Repository(), "worktree", "prune").Run(ctx)
	}
	if err := clear(ctx); err != nil {
		return false, err
	}
	defer clear(context.WithoutCancel(ctx))
	if err := t.am(ctx, s, series, scratch); err != nil {
		return false, err
	}
	if err := git(scratch, "update-ref", ref, "HEAD").Run(ctx); err != nil {
		return false, err
	}
	if job.From(ctx).DryRun {
		t.Commit = ref
		return false, nil
	}
	return false, t.at(ctx, ref)
}

// am applies the mails in a new worktree that holds only the files they touch.
func (t *Tree) am(ctx context.Context, s *job.Step, series *Series, dir string) error {
	s.Progress("apply %d patches", len(series.Mails))
	sparse := append([]string{"sparse-checkout", "set", "--no-cone"}, series.Files()...)
	for i := range sparse[3:] {
		sparse[3+i] = "/" + sparse[3+i]
	}
	for _, c := range []*job.Cmd{
		git(t.Repository(), "worktree", "add", "--quiet", "--no-checkout", "--detach", dir, t.Commit),
		git(dir, sparse...),
		git(dir, "read-tree", "-mu", "HEAD"),
	} {
		if err := c.Run(ctx); err != nil {
			return err
		}
	}
	var files []string
	for _, m := range series.Mails {
		if series.Dir != "" {
			files = append(files, filepath.Join(series.Dir, m.Name))
			continue
		}
		f := filepath.Join(dir, ".mails-"+m.Name)
		if err := writeFile(ctx, f, string(m.Text)); err != nil {
			return err
		}
		files = append(files, f)
	}
	am := git(dir, append([]string{"am", "--quiet", "--keep-non-patch", "--no-3way", "--committer-date-is-author-date"}, files...)...)
	var output []string
	am.Line = func(l string) { output = append(output, l) }
	err := am.With(identity...).Run(ctx)
	var ce *job.CmdError
	if !errors.As(err, &ce) {
		return err
	}
	for _, l := range output {
		at := failedAt.FindStringSubmatch(l)
		if at == nil {
			continue
		}
		for i, m := range series.Mails {
			if fmt.Sprintf("%04d", i+1) == at[1] {
				var why []string
				for _, f := range m.misfits(output) {
					if by := t.blame(ctx, series, m, f, dir); by != "" {
						f.words += "; " + by
					}
					why = append(why, f.words)
				}
				return job.Failed(&Misfit{i, fmt.Errorf("apply %s/%s/%s to %s: %s", series.Name, series.Base, m.Name, t.Source, strings.Join(why, "; "))})
			}
		}
	}
	return err
}

// Misfit is the error of a patch that does not apply.
type Misfit struct {
	Patch int // of the series, from 0: those before it apply
	Err   error
}

func (m *Misfit) Error() string { return m.Err.Error() }
func (m *Misfit) Unwrap() error { return m.Err }

// failedAt is how git am names the mail it stopped at.
var failedAt = regexp.MustCompile(`^Patch failed at (\d+)`)

// Checkout puts the tree into the one worktree of its base and returns its
// folder. Only files that differ are written. Until the caller calls done, the
// worktree stays as it is: who wants the same tree gets it at once, who wants
// another one waits.
func (t *Tree) Checkout(ctx context.Context) (dir string, done func(), err error) {
	dir = t.Repository()
	if job.From(ctx).DryRun {
		return dir, func() {}, git(dir, "checkout", "--quiet", "--force", "--detach", t.Commit).Run(ctx)
	}
	share, err := cache.Share(ctx, t.entry)
	if err != nil {
		return "", nil, err
	}
	leave, err := t.occupy(ctx, dir)
	if err != nil {
		share()
		return "", nil, err
	}
	return dir, func() { leave(); share() }, nil
}

// occupy puts the tree into the worktree and shares it, until leave. Who waits for it
// has the turn: nobody comes in between, not even those who want the tree that is there.
func (t *Tree) occupy(ctx context.Context, dir string) (leave func(), err error) {
	turn, err := cache.Lock(ctx, dir+".turn")
	if err != nil {
		return nil, err
	}
	defer turn()
	leave, err = cache.Share(ctx, dir)
	if err != nil || t.there(ctx, dir) {
		return leave, err
	}
	leave()
	if leave, err = cache.Lock(ctx, dir); err != nil {
		return nil, err
	}
	err = t.checkout(ctx, dir)
	leave()
	if err != nil {
		return nil, err
	}
	return cache.Share(ctx, dir)
}

// there says that the worktree is the tree's, and that no file of it was changed.
func (t *Tree) there(ctx context.Context, dir string) bool {
	if _, err := os.Stat(t.unfinished()); err == nil {
		return false
	}
	head, err := git(dir, "rev-parse", "HEAD").Probe(ctx)
	if err != nil || strings.TrimSpace(string(head)) != t.Commit {
		return false
	}
	_, err = git(dir, "diff", "--quiet", "HEAD").Probe(ctx)
	return err == nil
}

// unfinished is a file that stays when git is stopped halfway through a checkout:
// then there may be files that git wrote and did not note in its index.
func (t *Tree) unfinished() string { return filepath.Join(t.entry, "checkout-unfinished") }

// take locks a folder of the base's, and keeps the base from being pruned, until
// leave.
func (t *Tree) take(ctx context.Context, dir string) (leave func(), err error) {
	if job.From(ctx).DryRun {
		return func() {}, nil
	}
	share, err := cache.Share(ctx, t.entry)
	if err != nil {
		return nil, err
	}
	unlock, err := cache.Lock(ctx, dir)
	if err != nil {
		share()
		return nil, err
	}
	return func() { unlock(); share() }, nil
}

func (t *Tree) checkout(ctx context.Context, dir string) error {
	mark := t.unfinished()
	_, err := os.Stat(mark)
	unfinished := err == nil
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		return err
	}
	// A git that was killed leaves its lock; we hold the worktree.
	if err := os.Remove(filepath.Join(dir, ".git/index.lock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := git(dir, "checkout", "--quiet", "--force", "--detach", t.Commit).Run(ctx); err != nil {
		return err
	}
	if unfinished {
		if err := git(dir, "clean", "--quiet", "-ffdx").Run(ctx); err != nil {
			return err
		}
	}
	return os.Remove(mark)
}
