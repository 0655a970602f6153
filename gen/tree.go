package gen

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"kbuild-run/gen/cdecl"
	"kbuild-run/gen/emit"
	"kbuild-run/gen/table"
)

// headers are the folders of a kernel tree that declare the wire.
var headers = []string{"fs/smb/common", "fs/smb/server", "fs/smb/client"}

// Verdict is what a kernel tree says of a declaration of the tables.
type Verdict string

// The verdicts.
const (
	Same    Verdict = "same"
	Differs Verdict = "differs"
	Missing Verdict = "missing"
	Strayed Verdict = "strayed" // the same, but not in the header it has to be in
)

// Finding is the comparison of one declaration, constants by the group.
type Finding struct {
	Decl    *table.Decl
	Verdict Verdict
	Where   string   // file:line in the tree
	Names   []string // constants that the verdict is about, when not all
	Diff    string
}

func (f *Finding) String() string {
	name := f.Decl.Name
	if f.Decl.Kind != table.Struct {
		name += fmt.Sprintf(" (%d)", len(constants(f.Decl)))
	}
	s := fmt.Sprintf("%-8s %-44s %s", f.Verdict, name, f.Where)
	if len(f.Names) > 0 {
		s += ": " + strings.Join(f.Names, " ")
	}
	return strings.TrimRight(s, " ")
}

// constants are those of d that the kernel should have.
func constants(d *table.Decl) []*table.Value {
	var all []*table.Value
	for _, v := range d.Values {
		if !v.Absent {
			all = append(all, v)
		}
	}
	return all
}

