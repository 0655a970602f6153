package table

import (
	"cmp"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func sortErrors(e Errors) {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
}

// checker holds every table against the rules of the package comment. What it
// has reported it takes as meant, so that one mistake is one message.
type checker struct {
	s     *Set
	errs  Errors
	state map[*Decl]int // of structure sizes: 1 being computed, 2 known
	names map[string]Pos
}

func (s *Set) check() Errors {
	c := &checker{s: s, state: map[*Decl]int{}, names: map[string]Pos{}}
	s.decls = map[string]*Decl{}
	for _, d := range s.Decls() {
		if old := s.decls[d.Name]; old != nil {
			c.errorf(d.Pos, "%s %s again, it is declared at %s", d.Kind, d.Name, old.Pos)
			continue
		}
		s.decls[d.Name] = d
	}
	for _, d := range s.Decls() {
		c.version(d.Pos, d.Since)
		for _, v := range d.Values {
			c.version(v.Pos, v.Since)
		}
		if d.Kind == Struct {
			c.structure(d)
		} else {
			c.constants(d)
		}
	}
	return c.errs
}

func (c *checker) errorf(p Pos, format string, args ...any) {
	c.errs = append(c.errs, &Error{p, fmt.Sprintf(format, args...)})
}

var version = regexp.MustCompile(`^\d+\.\d+$`)

func (c *checker) version(p Pos, since string) {
	if since != "" && !version.MatchString(since) {
		c.errorf(p, "since %s, want a kernel version like 7.3", since)
	}
}

// named returns the declaration of that name if it is of that kind.
func (c *checker) named(p Pos, kind Kind, name string) *Decl {
	d := c.s.decls[name]
	switch {
	case d == nil:
		c.errorf(p, "%s %s is declared nowhere", kind, name)
	case d.Kind != kind:
		c.errorf(p, "%s is a %s, want a %s", name, d.Kind, kind)
	default:
		return d
	}
	return nil
}

func (c *checker) constants(d *Decl) {
	seen := map[string]*Value{}
	for _, v := range d.Values {
		if old, ok := c.names[v.Name]; ok {
			c.errorf(v.Pos, "name %s again, it is at %s", v.Name, old)
			continue
		}
		c.names[v.Name] = v.Pos
		key := v.Text
		if !v.IsString() {
			key = strconv.FormatUint(v.Number, 16)
		}
		if old := seen[key]; old != nil && d.Kind != Const {
			c.errorf(v.Pos, "value %s of %s again, it is %s at %s", v.Text, v.Name, old.Name, old.Pos)
		}
		seen[key] = v
		for _, h := range v.Holds {
			for _, name := range strings.Split(h, "|") {
				if name != "-" {
					c.named(v.Pos, Struct, name)
				}
			}
		}
	}
	if d.Form != "" && d.Form != "cpu_to_"+d.Type {
		c.errorf(d.Pos, "form %s of type %s, want cpu_to_%s", d.Form, d.Type, d.Type)
	}
}

// structure checks d and those it holds first.
func (c *checker) structure(d *Decl) {
	if c.state[d] != 0 {
		return
	}
	c.state[d] = 1
	defer func() { c.state[d] = 2 }()
	if d.Header != "" {
		c.named(d.Pos, Struct, d.Header)
	}
	var end *Field // the size row
	var rows []*Field
	for _, f := range d.Fields {
		if f.Path == nil {
			end = f
			continue
		}
		rows = append(rows, f)
		c.elem(d, f)
	}
	d.Fields = rows
	if end != nil {
		c.offsets(d, rows, end)
	}
	c.members(d)
	for _, x := range d.Data {
		c.data(d, x)
	}
}

// elem finds the size of the field's type.
func (c *checker) elem(d *Decl, f *Field) {
	if f.elem = Width(f.Base); f.elem != 0 {
		return
	}
	t := c.named(f.Pos, Struct, f.Base)
	switch {
	case t == nil:
	case c.state[t] == 1:
		c.errorf(f.Pos, "struct %s holds itself", d.Name)
	default:
		c.structure(t)
		f.elem = t.Size
		if v := t.Variable(); v != nil && f.Array != Flex {
			c.errorf(f.Pos, "struct %s has the flexible %s, it cannot be a member", t.Name, v.Name())
		}
	}
}

// offsets adds up the types. Where a row disagrees, the row behind it tells
// whether its own offset is the mistake or the type above it.
func (c *checker) offsets(d *Decl, rows []*Field, end *Field) {
	at, most := 0, 0
	var view string
	var start, flexAt int
	fixed := append(slices.Clone(rows), end)
	fixed = slices.DeleteFunc(fixed, func(f *Field) bool { return f.Beyond })
	for i, f := range fixed {
		last := f == end
		if !last {
			if len(f.Path) == 1 || f.Path[0] != view {
				view, start = f.Path[0], max(at, most)
			}
			if f.Union {
				if at == start {
					c.errorf(f.Pos, "union at %s, want it at the first row of the second view", f.Name())
				}
				most, at = max(at, most), start
			} else if at == 0 || len(f.Path) == 1 {
				at = max(at, most)
			}
		} else {
			at = max(at, most)
		}
		if f.Offset != at && i > 0 && c.mistyped(fixed[i-1]) {
			at = f.Offset // the type above is reported already
		}
		if f.Offset != at {
			typo := true // of this offset; else the rows above it are wrong
			if !last {
				next := fixed[i+1]
				typo = next.Offset == at+f.Size() || next.Union
			}
			above := "nothing"
			if i > 0 {
				above = fmt.Sprintf("%s %s at %d", fixed[i-1].TypeName(), fixed[i-1].Name(), fixed[i-1].Offset)
			}
			what := "offset"
			if last {
				what = "size"
			}
			c.errorf(f.Pos, "%s %d, want %d: above it is %s", what, f.Offset, at, above)
			if !typo {
				at = f.Offset
			}
		}
		f.Offset = at
		if !last {
			at += f.Size()
			if f.Array == Flex {
				flexAt = i + 1
			} else if flexAt != 0 && !f.Union {
				c.errorf(f.Pos, "%s behind the flexible %s, want `..` for its offset", f.Name(), fixed[flexAt-1].Name())
			}
		}
	}
	d.Size = at
	for _, f := range rows {
		f.Shadow = f.Union
	}
	// The rows of a second view follow its first one.
	shadow := ""
	for _, f := range rows {
		if f.Union {
			shadow = f.Path[0]
		} else if f.Path[0] == shadow {
			f.Shadow = true
		} else {
			shadow = ""
		}
	}
}

// mistyped says that the type of f is a mistake by itself, whatever its size.
func (c *checker) mistyped(f *Field) bool {
	for _, name := range []string{f.Flags, f.Enum} {
		if t := c.s.decls[name]; t != nil && f.elem != 0 && Width(t.Type) != Width(f.Base) {
			return true
		}
	}
	return f.elem == 0
}

func (c *checker) members(d *Decl) {
	seen := map[string]*Field{}
	next := 0
	for _, f := range d.Fields {
		if old := seen[f.Name()]; old != nil {
			c.errorf(f.Pos, "member %s again, it is at %s", f.Name(), old.Pos)
		}
		seen[f.Name()] = f
		if f.Shadow && !f.Scalar() {
			c.errorf(f.Pos, "%s %s in the second view of a union, want a number", f.TypeName(), f.Name())
		}
		if f.Beyond && f.Array != Flex {
			c.errorf(f.Pos, "%s %s at `..`, want a flexible array", f.TypeName(), f.Name())
		}
		if f.Flags != "" {
			c.kind(f, Flags, f.Flags)
		}
		if f.Enum != "" {
			c.kind(f, Enum, f.Enum)
		}
		if f.Want != "" {
			n, err := strconv.ParseUint(f.Want, 0, 64)
			switch {
			case !f.Scalar():
				c.errorf(f.Pos, "= %s for %s %s, want a number type", f.Want, f.TypeName(), f.Name())
			case err != nil || bits.Len64(n) > 8*f.elem:
				c.errorf(f.Pos, "= %s for %s %s, want a number that fits", f.Want, f.TypeName(), f.Name())
			}
		}
		for _, ref := range []string{f.Len, f.Count} {
			if ref == "" {
				continue
			}
			t := seen[ref]
			switch {
			case f.Array != Flex:
				c.errorf(f.Pos, "length of %s %s, want a flexible array", f.TypeName(), f.Name())
			case t == nil || !t.Scalar():
				c.errorf(f.Pos, "length %s of %s, want a number above it", ref, f.Name())
			}
		}
		if (f.Align != 0 || f.Next != 0) && !f.Scalar() {
			c.errorf(f.Pos, "align of %s %s, want a number", f.TypeName(), f.Name())
		}
		if f.Next != 0 {
			if Width(f.Base) != 4 && f.Scalar() {
				c.errorf(f.Pos, "next of %s %s, want le32", f.TypeName(), f.Name())
			}
			if next++; next > 1 {
				c.errorf(f.Pos, "second next in struct %s", d.Name)
			}
		}
	}
}

func (c *checker) kind(f *Field, k Kind, name string) {
	t := c.named(f.Pos, k, name)
	if f.elem == 0 {
		return // no type at all
	}
	if t != nil && !(f.Scalar() || Width(f.Base) != 0 && k == Enum) {
		c.errorf(f.Pos, "%s for %s %s, want a number type", k, f.TypeName(), f.Name())
	} else if t != nil && Width(t.Type) != Width(f.Base) {
		c.errorf(f.Pos, "%s %s is %s, %s is %s: want one width", k, name, t.Type, f.Name(), f.TypeName())
	}
}

func (c *checker) data(d *Decl, x *Data) {
	for _, ref := range []string{x.At, x.Len} {
		if f := d.Field(ref); ref != "" && (f == nil || !f.Scalar()) {
			c.errorf(x.Pos, "data %s by %s, want a number of struct %s", x.Name, ref, d.Name)
		}
	}
	v := d.Variable()
	switch {
	case v == nil || v.Base != "u8" && v.Base != "char":
		c.errorf(x.Pos, "data %s in struct %s, want a flexible array of bytes at its end", x.Name, d.Name)
	case x.From == "hdr" && d.Header == "":
		c.errorf(x.Pos, "data %s from hdr, want a header on struct %s", x.Name, d.Name)
	case x.From != "hdr" && x.From != "self" && x.From != v.Name():
		c.errorf(x.Pos, "data %s from %s, want hdr, self or %s", x.Name, x.From, v.Name())
	}
	if d.Field(x.Name) != nil {
		c.errorf(x.Pos, "data %s has the name of a member", x.Name)
	}
}
