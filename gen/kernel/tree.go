// Package kernel holds the tables against a kernel: declarations in its headers, by C
// name; structures in its objects, as the compiler laid them out. What it finds wrong
// in headers it can write back.
package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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
	Unused  Verdict = "unused"  // an object has no debug information of it: that proves nothing
)

// Finding is the comparison of one declaration, constants by the group.
type Finding struct {
	Decl    *table.Decl
	Verdict Verdict
	Where   string   // file:line in the tree
	Names   []string // constants that the verdict is about, when not all
	Count   int      // constants, or members of the structure, compared
	Diff    string
}

func (f *Finding) String() string {
	name := f.Decl.Name
	if f.Decl.Kind != table.Struct {
		name += fmt.Sprintf(" (%d)", f.Count)
	}
	s := fmt.Sprintf("%-8s %-36s %s", f.Verdict, name, f.Where)
	if len(f.Names) > 0 {
		s += ": " + strings.Join(f.Names, " ")
	}
	return strings.TrimRight(s, " ")
}

// Version is VERSION and PATCHLEVEL of a kernel; the zero Version is not known.
type Version [2]int

// ParseVersion reads the beginning of a release: 6.12.117-debug is 6.12.
func ParseVersion(release string) Version {
	var v Version
	fmt.Sscanf(release, "%d.%d", &v[0], &v[1])
	return v
}

// Has says that a kernel of version v has what exists since that version.
func (v Version) Has(since string) bool {
	s := ParseVersion(since)
	return v == Version{} || slices.Compare(s[:], v[:]) <= 0
}

// Tree is the SMB headers of a kernel tree.
type Tree struct {
	Version Version
	Files   []*cdecl.File
	sizes   map[string]string // text of the sources that repeat the bodies' sizes
}

// bodySizes are the arrays that repeat StructureSize, by command.
var bodySizes = []struct {
	path, name string
	response   int // 0 requests, 1 responses
}{
	{"fs/smb/server/smb2misc.c", "smb2_req_struct_sizes", 0},
	{"fs/smb/client/smb2misc.c", "smb2_rsp_struct_sizes", 1},
}

var makefile = regexp.MustCompile(`(?m)^VERSION = (\d+)\nPATCHLEVEL = (\d+)$`)

// ReadTree parses the SMB headers below dir.
func ReadTree(dir string) (*Tree, error) {
	t := &Tree{}
	text, err := os.ReadFile(filepath.Join(dir, "Makefile"))
	if err != nil {
		return nil, fmt.Errorf("read kernel tree: %w", err)
	}
	m := makefile.FindSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("read kernel tree: no VERSION and PATCHLEVEL in %s/Makefile", dir)
	}
	t.Version = ParseVersion(fmt.Sprintf("%s.%s", m[1], m[2]))
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
			t.Files = append(t.Files, cdecl.Parse(filepath.ToSlash(rel), string(text)))
		}
	}
	t.sizes = map[string]string{}
	for _, b := range bodySizes {
		text, err := os.ReadFile(filepath.Join(dir, b.path))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		t.sizes[b.path] = string(text)
	}
	if len(t.Files) == 0 {
		return nil, fmt.Errorf("read kernel tree: no %s/*.h in %s", headers[0], dir)
	}
	return t, nil
}

// Compare holds every declaration that the kernel should have against a tree.
func Compare(set *table.Set, t *Tree) []*Finding {
	c := &comparison{set: set, tree: t, index: cdecl.NewIndex(t.Files)}
	var all []*Finding
	for _, d := range set.Decls() {
		switch {
		case d.Into.Path == "" || !t.Version.Has(d.Since):
		case d.Kind == table.Struct:
			all = append(all, c.structure(d))
		default:
			all = append(all, c.constants(d))
		}
	}
	for _, b := range bodySizes {
		if t.sizes[b.path] != "" {
			all = append(all, c.sizes(b.path, b.name, b.response))
		}
	}
	return all
}

var sizeEntry = regexp.MustCompile(`cpu_to_le16\((\d+)\)`)

