package table

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Error is a mistake in a table.
type Error struct {
	Pos
	Msg string // what is there, what is wanted
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Pos, e.Msg) }

// Errors are all the mistakes of a set, in the order of the lines.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, x := range e {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks every *.tbl in the top folder of fsys. The error is an
// Errors when the tables could be read.
func Load(fsys fs.FS) (*Set, error) {
	names, err := fs.Glob(fsys, "*.tbl")
	if err != nil {
		return nil, err
	}
	s, errs := &Set{}, Errors(nil)
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		f, e := Parse(path.Base(name), string(text))
		s.Files = append(s.Files, f)
		errs = append(errs, e...)
	}
	errs = append(errs, s.check()...)
	if len(errs) > 0 {
		sortErrors(errs)
		return nil, errs
	}
	return s, nil
}

// Parse reads one table. What needs the other tables is not checked.
func Parse(name, text string) (*File, Errors) {
	p := &parser{f: &File{Name: name, Specs: map[string]string{}}}
	text = strings.TrimSuffix(text, "\n")
	for i, raw := range strings.Split(text, "\n") {
		p.pos = Pos{name, i + 1}
		l := splitLine(raw)
		p.f.Lines = append(p.f.Lines, l)
		switch {
		case len(l.Cells) == 0 && l.HasHash && !l.Row:
			p.doc = append(p.doc, l.Comment)
			continue
		case len(l.Cells) == 0:
		case l.Row:
			p.row(l)
		default:
			p.statement(l)
			if l.Cells[0] == "into" {
				continue // the words above it are the declaration's
			}
		}
		p.doc = nil
	}
	p.end()
	return p.f, p.errs
}

type parser struct {
	f    *File
	pos  Pos
	errs Errors
	into Into
	doc  []string // comment lines above
	d    *Decl    // open declaration
	bad  bool     // the open declaration's head is wrong: skip its rows
	size bool     // the open structure has its size row
}

func (p *parser) errorf(format string, args ...any) {
	p.errs = append(p.errs, &Error{p.pos, fmt.Sprintf(format, args...)})
}

// splitLine cuts a line into words and comment. A string in quotes is one word.
func splitLine(raw string) Line {
	var l Line
	l.Row = strings.HasPrefix(raw, " ") || strings.HasPrefix(raw, "\t")
	quoted := false
	for i := 0; i < len(raw); i++ {
		if raw[i] == '"' {
			quoted = !quoted
		}
		if raw[i] == '#' && !quoted && (i == 0 || raw[i-1] == ' ' || raw[i-1] == '\t') {
			l.HasHash, l.Comment = true, strings.TrimSpace(raw[i+1:])
			raw = raw[:i]
			break
		}
	}
	l.Cells = strings.Fields(raw)
	return l
}

func (p *parser) statement(l Line) {
	p.end()
	c := l.Cells
	switch c[0] {
	case "spec":
		if len(c) != 3 {
			p.errorf("spec with %d words behind it, want `spec DOCUMENT REVISION`", len(c)-1)
			return
		}
		p.f.Specs[c[1]] = c[2]
	case "into":
		p.intoLine(c)
	case "struct", "flags", "enum", "const":
		p.head(l)
	default:
		p.bad = true
		p.errorf("statement %q, want one of spec, into, struct, flags, enum, const", c[0])
	}
}

func (p *parser) intoLine(c []string) {
	p.into = Into{}
	if len(c) < 2 {
		p.errorf("into without a path, want a header of the kernel or none")
		return
	}
	if c[1] != "none" {
		p.into.Path = c[1]
	}
	for i := 2; i < len(c); i++ {
		switch {
		case c[i] == "tab":
			p.into.Tab = true
		case c[i] == "space":
		case c[i] == "only":
			p.into.Only = true
		case c[i] == "column" && i+1 < len(c):
			i++
			n, err := strconv.Atoi(c[i])
			if err != nil || n%8 != 0 {
				p.errorf("column %s, want a tab stop (a multiple of 8)", c[i])
			}
			p.into.Column = n
		default:
			p.errorf("%q, want only, column N, tab or space", c[i])
		}
	}
}

