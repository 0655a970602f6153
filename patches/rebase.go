package patches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// move is a series that goes from one base to another.
type move struct {
	series, base, onto string
	fromDir, ontoDir   string // git trees of the user's
	dir                string // where it is made
	goOn               bool
}

func rebaseCommand() *cobra.Command {
	var m move
	c := &cobra.Command{
		Use:   "rebase NAME --onto BASE",
		Short: "put a series onto another base, patch by patch",
		Long: `Rebase puts the patches of the series NAME, kept for --base, onto another base, in
a git tree of its own. A patch that does not apply as it is is merged, which knows
files that moved. At a conflict it stops: mend it in that tree with plain git, and
go on with --continue. At the end it says which patches are not what they were;
series refresh then writes them down.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.series = args[0]
			return m.rebase(cmd.Context())
		},
	}
	m.flags(c)
	c.Flags().BoolVar(&m.goOn, "continue", false, "go on behind a conflict that is mended")
	return c
}

func backportCommand() *cobra.Command {
	var m move
	c := &cobra.Command{
		Use:   "backport NAME --onto BASE",
		Short: "give the series of another base the same body",
		Long: `Backport takes the files that the series NAME adds, its body, from the series of
--base into that of --onto, into the patch of the same subject each, and writes
the patches down. The two stay the same to the byte where they can. What the
series change in files of the base is left alone.

Where there is no series for --onto yet, it is made as by series rebase.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.series = args[0]
			list, err := List()
			if err != nil {
				return err
			}
			if !slices.Contains(list[m.series], m.onto) {
				return m.rebase(cmd.Context())
			}
			return m.backport(cmd.Context())
		},
	}
	m.flags(c)
	return c
}

func (m *move) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&m.base, "base", "", "kernel `BASE` the series is kept for (default v6.12, or what fits --tree)")
	f.StringVar(&m.fromDir, "tree", "", "take the commit checked out in the git tree `DIR` as --base")
	f.StringVar(&m.onto, "onto", "", "kernel `BASE` it goes onto")
	f.StringVar(&m.ontoDir, "onto-tree", "", "take the commit checked out in the git tree `DIR` as --onto")
	f.StringVar(&m.dir, "dir", "", "`FOLDER` of the git tree it is made in (default out/edit/NAME-BASE)")
}

