package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The road: a step takes the value of the one before it and knows nothing of
// the steps after it, so that each can be read, tested and replaced alone. A
// package therefore imports only from its own folder, from folders before it,
// and from the leaves below the road. Leaves import other leaves only. What is
// outside the road, main, imports anything.
var road = []string{"gen", "patches", "kconfigs", "rootfs", "vmrunner", "tests"}

// leaves are what any step may import, with their reason.
var leaves = map[string]string{
	"gen/smb2":      "the wire codec",
	"gen/crypt":     "keys, signatures and encryption of messages",
	"gen/table":     "the reader of protocol tables",
	"patches/job":   "steps, child processes, exit codes",
	"patches/cache": "what earlier runs made",

	"patches/job/script": "the scripts of the commands, as tests",
}

// arrows are what the package comments of the road begin with after the
// package's name: what goes in, what comes out.
var arrows = map[string]string{
	"gen":      "protocol tables -> ",
	"patches":  "base + series -> tree",
	"kconfigs": "tree + fragments -> kernel",
	"rootfs":   "programs + files -> image",
	"vmrunner": "kernel + image -> VM",
	"tests":    "VM + clients -> report",
}

// pkg is a package as go list shows it.
type pkg struct {
	Dir, ImportPath, Name, Doc string
	GoFiles                    []string
	Imports                    []string
	TestImports, XTestImports  []string
	Module                     struct{ Path string }
}

func packages(t *testing.T) []pkg {
	t.Helper()
	c := exec.Command("go", "list", "-buildvcs=false", "-json", "./...")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// place returns the path of p below the module, and where on the road it is:
// -1 is a leaf, -2 outside.
func place(path string) (rel string, at int) {
	rel = strings.TrimPrefix(path, "kbuild-run/")
	if _, ok := leaves[rel]; ok {
		return rel, -1
	}
	top, _, _ := strings.Cut(rel, "/")
	if i := slices.Index(road, top); i >= 0 {
		return rel, i
	}
	return rel, -2
}

// edge says what is wrong with an import, or "".
func edge(from, to string) string {
	if !strings.HasPrefix(to, "kbuild-run/") || from == "kbuild-run" {
		return ""
	}
	fromRel, fromAt := place(from)
	toRel, toAt := place(to)
	switch {
	case toAt == -1:
		return ""
	case fromAt == -1:
		return fmt.Sprintf("%s imports %s: a leaf imports leaves only", fromRel, toRel)
	case fromAt == -2 || toAt == -2:
		return fmt.Sprintf("%s imports %s: not in a folder of the road", fromRel, toRel)
	case toAt > fromAt:
		return fmt.Sprintf("%s imports %s: %s comes before %s on the road", fromRel, toRel, road[fromAt], road[toAt])
	}
	return ""
}

func TestRoad(t *testing.T) {
	for _, p := range packages(t) {
		for _, to := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if wrong := edge(p.ImportPath, to); wrong != "" {
				t.Error(wrong)
			}
		}
	}
}

func TestEdge(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"kbuild-run/tests", "kbuild-run/vmrunner", ""},
		{"kbuild-run/vmrunner", "kbuild-run/tests/client", "vmrunner imports tests/client: vmrunner comes before tests on the road"},
		{"kbuild-run/vmrunner/host", "kbuild-run/vmrunner", ""},
		{"kbuild-run/gen", "kbuild-run/patches/job", ""},
		{"kbuild-run/gen", "kbuild-run/patches", "gen imports patches: gen comes before patches on the road"},
		{"kbuild-run/patches/job", "kbuild-run/gen", "patches/job imports gen: a leaf imports leaves only"},
		{"kbuild-run/patches/cache", "kbuild-run/patches/job", ""},
		{"kbuild-run/tests", "kbuild-run/util", "tests imports util: not in a folder of the road"},
		{"kbuild-run", "kbuild-run/tests", ""},
		{"kbuild-run/gen", "os", ""},
	} {
		if got := edge(test.from, test.to); got != test.want {
			t.Errorf("%s -> %s: got %q, want %q", test.from, test.to, got, test.want)
		}
	}
}

