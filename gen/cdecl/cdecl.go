// Package cdecl reads declarations from the kernel's SMB headers: C text in, named
// constants and structures with offsets out.
//
// It understands what these headers use and no more: #define of a number, a string
// or cpu_to_leNN of a number; packed structures of the __leNN types, nested ones,
// unions, struct_group and DECLARE_FLEX_ARRAY. What it does not understand it leaves
// out, so that the reader of its result sees a declaration as missing, never as
// equal.
package cdecl

import (
	"regexp"
	"strconv"
	"strings"
)

// File is a header with the places of its declarations.
type File struct {
	Path    string // as given to Parse
	Text    string
	Defines []*Define
	Structs []*Struct
}

// Define is a #define of a value.
type Define struct {
	File       *File
	Name       string
	Expr       string // without comments
	Start, End int    // of the lines in Text
	Comment    string // behind //, for the error number of a status
}

// Struct is a structure with a tag or a typedef.
type Struct struct {
	File       *File
	Name       string
	Typedef    bool // Name is that of a typedef
	Packed     bool
	Start, End int // from its first word to the end of its last line
	members    []member
}

// Member is a field of a structure, nested ones flattened.
type Member struct {
	Offset int
	Type   string // __le16, struct smb2_hdr
	Path   string // Id.SyncId.TreeId
	Array  int    // elements; 0 no array, -1 flexible
	Alt    bool   // inside a union: another view may cover its bytes
}

// member is one before its type is known.
type member struct {
	typ   string
	name  string // "" for an anonymous structure
	array string // expression; "" none, "[]" flexible
	union bool   // of sub
	sub   []member
}

// Line returns the line of a place in the file, from 1.
func (f *File) Line(at int) int { return 1 + strings.Count(f.Text[:at], "\n") }

var define = regexp.MustCompile(`(?m)^#[ \t]*define[ \t]+([A-Za-z_]\w*)[ \t]+((?:[^\n\\]|\\\n|\\[^\n])+)\n`)

// Parse reads a header.
func Parse(path, text string) *File {
	f := &File{Path: path, Text: text}
	for _, m := range define.FindAllStringSubmatchIndex(text, -1) {
		d := &Define{File: f, Name: text[m[2]:m[3]], Start: m[0], End: m[1]}
		expr := text[m[4]:m[5]]
		d.Comment = lineComment(expr)
		d.Expr = strings.Join(strings.Fields(blank(strings.ReplaceAll(expr, "\\\n", " "))), " ")
		// A comment that goes on in the next lines belongs to the define.
		if i := strings.LastIndex(expr, "/*"); i >= 0 && !strings.Contains(expr[i:], "*/") {
			if j := strings.Index(text[m[1]:], "*/"); j >= 0 {
				d.End = m[1] + j + 2
				if d.End < len(text) && text[d.End] == '\n' {
					d.End++
				}
			}
		}
		f.Defines = append(f.Defines, d)
	}
	f.structs()
	return f
}

// blank replaces comments by spaces, so that places stay.
func blank(s string) string {
	b := []byte(s)
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			for i++; i < len(b) && b[i] != '"' && b[i] != '\n'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case strings.HasPrefix(s[i:], "/*"):
			end := len(b)
			if j := strings.Index(s[i+2:], "*/"); j >= 0 {
				end = i + 2 + j + 2
			}
			for ; i < end; i++ {
				if b[i] != '\n' {
					b[i] = ' '
				}
			}
			i--
		case strings.HasPrefix(s[i:], "//"):
			for ; i < len(b) && b[i] != '\n'; i++ {
				b[i] = ' '
			}
		}
	}
	return string(b)
}

func lineComment(expr string) string {
	if i := strings.Index(expr, "//"); i >= 0 {
		return strings.TrimSpace(expr[i+2:])
	}
	return ""
}

// token is a word, a number or a character of C, with its place.
type token struct {
	text       string
	start, end int
}

var word = regexp.MustCompile(`[A-Za-z_]\w*|\d\w*|"(?:[^"\\\n]|\\.)*"|[^\s]`)

