package patches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

// format is one version of a series as mails to send.
type format struct {
	Options
	version int
	prefix  string   // what stands before "PATCH": net-next
	to, cc  []string // beside what get_maintainer.pl says

	series        *Series
	subject, text string // of the cover letter
	tree          *Tree
	who           sender
	signed        string // commit: the series by the sender
	dir           string // folder of the mails
	changes       []string
}

func formatCommand() *cobra.Command {
	var f format
	var verbose bool
	c := &cobra.Command{
		Use:   "format NAME -v N",
		Short: "write version N of a series as mails to send",
		Long: `Format writes version N of the series NAME into outgoing/NAME-BASE-vN: a cover
letter, the patches, and all of them as one mailbox, which it applies to see that
it gives the same tree. It sends nothing; it prints the command that does.

The cover letter is the text of 0000-cover.md, where {WORDS} of the subject of a
patch become its number; what changed since version N-1 (the section "## vN" of
changes.md beside it, and the range-diff); the last green run of this tree; and
the base. Version N-1 is what the tag sent/NAME/BASE/v(N-1) holds, or the folder
that format wrote.

From and Signed-off-by are yours, of git's configuration: only a person can
certify a patch. To and Cc come from get_maintainer.pl of the tree. A base-commit
is named with --tree only: a base of ours is no commit that others have.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if verbose {
				job.From(cmd.Context()).Verbose = true
			}
			f.Series = args[0]
			return f.run(cmd.Context())
		},
	}
	treeFlags(c, &f.Options)
	c.Flags().IntVarP(&f.version, "reroll-count", "v", 1, "version `N` of the series")
	// -v is git format-patch's here, so that our own flag has its long name only.
	c.Flags().BoolVar(&verbose, "verbose", false, "show what child processes print")
	c.Flags().StringVar(&f.prefix, "tag", "", "`TREE` to name in the subjects: [PATCH TREE v2 3/9]")
	c.Flags().StringSliceVar(&f.to, "to", nil, "`ADDRESS` to send to beside the maintainers")
	c.Flags().StringSliceVar(&f.cc, "cc", nil, "`ADDRESS` of one more copy")
	return c
}

// sender is who certifies the patches.
type sender struct{ name, email string }

func (w sender) String() string { return w.name + " <" + w.email + ">" }

var identLine = regexp.MustCompile(`^(.+) <([^<>\s]+)> \d+ [+-]\d{4}$`)

// findSender asks git who works here. What git would make up of the name of the
// account and of the host does not count.
func findSender(ctx context.Context) (w sender, err error) {
	out, err := look(ctx, userGit("", "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT"))
	if m := identLine.FindStringSubmatch(out); err == nil && m != nil {
		return sender{m[1], m[2]}, nil
	}
	return w, job.Usage(errors.New("format series: git does not know who sends it; say so with: git config --global user.name 'YOUR NAME' && git config --global user.email YOU@EXAMPLE.ORG"))
}

func (f *format) run(ctx context.Context) (err error) {
	j := job.From(ctx)
	if f.version < 1 {
		return job.Usage(fmt.Errorf("format series: version %d; the first one is 1", f.version))
	}
	if f.who, err = findSender(ctx); err != nil {
		return err
	}
	err = j.Step("tree", func(s *job.Step) (err error) {
		f.tree, err = Prepare(ctx, s, f.Options)
		return err
	})
	if err != nil {
		return err
	}
	if f.series, err = FindSeries(f.Series, f.tree.Base); err != nil {
		return err
	}
	if f.subject, f.text, err = f.series.letter(); err != nil {
		return err
	}
	f.dir = outgoing(f.Series, f.tree.Base, f.version)
	if j.DryRun {
		return f.formatPatch(ctx, f.tree.base+".."+f.tree.Commit, nil)
	}
	if err := j.Step("mails", func(s *job.Step) error { return f.write(ctx, s) }); err != nil {
		return err
	}
	if err := j.Step("apply the mailbox", func(s *job.Step) error { return f.verify(ctx, s) }); err != nil {
		return err
	}
	fmt.Fprintln(j.Out, f.dir)
	j.Logf("look at %s, then send it with:", filepath.Join(f.dir, "*0000*"))
	j.Logf("    git send-email --no-thread %s", filepath.Join(f.dir, "*.patch"))
	j.Logf("and keep what was sent with:")
	j.Logf("    git tag -a -m 'Sent as v%d' %s", f.version, sentTag(f.Series, f.tree.Base, f.version))
	return nil
}

// outgoing is the folder of a version.
func outgoing(series, base string, version int) string {
	return filepath.Join("outgoing", fmt.Sprintf("%s-%s-v%d", series, base, version))
}

// sentTag is the tag, in the repository of this project, of a version sent.
func sentTag(series, base string, version int) string {
	return fmt.Sprintf("sent/%s/%s/v%d", series, base, version)
}

// write makes the mails.
func (f *format) write(ctx context.Context, s *job.Step) (err error) {
	s.Progress("sign off as %s", f.who)
	if f.signed, err = f.tree.sign(ctx, f.who); err != nil {
		return err
	}
	commits := f.tree.base + ".." + f.signed
	var since string // commits of the version before
	if f.version > 1 {
		if since, err = f.since(ctx, s); err != nil {
			return err
		}
		if f.changes, err = changedPatches(ctx, f.tree.Repository(), since, commits); err != nil {
			return err
		}
	}
	to, cc, err := f.tree.maintainers(ctx, f.series)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(f.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	var args []string
	for _, a := range slices.Concat(to, f.to) {
		args = append(args, "--to="+a)
	}
	for _, a := range slices.Concat(cc, f.cc) {
		args = append(args, "--cc="+a)
	}
	if since != "" {
		args = append(args, "--range-diff="+since)
	}
	if f.Dir != "" {
		args = append(args, "--base="+f.tree.base)
	}
	if err := f.formatPatch(ctx, commits, args); err != nil {
		return err
	}
	cover := filepath.Join(f.dir, prefixVersion(f.version)+"0000-cover-letter.patch")
	text, err := os.ReadFile(cover)
	if err != nil {
		return err
	}
	text = bytes.Replace(text, []byte("*** SUBJECT HERE ***"), []byte(f.subject), 1)
	text = bytes.Replace(text, []byte("*** BLURB HERE ***"), []byte(f.cover(ctx)), 1)
	if err := os.WriteFile(cover, text, 0o644); err != nil {
		return err
	}
	s.Note("%d patches to %s", len(f.series.Mails), strings.Join(slices.Concat(to, f.to), ", "))
	return f.mailbox()
}

// prefixVersion is how git format-patch begins the names of files.
func prefixVersion(version int) string {
	if version == 1 {
		return ""
	}
	return "v" + strconv.Itoa(version) + "-"
}

func (f *format) formatPatch(ctx context.Context, commits string, args []string) error {
	prefix := "PATCH"
	if f.prefix != "" {
		prefix += " " + f.prefix
	}
	all := []string{"-c", "user.name=" + f.who.name, "-c", "user.email=" + f.who.email, "format-patch", "--quiet",
		"--cover-letter", "--thread=shallow", "--no-signature", "--no-notes", "--encode-email-headers",
		"--subject-prefix=" + prefix, "--output-directory"}
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return err
	}
	all = append(append(all, dir), args...)
	if f.version > 1 {
		all = append(all, "--reroll-count="+strconv.Itoa(f.version))
	}
	return git(f.tree.Repository(), append(all, commits)...).Run(ctx)
}

// mailbox writes the patches into one file. The cover letter is not in it: git am
// stops at a mail without a patch.
func (f *format) mailbox() error {
	mails, err := filepath.Glob(filepath.Join(f.dir, "*.patch"))
	if err != nil {
		return err
	}
	var all []byte
	for _, m := range mails[1:] {
		text, err := os.ReadFile(m)
		if err != nil {
			return err
		}
		head, rest, _ := bytes.Cut(text, []byte("\n\n"))
		all = append(append(all, folded.ReplaceAll(head, []byte("$1 "))...), "\n\n"...)
		all = append(append(all, rest...), '\n')
	}
	return os.WriteFile(f.mailboxName(), all, 0o644)
}

// folded are the headers over two lines that b4 0.12 stops at with the Python of
// Debian 12: "Header values may not contain linefeed".
var folded = regexp.MustCompile(`(?m)^((?:From|Subject): .*)\n[ \t]+`)

func (f *format) mailboxName() string { return filepath.Join(f.dir, "mailbox") }

// verify applies the mailbox to the base: it must give the tree of the series.
func (f *format) verify(ctx context.Context, s *job.Step) error {
	text, err := os.ReadFile(f.mailboxName())
	if err != nil {
		return err
	}
	o := f.Options
	if o.Given, err = ReadMailbox(ctx, f.Series+"-sent", text); err != nil {
		return err
	}
	t, err := Prepare(ctx, s, o)
	if err != nil {
		return err
	}
	if t.Key != f.tree.Key {
		return fmt.Errorf("apply %s: it gives the tree %.12s, the series gives %.12s", f.mailboxName(), t.Key, f.tree.Key)
	}
	s.Note("gives the tree of the series, %.12s", t.Key)
	return nil
}

// sign makes the commits of the series again, as the sender's and with a
// Signed-off-by, and returns the last one. The files in them stay the same.
func (t *Tree) sign(ctx context.Context, w sender) (string, error) {
	out, err := look(ctx, git(t.Repository(), "rev-list", "--reverse", t.base+".."+t.Commit))
	if err != nil {
		return "", err
	}
	parent := t.base
	for _, c := range strings.Fields(out) {
		date, err := look(ctx, git(t.Repository(), "show", "--no-patch", "--format=%aI", c))
		if err != nil {
			return "", err
		}
		message, err := git(t.Repository(), "show", "--no-patch", "--format=%B", c).Probe(ctx)
		if err != nil {
			return "", err
		}
		trailer := git(t.Repository(), "interpret-trailers", "--if-exists=addIfDifferent", "--trailer", "Signed-off-by: "+w.String())
		trailer.Stdin = strings.NewReader(strings.TrimRight(string(message), "\n") + "\n")
		if message, err = trailer.Probe(ctx); err != nil {
			return "", err
		}
		commit := git(t.Repository(), "commit-tree", c+"^{tree}", "-p", parent, "-F", "-").With(
			"GIT_AUTHOR_NAME="+w.name, "GIT_AUTHOR_EMAIL="+w.email, "GIT_AUTHOR_DATE="+date,
			"GIT_COMMITTER_NAME="+w.name, "GIT_COMMITTER_EMAIL="+w.email, "GIT_COMMITTER_DATE="+date)
		commit.Stdin = bytes.NewReader(message)
		made, err := commit.Output(ctx)
		if err != nil {
			return "", err
		}
		parent = strings.TrimSpace(string(made))
	}
	return parent, nil
}

// since returns the commits of the version before this one.
func (f *format) since(ctx context.Context, s *job.Step) (string, error) {
	before, err := sentSeries(ctx, f.Series, f.tree.Base, f.version-1)
	if err != nil {
		return "", err
	}
	o := f.Options
	o.Given = before
	t, err := Prepare(ctx, s, o)
	if err != nil {
		return "", fmt.Errorf("compare with v%d: %w", f.version-1, err)
	}
	signed, err := t.sign(ctx, f.who)
	return t.base + ".." + signed, err
}

// sentSeries returns a version that was sent: what its tag holds, or the mailbox
// that format wrote.
func sentSeries(ctx context.Context, name, base string, version int) (*Series, error) {
	tag := sentTag(name, base, version)
	s := &Series{Name: name, Base: base}
	dir := fmt.Sprintf("patches/%s/%s/", name, base)
	if list, err := look(ctx, userGit("", "show", "refs/tags/"+tag+":"+dir+"series")); err == nil {
		for _, m := range mailNames([]byte(list)) {
			text, err := userGit("", "show", "refs/tags/"+tag+":"+dir+m).Probe(ctx)
			if err != nil {
				return nil, err
			}
			s.Mails = append(s.Mails, Mail{Name: m, Text: text})
		}
		return s, nil
	}
	box := filepath.Join(outgoing(name, base, version), "mailbox")
	text, err := os.ReadFile(box)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, job.Usage(fmt.Errorf("compare with v%d: there is neither a tag %s nor a file %s", version, tag, box))
	}
	if err != nil {
		return nil, err
	}
	return ReadMailbox(ctx, name, text)
}

// rangeLine is a pair of git range-diff: "1:  0123abc ! 2:  4567def subject".
var rangeLine = regexp.MustCompile(`^\s*(?:-|\d+):\s+\S+ ([=!<>])\s+(-|\d+):\s+\S+ (.*)$`)

// changedPatches says in a line each which patches are not what they were.
func changedPatches(ctx context.Context, dir, old, new string) (lines []string, err error) {
	out, err := look(ctx, git(dir, "range-diff", "--no-color", "--no-patch", old, new))
	if err != nil {
		return nil, err
	}
	was := map[string]bool{} // subjects of patches that have no counterpart
	for l := range strings.Lines(out) {
		m := rangeLine.FindStringSubmatch(strings.TrimRight(l, "\n"))
		if m == nil {
			continue
		}
		switch mark, n, subject := m[1], m[2], m[3]; {
		case mark == "<":
			was[subject] = true
		case mark == ">" && !was[subject]:
			lines = append(lines, fmt.Sprintf("%s: new (%s)", n, subject))
		case mark == ">" || mark == "!":
			delete(was, subject)
			lines = append(lines, fmt.Sprintf("%s: changed (%s)", n, subject))
		}
	}
	for _, subject := range sorted(was) {
		lines = append(lines, fmt.Sprintf("dropped (%s)", subject))
	}
	return lines, nil
}

// maintainers asks get_maintainer.pl of the tree: maintainers to send to,
// reviewers and lists for copies.
func (t *Tree) maintainers(ctx context.Context, series *Series) (to, cc []string, err error) {
	tmp, err := os.MkdirTemp("", "kbuild-run-maintainers-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(tmp)
	for _, name := range []string{"scripts/get_maintainer.pl", "MAINTAINERS"} {
		text, err := git(t.Repository(), "show", t.base+":"+name).Probe(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("find maintainers: the tree has no %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(tmp, filepath.Base(name)), text, 0o755); err != nil {
			return nil, nil, err
		}
	}
	args := []string{"--no-tree", "--mpath=MAINTAINERS", "--no-git", "--no-git-fallback", "--no-rolestats"}
	var files []string
	for _, m := range series.Mails {
		if err := os.WriteFile(filepath.Join(tmp, m.Name), m.Text, 0o644); err != nil {
			return nil, nil, err
		}
		files = append(files, m.Name)
	}
	ask := func(who ...string) ([]string, error) {
		out, err := job.Command("./get_maintainer.pl", slices.Concat(args, who, files)...).In(tmp).Probe(ctx)
		var found []string
		for l := range strings.Lines(string(out)) {
			if l = strings.TrimSpace(l); strings.Contains(l, "@") {
				found = append(found, l)
			}
		}
		return found, err
	}
	if to, err = ask("--no-r", "--no-l"); err != nil {
		return nil, nil, err
	}
	if len(to) == 0 {
		return nil, nil, fmt.Errorf("find maintainers: get_maintainer.pl of %s names nobody", t.Source)
	}
	cc, err = ask("--no-m")
	return to, cc, err
}