// sizes compares an array of StructureSize by command. Of an oplock's and a lease's
// break either will do; a command without that message can have any.
func (c *comparison) sizes(path, name string, response int) *Finding {
	commands := c.set.Lookup("smb2_command")
	d := *commands
	d.Name = name
	f := &Finding{Decl: &d, Verdict: Missing, Count: len(commands.Values)}
	text := c.tree.sizes[path]
	at := strings.Index(text, name+"[")
	if at < 0 {
		return f
	}
	end := strings.Index(text[at:], "};")
	if end < 0 {
		return f
	}
	f.Verdict, f.Where = Same, fmt.Sprintf("%s:%d", path, 1+strings.Count(text[:at], "\n"))
	entries := sizeEntry.FindAllStringSubmatch(text[at:at+end], -1)
	var have, want []string
	for i, v := range commands.Values {
		var legal []string
		for _, s := range strings.Split(v.Holds[response], "|") {
			if d := c.set.Lookup(s); d != nil {
				legal = append(legal, d.Field("StructureSize").Want)
			}
		}
		theirs := "nothing"
		if i < len(entries) {
			theirs = entries[i][1]
		}
		ours := theirs
		if len(legal) > 0 && !slices.Contains(legal, theirs) {
			ours = legal[0]
		}
		have = append(have, fmt.Sprintf("%s %s\n", v.Name, theirs))
		want = append(want, fmt.Sprintf("%s %s\n", v.Name, ours))
	}
	if !slices.Equal(have, want) || len(entries) != len(commands.Values) {
		f.Verdict, f.Diff = Differs, rowDiff(f.Where, have, commands.Pos.String(), want)
	}
	return f
}

type comparison struct {
	set   *table.Set
	tree  *Tree
	index *cdecl.Index
}

// home returns the header d has to be in: the first of its paths that the tree has.
func (c *comparison) home(d *table.Decl) string {
	paths := strings.Split(d.Into.Path, "|")
	for _, p := range paths {
		if slices.ContainsFunc(c.tree.Files, func(f *cdecl.File) bool { return f.Path == p }) {
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
	f := &Finding{Decl: d, Verdict: Missing, Count: len(d.Fields)}
	want := wantRows(c.set, d)
	for _, s := range c.structs(d) {
		f.Verdict, f.Where = Same, fmt.Sprintf("%s:%d", s.File.Path, s.File.Line(s.Start))
		have, ok := c.haveRows(s, want)
		if !ok || !slices.Equal(have, want) {
			f.Verdict = Differs
			f.Diff = rowDiff(f.Where, have, d.Pos.String(), want)
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

// rowDiff compares lines of row.
func rowDiff(theirs string, have []string, ours string, want []string) string {
	return string(diff.Diff(theirs, []byte(strings.Join(have, "")), ours, []byte(strings.Join(want, ""))))
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
	for _, v := range d.Values {
		if v.Absent {
			continue
		}
		name := emit.CName(d, v)
		found := c.index.Defines[name]
		if c.tree.Version.Has(v.Since) {
			f.Count++
		} else if len(found) == 0 || !d.Into.Only {
			continue
		}
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
	if v.Errno != "" && mapped(x.File) {
		theirs = strings.TrimSpace(strings.TrimPrefix(x.File.Text[x.Start:x.End], "#define "+x.Name))
		ours += " // " + emit.CErrno(v)
		m := mapping.FindStringSubmatch(x.File.Text[x.Start:x.End])
		ok = ok && m != nil && m[1] == emit.CErrno(v)
	}
	return theirs, ours, ok
}

// mapping is the form of a status that fs/smb/client/gen_smb2_mapping takes the error
// number from. It leaves out a line of another form and says nothing.
var mapping = regexp.MustCompile(`^#define\s*\w+\s+cpu_to_le32\(0x[0-9a-fA-F]+\)\s+//\s+([-A-Z0-9_]+)`)

// mapped says that a header has error numbers behind its statuses. Older kernels have
// them in a table of their own.
func mapped(f *cdecl.File) bool {
	return slices.ContainsFunc(f.Defines, func(d *cdecl.Define) bool { return strings.HasPrefix(d.Comment, "-E") })
}
