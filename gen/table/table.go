// Package table reads the protocol tables of gen/tables: text in, a checked
// model out.
//
// A table is line-oriented. A `#` that starts a line or follows a space begins a
// comment. Lines that start in the first column are statements, indented lines
// are the rows of the statement above them:
//
//	spec MS-SMB2 84.0
//	into fs/smb/common/smb2pdu.h column 48 tab
//
//	flags notify_flags le16              # MS-SMB2 2.2.35
//	    0x0001  SMB2_WATCH_TREE          # the whole subtree
//
//	struct smb2_flush_req smb2_hdr       # MS-SMB2 2.2.17
//	    0   le16  StructureSize  = 24
//	    2   le16  Reserved1
//	    4   le32  Reserved2
//	    8   u64   PersistentFileId
//	    16  u64   VolatileFileId
//	    24
//
// The statements:
//
//   - spec NAME REVISION: the document, and the revision of it, that the table
//     was read from.
//   - into PATH[|PATH...] [only] [column N] [tab|space]: the kernel header the
//     following declarations stand in, the first PATH that a tree has; with only
//     they may stand in no other. Constants have their values at column N,
//     members of structures are separated from their type by a tab or a space.
//     `into none`: the kernel does not have them.
//   - flags, enum or const NAME TYPE [FORM] [suffix S] [open]: constants.
//     FORM is the macro that wraps the value in C (cpu_to_le32); S is what the
//     C name ends in and the table's name does not (_LE); open says that values
//     without a row are legal.
//   - struct NAME [HEADER] [typedef] [was OLD]: a structure. Its offsets count
//     from behind HEADER. In C it is a tag, or a typedef; OLD is its name in
//     older trees.
//
// `since VERSION` behind a declaration or a constant says that older kernels do not
// have it, or not under this name.
//
// The comment behind a declaration is its section. A row of constants is
// VALUE NAME [STRUCT...]: STRUCT is what a message of that command (request,
// response; alternatives behind a |) or a buffer of that class holds. A status
// has the kernel's error number there (-EIO), and absent says that the kernel has
// no such constant.
//
// A row of a structure is OFFSET TYPE NAME [RULE]. The offset is redundant: the
// checker adds up the types and compares. The last row is the size alone. Types:
//
//	u8 char             a byte
//	le16 le32 le64      little-endian
//	u16 u32 u64         little-endian too; C type __uN: reserved, or opaque to the reader
//	be16 be32 be64      big-endian
//	NAME                another structure
//	TYPE[N] TYPE[]      an array, a flexible array
//
// A dotted name (Id.SyncId.TreeId) is a member of a nested structure or union.
// OFFSET `..` is behind the rows above: on the wire, not in the C type.
// Rules:
//
//	= N                 the field has this value
//	flags NAME          only the bits of NAME
//	enum NAME           only the values of NAME
//	len FIELD           a flexible array of FIELD bytes
//	count FIELD         a flexible array of FIELD elements
//	align N             the value is a multiple of N
//	next N              distance to the next record of a chain, a multiple of N, 0 in the last
//	union               begins another view of the bytes of its union
//
// After the size may follow, for data that a pair of fields points at,
//
//	data NAME at FIELD [len FIELD] [from hdr|self|NAME] [align N]
//
// with the offset counted from the start of the header (hdr, the default with
// HEADER), of the structure (self, the default without) or of the variable part.
package table

import (
	"fmt"
	"strings"
)

// Kind is the kind of a declaration.
type Kind string

// The declarations.
const (
	Struct Kind = "struct"
	Flags  Kind = "flags"
	Enum   Kind = "enum"
	Const  Kind = "const"
)