// structs finds the structures at the outer level of the file.
func (f *File) structs() {
	text := []byte(blank(f.Text))
	// Preprocessor lines are no C.
	for i := 0; i < len(text); i++ {
		if text[i] == '#' && (i == 0 || text[i-1] == '\n') {
			for ; i < len(text) && (text[i] != '\n' || text[i-1] == '\\'); i++ {
				if text[i] != '\n' {
					text[i] = ' '
				}
			}
		}
	}
	var toks []token
	for _, m := range word.FindAllIndex(text, -1) {
		toks = append(toks, token{string(text[m[0]:m[1]]), m[0], m[1]})
	}
	p := &parser{toks: toks, file: f}
	for p.i < len(toks) {
		start := p.i
		typedef := p.take("typedef")
		if !p.take("struct") {
			p.skip()
			continue
		}
		tag := ""
		if p.peek() != "{" {
			tag = p.next()
		}
		if !p.take("{") {
			p.i = start + 1
			continue
		}
		s := &Struct{File: f, Name: tag, Start: toks[start].start}
		s.members = p.members("}")
		for p.i < len(toks) && p.peek() != ";" {
			switch t := p.next(); {
			case t == "__packed" || t == "packed":
				s.Packed = true
			case t == "__attribute__" || t == "(" || t == ")" || t == ",":
			case typedef:
				if s.Name == "" || s.Name == tag {
					s.Name, s.Typedef = t, tag == ""
				}
			}
		}
		if typedef && tag != "" {
			s.Name, s.Typedef = tag, false
		}
		if !p.take(";") || s.Name == "" {
			continue
		}
		s.End = toks[p.i-1].end
		if j := strings.IndexByte(f.Text[s.End:], '\n'); j >= 0 {
			// A comment behind the declaration may be longer than the line.
			rest := f.Text[s.End : s.End+j]
			s.End += j + 1
			if k := strings.LastIndex(rest, "/*"); k >= 0 && !strings.Contains(rest[k:], "*/") {
				if e := strings.Index(f.Text[s.End:], "*/"); e >= 0 {
					s.End = min(s.End+e+3, len(f.Text)) // the line's end too
				}
			}
		}
		f.Structs = append(f.Structs, s)
	}
}

type parser struct {
	toks []token
	i    int
	file *File
}

func (p *parser) peek() string {
	if p.i < len(p.toks) {
		return p.toks[p.i].text
	}
	return ""
}

func (p *parser) next() string {
	t := p.peek()
	p.i++
	return t
}

func (p *parser) take(t string) bool {
	if p.peek() == t {
		p.i++
		return true
	}
	return false
}

// skip goes on behind a token, and behind what it opens.
func (p *parser) skip() {
	depth := 0
	for p.i < len(p.toks) {
		switch p.next() {
		case "{", "(":
			depth++
		case "}", ")":
			depth--
		}
		if depth <= 0 {
			return
		}
	}
}

// groups are the macros that hold members: how many arguments stand before them.
var groups = map[string]int{"struct_group": 1, "struct_group_attr": 2, "struct_group_tagged": 2, "__struct_group": 3}

// members reads to the closing token.
func (p *parser) members(closing string) []member {
	var all []member
	for p.i < len(p.toks) && !p.take(closing) {
		t := p.peek()
		skip, group := groups[t]
		switch {
		case group:
			p.next()
			p.take("(")
			tag := ""
			if skip > 1 && t != "struct_group_attr" {
				tag = p.peek()
			}
			for n := 0; n < skip && p.i < len(p.toks); {
				if p.next() == "," {
					n++
				}
			}
			sub := p.members(")")
			all = append(all, sub...)
			if tag != "" {
				// The group is a structure of its own too. It has no place that
				// could be rewritten.
				p.file.Structs = append(p.file.Structs, &Struct{File: p.file, Name: tag, Packed: true, members: sub})
			}
			p.take(";")
		case t == "DECLARE_FLEX_ARRAY":
			p.next()
			p.take("(")
			var typ []string
			for p.i < len(p.toks) && p.peek() != "," {
				typ = append(typ, p.next())
			}
			p.take(",")
			all = append(all, member{typ: strings.Join(typ, " "), name: p.next(), array: "[]"})
			p.take(")")
			p.take(";")
		case (t == "struct" || t == "union") && p.opens():
			p.next()
			if p.peek() != "{" {
				p.next()
			}
			p.take("{")
			m := member{union: t == "union", sub: p.members("}")}
			for p.i < len(p.toks) && !p.take(";") {
				if w := p.next(); w != "__packed" {
					m.name = w
				}
			}
			all = append(all, m)
		case t == ";":
			p.next()
		default:
			all = append(all, p.member())
		}
	}
	return all
}

// opens says that a struct or union with a body follows.
func (p *parser) opens() bool {
	for _, k := range []int{1, 2} {
		if p.i+k < len(p.toks) && p.toks[p.i+k].text == "{" {
			return true
		}
	}
	return false
}

// member reads TYPE NAME [N] attributes ;
func (p *parser) member() member {
	var words []string
	m := member{}
	depth := 0
	for p.i < len(p.toks) {
		t := p.next()
		switch {
		case t == ";" && depth == 0:
			if n := len(words); n > 0 {
				m.name, m.typ = words[n-1], strings.Join(words[:n-1], " ")
			}
			return m
		case t == "(":
			depth++
		case t == ")":
			depth--
		case depth > 0:
		case t == "[":
			var e []string
			for p.i < len(p.toks) && !p.take("]") {
				e = append(e, p.next())
			}
			m.array = strings.Join(e, " ")
			if m.array == "" {
				m.array = "[]"
			}
		case t == "__packed" || strings.HasPrefix(t, "__counted_by"):
		default:
			words = append(words, t)
		}
	}
	return m
}

