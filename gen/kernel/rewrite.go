package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"kbuild-run/gen/cdecl"
	"kbuild-run/gen/emit"
	"kbuild-run/gen/table"
)

// edit replaces text[start:end] of a header.
type edit struct {
	start, end int
	text       string
}

// rewriter turns findings into edits of a tree's headers.
type rewriter struct {
	*comparison
	edits map[string][]edit
}

// Rewrite writes into the tree at dir what the findings ask for: what differs is
// replaced where it stands, what is missing is put behind what the table has before it,
// what has strayed moves. It returns the headers it changed.
func Rewrite(set *table.Set, t *Tree, dir string, findings []*Finding) ([]string, error) {
	r := &rewriter{&comparison{set: set, tree: t, index: cdecl.NewIndex(t.Files)}, map[string][]edit{}}
	for _, f := range findings {
		var err error
		switch {
		case f.Verdict == Same || set.Lookup(f.Decl.Name) == nil: // sizes in a source are mended by hand
		case f.Decl.Kind == table.Struct:
			err = r.structure(f)
		default:
			err = r.constants(f)
		}
		if err != nil {
			return nil, err
		}
	}
	var changed []string
	for path := range r.edits {
		text := r.file(path).Text
		edits := tidy(text, r.edits[path])
		// From the end, so that places stay; of two at one place the later
		// declaration is written first.
		for i := len(edits) - 1; i >= 0; i-- {
			e := edits[i]
			text = text[:e.start] + e.text + text[e.end:]
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write header: %w", err)
		}
		changed = append(changed, path)
	}
	sort.Strings(changed)
	return changed, nil
}

func (r *rewriter) file(path string) *cdecl.File {
	for _, f := range r.tree.Files {
		if f.Path == path {
			return f
		}
	}
	return nil
}

func (r *rewriter) add(path string, e edit) { r.edits[path] = append(r.edits[path], e) }

func (r *rewriter) structure(f *Finding) error {
	d := f.Decl
	text := emit.CStruct(r.set, d)
	if f.Verdict == Differs {
		for _, s := range r.structs(d) {
			if s.End > 0 {
				r.add(s.File.Path, edit{s.Start, s.End, text})
			}
		}
		return nil
	}
	for _, s := range r.structs(d) {
		if s.File.Path != r.home(d) {
			r.add(s.File.Path, edit{s.Start, s.End, ""})
		}
	}
	return r.insert(d, "\n"+emit.CSee(d)+"\n"+text)
}

func (r *rewriter) constants(f *Finding) error {
	d := f.Decl
	var block strings.Builder
	var last *cdecl.Define // of the group, in its home
	for _, v := range d.Values {
		if v.Absent {
			continue
		}
		home := false
		for _, x := range r.index.Defines[emit.CName(d, v)] {
			_, _, same := r.constant(d, v, x)
			switch {
			case d.Into.Only && x.File.Path != r.home(d):
				r.add(x.File.Path, edit{x.Start, x.End, ""})
			case !same:
				r.add(x.File.Path, edit{x.Start, x.End, emit.CDefine(d, v, x.File.Text[x.Start:x.End]) + "\n"})
				home, last = true, x
			default:
				home, last = true, x
			}
		}
		switch {
		case home || !r.tree.Version.Has(v.Since):
		case last != nil:
			r.add(last.File.Path, edit{last.End, last.End, emit.CDefine(d, v, last.File.Text[last.Start:last.End]) + "\n"})
		default:
			block.WriteString(emit.CDefine(d, v, "") + "\n")
		}
	}
	if block.Len() == 0 {
		return nil
	}
	return r.insert(d, "\n"+emit.CSee(d)+"\n"+block.String())
}

// tidy sorts edits and makes one removal of those with nothing between them. With the
// last declaration under a comment the comment goes, and one of two empty lines.
func tidy(text string, edits []edit) []edit {
	sort.SliceStable(edits, func(i, j int) bool { return edits[i].start < edits[j].start })
	var out []edit
	for _, e := range edits {
		if n := len(out) - 1; n >= 0 && e.removes() && out[n].removes() && bare(text[out[n].end:e.start]) {
			out[n].end = e.end
			continue
		}
		out = append(out, e)
	}
	for i, e := range out {
		if e.removes() && (e.end == len(text) || text[e.end] == '\n') {
			out[i].start = above(text, e.start)
			if strings.HasSuffix(text[:out[i].start], "\n\n") {
				out[i].start--
			}
		}
	}
	return out
}

func (e edit) removes() bool { return e.text == "" && e.end > e.start }

var comments = regexp.MustCompile(`(?s)/\*.*?\*/`)

// bare says that there is no code in text.
func bare(text string) bool { return strings.TrimSpace(comments.ReplaceAllString(text, "")) == "" }

// above returns the start of the comment that stands right above a place.
func above(text string, at int) int {
	head := text[:at]
	t := strings.TrimRight(head, " \t\n")
	if !strings.HasSuffix(t, "*/") || strings.Count(head[len(t):], "\n") != 1 {
		return at
	}
	if i := strings.LastIndex(t, "/*"); i == 0 || i > 0 && t[i-1] == '\n' {
		return i
	}
	return at
}

// insert puts a block, which begins with an empty line, behind what stands before d in
// the table, if that is in the header d belongs in; else before what stands behind it;
// else before the last #endif.
func (r *rewriter) insert(d *table.Decl, block string) error {
	file := r.file(r.home(d))
	if file == nil {
		return fmt.Errorf("write %s %s: the tree has no %s", d.Kind, d.Name, r.home(d))
	}
	before, behind, passed := 0, 0, false
	for _, x := range r.set.Decls() {
		switch start, end := r.place(x, file); {
		case x.File != d.File || end == 0 && x != d:
		case x == d:
			passed = true
		case !passed:
			before = max(before, end)
		case behind == 0 || start < behind:
			behind = start
		}
	}
	text := strings.TrimPrefix(block, "\n") + "\n"
	endif := strings.LastIndex(file.Text, "#endif")
	switch {
	case before > 0:
		r.add(file.Path, edit{before, before, block})
	case behind > 0:
		at := above(file.Text, behind)
		r.add(file.Path, edit{at, at, text})
	case endif >= 0:
		r.add(file.Path, edit{endif, endif, text})
	default:
		r.add(file.Path, edit{len(file.Text), len(file.Text), block})
	}
	return nil
}

// place returns where d stands in file, 0 and 0 if it does not.
func (r *rewriter) place(d *table.Decl, file *cdecl.File) (start, end int) {
	extend := func(a, b int) {
		if end == 0 || a < start {
			start = a
		}
		end = max(end, b)
	}
	for _, s := range r.index.Structs[d.Name] {
		if d.Kind == table.Struct && s.File == file && s.End > 0 {
			extend(s.Start, s.End)
		}
	}
	for _, v := range d.Values {
		for _, x := range r.index.Defines[emit.CName(d, v)] {
			if x.File == file {
				extend(x.Start, x.End)
			}
		}
	}
	return start, end
}
