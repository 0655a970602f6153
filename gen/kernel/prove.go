package kernel

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/gen/emit"
	"kbuild-run/gen/layout"
	"kbuild-run/gen/table"
	"kbuild-run/patches/job"
)

// Units are the sources that between them include every header with a wire structure.
var Units = []string{"fs/smb/server/smb2pdu", "fs/smb/client/smb2pdu"}

var (
	savedCommand = regexp.MustCompile(`(?m)^(?:saved)?cmd_\S+ := (.*)$`)
	output       = regexp.MustCompile(` -o \S+ (\S+\.c)\b.*$`)
	depend       = regexp.MustCompile(` -Wp,-MM?D,\S+`)
)

// Objects returns objects with debug information of a kernel's build folder. A kernel
// is built without it; but kbuild leaves the command of every object behind, and the
// same command with -g gives it in seconds. Types that the source does not use are
// kept. The objects are below temp, one for each of Units that the kernel has.
func Objects(ctx context.Context, build, temp string) ([]string, error) {
	var objects []string
	for _, u := range Units {
		path := filepath.Join(build, filepath.Dir(u), "."+filepath.Base(u)+".o.cmd")
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // the kernel has no client
		}
		if err != nil {
			return nil, err
		}
		m := savedCommand.FindSubmatch(text)
		if m == nil || !output.Match(m[1]) {
			return nil, fmt.Errorf("read %s: no command that compiles %s.c in it", path, u)
		}
		object := filepath.Join(temp, strings.ReplaceAll(u, "/", "-")+".o")
		// What follows the source is objtool, for the object of the kernel.
		source := output.FindSubmatch(m[1])[1]
		command := string(depend.ReplaceAll(output.ReplaceAll(m[1], nil), nil)) +
			" -g -fno-eliminate-unused-debug-types -o " + job.Quote(object) + " " + string(source)
		if err := job.Command("sh", "-c", command).In(build).Run(ctx); err != nil {
			return nil, fmt.Errorf("compile %s.c with debug information: %w", u, err)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("find objects in %s: no %s.o, want the folder of a kernel built with ksmbd; run: kbuild-run kernel build", build, Units[0])
	}
	return objects, nil
}

// Release returns the version of the kernel that a build folder or a module is of,
// the zero Version if it does not say.
func Release(path string) Version {
	if text, err := os.ReadFile(filepath.Join(path, "include/config/kernel.release")); err == nil {
		return ParseVersion(string(text))
	}
	f, err := elf.Open(path)
	if err != nil {
		return Version{}
	}
	defer f.Close()
	if s := f.Section(".modinfo"); s != nil {
		text, _ := s.Data()
		for _, entry := range strings.Split(string(text), "\x00") {
			if v, ok := strings.CutPrefix(entry, "vermagic="); ok {
				return ParseVersion(v)
			}
		}
	}
	return Version{}
}

// Prove compares the structures of the tables with those of the objects, in names,
// sizes, offsets and types. A compiler leaves out the types that a source does not use;
// unless the objects are complete, as those of Objects for all Units are, one that is
// not there is Unused and not Missing.
func Prove(set *table.Set, v Version, complete bool, objects ...string) ([]*Finding, error) {
	names := map[string]bool{}
	for _, d := range set.Decls() {
		names[d.Name], names[d.Was] = true, true
	}
	delete(names, "")
	have, err := layout.Read(names, objects...)
	if err != nil {
		return nil, err
	}
	var all []*Finding
	for _, d := range set.Decls() {
		if d.Kind != table.Struct || d.Into.Path == "" || !v.Has(d.Since) {
			continue
		}
		s := have[d.Name]
		if s == nil && d.Was != "" {
			s = have[d.Was]
		}
		switch {
		case s == nil && !complete:
			all = append(all, &Finding{Decl: d, Verdict: Unused, Count: len(d.Fields)})
		case s == nil:
			all = append(all, &Finding{Decl: d, Verdict: Missing, Count: len(d.Fields)})
		default:
			all = append(all, prove(set, d, s))
		}
	}
	return all, nil
}

func prove(set *table.Set, d *table.Decl, s *layout.Struct) *Finding {
	f := &Finding{Decl: d, Verdict: Same, Count: len(d.Fields), Where: fmt.Sprintf("%d bytes", s.Size)}
	want := wantRows(set, d)
	var have []string
	for i, m := range s.Members {
		r := row(m.Offset, m.Type, m.Path, m.Array)
		switch {
		case slices.Contains(want, r):
		case m.Alt || m.Nested && m.Array == 0:
			continue // another view, or a name for members that follow
		case i > 0 && covered(s, i, want):
			continue // inside a member that the table has as a whole
		}
		have = append(have, r)
	}
	size := d.Size
	if d.Header != "" {
		size += set.Lookup(d.Header).Size
	}
	// A union with the flexible member can take room for one element of it.
	if last := d.Fields[len(d.Fields)-1]; s.Size != size && !(last.Array == table.Flex && s.Size == size+last.Elem()) {
		have = append(have, fmt.Sprintf("%4d bytes\n", s.Size))
		want = append(want, fmt.Sprintf("%4d bytes\n", size))
	}
	if !slices.Equal(have, want) {
		f.Verdict = Differs
		f.Diff = rowDiff(emit.CType(set, d.Name), have, d.Pos.String(), want)
	}
	return f
}

// covered says that member i lies in a nested structure that is a row of want.
func covered(s *layout.Struct, i int, want []string) bool {
	for _, m := range s.Members[:i] {
		if m.Nested && strings.HasPrefix(s.Members[i].Path, m.Path+".") && slices.Contains(want, row(m.Offset, m.Type, m.Path, m.Array)) {
			return true
		}
	}
	return false
}