// A reader who opens a folder learns from one comment what it is for: each
// package has a comment, in one file, and a step's begins with its arrow.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		rel, _ := place(p.ImportPath)
		var in []string
		text := ""
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Doc != nil {
				in = append(in, name)
				text = f.Doc.Text()
			}
		}
		if len(p.GoFiles) > 0 && len(in) != 1 {
			t.Errorf("%s: package comment in %d files %v, want 1", rel, len(in), in)
			continue
		}
		if arrow := arrows[rel]; arrow != "" {
			first, _, _ := strings.Cut(text, "\n\n")
			if !strings.Contains(strings.Join(strings.Fields(first), " "), arrow) {
				t.Errorf("%s: package comment %q, want its arrow %q in the first paragraph", rel, first, arrow)
			}
		}
	}
}

// files returns what git would commit, without the patches: those are mails in
// the kernel's own style.
func files(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("git ls-files: %v: this is no git work tree", err)
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if strings.HasPrefix(name, "patches/") && strings.HasSuffix(name, ".patch") {
			continue
		}
		all = append(all, name)
	}
	return all
}

// marks are what no committed file holds, with why. They are written so that
// this file does not hold them.
var marks = []struct {
	re  *regexp.Regexp
	why string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`), "unfinished: do it or file it"},
	{regexp.MustCompile(`(^|[\s"'=(:` + "`" + `])/(ro` + `ot|ho` + `me|wo` + `rk|Us` + `ers)/\w`), "a path of one machine"},
}

func TestMarks(t *testing.T) {
	for _, name := range files(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if bytes.IndexByte(text, 0) >= 0 || strings.Contains(name, "/testdata/") || name == "go.sum" {
			continue
		}
		n := 0
		for line := range bytes.Lines(text) {
			n++
			for _, m := range marks {
				if got := m.re.Find(line); got != nil {
					t.Errorf("%s:%d: %q: %s", name, n, bytes.TrimSpace(got), m.why)
				}
			}
		}
	}
}

func TestMarkRules(t *testing.T) {
	for _, test := range []struct {
		line string
		want int // index in marks, -1: allowed
	}{
		{"// TO" + "DO: later", 0},
		{"method todo", -1},
		{"dir := \"/ho" + "me/me/linux\"", 1},
		{"cd /wo" + "rk/tree", 1},
		{"$HOME/linux, ./home/x, a/root/b, https://example.org/home/x", -1},
	} {
		got := -1
		for i, m := range marks {
			if m.re.MatchString(test.line) {
				got = i
			}
		}
		if got != test.want {
			t.Errorf("%q: got %d, want %d", test.line, got, test.want)
		}
	}
}

// Go code is Apache-2.0 by LICENSE alone. What can leave the repository by
// itself, or is another language's, says its licence in its first three lines.
func TestLicences(t *testing.T) {
	for _, name := range files(t) {
		want := ""
		switch ext := filepath.Ext(name); {
		case strings.Contains(name, "/testdata/"):
			continue
		case ext == ".c" || ext == ".h":
			want = "SPDX-License-Identifier: GPL-2.0-or-later"
		case ext == ".config" || ext == ".toml" || ext == ".sh" || name == "Makefile" || name == ".ci/run":
			want = "SPDX-License-Identifier: Apache-2.0"
		default:
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		head := strings.Join(strings.SplitN(string(text), "\n", 4)[:min(3, strings.Count(string(text), "\n"))], "\n")
		if !strings.Contains(head, want) {
			t.Errorf("%s: no %q in its first three lines", name, want)
		}
	}
}

func TestFormat(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "out" || path != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if got, err := format.Source(text); err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, text) {
			t.Errorf("%s: not gofmt's form; run: gofmt -w %s", path, path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestVet(t *testing.T) {
	if out, err := exec.Command("go", "vet", "-buildvcs=false", "./...").CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}
