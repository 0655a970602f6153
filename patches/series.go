package patches

import (
	"bufio"
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"kbuild-run/patches/job"
)

// A series lies in NAME/BASE/. The patterns leave out the packages beside it.
//
//go:embed */v*
var embedded embed.FS

// Series is a patch series for one base.
type Series struct {
	Name  string // "notify"
	Base  string // "v6.12"
	Mails []Mail // in the order of the file `series`
	Dir   string // its folder on disk; "" when it is the one built in
}

// Mail is one patch, as git format-patch writes it.
type Mail struct {
	Name string // "0001-smb-move.patch"
	Text []byte
}

// checkout returns the folder `patches` of the checkout of this project that the
// working directory lies in, or "".
func checkout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			if bytes.HasPrefix(b, []byte("module kbuild-run\n")) {
				return filepath.Join(dir, "patches")
			}
			return ""
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// store returns the place series are read from: the files on disk inside a
// checkout of this project, those built into the program elsewhere.
func store() (where fs.FS, dir string) {
	if dir = checkout(); dir != "" {
		return os.DirFS(dir), dir
	}
	return embedded, ""
}

// List returns the bases of every series, by the series' name.
func List() (map[string][]string, error) {
	where, _ := store()
	found, err := fs.Glob(where, "*/v*/series")
	if err != nil {
		return nil, err
	}
	list := map[string][]string{}
	for _, f := range found {
		p := strings.Split(f, "/")
		list[p[0]] = append(list[p[0]], p[1])
	}
	return list, nil
}

// FindSeries reads the series of that name for a base.
func FindSeries(name, base string) (*Series, error) {
	list, err := List()
	if err != nil {
		return nil, err
	}
	have, ok := list[name]
	if !ok {
		return nil, job.Usage(fmt.Errorf("find series %s: there is %s", name, strings.Join(sorted(list), ", ")))
	}
	where, dir := store()
	text, err := fs.ReadFile(where, path.Join(name, base, "series"))
	if err != nil {
		return nil, job.Usage(fmt.Errorf("find series %s for %s: there is one for %s", name, base, strings.Join(have, ", ")))
	}
	s := &Series{Name: name, Base: base}
	if dir != "" {
		s.Dir = filepath.Join(dir, name, base)
	}
	for _, l := range mailNames(text) {
		mail, err := fs.ReadFile(where, path.Join(name, base, l))
		if err != nil {
			return nil, fmt.Errorf("read series %s for %s: %w", name, base, err)
		}
		s.Mails = append(s.Mails, Mail{Name: l, Text: mail})
	}
	if len(s.Mails) == 0 {
		return nil, fmt.Errorf("read series %s for %s: the file series names no patch", name, base)
	}
	return s, nil
}

// mailNames returns what a file `series` names.
func mailNames(text []byte) (names []string) {
	for l := range strings.Lines(string(text)) {
		l, _, _ = strings.Cut(l, "#")
		if l = strings.TrimSpace(l); l != "" {
			names = append(names, l)
		}
	}
	return names
}

// Cover returns the text of 0000-cover.md, or nothing.
func (s *Series) Cover() string { return s.Beside("0000-cover.md") }

// Beside returns the text of a file that lies beside the patches, or nothing.
func (s *Series) Beside(file string) string {
	where, _ := store()
	b, err := fs.ReadFile(where, path.Join(s.Name, s.Base, file))
	if err != nil {
		return ""
	}
	return string(b)
}

// Subject returns what the mail does, without "[PATCH]".
func (m Mail) Subject() string {
	var subject string
	for lines := bufio.NewScanner(bytes.NewReader(m.Text)); lines.Scan() && lines.Text() != ""; {
		if subject == "" {
			subject, _ = strings.CutPrefix(lines.Text(), "Subject: ")
			if subject == lines.Text() {
				subject = ""
			}
		} else if rest, ok := strings.CutPrefix(lines.Text(), " "); ok {
			subject += " " + rest
		} else {
			break
		}
	}
	return strings.TrimSpace(tag.ReplaceAllString(subject, ""))
}

var (
	tag      = regexp.MustCompile(`^\[PATCH[^\]]*\]`)
	diffLine = regexp.MustCompile(`(?m)^diff --git a/(\S+) b/(\S+)$`)
	hunkLine = regexp.MustCompile(`^@@ -(\d+)(,\d+)? \+\d+(,\d+)? @@`)
)

// Files returns what the patch touches.
func (m Mail) Files() []string {
	set := map[string]bool{}
	for _, f := range diffLine.FindAllSubmatch(m.Text, -1) {
		set[string(f[1])], set[string(f[2])] = true, true
	}
	return sorted(set)
}

// Files returns what the series touches.
func (s *Series) Files() []string {
	set := map[string]bool{}
	for _, m := range s.Mails {
		for _, f := range m.Files() {
			set[f] = true
		}
	}
	return sorted(set)
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
