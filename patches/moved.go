package patches

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// misfit is one place where a patch does not fit.
type misfit struct {
	file  string
	line  string // where the hunk begins in the old file; "": it is about the whole file
	words string
}

// misfits are what git apply complained about.
func (m Mail) misfits(output []string) (all []misfit) {
	for _, l := range output {
		l, ok := strings.CutPrefix(l, "error: ")
		if !ok || strings.HasSuffix(l, ": patch does not apply") {
			continue
		}
		f := misfit{words: l}
		if at, ok := strings.CutPrefix(l, "patch failed: "); ok {
			i := strings.LastIndex(at, ":")
			if i < 0 {
				continue
			}
			f.file, f.line = at[:i], at[i+1:]
			if head, _ := m.hunk(f.file, f.line); head != "" {
				f.words = fmt.Sprintf("%s: the hunk %s does not fit", f.file, head)
			} else {
				f.words = fmt.Sprintf("%s: the hunk at line %s does not fit", f.file, f.line)
			}
		} else {
			f.file, _, _ = strings.Cut(l, ":")
		}
		all = append(all, f)
	}
	return all
}

// hunk returns the head of the hunk of file that starts at the old line given, and
// the lines that it wants to find there.
func (m Mail) hunk(file, line string) (head string, want []string) {
	in := false
	for lines := bufio.NewScanner(bytes.NewReader(m.Text)); lines.Scan(); {
		l := lines.Text()
		if f := diffLine.FindStringSubmatch(l); f != nil {
			in = f[1] == file || f[2] == file
		}
		switch h := hunkLine.FindStringSubmatch(l); {
		case head != "" && (h != nil || strings.HasPrefix(l, "diff --git ")):
			return head, want
		case h != nil && in && h[1] == line:
			head = l
		case head != "" && (strings.HasPrefix(l, " ") || strings.HasPrefix(l, "-")):
			want = append(want, l[1:])
		}
	}
	return head, want
}

// blame says what in the base made a patch of the series misfit, whose files lie in
// dir as the patches before it left them: the commit that changed what the hunk
// stands on, or, where the base has no history, that the file is another one than
// the series was made on. It is "" when the base is not at fault.
func (t *Tree) blame(ctx context.Context, series *Series, m Mail, f misfit, dir string) string {
	if was := series.madeOn(f.file); was != "" {
		if is, err := look(ctx, git(t.Repository(), "rev-parse", t.base+":"+f.file)); err == nil && is == was {
			return ""
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, f.file))
	switch {
	case err != nil:
		if c := t.last(ctx, "--no-renames", "--diff-filter=D", t.base, "--", f.file); c.hash != "" {
			return c.removed(ctx, t, f.file)
		}
		return ""
	case f.line == "": // it is there, and must not be
		if c := t.last(ctx, "--diff-filter=A", t.base, "--", f.file); c.hash != "" {
			return c.words + " added it"
		}
		return ""
	}
	have := strings.Split(string(text), "\n")
	_, want := m.hunk(f.file, f.line)
	for _, l := range want {
		if len(strings.TrimSpace(l)) < 4 || slices.Contains(have, l) { // braces and the like are everywhere
			continue
		}
		if c := t.last(ctx, "-S"+l, t.base, "--", f.file); c.hash != "" {
			return fmt.Sprintf("%s changed %q", c.words, strings.TrimSpace(l))
		}
	}
	// All that it wants is there, with something between.
	if c := t.last(ctx, t.base, "--", f.file); c.hash != "" {
		return c.words + " was the last to change the file"
	}
	return "the file is not the one that the series was made on"
}

// madeOn returns the hash of the file of the base that the series was made on, as
// far as its mails tell.
func (s *Series) madeOn(file string) string {
	for _, m := range s.Mails {
		at := regexp.MustCompile(`(?m)^diff --git a/` + regexp.QuoteMeta(file) + ` .*\n(?:[a-z].*\n)*?index ([0-9a-f]{40})\.\.`).FindSubmatch(m.Text)
		if at != nil {
			return string(at[1])
		}
	}
	return ""
}

// commit is one of the history of a base.
type commit struct{ hash, words string }

// last returns the newest commit that git log finds. The first one of a history
// changed nothing: it is all that a base of ours has.
func (t *Tree) last(ctx context.Context, args ...string) (c commit) {
	out, err := look(ctx, git(t.Repository(), append([]string{"log", "-1", "--abbrev=12", "--format=%H%n%P%n%h (\"%s\")"}, args...)...))
	lines := strings.Split(out, "\n")
	if err != nil || len(lines) != 3 || lines[1] == "" {
		return commit{}
	}
	return commit{lines[0], lines[2]}
}

// removed says where the commit put a file that is gone.
func (c commit) removed(ctx context.Context, t *Tree, file string) string {
	out, err := look(ctx, git(t.Repository(), "show", "--find-renames", "--diff-filter=R", "--name-status", "--format=", c.hash))
	if err == nil {
		for l := range strings.Lines(out) {
			if f := strings.Split(strings.TrimSpace(l), "\t"); len(f) == 3 && f[1] == file {
				return c.words + " moved it to " + f[2]
			}
		}
	}
	return c.words + " removed it"
}