// Index is a set of headers in which names can be looked up.
type Index struct {
	Defines map[string][]*Define
	Structs map[string][]*Struct
}

// NewIndex returns an index of the files, in their order.
func NewIndex(files []*File) *Index {
	x := &Index{map[string][]*Define{}, map[string][]*Struct{}}
	for _, f := range files {
		for _, d := range f.Defines {
			x.Defines[d.Name] = append(x.Defines[d.Name], d)
		}
		for _, s := range f.Structs {
			x.Structs[s.Name] = append(x.Structs[s.Name], s)
		}
	}
	return x
}

var call = regexp.MustCompile(`^(\w*cpu_to_[lb]e\d\d) ?\( ?(.*?) ?\)$`)

// Value returns the number of a define, and the byte-order macro around it.
func (x *Index) Value(d *Define) (n uint64, form string, ok bool) {
	expr := d.Expr
	if m := call.FindStringSubmatch(expr); m != nil {
		form, expr = m[1], m[2]
	}
	if n, ok = x.eval(expr, 0); !ok {
		n = 0
	}
	return n, form, ok
}

// eval computes sums of bits: numbers, names, parentheses, | and <<.
func (x *Index) eval(expr string, depth int) (uint64, bool) {
	if depth > 8 {
		return 0, false
	}
	p := &parser{}
	for _, t := range word.FindAllString(expr, -1) {
		p.toks = append(p.toks, token{text: t})
	}
	n, ok := x.or(p, depth)
	return n, ok && p.i == len(p.toks)
}

func (x *Index) or(p *parser, depth int) (uint64, bool) {
	n, ok := x.shift(p, depth)
	for ok && p.take("|") {
		var m uint64
		m, ok = x.shift(p, depth)
		n |= m
	}
	return n, ok
}

func (x *Index) shift(p *parser, depth int) (uint64, bool) {
	n, ok := x.operand(p, depth)
	for ok && p.take("<") {
		var m uint64
		if !p.take("<") {
			return 0, false
		}
		m, ok = x.operand(p, depth)
		n <<= m
	}
	return n, ok
}

func (x *Index) operand(p *parser, depth int) (uint64, bool) {
	if p.take("(") {
		n, ok := x.or(p, depth)
		return n, ok && p.take(")")
	}
	t := p.next()
	if n, err := strconv.ParseUint(strings.TrimRight(t, "uUlL"), 0, 64); err == nil {
		return n, true
	}
	for _, d := range x.Defines[t] {
		if m := call.FindStringSubmatch(d.Expr); m != nil {
			return x.eval(m[2], depth+1)
		}
		return x.eval(d.Expr, depth+1)
	}
	return 0, false
}

// Members returns the flattened members of s and its size. It is not ok when a type
// or an array's size is unknown.
func (x *Index) Members(s *Struct) (all []Member, size int, ok bool) {
	return x.flatten(s.members, "", 0, false, 0)
}

func (x *Index) flatten(members []member, prefix string, at int, union bool, depth int) (all []Member, size int, ok bool) {
	if depth > 8 {
		return nil, 0, false
	}
	start, most := at, 0
	for _, m := range members {
		if union {
			at = start
		}
		path := prefix + m.name
		if m.sub != nil {
			if m.name != "" {
				path += "."
			} else {
				path = prefix
			}
			sub, n, ok := x.flatten(m.sub, path, at, m.union, depth+1)
			if !ok {
				return nil, 0, false
			}
			for i := range sub {
				sub[i].Alt = sub[i].Alt || union
			}
			all = append(all, sub...)
			at += n
		} else {
			n, ok := x.sizeof(m.typ, depth)
			if !ok {
				return nil, 0, false
			}
			e := Member{Offset: at, Type: m.typ, Path: path, Alt: union}
			switch m.array {
			case "":
			case "[]":
				e.Array, n = -1, 0
			default:
				k, ok := x.eval(m.array, 0)
				if !ok || k == 0 || k > 1<<16 {
					return nil, 0, false
				}
				e.Array = int(k)
				n *= int(k)
			}
			all = append(all, e)
			at += n
		}
		most = max(most, at-start)
	}
	return all, most, true
}

var sizes = map[string]int{
	"__u8": 1, "u8": 1, "char": 1, "__le16": 2, "__u16": 2, "__be16": 2, "u16": 2,
	"__le32": 4, "__u32": 4, "__be32": 4, "u32": 4, "__le64": 8, "__u64": 8, "__be64": 8, "u64": 8,
}

// sizeof returns the size of a type.
func (x *Index) sizeof(typ string, depth int) (int, bool) {
	if n := sizes[typ]; n != 0 {
		return n, true
	}
	name := strings.TrimPrefix(typ, "struct ")
	for _, s := range x.Structs[name] {
		_, n, ok := x.flatten(s.members, "", 0, false, depth+1)
		return n, ok
	}
	return 0, false
}