var section = regexp.MustCompile(`^(MS-[A-Z0-9]+) (\d+(?:\.\d+)*)$`)

func (p *parser) head(l Line) {
	c := l.Cells
	p.d = &Decl{Pos: p.pos, Kind: Kind(c[0]), Into: p.into, Doc: p.doc}
	d := p.d
	fail := func(format string, args ...any) { p.bad = true; p.errorf(format, args...) }
	if len(c) < 2 {
		fail("%s without a name", c[0])
		return
	}
	d.Name = c[1]
	rest := c[2:]
	if d.Kind != Struct {
		if len(rest) == 0 || Width(rest[0]) == 0 {
			fail("%s %s without a type, want u8, le16, le32 or le64 behind the name", d.Kind, d.Name)
			return
		}
		d.Type, rest = rest[0], rest[1:]
	}
	for i := 0; i < len(rest); i++ {
		arg := func() string {
			if i+1 < len(rest) {
				i++
				return rest[i]
			}
			fail("%s at the end of the line, want a name behind it", rest[i])
			return ""
		}
		switch {
		case rest[i] == "since":
			d.Since = arg()
		case d.Kind == Struct && rest[i] == "typedef":
			d.Typedef = true
		case d.Kind == Struct && rest[i] == "was":
			d.Was = arg()
		case d.Kind == Struct && i == 0:
			d.Header = rest[i]
		case d.Kind != Struct && rest[i] == "suffix":
			d.Suffix = arg()
		case d.Kind != Struct && rest[i] == "open":
			d.Open = true
		case d.Kind != Struct && strings.HasPrefix(rest[i], "cpu_to_"):
			d.Form = rest[i]
		default:
			fail("%q behind %s %s, want nothing or an option of the statement", rest[i], d.Kind, d.Name)
			return
		}
	}
	m := section.FindStringSubmatch(l.Comment)
	switch {
	case m == nil && l.Comment == "":
		p.errorf("%s %s has no section, want `# DOCUMENT SECTION` at the end of the line", d.Kind, d.Name)
	case m == nil:
		p.errorf("%s %s has %q for its section, want `DOCUMENT SECTION`", d.Kind, d.Name, l.Comment)
	case p.f.Specs[m[1]] == "":
		p.errorf("%s %s is from %s, want a `spec %s REVISION` line above it", d.Kind, d.Name, m[1], m[1])
	default:
		d.Spec, d.Section = m[1], m[2]
	}
	if !p.bad {
		p.f.Decls = append(p.f.Decls, d)
	}
}

func (p *parser) end() {
	if d := p.d; d != nil && !p.bad {
		here := p.pos
		p.pos = d.Pos
		switch {
		case d.Kind == Struct && !p.size:
			p.errorf("struct %s has no size, want a last row with the size alone", d.Name)
		case d.Kind != Struct && len(d.Values) == 0:
			p.errorf("%s %s has no values", d.Kind, d.Name)
		}
		p.pos = here
	}
	p.d, p.bad, p.size = nil, false, false
}

func (p *parser) row(l Line) {
	switch {
	case p.bad:
	case p.d == nil:
		p.errorf("row %q under no declaration", strings.Join(l.Cells, " "))
	case p.d.Kind != Struct:
		p.value(l)
	case l.Cells[0] == "data":
		p.data(l)
	case len(l.Cells) == 1 && !p.size:
		n, err := strconv.Atoi(l.Cells[0])
		if err != nil {
			p.errorf("%q alone in a row, want the size of struct %s", l.Cells[0], p.d.Name)
			return
		}
		p.d.Size, p.size = n, true
		p.d.Fields = append(p.d.Fields, &Field{Pos: p.pos, Offset: n})
	case p.size:
		p.errorf("row %q behind the size of struct %s, want data rows only", strings.Join(l.Cells, " "), p.d.Name)
	default:
		p.field(l)
	}
}

