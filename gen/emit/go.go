package emit

import (
	"bytes"
	"fmt"
	"go/format"
	"strings"

	"kbuild-run/gen/table"
)

// Go returns the files of package smb2: one a table, and types.go.
func Go(s *table.Set) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, f := range s.Files {
		g := &goPrinter{set: s}
		g.p("%s/%s; DO NOT EDIT.\n", Mark, f.Name)
		g.p("package smb2\n")
		for _, d := range f.Decls {
			switch d.Kind {
			case table.Struct:
				g.structure(d)
			case table.Const:
				g.consts(d)
			default:
				g.values(d)
			}
		}
		name := strings.TrimSuffix(f.Name, ".tbl") + ".go"
		src, err := format.Source(g.Bytes())
		if err != nil {
			return nil, fmt.Errorf("print %s: %w", name, err)
		}
		out[name] = src
	}
	g := &goPrinter{set: s}
	g.p("%s; DO NOT EDIT.\n", Mark)
	g.p("package smb2\n")
	g.p("// types makes a message by the C name of its structure.")
	g.p("var types = map[string]func() Message{")
	for _, d := range s.Decls() {
		if d.Kind == table.Struct {
			g.p("%q: func() Message { return new(%s) },", d.Name, GoType(d.Name))
		}
	}
	g.p("}")
	src, err := format.Source(g.Bytes())
	out["types.go"] = src
	return out, err
}

type goPrinter struct {
	bytes.Buffer
	set *table.Set
}

func (g *goPrinter) p(format string, args ...any) { fmt.Fprintf(g, format+"\n", args...) }

func (g *goPrinter) doc(d *table.Decl, name, what string) {
	g.p("\n// %s is %s, %s.", name, what, d.Cite())
	for i, l := range d.Doc {
		if i == 0 {
			g.p("//")
		}
		g.p("%s", strings.TrimSpace("// "+l))
	}
}

// values prints flags and enums: a type that prints itself.
func (g *goPrinter) values(d *table.Decl) {
	name := GoType(d.Name)
	what := "one of the values of " + d.Name
	if d.Kind == table.Flags {
		what = "a set of the bits of " + d.Name
	}
	g.doc(d, name, what)
	g.p("type %s %s\n\nconst (", name, goBase(d.Type))
	for _, v := range d.Values {
		g.p("%s %s = %s%s", v.Name, name, v.Text, comment(v.Note))
	}
	g.p(")\n")
	list := strings.ToLower(name[:1]) + name[1:] + "Names"
	g.p("var %s = names{", list)
	for _, v := range d.Values {
		g.p("{%s, %q},", v.Text, v.Name)
	}
	g.p("}\n")
	if d.Kind == table.Flags {
		g.p("// String returns the names of the bits that are set, joined by |.")
		g.p("func (v %s) String() string { return %s.flags(uint64(v)) }\n", name, list)
		g.p("// Unknown returns the bits that have no name.")
		g.p("func (v %s) Unknown() %s { return v &^ %s(%s.all()) }", name, name, name, list)
		return
	}
	g.p("// String returns the name of the value.")
	g.p("func (v %s) String() string { return %s.value(%q, uint64(v)) }\n", name, list, name)
	g.p("// Known says that the value has a name.")
	g.p("func (v %s) Known() bool { return %s.known(uint64(v)) }", name, list)
}

func (g *goPrinter) consts(d *table.Decl) {
	g.p("\n// %s, %s.", d.Name, d.Cite())
	for _, l := range d.Doc {
		g.p("%s", strings.TrimSpace("// "+l))
	}
	g.p("const (")
	for _, v := range d.Values {
		g.p("%s = %s%s", v.Name, v.Text, comment(v.Note))
	}
	g.p(")")
}

func comment(note string) string {
	if note == "" {
		return ""
	}
	return " // " + note
}

// stored are the fields that the Go structure has: the first view of a union.
func stored(d *table.Decl) []*table.Field {
	var all []*table.Field
	for _, f := range d.Fields {
		if !f.Shadow {
			all = append(all, f)
		}
	}
	return all
}

