package table

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"
)

// TestWrong reads tables with mistakes: each is reported in its line, once, and
// nothing else is.
func TestWrong(t *testing.T) {
	a, err := txtar.ParseFile("testdata/wrong.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		t.Run(strings.TrimSuffix(f.Name, ".tbl"), func(t *testing.T) {
			want := map[string]bool{}
			var clean []string
			for i, line := range strings.Split(string(f.Data), "\n") {
				text, msg, ok := strings.Cut(line, " ## ")
				if ok {
					want[(&Error{Pos{f.Name, i + 1}, msg}).Error()] = true
				}
				clean = append(clean, text)
			}
			_, err := Load(fstest.MapFS{f.Name: {Data: []byte(strings.Join(clean, "\n"))}})
			errs, _ := err.(Errors)
			if err == nil || len(errs) == 0 {
				t.Fatalf("got %v, want mistakes", err)
			}
			for _, e := range errs {
				if !want[e.Error()] {
					t.Errorf("got  %v", e)
				}
				delete(want, e.Error())
			}
			for w := range want {
				t.Errorf("want %s", w)
			}
		})
	}
}

// TestFormat formats every table of the project to itself, and a crooked one to a
// straight one.
func TestFormat(t *testing.T) {
	names, err := filepath.Glob("../tables/*.tbl")
	if err != nil || len(names) == 0 {
		t.Fatalf("tables %v: %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, _ := Parse(name, string(text))
		if got := f.Format(); got != string(text) {
			t.Errorf("%s is not in canonical form; run: go run . gen", name)
		}
	}
	f, errs := Parse("crooked.tbl", "spec  MS-SMB2\t84.0\n#words\n\nstruct a b # MS-SMB2 2.2\n  0 le16 StructureSize  =  4\n\t2 u8[] B #rest\n 2\n data X at StructureSize\n\n\n")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := "spec MS-SMB2 84.0\n# words\n\n" +
		"struct a b                                      # MS-SMB2 2.2\n" +
		"    0  le16  StructureSize  = 4\n" +
		"    2  u8[]  B                                  # rest\n" +
		"    2\n" +
		"    data X at StructureSize\n"
	if got := f.Format(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	again, _ := Parse("crooked.tbl", want)
	if got := again.Format(); got != want {
		t.Errorf("formatted twice\n%s\nwant\n%s", got, want)
	}
}

// FuzzParse feeds the reader anything: it must say what is wrong, not stop.
func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("../tables/*.tbl")
	for _, name := range append(names, "testdata/wrong.txt") {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Load(fstest.MapFS{"x.tbl": {Data: []byte(text)}})
		if err != nil {
			return
		}
		formatted := s.Files[0].Format()
		again, err := Load(fstest.MapFS{"x.tbl": {Data: []byte(formatted)}})
		if err != nil {
			t.Fatalf("formatted table is wrong: %v", err)
		}
		if got := again.Files[0].Format(); got != formatted {
			t.Fatalf("formatted twice\n%s\nwant\n%s", got, formatted)
		}
	})
}
