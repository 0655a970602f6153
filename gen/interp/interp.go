// Package interp reads messages by the tables themselves: bytes in, named values out.
//
// It shares no code with the codec of gen/smb2, which is printed from the same
// tables, so that each can be held against the other.
package interp

import (
	"fmt"
	"strings"

	"kbuild-run/gen/table"
)

// Value is a field of a message.
type Value struct {
	Field  *table.Field
	At     int      // place in the message
	Number uint64   // of a number
	Bytes  []byte   // as they are on the wire
	List   []uint64 // of an array of numbers that are not bytes
	Sub    [][]Value
}

// Message is a structure with its values.
type Message struct {
	Decl   *table.Decl
	Values []Value
	set    *table.Set
}

// Read reads structure d from b and returns what is behind it. It checks lengths
// only.
func Read(set *table.Set, d *table.Decl, b []byte) (*Message, []byte, error) {
	m := &Message{Decl: d, set: set}
	if len(b) < d.Size {
		return nil, b, fmt.Errorf("read %s: %d bytes left, want %d", d.Name, len(b), d.Size)
	}
	at := d.Size // of what is variable
	for _, f := range d.Fields {
		v := Value{Field: f, At: f.Offset}
		width := f.Elem()
		switch f.Array {
		case 0:
			v.Bytes = b[f.Offset : f.Offset+width]
		case table.Flex:
			n := (len(b) - at) / width * width
			if f.Len != "" {
				n = int(m.Number(f.Len)) / width * width
			} else if f.Count != "" {
				n = int(m.Number(f.Count)) * width
			}
			if n > len(b)-at {
				return nil, b[d.Size:], fmt.Errorf("read %s.%s: %d bytes left, want %d", d.Name, f.Name(), len(b)-at, n)
			}
			v.At, v.Bytes = at, b[at:at+n]
			at += n
		default:
			v.Bytes = b[f.Offset : f.Offset+width*f.Array]
		}
		if err := m.fill(&v); err != nil {
			return nil, b[d.Size:], err
		}
		m.Values = append(m.Values, v)
	}
	return m, b[at:], nil
}

// fill reads the number, or numbers, or structures that the bytes are.
func (m *Message) fill(v *Value) error {
	f := v.Field
	width := f.Elem()
	switch {
	case table.Width(f.Base) == 0:
		t := m.set.Lookup(f.Base)
		for b := v.Bytes; len(b) >= width && width > 0; b = b[width:] {
			sub, _, err := Read(m.set, t, b[:width])
			if err != nil {
				return err
			}
			v.Sub = append(v.Sub, sub.Values)
		}
	case f.Array == 0:
		v.Number = number(f.Base, v.Bytes)
	case width > 1 || f.Enum != "":
		for b := v.Bytes; len(b) >= width; b = b[width:] {
			v.List = append(v.List, number(f.Base, b[:width]))
		}
	}
	return nil
}

// number reads the bytes in the order of the type.
func number(base string, b []byte) uint64 {
	var n uint64
	for i := range b {
		if strings.HasPrefix(base, "be") {
			n = n<<8 | uint64(b[i])
		} else {
			n |= uint64(b[i]) << (8 * i)
		}
	}
	return n
}

// Number returns the number that the field of that name has, 0 without one.
func (m *Message) Number(name string) uint64 {
	for i := range m.Values {
		if m.Values[i].Field.Name() == name {
			return m.Values[i].Number
		}
	}
	return 0
}

// Bytes returns the bytes of the field of that name.
func (m *Message) Bytes(name string) []byte {
	for i := range m.Values {
		if m.Values[i].Field.Name() == name {
			return m.Values[i].Bytes
		}
	}
	return nil
}

// Word returns the number in words: the names of its bits or its value, or the
// number itself.
func (m *Message) Word(name string) string {
	for i := range m.Values {
		if m.Values[i].Field.Name() == name {
			return word(m.set, &m.Values[i], m.Values[i].Number)
		}
	}
	return ""
}

// Name returns the name that declaration kind gives a value, "" if it gives none.
func Name(set *table.Set, kind string, n uint64) string {
	for _, v := range set.Lookup(kind).Values {
		if v.Number == n && !v.IsString() {
			return v.Name
		}
	}
	return ""
}

func word(set *table.Set, v *Value, n uint64) string {
	f := v.Field
	if f.Enum != "" {
		if name := Name(set, f.Enum, n); name != "" {
			return name
		}
	}
	if f.Flags == "" || n == 0 {
		if f.Flags == "" && f.Enum == "" && n < 10 {
			return fmt.Sprint(n)
		}
		return fmt.Sprintf("%#x", n)
	}
	var words []string
	for _, bit := range set.Lookup(f.Flags).Values {
		if bit.Number&(bit.Number-1) == 0 && n&bit.Number != 0 {
			words = append(words, bit.Name)
			n &^= bit.Number
		}
	}
	if n != 0 {
		words = append(words, fmt.Sprintf("%#x", n))
	}
	return strings.Join(words, "|")
}

// Data returns the bytes that a pair of fields points at: data row name. What stands
// in the message is body; head is the length of the header before it.
func (m *Message) Data(name string, body []byte) ([]byte, error) {
	for _, x := range m.Decl.Data {
		if x.Name != name {
			continue
		}
		at, n := int(m.Number(x.At)), -1
		if x.Len != "" {
			n = int(m.Number(x.Len))
		}
		if n == 0 || at == 0 && n < 0 {
			return nil, nil
		}
		variable := m.Values[len(m.Values)-1].At
		for i := range m.Values {
			if m.Values[i].Field == m.Decl.Variable() {
				variable = m.Values[i].At
			}
		}
		switch x.From {
		case "hdr":
			at -= m.set.Lookup(m.Decl.Header).Size
		case "self":
		default:
			at += variable
		}
		if at < variable || at > len(body) || n > len(body)-at {
			return nil, fmt.Errorf("read %s.%s: %d bytes at %d, want them within %d to %d", m.Decl.Name, name, n, at, variable, len(body))
		}
		if n < 0 {
			n = len(body) - at
		}
		return body[at : at+n], nil
	}
	return nil, nil
}

// String returns the message a line a field: offset, name, value in words.
func (m *Message) String() string {
	var b strings.Builder
	m.print(&b, m.Values, "")
	return b.String()
}

func (m *Message) print(b *strings.Builder, values []Value, indent string) {
	for i := range values {
		v := &values[i]
		label := fmt.Sprintf("%s%4d  %-24s ", indent, v.At, strings.Join(v.Field.Path, "."))
		switch {
		case v.Sub != nil:
			for k, sub := range v.Sub {
				fmt.Fprintf(b, "%s[%d]\n", label, k)
				m.print(b, sub, indent+"    ")
			}
		case v.List != nil:
			var words []string
			for _, n := range v.List {
				words = append(words, word(m.set, v, n))
			}
			fmt.Fprintf(b, "%s%s\n", label, strings.Join(words, " "))
		case v.Field.Array == 0:
			fmt.Fprintf(b, "%s%s\n", label, word(m.set, v, v.Number))
		default:
			fmt.Fprintf(b, "%s%x\n", label, v.Bytes)
		}
	}
}