func (g *goPrinter) structure(d *table.Decl) {
	name := GoType(d.Name)
	what := "struct " + d.Name
	if d.Typedef {
		what = d.Name
	}
	g.doc(d, name, what)
	if d.Header != "" {
		g.p("//\n// It stands behind a %s.", GoType(d.Header))
	}
	g.p("type %s struct {", name)
	for _, f := range stored(d) {
		g.p("%s %s%s", goField(f), g.fieldType(f), comment(f.Note))
	}
	g.p("}\n\n// %sSize is the size of the fixed part in bytes.\nconst %sSize = %d\n", name, name, d.Size)
	g.fresh(d, name)
	g.append(d, name)
	g.decode(d, name)
	g.check(d, name)
	g.views(d, name)
	for _, x := range d.Data {
		g.data(d, name, x)
	}
	for _, f := range d.Fields {
		if f.Next != 0 {
			g.p("func (m *%s) link() (*uint32, int, int) { return &m.%s, %d, %d }\n", name, goField(f), f.Offset, f.Next)
		}
	}
}

// fresh prints the constructor that fills what a rule gives a value.
func (g *goPrinter) fresh(d *table.Decl, name string) {
	var set []string
	for _, f := range stored(d) {
		if f.Want != "" && f.Want != "0" {
			set = append(set, fmt.Sprintf("%s: %s", goField(f), f.Want))
		}
	}
	if len(set) == 0 {
		return
	}
	g.p("// New%s sets the fields that have only one right value.", name)
	g.p("func New%s() *%s { return &%s{%s} }\n", name, name, name, strings.Join(set, ", "))
}

func goBase(base string) string {
	switch w := table.Width(base); w {
	case 0:
		return GoType(base)
	case 1:
		return "byte"
	default:
		return fmt.Sprintf("uint%d", 8*w)
	}
}

// elemType is the Go type of the field's element.
func (g *goPrinter) elemType(f *table.Field) string {
	switch {
	case f.Flags != "":
		return GoType(f.Flags)
	case f.Enum != "":
		return GoType(f.Enum)
	}
	return goBase(f.Base)
}

func (g *goPrinter) fieldType(f *table.Field) string {
	t := g.elemType(f)
	switch f.Array {
	case 0:
		return t
	case table.Flex:
		return "[]" + t
	}
	return fmt.Sprintf("[%d]%s", f.Array, t)
}

// order is the variable of package smb2 for the byte order of the type.
func order(base string) string {
	if strings.HasPrefix(base, "be") {
		return "be"
	}
	return "le"
}

// put is the statement that appends x of f's element type.
func (g *goPrinter) put(f *table.Field, x string) string {
	typed := g.elemType(f) != goBase(f.Base)
	switch w := table.Width(f.Base); {
	case w == 0:
		return fmt.Sprintf("b = %s.Append(b)", x)
	case w == 1 && typed:
		return fmt.Sprintf("b = append(b, byte(%s))", x)
	case w == 1:
		return fmt.Sprintf("b = append(b, %s)", x)
	case typed:
		return fmt.Sprintf("b = %s.AppendUint%d(b, uint%d(%s))", order(f.Base), 8*w, 8*w, x)
	default:
		return fmt.Sprintf("b = %s.AppendUint%d(b, %s)", order(f.Base), 8*w, x)
	}
}

// get is the expression that reads a number of f's element type at b[at:].
func (g *goPrinter) get(f *table.Field, at string) string {
	var x string
	w := table.Width(f.Base)
	if w == 1 {
		x = fmt.Sprintf("b[%s]", at)
	} else {
		x = fmt.Sprintf("%s.Uint%d(b[%s:])", order(f.Base), 8*w, at)
	}
	if t := g.elemType(f); t != goBase(f.Base) {
		x = fmt.Sprintf("%s(%s)", t, x)
	}
	return x
}

func isBytes(f *table.Field) bool { return table.Width(f.Base) == 1 && f.Enum == "" }

func (g *goPrinter) append(d *table.Decl, name string) {
	g.p("// Append appends what the fields say to b and checks nothing.")
	g.p("func (m *%s) Append(b []byte) []byte {", name)
	for _, f := range stored(d) {
		x := "m." + goField(f)
		switch {
		case f.Array == 0:
			g.p("%s", g.put(f, x))
		case isBytes(f) && f.Array == table.Flex:
			g.p("b = append(b, %s...)", x)
		case isBytes(f):
			g.p("b = append(b, %s[:]...)", x)
		default:
			g.p("for i := range %s { %s }", x, g.put(f, x+"[i]"))
		}
	}
	g.p("return b\n}\n")
}

