package patches

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/patches/job"
)

// cover returns the text of the cover letter.
func (f *format) cover(ctx context.Context) string {
	parts := []string{f.text}
	if f.version > 1 {
		parts = append(parts, f.changesText(ctx))
	}
	if e := evidence(f.Series, f.tree); e != "" {
		parts = append(parts, e)
	} else {
		job.From(ctx).Logf("no green run of this tree lies in out: the cover letter has none; make one with: kbuild-run run --series %s --base %s", f.Series, f.tree.Base)
	}
	if f.Dir == "" {
		parts = append(parts, fmt.Sprintf("It is for Linux %s (%s),\nwhose files are the git tree\n%s.", f.tree.Version, f.tree.Source, f.baseTree(ctx)))
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "\n\n")
}

var (
	byWords  = regexp.MustCompile(`\{([^{}]*)\}`)
	byNumber = regexp.MustCompile(`(?i)\bpatch(?:es)?\s+\d+`)
)

// letter returns the subject and the text of 0000-cover.md. It calls a patch by
// words of its subject, "patch {support SMB2_WATCH_TREE}", which become its
// number: one that is written down is wrong as soon as a patch comes or goes.
func (s *Series) letter() (subject, text string, err error) {
	defer func() {
		if err != nil {
			err = job.Usage(fmt.Errorf("read cover letter of series %s for %s: %w", s.Name, s.Base, err))
		}
	}()
	subject, text, _ = strings.Cut(strings.TrimSpace(s.Cover()), "\n")
	if subject = strings.TrimSpace(strings.TrimLeft(subject, "# ")); subject == "" {
		subject = s.Name
	}
	if by := byNumber.FindString(text); by != "" {
		return "", "", fmt.Errorf("%q: call a patch by words of its subject: patch {WORDS}", by)
	}
	paragraphs := strings.Split(strings.TrimSpace(text), "\n\n")
	for i, p := range paragraphs {
		if byWords.MatchString(p) {
			if p, err = s.number(strings.Join(strings.Fields(p), " ")); err != nil {
				return "", "", err
			}
			paragraphs[i] = wrap(p)
		}
	}
	return subject, strings.Join(paragraphs, "\n\n"), nil
}

// number puts the number of a patch in the place of {words of its subject}.
func (s *Series) number(text string) (numbered string, err error) {
	numbered = byWords.ReplaceAllStringFunc(text, func(words string) string {
		var found []string
		for i, m := range s.Mails {
			if strings.Contains(m.Subject(), words[1:len(words)-1]) {
				found = append(found, fmt.Sprint(i+1))
			}
		}
		switch len(found) {
		case 0:
			err = fmt.Errorf("%s is in the subject of no patch", words)
		case 1:
			return found[0]
		default:
			err = fmt.Errorf("%s is in the subject of the patches %s", words, strings.Join(found, ", "))
		}
		return words
	})
	return numbered, err
}

// wrap breaks a paragraph into lines as long as mails have them.
func wrap(text string) string {
	const most = 75
	var b strings.Builder
	n := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case n == 0:
		case n+1+len(word) > most:
			b.WriteByte('\n')
			n = 0
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String()
}

func (f *format) baseTree(ctx context.Context) string {
	hash, err := look(ctx, git(f.tree.Repository(), "rev-parse", f.tree.base+"^{tree}"))
	if err != nil {
		return f.tree.base
	}
	return hash
}

// changesText is what a reader of the last version wants to know.
func (f *format) changesText(ctx context.Context) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Changes in v%d:\n", f.version)
	log := f.series.changelog()
	if said := log[f.version]; said.text != "" {
		fmt.Fprintf(&b, "%s\n", said.text)
	} else {
		job.From(ctx).Logf("nothing says why v%d differs; write it under \"## v%d\" in patches/%s/%s/changes.md", f.version, f.version, f.Series, f.tree.Base)
	}
	fmt.Fprintf(&b, "\nPatches that differ from v%d:\n", f.version-1)
	for _, l := range f.changes {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	if len(f.changes) == 0 {
		fmt.Fprintf(&b, "  none\n")
	}
	if link := log[f.version-1].link; link != "" {
		fmt.Fprintf(&b, "\nv%d: %s\n", f.version-1, link)
	}
	return strings.TrimRight(b.String(), "\n")
}

// entry is a section of changes.md: what a version brought, and where it is.
type entry struct{ text, link string }

var versionHead = regexp.MustCompile(`^## v(\d+)\s*$`)

// changelog reads changes.md:
//
//	## v2
//	Link: https://lore.kernel.org/r/...
//	- what changed since v1
func (s *Series) changelog() map[int]entry {
	log, version := map[int]entry{}, 0
	for l := range strings.Lines(s.Beside("changes.md")) {
		if m := versionHead.FindStringSubmatch(l); m != nil {
			fmt.Sscan(m[1], &version)
			log[version] = entry{}
			continue
		}
		e := log[version]
		if link, ok := strings.CutPrefix(l, "Link:"); ok {
			e.link = strings.TrimSpace(link)
		} else {
			e.text += l
		}
		log[version] = e
	}
	for v, e := range log {
		e.text = strings.TrimSpace(e.text)
		log[v] = e
	}
	return log
}

// run is what the cover letter needs of a report.json of the main job.
type run struct {
	Program, Base, Series, Version, Accelerator string
	Columns                                     []struct {
		Role, Tree, Failure string
		Reports             []json.RawMessage
		Inside              []struct{ Status string }
	}
	Scenarios []struct {
		NeedsSeries bool `json:"needs_series"`
		Results     []struct{ Status string }
	}
}

// evidence says in words what the green run on exactly this tree has shown that
// shows the most, of those by hand and of the nights, or nothing.
func evidence(series string, t *Tree) (words string) {
	most := 0
	for _, pattern := range []string{"out/*/report.json", "out/nightly/*/*/*/*/report.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return ""
		}
		for _, f := range files {
			var r run
			b, err := os.ReadFile(f)
			if err != nil || json.Unmarshal(b, &r) != nil || r.Series != series || r.Base != t.Base {
				continue
			}
			if passed, w := r.words(t.Key); passed > most {
				most, words = passed, w
			}
		}
	}
	return words
}

// words returns how many scenarios passed, and that in words: none for a run that is
// not green, or of another tree.
func (r *run) words(tree string) (passed int, words string) {
	before, after := -1, -1
	for i, c := range r.Columns {
		failed := func(i struct{ Status string }) bool { return i.Status == "failed" }
		if c.Failure != "" || len(c.Reports) > 0 || slices.ContainsFunc(c.Inside, failed) {
			return 0, ""
		}
		switch {
		case c.Role == "before":
			before = i
		case c.Role == "after" && c.Tree == tree:
			after = i
		}
	}
	if before < 0 || after < 0 {
		return 0, ""
	}
	proof := 0
	for _, s := range r.Scenarios {
		if len(s.Results) <= max(before, after) {
			return 0, ""
		}
		was, is := s.Results[before].Status, s.Results[after].Status
		switch {
		case is == "failed" || s.NeedsSeries && was == "passed":
			return 0, ""
		case is == "passed":
			passed++
			if s.NeedsSeries {
				proof++
			}
		}
	}
	if passed == 0 {
		return 0, ""
	}
	return passed, fmt.Sprintf("Tested with kbuild-run on Linux %s in QEMU (%s): %d SMB2 scenarios pass with\nthe series, %d of them fail without it; neither kernel reports a fault.",
		r.Version, r.Accelerator, passed, proof)
}
