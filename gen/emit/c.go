package emit

import (
	"fmt"
	"regexp"
	"strings"

	"kbuild-run/gen/table"
)

// CType returns the kernel's name of a table type.
func CType(set *table.Set, base string) string {
	switch {
	case base == "char":
		return "char"
	case table.Width(base) != 0:
		return "__" + base
	case set.Lookup(base) != nil && set.Lookup(base).Typedef:
		return base
	}
	return "struct " + base
}

// CName returns the name of a constant in the kernel.
func CName(d *table.Decl, v *table.Value) string { return v.Name + d.Suffix }

// CValue returns the value of a constant as the kernel writes it.
func CValue(d *table.Decl, v *table.Value) string {
	if d.Form == "" {
		return v.Text
	}
	return fmt.Sprintf("%s(%s)", d.Form, v.Text)
}

// CDefine returns the line of one constant, in the form gen_smb2_mapping reads
// when it is a status. The value stands where it does in the line like, unless that
// is empty.
func CDefine(d *table.Decl, v *table.Value, like string) string {
	column, tabs := d.Into.Column, true
	if m := defined.FindStringSubmatchIndex(like); m != nil {
		column, tabs = width(like[:m[3]]), strings.Contains(like[m[2]:m[3]], "\t")
	}
	line := pad("#define "+CName(d, v), column, tabs) + CValue(d, v)
	if v.Errno != "" {
		line += " // " + CErrno(v)
	}
	return line
}

// CErrno returns the error number of a status as the kernel writes it: -EIO, or 0.
func CErrno(v *table.Value) string {
	if v.Errno == "-0" {
		return "0"
	}
	return v.Errno
}

var defined = regexp.MustCompile(`^#define\s+\w+(\s+)\S`)

// pad fills s up to the column; with a space when it is there already.
func pad(s string, column int, tabs bool) string {
	fill := " "
	if tabs {
		fill = "\t"
	}
	if width(s) >= column {
		return s + " "
	}
	for width(s) < column {
		s += fill
	}
	return s
}

// width is the column behind s with tab stops of 8.
func width(s string) int {
	n := 0
	for _, r := range s {
		if r == '\t' {
			n += 8 - n%8
		} else {
			n++
		}
	}
	return n
}

// CSee returns the comment that stands above a declaration.
func CSee(d *table.Decl) string { return fmt.Sprintf("/* See %s */", d.Cite()) }

// CConstants returns a block of constants with its section above it.
func CConstants(d *table.Decl) string {
	lines := []string{CSee(d)}
	for _, v := range d.Values {
		if !v.Absent {
			lines = append(lines, CDefine(d, v, ""))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// node is a member of a C structure: a field, or a structure or union of them.
type node struct {
	name  string
	field *table.Field
	sub   []*node
	union bool
}

// CStruct returns the declaration of a structure without the comment above it.
func CStruct(set *table.Set, d *table.Decl) string {
	var b strings.Builder
	open, end := "struct "+d.Name+" {", "} __packed;\n"
	if d.Typedef {
		open, end = "typedef struct {", "} __packed "+d.Name+";\n"
	}
	b.WriteString(open + "\n")
	if d.Header != "" {
		fmt.Fprintf(&b, "\tstruct %s hdr;\n", d.Header)
	}
	root := &node{}
	for _, f := range d.Fields {
		if f.Beyond {
			continue
		}
		n := root
		for i, p := range f.Path {
			if i+1 == len(f.Path) {
				if f.Union {
					n.union = true
				}
				n.sub = append(n.sub, &node{name: p, field: f})
				break
			}
			n = n.child(p)
		}
	}
	members(&b, set, d, root, 1)
	b.WriteString(end)
	return b.String()
}

// child returns the last member if it has that name, else a new one.
func (n *node) child(name string) *node {
	for _, s := range n.sub {
		if s.name == name && s.field == nil {
			return s
		}
	}
	s := &node{name: name}
	n.sub = append(n.sub, s)
	return s
}

func members(b *strings.Builder, set *table.Set, d *table.Decl, n *node, depth int) {
	tabs := strings.Repeat("\t", depth)
	for _, s := range n.sub {
		if s.field == nil {
			word := "struct"
			if s.union {
				word = "union"
			}
			fmt.Fprintf(b, "%s%s {\n", tabs, word)
			members(b, set, d, s, depth+1)
			fmt.Fprintf(b, "%s} __packed %s;\n", tabs, s.name)
			continue
		}
		f := s.field
		sep := " "
		if d.Into.Tab {
			sep = "\t"
		}
		line := tabs + CType(set, f.Base) + sep + s.name
		switch f.Array {
		case 0:
		case table.Flex:
			line += "[]"
		default:
			line += fmt.Sprintf("[%d]", f.Array)
		}
		line += ";"
		if f.Want != "" {
			line += " /* Must be " + f.Want + " */"
		}
		b.WriteString(line + "\n")
	}
}

// CAsserts returns static_asserts on the size of a structure and on the place of
// its flexible member.
func CAsserts(set *table.Set, d *table.Decl) string {
	name := CType(set, d.Name)
	head := 0
	if d.Header != "" {
		head = set.Lookup(d.Header).Size
	}
	var b strings.Builder
	fmt.Fprintf(&b, "static_assert(sizeof(%s) == %d);\n", name, head+d.Size)
	for _, f := range d.Fields {
		if f.Array == table.Flex && !f.Beyond {
			fmt.Fprintf(&b, "static_assert(offsetof(%s, %s) == %d);\n", name, strings.Join(f.Path, "."), head+f.Offset)
		}
	}
	return b.String()
}

// CHeader returns everything in one header that compiles by itself behind the
// kernel's types: what the kernel proves of its headers, proven of the tables.
func CHeader(set *table.Set) []byte {
	var b strings.Builder
	b.WriteString("/* SPDX-License-Identifier: GPL-2.0-or-later */\n")
	done := map[string]bool{}
	var put func(d *table.Decl)
	put = func(d *table.Decl) {
		if done[d.Name] {
			return
		}
		done[d.Name] = true
		if d.Kind != table.Struct {
			b.WriteString("\n" + CConstants(d))
			return
		}
		if d.Header != "" {
			put(set.Lookup(d.Header))
		}
		for _, f := range d.Fields {
			if table.Width(f.Base) == 0 {
				put(set.Lookup(f.Base))
			}
		}
		b.WriteString("\n" + CSee(d) + "\n" + CStruct(set, d) + CAsserts(set, d))
	}
	for _, d := range set.Decls() {
		put(d)
	}
	return []byte(b.String())
}
