// Package layout reads structures from the debug information of an object file: what
// the compiler made of the kernel's headers.
package layout

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"strings"
)

// Struct is a structure as the compiler laid it out.
type Struct struct {
	Name    string
	Size    int
	Members []Member
}

// Member is a field of a structure. A field of a nested structure is a Member of its
// own, besides the nested structure itself.
type Member struct {
	Offset int
	Type   string // the name the source used: __le16, struct smb2_hdr
	Path   string // Id.SyncId.TreeId
	Array  int    // elements; 0 no array, -1 flexible
	Alt    bool   // in a union
	Nested bool   // has Members of its own
}

// Read returns the structures of those names, tags and typedefs, that the objects
// have debug information of.
func Read(names map[string]bool, objects ...string) (map[string]*Struct, error) {
	found := map[string]*Struct{}
	for _, path := range objects {
		if err := read(names, path, found); err != nil {
			return nil, fmt.Errorf("read debug information of %s: %w", path, err)
		}
	}
	return found, nil
}

func read(names map[string]bool, path string, found map[string]*Struct) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := f.DWARF()
	if err != nil {
		return err
	}
	empty := true
	for r := data.Reader(); ; {
		e, err := r.Next()
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		empty = false
		name, _ := e.Val(dwarf.AttrName).(string)
		if !names[name] || found[name] != nil || e.Tag != dwarf.TagStructType && e.Tag != dwarf.TagTypedef {
			continue
		}
		t, err := data.Type(e.Offset)
		if err != nil {
			return err
		}
		if td, ok := t.(*dwarf.TypedefType); ok {
			t = td.Type
		}
		st, ok := t.(*dwarf.StructType)
		if !ok || st.Incomplete {
			continue
		}
		s := &Struct{Name: name, Size: int(st.ByteSize)}
		s.flatten(st, "", 0, false)
		found[name] = s
	}
	if empty {
		return fmt.Errorf("it has none; want an object compiled with -g")
	}
	return nil
}

func (s *Struct) flatten(st *dwarf.StructType, prefix string, at int, alt bool) {
	alt = alt || st.Kind == "union"
	for _, f := range st.Field {
		m := Member{Offset: at + int(f.ByteOffset), Path: prefix + f.Name, Alt: alt}
		t := f.Type
		if a, ok := strip(t).(*dwarf.ArrayType); ok {
			t, m.Array = a.Type, int(a.Count)
			if a.Count <= 0 {
				m.Array = -1
			}
		}
		m.Type = typeName(t)
		nested, isStruct := base(t).(*dwarf.StructType)
		m.Nested = isStruct
		if f.Name != "" {
			s.Members = append(s.Members, m)
		}
		if isStruct && m.Array == 0 {
			inner := prefix
			if f.Name != "" {
				inner += f.Name + "."
			}
			s.flatten(nested, inner, m.Offset, alt)
		}
	}
}

// strip removes const and volatile.
func strip(t dwarf.Type) dwarf.Type {
	for {
		q, ok := t.(*dwarf.QualType)
		if !ok {
			return t
		}
		t = q.Type
	}
}

// base removes typedefs too.
func base(t dwarf.Type) dwarf.Type {
	for {
		t = strip(t)
		td, ok := t.(*dwarf.TypedefType)
		if !ok {
			return t
		}
		t = td.Type
	}
}

func typeName(t dwarf.Type) string {
	switch t := strip(t).(type) {
	case *dwarf.TypedefType:
		return t.Name
	case *dwarf.StructType:
		return strings.TrimSpace(t.Kind + " " + t.StructName)
	default:
		return t.String()
	}
}