// Pos is a line of a table.
type Pos struct {
	File string
	Line int // from 1
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Set is all the tables together: names are shared.
type Set struct {
	Files []*File
	decls map[string]*Decl
}

// Lookup returns the declaration of that name, or nil.
func (s *Set) Lookup(name string) *Decl { return s.decls[name] }

// Decls returns every declaration in the order of the files.
func (s *Set) Decls() []*Decl {
	var all []*Decl
	for _, f := range s.Files {
		all = append(all, f.Decls...)
	}
	return all
}

// File is one table.
type File struct {
	Name  string // notify.tbl
	Lines []Line
	Decls []*Decl
	Specs map[string]string // document to revision
}

// Line is a line as it stands in a table; the formatter aligns them.
type Line struct {
	Cells   []string // words of the line
	Row     bool     // indented
	Comment string   // behind the #, trimmed
	HasHash bool
}

// Decl is a declaration.
type Decl struct {
	Pos
	Kind    Kind
	Name    string
	Spec    string   // MS-SMB2
	Section string   // 2.2.35
	Doc     []string // comment lines right above
	Into    Into
	Since   string // kernel version that has it first, "" for all

	// Structures.
	Header  string // structure that stands before it, or ""
	Typedef bool
	Was     string
	Fields  []*Field
	Size    int // of the fixed part
	Data    []*Data

	// Constants.
	Type   string
	Form   string
	Suffix string
	Open   bool
	Values []*Value
}

// Cite returns the section as it is written: MS-SMB2 2.2.35.
func (d *Decl) Cite() string { return d.Spec + " " + d.Section }

// Into is where a declaration stands in the kernel, and how it is written there.
type Into struct {
	Path   string // "" for none; alternatives behind a |
	Only   bool   // no other header may have it
	Column int    // of values, from 0
	Tab    bool   // between type and member
}

// Field is a member of a structure.
type Field struct {
	Pos
	Offset int
	Base   string   // element type: le16, u8, or a structure
	Array  int      // elements; 0 no array, Flex flexible
	Path   []string // Id SyncId TreeId
	Beyond bool     // at `..`: not in C

	Want   string // value of the = rule as written, or ""
	Flags  string
	Enum   string
	Len    string // field with the length in bytes
	Count  string // field with the number of elements
	Align  int
	Next   int // alignment of records in a chain, 0 if not the link
	Union  bool
	Shadow bool // set by the checker: a second view of bytes that have a first
	Note   string

	elem int // size of an element, set by the checker
}

// Flex is the Array of a flexible array member.
const Flex = -1

// Name is the field's own name.
func (f *Field) Name() string { return f.Path[len(f.Path)-1] }

// Size returns the bytes the field takes in the fixed part.
func (f *Field) Size() int {
	switch f.Array {
	case 0:
		return f.elem
	case Flex:
		return 0
	}
	return f.elem * f.Array
}

// Elem returns the size of one element.
func (f *Field) Elem() int { return f.elem }

// Scalar says that the field is a number.
func (f *Field) Scalar() bool { return f.Array == 0 && Width(f.Base) != 0 }

// TypeName returns the type as the table writes it.
func (f *Field) TypeName() string {
	switch f.Array {
	case 0:
		return f.Base
	case Flex:
		return f.Base + "[]"
	}
	return fmt.Sprintf("%s[%d]", f.Base, f.Array)
}

// Rule returns the rule of the field as the table writes it.
func (f *Field) Rule() string {
	var r []string
	add := func(name, v string) {
		if v != "" {
			r = append(r, name+" "+v)
		}
	}
	add("=", f.Want)
	add("flags", f.Flags)
	add("enum", f.Enum)
	add("len", f.Len)
	add("count", f.Count)
	if f.Align != 0 {
		add("align", fmt.Sprint(f.Align))
	}
	if f.Next != 0 {
		add("next", fmt.Sprint(f.Next))
	}
	if f.Union {
		r = append(r, "union")
	}
	return strings.Join(r, " ")
}

// Width returns the bytes of a number type, or 0 for another type.
func Width(base string) int {
	switch base {
	case "u8", "char":
		return 1
	case "le16", "u16", "be16":
		return 2
	case "le32", "u32", "be32":
		return 4
	case "le64", "u64", "be64":
		return 8
	}
	return 0
}

// Value is a row of constants.
type Value struct {
	Pos
	Text   string // as written: 0x0001, 12 or "DHnQ"
	Number uint64
	Name   string
	Holds  []string // structures; see the package comment
	Errno  string   // -EIO
	Absent bool     // the kernel has no such constant
	Since  string   // kernel version that has it first, "" for all
	Note   string
}

// IsString says that the constant is a string.
func (v *Value) IsString() bool { return strings.HasPrefix(v.Text, `"`) }

// Data is a variable part that a pair of fields points at.
type Data struct {
	Pos
	Name  string
	At    string
	Len   string // "" to the end
	From  string // hdr, self or the flexible field
	Align int
}

// Field returns the field of that name, or nil.
func (d *Decl) Field(name string) *Field {
	for _, f := range d.Fields {
		if f.Name() == name {
			return f
		}
	}
	return nil
}

// Variable returns the last flexible field, which holds the data the pairs point
// at, or nil.
func (d *Decl) Variable() *Field {
	for i := len(d.Fields) - 1; i >= 0; i-- {
		if d.Fields[i].Array == Flex {
			return d.Fields[i]
		}
	}
	return nil
}