// readTree parses the SMB headers below dir.
func readTree(dir string) ([]*cdecl.File, error) {
	var files []*cdecl.File
	for _, h := range headers {
		names, err := filepath.Glob(filepath.Join(dir, h, "*.h"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			rel, err := filepath.Rel(dir, name)
			if err != nil {
				return nil, err
			}
			files = append(files, cdecl.Parse(filepath.ToSlash(rel), string(text)))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read SMB headers of %s: no %s/*.h, want a kernel tree", dir, headers[0])
	}
	return files, nil
}

// Compare holds every declaration that the kernel should have against a tree.
func Compare(set *table.Set, files []*cdecl.File) []*Finding {
	c := &comparison{set: set, files: files, index: cdecl.NewIndex(files)}
	var all []*Finding
	for _, d := range set.Decls() {
		switch {
		case d.Into.Path == "":
		case d.Kind == table.Struct:
			all = append(all, c.structure(d))
		default:
			all = append(all, c.constants(d))
		}
	}
	return all
}

type comparison struct {
	set   *table.Set
	files []*cdecl.File
	index *cdecl.Index
}

// home returns the header d has to be in: the first of its paths that the tree has.
func (c *comparison) home(d *table.Decl) string {
	paths := strings.Split(d.Into.Path, "|")
	for _, p := range paths {
		if slices.ContainsFunc(c.files, func(f *cdecl.File) bool { return f.Path == p }) {
			return p
		}
	}
	return paths[0]
}

// structs returns the structures of the tree under the names of d.
func (c *comparison) structs(d *table.Decl) []*cdecl.Struct {
	var found []*cdecl.Struct
	for _, name := range []string{d.Name, d.Was} {
		for _, s := range c.index.Structs[name] {
			if s.End > 0 || len(found) == 0 {
				found = append(found, s)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	return found
}

func (c *comparison) structure(d *table.Decl) *Finding {
	f := &Finding{Decl: d, Verdict: Missing}
	want := wantRows(c.set, d)
	for _, s := range c.structs(d) {
		f.Verdict, f.Where = Same, fmt.Sprintf("%s:%d", s.File.Path, s.File.Line(s.Start))
		have, ok := c.haveRows(s, want)
		if !ok || !slices.Equal(have, want) {
			f.Verdict = Differs
			f.Diff = string(diff.Diff(f.Where, []byte(strings.Join(have, "")), d.Pos.String(), []byte(strings.Join(want, ""))))
			if !ok {
				f.Diff = f.Where + ": a type or a size in it is not known\n"
			}
			return f
		}
		if d.Into.Only && s.File.Path != c.home(d) {
			f.Verdict = Strayed
		}
	}
	return f
}

// row is a member in the words that both sides are compared in.
func row(at int, typ, path string, array int) string {
	switch {
	case array < 0:
		path += "[]"
	case array > 0:
		path += fmt.Sprintf("[%d]", array)
	}
	return fmt.Sprintf("%4d %s %s\n", at, typ, path)
}

func wantRows(set *table.Set, d *table.Decl) []string {
	var rows []string
	head := 0
	if d.Header != "" {
		head = set.Lookup(d.Header).Size
		rows = append(rows, row(0, "struct "+d.Header, "hdr", 0))
	}
	for _, f := range d.Fields {
		if !f.Beyond {
			rows = append(rows, row(head+f.Offset, emit.CType(set, f.Base), strings.Join(f.Path, "."), f.Array))
		}
	}
	return rows
}

// haveRows returns the rows of a structure in the tree. A member of a union that the
// table does not name is another view of bytes that it does name, or a pad.
func (c *comparison) haveRows(s *cdecl.Struct, want []string) ([]string, bool) {
	members, _, ok := c.index.Members(s)
	if !ok {
		return nil, false
	}
	var rows []string
	if !s.Packed {
		rows = append(rows, "not __packed\n")
	}
	for _, m := range members {
		r := row(m.Offset, m.Type, m.Path, m.Array)
		if m.Alt && !slices.Contains(want, r) {
			continue
		}
		rows = append(rows, r)
	}
	return rows, true
}

func (c *comparison) constants(d *table.Decl) *Finding {
	f := &Finding{Decl: d, Verdict: Same}
	var have, want strings.Builder
	var missing, differs, strayed []string
	for _, v := range constants(d) {
		name := emit.CName(d, v)
		found := c.index.Defines[name]
		if len(found) == 0 {
			missing = append(missing, name)
			continue
		}
		for _, x := range found {
			where := fmt.Sprintf("%s:%d", x.File.Path, x.File.Line(x.Start))
			if f.Where == "" {
				f.Where = where
			}
			if theirs, ours, ok := c.constant(d, v, x); !ok {
				differs = append(differs, name)
				fmt.Fprintf(&have, "#define %s %s\n", name, theirs)
				fmt.Fprintf(&want, "#define %s %s\n", name, ours)
			}
			if d.Into.Only && x.File.Path != c.home(d) {
				strayed = append(strayed, name)
			}
		}
	}
	switch {
	case len(differs) > 0:
		f.Verdict, f.Names = Differs, differs
		f.Diff = string(diff.Diff(f.Where, []byte(have.String()), d.Pos.String(), []byte(want.String())))
	case len(missing) > 0:
		f.Verdict = Missing
		if f.Where != "" {
			f.Names = missing
		}
	case len(strayed) > 0:
		f.Verdict = Strayed
	}
	return f
}

// constant compares one constant by value, byte order and error number.
func (c *comparison) constant(d *table.Decl, v *table.Value, x *cdecl.Define) (theirs, ours string, ok bool) {
	theirs, ours = x.Expr, emit.CValue(d, v)
	if v.IsString() {
		return theirs, ours, theirs == ours
	}
	n, form, ok := c.index.Value(x)
	ok = ok && n == v.Number && form == d.Form
	// Trees before gen_smb2_mapping have the error numbers elsewhere.
	if v.Errno != "" && x.Comment != "" {
		errno := strings.TrimPrefix(v.Errno, "-")
		if v.Errno != "-0" {
			errno = v.Errno
		}
		theirs, ours = theirs+" // "+x.Comment, ours+" // "+errno
		ok = ok && x.Comment == errno
	}
	return theirs, ours, ok
}