func (g *goPrinter) decode(d *table.Decl, name string) {
	g.p("// Decode reads from b and returns what is behind it. It checks lengths only; byte")
	g.p("// slices point into b.")
	g.p("func (m *%s) Decode(b []byte) ([]byte, error) {", name)
	if d.Size > 0 {
		g.p("if len(b) < %d { return b, short(%q, %d, len(b)) }", d.Size, name, d.Size)
	}
	for _, f := range stored(d) {
		x, at := "m."+goField(f), fmt.Sprint(f.Offset)
		switch {
		case f.Array == table.Flex:
		case table.Width(f.Base) == 0 && f.Array == 0:
			g.p("%s.Decode(b[%s:])", x, at)
		case f.Array == 0:
			g.p("%s = %s", x, g.get(f, at))
		case isBytes(f):
			g.p("copy(%s[:], b[%s:])", x, at)
		case table.Width(f.Base) == 0:
			g.p("for i := range %s { %s[i].Decode(b[%s+%d*i:]) }", x, x, at, f.Elem())
		default:
			g.p("for i := range %s { %s[i] = %s }", x, x, g.get(f, fmt.Sprintf("%s+%d*i", at, f.Elem())))
		}
	}
	g.p("b = b[%d:]", d.Size)
	for _, f := range stored(d) {
		if f.Array == table.Flex {
			g.decodeFlex(d, name, f)
		}
	}
	g.p("return b, nil\n}\n")
}

// decodeFlex prints the reading of a flexible array: of the length another field
// says, or to the end.
func (g *goPrinter) decodeFlex(d *table.Decl, name string, f *table.Field) {
	x := "m." + goField(f)
	n := fmt.Sprintf("len(b)/%d", f.Elem())
	switch {
	case f.Len != "":
		n = fmt.Sprintf("int(m.%s)", goField(d.Field(f.Len)))
		if f.Elem() > 1 {
			n += fmt.Sprintf("/%d", f.Elem())
		}
	case f.Count != "":
		n = fmt.Sprintf("int(m.%s)", goField(d.Field(f.Count)))
	}
	if isBytes(f) && f.Len == "" && f.Count == "" {
		g.p("%s, b = b, nil", x)
		return
	}
	g.p("{\nn := %s", n)
	if f.Len != "" || f.Count != "" {
		room := "len(b)"
		if f.Elem() > 1 {
			room = fmt.Sprintf("len(b)/%d", f.Elem())
		}
		g.p("if n < 0 || n > %s { return b, short(%q, n, %s) }", room, name+"."+goField(f), room)
	}
	size := "n"
	if f.Elem() > 1 {
		size = fmt.Sprintf("%d*n", f.Elem())
	}
	switch {
	case isBytes(f):
		g.p("%s = b[:n:n]", x)
	case table.Width(f.Base) == 0:
		g.p("%s = make([]%s, n)", x, g.elemType(f))
		g.p("for i := range %s { %s[i].Decode(b[%d*i:]) }", x, x, f.Elem())
	default:
		g.p("%s = make([]%s, n)", x, g.elemType(f))
		g.p("for i := range %s { %s[i] = %s }", x, x, g.get(f, fmt.Sprintf("%d*i", f.Elem())))
	}
	g.p("b = b[%s:]\n}", size)
}

func (g *goPrinter) check(d *table.Decl, name string) {
	g.p("// Check returns the first rule of the section that a field breaks, as a *RuleError.")
	g.p("func (m *%s) Check() error {", name)
	for _, f := range stored(d) {
		x, label := "m."+goField(f), name+"."+goField(f)
		broken := func(cond, got, want string) {
			g.p("if %s { return &RuleError{%q, %s, %s, %q} }", cond, label, got, want, d.Cite())
		}
		number := func(x string) string { return fmt.Sprintf("text(%s)", x) }
		if f.Want != "" {
			broken(fmt.Sprintf("%s != %s", x, f.Want), number(x), fmt.Sprintf("%q", f.Want))
		}
		list := func(cond, got, want string) {
			if f.Array == 0 {
				broken(fmt.Sprintf(cond, x), fmt.Sprintf(got, x), want)
				return
			}
			g.p("for _, v := range %s {", x)
			broken(fmt.Sprintf(cond, "v"), fmt.Sprintf(got, "v"), want)
			g.p("}")
		}
		if f.Flags != "" {
			list("%s.Unknown() != 0", "%s.Unknown().String()", fmt.Sprintf("%q", "only bits of "+f.Flags))
		}
		if f.Enum != "" && !g.set.Lookup(f.Enum).Open {
			list("!%s.Known()", "%s.String()", fmt.Sprintf("%q", "a value of "+f.Enum))
		}
		for _, a := range []int{f.Align, f.Next} {
			if a != 0 {
				broken(fmt.Sprintf("%s%%%d != 0", x, a), number(x), fmt.Sprintf("%q", fmt.Sprintf("a multiple of %d", a)))
			}
		}
		if f.Len != "" {
			y := "m." + goField(d.Field(f.Len))
			n := fmt.Sprintf("%d*len(%s)", f.Elem(), x)
			if f.Elem() == 1 {
				n = fmt.Sprintf("len(%s)", x)
			}
			broken(fmt.Sprintf("int(%s) != %s", y, n), number(n)+`+" bytes"`, fmt.Sprintf("%q + %s", f.Len+" ", number(y)))
		}
		if f.Count != "" {
			y := "m." + goField(d.Field(f.Count))
			broken(fmt.Sprintf("int(%s) != len(%s)", y, x), number("len("+x+")")+`+" elements"`, fmt.Sprintf("%q + %s", f.Count+" ", number(y)))
		}
		if table.Width(f.Base) == 0 {
			if f.Array == 0 {
				g.p("if err := %s.Check(); err != nil { return err }", x)
			} else {
				g.p("for i := range %s { if err := %s[i].Check(); err != nil { return err } }", x, x)
			}
		}
	}
	for _, x := range d.Data {
		g.p("if _, err := m.%s(); err != nil { return err }", camel(x.Name))
	}
	g.p("return nil\n}\n")
}