func (p *parser) value(l Line) {
	c := l.Cells
	v := &Value{Pos: p.pos, Text: c[0], Note: l.Comment}
	if len(c) < 2 {
		p.errorf("value %s without a name", c[0])
		return
	}
	v.Name = c[1]
	if v.IsString() {
		if p.d.Kind != Const {
			p.errorf("string %s in %s %s, want a number", v.Text, p.d.Kind, p.d.Name)
			return
		}
	} else {
		n, err := strconv.ParseUint(c[0], 0, 8*Width(p.d.Type))
		if err != nil {
			p.errorf("value %s of %s, want a number of %d bits", c[0], v.Name, 8*Width(p.d.Type))
			return
		}
		v.Number = n
	}
	for i := 2; i < len(c); i++ {
		h := c[i]
		if h == "since" && i+1 < len(c) {
			i++
			v.Since = c[i]
			continue
		}
		if strings.HasPrefix(h, "-E") || h == "-0" {
			v.Errno = h
			continue
		}
		if h == "absent" {
			v.Absent = true
			continue
		}
		v.Holds = append(v.Holds, h)
	}
	p.d.Values = append(p.d.Values, v)
}

var typeWord = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(\[(\d*)\])?$`)

func (p *parser) field(l Line) {
	c := l.Cells
	f := &Field{Pos: p.pos, Note: l.Comment}
	if len(c) < 3 {
		p.errorf("row %q, want OFFSET TYPE NAME", strings.Join(c, " "))
		return
	}
	if c[0] == ".." {
		f.Beyond = true
	} else {
		n, err := strconv.Atoi(c[0])
		if err != nil {
			p.errorf("offset %q, want a decimal number", c[0])
			return
		}
		f.Offset = n
	}
	m := typeWord.FindStringSubmatch(c[1])
	if m == nil {
		p.errorf("type %q, want a number type, a structure, or one of them with [N] or []", c[1])
		return
	}
	f.Base = m[1]
	if m[2] == "[]" {
		f.Array = Flex
	} else if m[2] != "" {
		f.Array, _ = strconv.Atoi(m[3])
		if f.Array == 0 {
			p.errorf("array of no elements in %s, want [N] or []", c[1])
			return
		}
	}
	f.Path = strings.Split(c[2], ".")
	p.rules(f, c[3:])
	p.d.Fields = append(p.d.Fields, f)
}

func (p *parser) rules(f *Field, c []string) {
	for i := 0; i < len(c); i++ {
		if c[i] == "union" {
			f.Union = true
			continue
		}
		if i+1 == len(c) {
			p.errorf("rule %q of %s with nothing behind it", c[i], f.Name())
			return
		}
		word, arg := c[i], c[i+1]
		i++
		number := func() int {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 1 {
				p.errorf("%s %s of %s, want a positive number", word, arg, f.Name())
				return 1
			}
			return n
		}
		switch word {
		case "=":
			f.Want = arg
		case "flags":
			f.Flags = arg
		case "enum":
			f.Enum = arg
		case "len":
			f.Len = arg
		case "count":
			f.Count = arg
		case "align":
			f.Align = number()
		case "next":
			f.Next = number()
		default:
			p.errorf("rule %q of %s, want one of =, flags, enum, len, count, align, next, union", word, f.Name())
			return
		}
	}
}

func (p *parser) data(l Line) {
	c := l.Cells
	if len(c) < 4 || c[2] != "at" || len(c)%2 != 0 {
		p.errorf("row %q, want data NAME at FIELD [len FIELD] [from BASE] [align N]", strings.Join(c, " "))
		return
	}
	d := &Data{Pos: p.pos, Name: c[1], Align: 1, From: "self"}
	if p.d.Header != "" {
		d.From = "hdr"
	}
	for i := 2; i < len(c); i += 2 {
		switch c[i] {
		case "at":
			d.At = c[i+1]
		case "len":
			d.Len = c[i+1]
		case "from":
			d.From = c[i+1]
		case "align":
			n, err := strconv.Atoi(c[i+1])
			if err != nil || n < 1 {
				p.errorf("align %s of data %s, want a positive number", c[i+1], d.Name)
				return
			}
			d.Align = n
		default:
			p.errorf("%q in data %s, want at, len, from or align", c[i], d.Name)
			return
		}
	}
	p.d.Data = append(p.d.Data, d)
}