// trees returns the tree of the series on its base, and the base it goes onto.
func (m *move) trees(ctx context.Context) (from, onto *Tree, err error) {
	j := job.From(ctx)
	if m.onto == "" && m.ontoDir == "" {
		return nil, nil, job.Usage(errors.New("move series: no base to go onto; name one with: --onto BASE"))
	}
	err = j.Step("tree "+m.base, func(s *job.Step) (err error) {
		from, err = Prepare(ctx, s, Options{Base: m.base, Series: m.series, Dir: m.fromDir})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = j.Step("tree "+m.onto, func(s *job.Step) (err error) {
		onto, err = Prepare(ctx, s, Options{Base: m.onto, Dir: m.ontoDir})
		return err
	})
	if err == nil && onto.Base == from.Base && m.ontoDir == "" {
		err = job.Usage(fmt.Errorf("move series: it is on %s already", onto.Base))
	}
	return from, onto, err
}

// toDo is the file, in the git folder of the tree, with the commits to come.
const toDo = "kbuild-run-to-do"

func (m *move) rebase(ctx context.Context) error {
	j := job.From(ctx)
	from, onto, err := m.trees(ctx)
	if err != nil {
		return err
	}
	m.base, m.onto = from.Base, onto.Base
	if m.dir == "" {
		m.dir = editDir(m.series, onto.Base)
	}
	list := filepath.Join(m.dir, ".git", toDo)
	if !m.goOn {
		onto.Series = m.series
		err := j.Step("edit", func(s *job.Step) error {
			if err := onto.edit(ctx, s, m.dir); err != nil {
				return err
			}
			return git(m.dir, "fetch", "--quiet", "--no-tags", from.Repository(), from.Commit+":refs/from/series", from.base+":refs/from/base").Run(ctx)
		})
		if err != nil || j.DryRun {
			return err
		}
		commits, err := look(ctx, git(m.dir, "rev-list", "--reverse", "refs/from/base..refs/from/series"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(list, []byte(commits+"\n"), 0o644); err != nil {
			return err
		}
	} else if err := m.settle(ctx, list); err != nil {
		return err
	}
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for left := strings.Fields(string(b)); len(left) > 0; {
		how, err := m.pick(ctx, left[0])
		if err != nil {
			return err
		}
		subject, err := look(ctx, git(m.dir, "show", "--no-patch", "--format=%s", left[0]))
		if err != nil {
			return err
		}
		fmt.Fprintf(j.Out, "%-16s %s\n", how, subject)
		left = left[1:]
		if err := os.WriteFile(list, []byte(strings.Join(left, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	changed, err := changedPatches(ctx, m.dir, "refs/from/base..refs/from/series", baseRef+"..HEAD")
	if err != nil {
		return err
	}
	fmt.Fprintf(j.Out, "\nNot what they were on %s:\n", m.base)
	for _, l := range changed {
		fmt.Fprintf(j.Out, "  %s\n", l)
	}
	if len(changed) == 0 {
		fmt.Fprintf(j.Out, "  none\n")
	}
	j.Logf("see the differences with: git -C %s range-diff refs/from/base..refs/from/series base..HEAD", m.dir)
	j.Logf("write the series down with: kbuild-run series refresh %s --base %s --dir %s", m.series, m.onto, m.dir)
	return nil
}

// settle ends the pick that met a conflict.
func (m *move) settle(ctx context.Context, list string) error {
	if _, err := os.Stat(list); err != nil {
		return job.Usage(fmt.Errorf("go on in %s: no series is on its way there", m.dir))
	}
	open, err := look(ctx, git(m.dir, "diff", "--name-only", "--diff-filter=U"))
	if err != nil {
		return err
	}
	if open != "" {
		return m.conflict(strings.Fields(open))
	}
	if _, err := look(ctx, git(m.dir, "rev-parse", "--verify", "--quiet", "CHERRY_PICK_HEAD")); err == nil {
		end := m.git("cherry-pick", "--continue")
		if clean, err := look(ctx, git(m.dir, "status", "--porcelain", "--untracked-files=no")); err == nil && clean == "" {
			end = m.git("cherry-pick", "--skip") // nothing of it is left
		}
		if err := end.With("GIT_EDITOR=true").Run(ctx); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	return os.WriteFile(list, []byte(rest), 0o644)
}

// git is git as the committer that makes the same commits on every machine.
func (m *move) git(args ...string) *job.Cmd { return git(m.dir, args...).With(identity[3:]...) }

func (m *move) conflict(files []string) error {
	return job.Failed(fmt.Errorf("put %s onto %s: %s conflict; mend them in %s, git add -u there, and go on with: kbuild-run series rebase %s --base %s --onto %s --dir %s --continue",
		m.series, m.onto, strings.Join(files, ", "), m.dir, m.series, m.base, m.onto, m.dir))
}

// pick puts one commit onto what is checked out, and says how it went.
func (m *move) pick(ctx context.Context, commit string) (how string, err error) {
	mail, err := git(m.dir, "format-patch", "-1", "--stdout", "--full-index", "--no-signature", commit).Probe(ctx)
	if err != nil {
		return "", err
	}
	moved := false
	try := git(m.dir, "apply", "--check", "--verbose")
	try.Stdin = bytes.NewReader(mail)
	try.Line = func(l string) { moved = moved || strings.Contains(l, " succeeded at ") }
	if _, err := try.Probe(ctx); err == nil {
		am := m.git("am", "--quiet", "--keep-non-patch", "--no-3way")
		am.Stdin = bytes.NewReader(mail)
		if how = "as it is"; moved {
			how = "on other lines"
		}
		return how, am.Run(ctx)
	}
	if err := m.git("cherry-pick", commit).Run(ctx); err != nil {
		open, e := look(ctx, git(m.dir, "diff", "--name-only", "--diff-filter=U"))
		if e != nil || ctx.Err() != nil {
			return "", errors.Join(err, e)
		}
		if open != "" {
			return "", m.conflict(strings.Fields(open))
		}
		return "already there", m.git("cherry-pick", "--skip").Run(ctx)
	}
	was, err := look(ctx, git(m.dir, "diff", "--name-only", commit+"^", commit))
	if err != nil {
		return "", err
	}
	is, err := look(ctx, git(m.dir, "diff", "--name-only", "HEAD^", "HEAD"))
	if was != is {
		return "merged, moved", err
	}
	return "merged", err
}

// backport gives the series of m.onto the body of that of m.base.
func (m *move) backport(ctx context.Context) error {
	j := job.From(ctx)
	store := checkout()
	if store == "" {
		return errors.New("backport series: the working directory is in no checkout of kbuild-run; run it there")
	}
	from, onto, err := m.trees(ctx)
	if err != nil {
		return err
	}
	to := onto
	err = j.Step("series "+onto.Base, func(s *job.Step) (err error) {
		to, err = Prepare(ctx, s, Options{Base: onto.Base, Series: m.series, Dir: m.ontoDir})
		return err
	})
	if err != nil || j.DryRun {
		return err
	}
	return j.Step("body", func(s *job.Step) error {
		commit, words, err := to.takeBody(ctx, from)
		if err != nil {
			return err
		}
		tmp, err := os.MkdirTemp("", "kbuild-run-mails-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		out, err := formatPatch(to.Repository(), tmp, to.base+".."+commit).Probe(ctx)
		if err != nil {
			return err
		}
		dir := filepath.Join(store, m.series, to.Base)
		changed, err := install(strings.Fields(string(out)), dir)
		s.Note("%s: %d files changed", dir, changed)
		for _, w := range words {
			fmt.Fprintln(j.Out, w)
		}
		return err
	})
}

// body returns the files that the series of t adds.
func (t *Tree) body(ctx context.Context) ([]string, error) {
	out, err := look(ctx, git(t.Repository(), "diff", "--no-renames", "--diff-filter=A", "--name-only", t.base, t.Commit))
	return strings.Fields(out), err
}

// subjects returns the commits of the series by what they do.
func (t *Tree) subjects(ctx context.Context) (order []string, commit map[string]string, err error) {
	out, err := look(ctx, git(t.Repository(), "log", "--reverse", "--format=%H %s", t.base+".."+t.Commit))
	commit = map[string]string{}
	for l := range strings.Lines(out) {
		hash, subject, _ := strings.Cut(strings.TrimSpace(l), " ")
		order = append(order, subject)
		commit[subject] = hash
	}
	return order, commit, err
}

// takeBody makes the commits of t again with the files that both series add as
// they are in from: in each patch as in the one of the same subject there, else as
// in the patch before.
func (t *Tree) takeBody(ctx context.Context, from *Tree) (last string, words []string, err error) {
	theirs, err := from.body(ctx)
	if err != nil {
		return "", nil, err
	}
	ours, err := t.body(ctx)
	if err != nil {
		return "", nil, err
	}
	shared := slices.DeleteFunc(theirs, func(f string) bool { return !slices.Contains(ours, f) })
	if len(shared) == 0 {
		return "", nil, fmt.Errorf("backport series: no file is added by both series")
	}
	_, source, err := from.subjects(ctx)
	if err != nil {
		return "", nil, err
	}
	order, commits, err := t.subjects(ctx)
	if err != nil {
		return "", nil, err
	}
	index, err := os.CreateTemp("", "kbuild-run-index-")
	if err != nil {
		return "", nil, err
	}
	index.Close()
	defer os.Remove(index.Name())
	plumb := func(args ...string) *job.Cmd {
		return git(t.Repository(), args...).With("GIT_INDEX_FILE=" + index.Name())
	}
	blobs := map[string]string{} // of the body: file to hash; "": not there
	last = t.base
	for _, subject := range order {
		if c := source[subject]; c != "" {
			delete(source, subject)
			for _, f := range shared {
				if blobs[f], err = t.copyBlob(ctx, from, c, f); err != nil {
					return "", nil, err
				}
			}
		}
		// git takes no empty file for an index.
		if err := os.Remove(index.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		if err := plumb("read-tree", commits[subject]).Run(ctx); err != nil {
			return "", nil, err
		}
		for _, f := range shared {
			change := plumb("update-index", "--force-remove", f)
			if blobs[f] != "" {
				change = plumb("update-index", "--add", "--cacheinfo", "100644,"+blobs[f]+","+f)
			}
			if err := change.Run(ctx); err != nil {
				return "", nil, err
			}
		}
		tree, err := look(ctx, plumb("write-tree"))
		if err != nil {
			return "", nil, err
		}
		was, err := look(ctx, git(t.Repository(), "rev-parse", commits[subject]+"^{tree}"))
		if err != nil {
			return "", nil, err
		}
		if tree != was {
			words = append(words, "changed   "+subject)
		}
		if last, err = t.recommit(ctx, commits[subject], tree, last); err != nil {
			return "", nil, err
		}
	}
	for _, subject := range sorted(source) {
		words = append(words, "not here  "+subject)
	}
	return last, words, nil
}

// copyBlob copies a file of a commit of another base's repository into t's, and
// returns its hash, or "" when it is not there.
func (t *Tree) copyBlob(ctx context.Context, from *Tree, commit, file string) (string, error) {
	if _, err := look(ctx, git(from.Repository(), "cat-file", "-e", commit+":"+file)); err != nil {
		return "", ctx.Err()
	}
	text, err := git(from.Repository(), "show", commit+":"+file).Probe(ctx)
	if err != nil {
		return "", err
	}
	put := git(t.Repository(), "hash-object", "-w", "--stdin")
	put.Stdin = bytes.NewReader(text)
	return look(ctx, put)
}

// recommit makes a commit again with another tree and parent.
func (t *Tree) recommit(ctx context.Context, commit, tree, parent string) (string, error) {
	who, err := look(ctx, git(t.Repository(), "show", "--no-patch", "--format=%an%n%ae%n%aI", commit))
	if err != nil {
		return "", err
	}
	author := strings.SplitN(who, "\n", 3)
	message, err := git(t.Repository(), "show", "--no-patch", "--format=%B", commit).Probe(ctx)
	if err != nil {
		return "", err
	}
	c := git(t.Repository(), "commit-tree", tree, "-p", parent, "-F", "-").With(identity[3:]...).
		With("GIT_AUTHOR_NAME="+author[0], "GIT_AUTHOR_EMAIL="+author[1], "GIT_AUTHOR_DATE="+author[2])
	c.Stdin = strings.NewReader(strings.TrimRight(string(message), "\n") + "\n")
	return look(ctx, c)
}