// views prints methods for the second views of a union.
func (g *goPrinter) views(d *table.Decl, name string) {
	for _, f := range d.Fields {
		if !f.Shadow {
			continue
		}
		var first []*table.Field // of the same bytes
		start, end := -1, 0
		for _, x := range stored(d) {
			if len(x.Path) > 1 && x.Path[0] == f.Path[0] {
				if start < 0 {
					start = x.Offset
				}
				end = x.Offset + x.Size()
				first = append(first, x)
			}
		}
		at := fmt.Sprint(f.Offset - start)
		load := func() {
			g.p("var b [%d]byte", end-start)
			for _, x := range first {
				g.p("%s.PutUint%d(b[%d:], m.%s)", order(x.Base), 8*x.Elem(), x.Offset-start, goField(x))
			}
		}
		t := g.elemType(f)
		g.p("// %s returns the %s view of the bytes of %s.", goField(f), f.Name(), f.Path[0])
		g.p("func (m *%s) %s() %s {", name, goField(f), t)
		load()
		g.p("return %s\n}\n", g.get(f, at))
		g.p("// Set%s sets the bytes of %s through that view.", goField(f), f.Path[0])
		g.p("func (m *%s) Set%s(v %s) {", name, goField(f), t)
		load()
		g.p("%s.PutUint%d(b[%s:], v)", order(f.Base), 8*f.Elem(), at)
		for _, x := range first {
			g.p("m.%s = %s", goField(x), g.get(x, fmt.Sprint(x.Offset-start)))
		}
		g.p("}\n")
	}
}

// data prints a getter and a setter for data that fields point at.
func (g *goPrinter) data(d *table.Decl, name string, x *table.Data) {
	v := d.Variable()
	base := map[string]string{"hdr": "the header", "self": "the structure", v.Name(): v.Name()}[x.From]
	// Where the variable part begins, counted from the base.
	start := 0
	switch x.From {
	case "hdr":
		start = g.set.Lookup(d.Header).Size + d.Size
	case "self":
		start = d.Size
	}
	begin := fmt.Sprint(start)
	if v.Beyond {
		for _, f := range d.Fields {
			if f.Array == table.Flex && f != v {
				begin += fmt.Sprintf("+%d*len(m.%s)", f.Elem(), goField(f))
			}
		}
	}
	n, meth := "-1", camel(x.Name)
	if x.Len != "" {
		n = fmt.Sprintf("int(m.%s)", goField(d.Field(x.Len)))
	}
	at := d.Field(x.At)
	g.p("// %s returns the bytes that %s points at, counted from %s.", meth, x.At, base)
	g.p("func (m *%s) %s() ([]byte, error) {", name, meth)
	if x.Len == "" {
		g.p("if m.%s == 0 { return nil, nil }", goField(at))
	}
	g.p("return part(%q, m.%s, %s, int(m.%s), %s, %q)\n}\n", name+"."+meth, goField(v), begin, goField(at), n, d.Cite())
	g.p("// Set%s appends p to %s and points the fields at it.", meth, v.Name())
	g.p("func (m *%s) Set%s(p []byte) {", name, meth)
	g.p("buf, at := place(m.%s, %s, %d, p)", goField(v), begin, x.Align)
	g.p("m.%s, m.%s = buf, %s(at)", goField(v), goField(at), g.elemType(at))
	if x.Len != "" {
		l := d.Field(x.Len)
		g.p("m.%s = %s(len(p))", goField(l), g.elemType(l))
	}
	g.p("}\n")
}
