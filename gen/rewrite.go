package gen

import (
	"fmt"
	"os"
	"path/filepath"
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
// replaced where it stands, what is missing is put behind the declaration that the
// table has before it, what has strayed moves. It returns the headers it changed.
func Rewrite(set *table.Set, t *Tree, dir string, findings []*Finding) ([]string, error) {
	r := &rewriter{&comparison{set: set, tree: t, index: cdecl.NewIndex(t.Files)}, map[string][]edit{}}
	for _, f := range findings {
		var err error
		switch {
		case f.Verdict == Same:
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
	for path, edits := range r.edits {
		file := r.file(path)
		// From the end, so that places stay; of two at one place the later
		// declaration is written first.
		sort.SliceStable(edits, func(i, j int) bool { return edits[i].start < edits[j].start })
		text := file.Text
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
			r.add(s.File.Path, edit{above(s.File.Text, s.Start), s.End, ""})
		}
	}
	return r.insert(d, "\n"+emit.CSee(d)+"\n"+text)
}

func (r *rewriter) constants(f *Finding) error {
	d := f.Decl
	var block strings.Builder
	var last *cdecl.Define // of the group, in its home
	for _, v := range d.Values {
		if v.Absent || !r.tree.Version.Has(v.Since) {
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
		case home:
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

// above returns the start of the comment that stands right above a place, with the
// empty line before it.
func above(text string, at int) int {
	head := text[:at]
	if t := strings.TrimRight(head, " \t\n"); strings.HasSuffix(t, "*/") && strings.Count(head[len(t):], "\n") == 1 {
		if i := strings.LastIndex(t, "/*"); i >= 0 && (i == 0 || t[i-1] == '\n') {
			at = i
		}
	}
	if strings.HasSuffix(text[:at], "\n\n") {
		at--
	}
	return at
}

// insert puts text behind the declaration before d in the table, if that stands in
// the header d belongs in, else before the last #endif.
func (r *rewriter) insert(d *table.Decl, text string) error {
	file := r.file(r.home(d))
	if file == nil {
		return fmt.Errorf("write %s %s: the tree has no %s", d.Kind, d.Name, r.home(d))
	}
	at := strings.LastIndex(file.Text, "#endif")
	if at < 0 {
		at = len(file.Text)
	} else {
		text = strings.TrimPrefix(text, "\n") + "\n"
	}
	for _, f := range r.set.Files {
		if f.Name != d.File {
			continue
		}
		for _, before := range f.Decls {
			if before == d {
				break
			}
			if end := r.end(before, file); end > 0 {
				at = end
			}
		}
	}
	if strings.HasSuffix(text, "\n\n") && at != strings.LastIndex(file.Text, "#endif") {
		text = "\n" + strings.TrimSuffix(text, "\n")
	}
	r.add(file.Path, edit{at, at, text})
	return nil
}

// end returns where d ends in file, 0 if it does not stand there.
func (r *rewriter) end(d *table.Decl, file *cdecl.File) int {
	end := 0
	for _, s := range r.index.Structs[d.Name] {
		if d.Kind == table.Struct && s.File == file {
			end = s.End
		}
	}
	for _, v := range d.Values {
		for _, x := range r.index.Defines[emit.CName(d, v)] {
			if x.File == file {
				end = max(end, x.End)
			}
		}
	}
	return end
}
