// Package gen: protocol tables -> C headers, Go codec, reference, decoder.
//
// The tables (tables/*.tbl) hold what [MS-SMB2], [MS-FSCC] and [MS-ERREF] say of the
// wire. Everything else here is printed from them or held against them:
//
//	table    the language of the tables: reader, checker, formatter
//	emit     the printers: Go, C, Markdown
//	smb2     the Go types, printed
//	interp   a second reader of messages, by the tables themselves
//	cdecl    declarations read from C headers
//	layout   structures read from debug information
//	kernel   the tables against a kernel's headers and objects
//	capture  SMB messages read from captures
//	crypt    signatures and encryption
//	vectors  captures of programs that are not ours
package gen

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"kbuild-run/gen/emit"
	"kbuild-run/gen/table"
)

//go:embed tables/*.tbl
var tables embed.FS

// Tables returns the checked tables that are built into the program.
func Tables() (*table.Set, error) {
	sub, err := fs.Sub(tables, "tables")
	if err != nil {
		return nil, err
	}
	return table.Load(sub)
}

// Outputs returns what is generated from s, by path below gen.
func Outputs(s *table.Set) (map[string][]byte, error) {
	out := map[string][]byte{}
	files, err := emit.Go(s)
	if err != nil {
		return nil, err
	}
	for name, text := range files {
		out["smb2/"+name] = text
	}
	out["REFERENCE.md"] = emit.Markdown(s)
	for _, f := range s.Files {
		out["tables/"+f.Name] = []byte(f.Format())
	}
	return out, nil
}

// change is a generated file that is not what it should be; a nil side is absent.
type change struct {
	path     string
	old, new []byte
}

// stale compares the folder gen of a checkout with what the tables give. A generated
// file that nothing generates any more is a change too.
func stale(dir string, want map[string][]byte) ([]change, error) {
	var all []change
	have, err := filepath.Glob(filepath.Join(dir, "smb2", "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range have {
		rel, _ := filepath.Rel(dir, path)
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if _, ok := want[rel]; !ok && bytes.HasPrefix(text, []byte(emit.Mark)) {
			all = append(all, change{path: rel, old: text})
		}
	}
	for rel, text := range want {
		old, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		if err != nil || !bytes.Equal(old, text) {
			all = append(all, change{rel, old, text})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].path < all[j].path })
	return all, nil
}

// write makes the changes in dir.
func write(dir string, all []change) error {
	for _, c := range all {
		path := filepath.Join(dir, c.path)
		if c.new == nil {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove orphan: %w", err)
			}
			continue
		}
		if err := os.WriteFile(path, c.new, 0o644); err != nil {
			return fmt.Errorf("write generated file: %w", err)
		}
	}
	return nil
}
