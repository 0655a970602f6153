// Package smb2 is the wire of SMB 2 and 3: a Go type for every structure, flag and
// enumeration of gen/tables.
//
// Constants have the names they have in the kernel, members have the names of the
// specification. A message is a header (Hdr, 64 bytes) and a body; offsets inside a
// body are counted from the start of the header:
//
//	0        64                64+fixed part
//	+--------+-----------------+--------------------+
//	|  Hdr   |  fixed fields   |  Buffer            |
//	+--------+-----------------+--------------------+
//
// The three methods of every message share the work so that a test client can say
// what a sane one never would: Append writes what the fields say and checks nothing,
// Decode checks lengths only, Check names the broken rule and its section.
package smb2

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// Message is a structure of the wire.
type Message interface {
	Append(b []byte) []byte
	Decode(b []byte) (rest []byte, err error)
	Check() error
}

// New returns an empty message by the C name of its structure, or nil.
func New(cname string) Message {
	if f := types[cname]; f != nil {
		return f()
	}
	return nil
}

// ShortError is a Decode that ran out of bytes.
type ShortError struct {
	What string // type, or type.member
	Want int    // bytes, or elements of a member
	Got  int
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("decode %s: %d left, want %d", e.What, e.Got, e.Want)
}

// text is fmt.Sprint for the generated files.
func text(v any) string { return fmt.Sprint(v) }

func short(what string, want, got int) error { return &ShortError{what, want, got} }

// RuleError is a rule that a message breaks.
type RuleError struct {
	Field   string // ChangeNotifyReq.StructureSize
	Got     string
	Want    string
	Section string // MS-SMB2 2.2.35
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("check %s: %s, want %s (%s)", e.Field, e.Got, e.Want, e.Section)
}

// part returns buf[off-start:][:n], all of it behind off when n is negative.
func part(what string, buf []byte, start, off, n int, section string) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	lo := off - start
	if lo < 0 || lo > len(buf) || n > len(buf)-lo {
		return nil, &RuleError{what, fmt.Sprintf("offset %d length %d", off, n),
			fmt.Sprintf("within %d to %d", start, start+len(buf)), section}
	}
	if n < 0 {
		n = len(buf) - lo
	}
	return buf[lo : lo+n : lo+n], nil
}

// place appends p to buf at a multiple of align, counted like start, where buf
// begins. It returns the new buffer and the place of p.
func place(buf []byte, start, align int, p []byte) ([]byte, int) {
	pad := -(start + len(buf)) & (align - 1)
	at := start + len(buf) + pad
	out := make([]byte, 0, len(buf)+pad+len(p))
	out = append(out, buf...)
	out = append(out, make([]byte, pad)...)
	return append(out, p...), at
}

// names are the rows of a table of constants, in its order.
type names []struct {
	value uint64
	name  string
}

func (t names) known(v uint64) bool {
	for _, n := range t {
		if n.value == v {
			return true
		}
	}
	return false
}

func (t names) value(kind string, v uint64) string {
	for _, n := range t {
		if n.value == v {
			return n.name
		}
	}
	return fmt.Sprintf("%s(%#x)", kind, v)
}

func (t names) all() uint64 {
	var all uint64
	for _, n := range t {
		all |= n.value
	}
	return all
}

// flags names the single bits of v; what is left is printed as a number.
func (t names) flags(v uint64) string {
	if v == 0 {
		return "0"
	}
	var out []string
	for _, n := range t {
		if n.value&(n.value-1) == 0 && v&n.value != 0 {
			out = append(out, n.name)
			v &^= n.value
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("%#x", v))
	}
	return strings.Join(out, "|")
}

// linked is a record that says how far the next one is.
type linked[T any] interface {
	*T
	Message
	link() (next *uint32, offset, align int)
}

// Chain reads records that are linked by a distance to the next, 0 in the last. It
// follows the distances and computes none: servers differ in their padding.
func Chain[T any, P linked[T]](b []byte) ([]T, error) {
	var all []T
	for len(b) > 0 {
		var r T
		if _, err := P(&r).Decode(b); err != nil {
			return all, err
		}
		link, _, _ := P(&r).link()
		next := *link
		if next == 0 {
			return append(all, r), nil
		}
		if uint64(next) > uint64(len(b)) {
			return all, short(fmt.Sprintf("record %d", len(all)), int(next), len(b))
		}
		r = *new(T) // again, within its own bounds
		if _, err := P(&r).Decode(b[:next]); err != nil {
			return all, err
		}
		all = append(all, r)
		b = b[next:]
	}
	return all, nil
}

// AppendChain appends records that are linked: it pads them and fills in the
// distances, whatever they say.
func AppendChain[T any, P linked[T]](b []byte, records ...T) []byte {
	for i, r := range records {
		start := len(b)
		next, offset, align := P(&r).link()
		*next = 0
		b = P(&r).Append(b)
		if i+1 < len(records) {
			for (len(b)-start)%align != 0 {
				b = append(b, 0)
			}
			le.PutUint32(b[start+offset:], uint32(len(b)-start))
		}
	}
	return b
}

// NegContexts reads the contexts of a negotiation: each begins at a multiple of 8.
func NegContexts(b []byte, count int) ([]NegContext, error) {
	var all []NegContext
	for at := 0; len(all) < count; at = (at + 7) &^ 7 {
		var c NegContext
		if at > len(b) {
			return all, short("NegContext", NegContextSize, 0)
		}
		rest, err := c.Decode(b[at:])
		if err != nil {
			return all, err
		}
		at = len(b) - len(rest)
		all = append(all, c)
	}
	return all, nil
}

// AppendNegContexts appends contexts, each padded to a multiple of 8 but the last.
func AppendNegContexts(b []byte, contexts ...Message) []byte {
	start := len(b)
	for _, c := range contexts {
		for (len(b)-start)%8 != 0 {
			b = append(b, 0)
		}
		b = c.Append(b)
	}
	return b
}

// NewCreateContext returns a context of that name and data.
func NewCreateContext(name string, data []byte) CreateContext {
	var c CreateContext
	c.SetName([]byte(name))
	if len(data) > 0 {
		c.SetData(data)
	}
	return c
}

// UTF16 returns s as the wire has names: UTF-16, little-endian, no NUL.
func UTF16(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

// FromUTF16 is the reverse of UTF16. Half a unit at the end is left out, and a
// surrogate without its other half becomes U+FFFD.
func FromUTF16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}
