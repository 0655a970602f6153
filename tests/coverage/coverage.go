// Package coverage takes what gcov counted in a guest and returns which lines of the
// server ran, and which of those that a series adds.
//
//	counts + gcov's notes + source -> lcov file, pages for a person
//
// gcov comes with the compiler, so a host that built the kernel has the one that fits.
// The pages are our own: genhtml of lcov 1.16 cannot tell whose a line is.
package coverage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kbuild-run/patches/job"
)

// Counts are which lines of each file ran, by its path in the tree.
type Counts map[string]*File

// File is a file of the source.
type File struct {
	Lines     map[int]int64 // how often each line with code ran
	Functions []Function    // sorted by line
	Own       map[int]bool  // lines that the series adds
}

// Function is one that has code.
type Function struct {
	Name       string
	Start, End int
	Count      int64
}

// Figure is how many lines with code there are, and how many of them ran.
type Figure struct {
	Lines int `json:"lines"`
	Ran   int `json:"ran"`
}

// String returns "85.2 % of 1234 lines".
func (f Figure) String() string {
	if f.Lines == 0 {
		return "no lines"
	}
	return fmt.Sprintf("%.1f %% of %d lines", 100*float64(f.Ran)/float64(f.Lines), f.Lines)
}

// output is what gcov --json-format prints (gcov(1)), as far as it is wanted.
type output struct {
	Files []struct {
		File      string
		Functions []struct {
			Name           string
			StartLine      int   `json:"start_line"`
			EndLine        int   `json:"end_line"`
			ExecutionCount int64 `json:"execution_count"`
		}
		Lines []struct {
			LineNumber int `json:"line_number"`
			Count      int64
		}
	}
}

// Read has gcov read the counts in the folder data, *.gcda, by the notes of the same
// names in the folder notes. Files outside the folder of the source are left out, and
// tests, of which every line runs. Counts that do not belong to the notes are an error.
func Read(ctx context.Context, data, notes, folder string) (Counts, error) {
	counts := Counts{}
	tmp, err := os.MkdirTemp("", "kbuild-run-coverage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	err = filepath.WalkDir(data, func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".gcda" {
			return err
		}
		rel, err := filepath.Rel(data, name)
		if err != nil {
			return err
		}
		if err := copyFile(filepath.Join(tmp, "x.gcda"), name); err != nil {
			return err
		}
		note := strings.TrimSuffix(rel, ".gcda") + ".gcno"
		if err := copyFile(filepath.Join(tmp, "x.gcno"), filepath.Join(notes, note)); err != nil {
			return fmt.Errorf("read coverage of %s: %w", rel, err)
		}
		var said []string
		c := job.Command("gcov", "--json-format", "--stdout", "x.gcda").In(tmp)
		c.Line = func(l string) { said = append(said, l) }
		text, err := c.Probe(ctx)
		if err != nil {
			return err
		}
		if len(said) > 0 { // gcov then takes everything for never run, and ends well
			return fmt.Errorf("read coverage of %s: gcov says: %s", rel, strings.Join(said, "; "))
		}
		var o output
		if err := json.Unmarshal(text, &o); err != nil {
			return fmt.Errorf("read coverage of %s: %w", rel, err)
		}
		counts.add(&o, folder)
		return nil
	})
	if err == nil && len(counts) == 0 {
		err = fmt.Errorf("read coverage: the guest has no counts of %s", folder)
	}
	return counts, err
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// add adds the counts of one object.
func (c Counts) add(o *output, folder string) {
	for _, f := range o.Files {
		_, name, ok := strings.Cut("/"+f.File, "/"+folder+"/")
		if !ok || strings.HasSuffix(name, "_test.c") {
			continue
		}
		name = folder + "/" + name
		file := c[name]
		if file == nil {
			file = &File{Lines: map[int]int64{}, Own: map[int]bool{}}
			c[name] = file
		}
		for _, l := range f.Lines {
			file.Lines[l.LineNumber] += l.Count
		}
		for _, fn := range f.Functions {
			i := slices.IndexFunc(file.Functions, func(g Function) bool { return g.Name == fn.Name && g.Start == fn.StartLine })
			if i < 0 {
				i = len(file.Functions)
				file.Functions = append(file.Functions, Function{Name: fn.Name, Start: fn.StartLine, End: fn.EndLine})
			}
			file.Functions[i].Count += fn.ExecutionCount
		}
		slices.SortFunc(file.Functions, func(a, b Function) int { return a.Start - b.Start })
	}
}

// Mark notes which lines a series adds.
func (c Counts) Mark(own map[string][]int) {
	for name, lines := range own {
		if f := c[name]; f != nil {
			for _, l := range lines {
				f.Own[l] = true
			}
		}
	}
}

// All is the figure of the file.
func (f *File) All() (n Figure) { return f.figure(func(int) bool { return true }) }

// Series is the figure of the series' own lines in the file.
func (f *File) Series() Figure { return f.figure(func(l int) bool { return f.Own[l] }) }

func (f *File) figure(counts func(int) bool) (n Figure) {
	for l, ran := range f.Lines {
		if !counts(l) {
			continue
		}
		n.Lines++
		if ran > 0 {
			n.Ran++
		}
	}
	return n
}

// Sum adds up the figures of all files.
func (c Counts) Sum(figure func(*File) Figure) (n Figure) {
	for _, f := range c {
		one := figure(f)
		n.Lines += one.Lines
		n.Ran += one.Ran
	}
	return n
}

// Names returns the files, sorted.
func (c Counts) Names() []string { return slices.Sorted(maps.Keys(c)) }

// Lcov writes the counts as geninfo(1) does.
func (c Counts) Lcov(w io.Writer) error {
	var b strings.Builder
	for _, name := range c.Names() {
		f := c[name]
		fmt.Fprintf(&b, "TN:\nSF:%s\n", name)
		hit := 0
		for _, fn := range f.Functions {
			fmt.Fprintf(&b, "FN:%d,%s\n", fn.Start, fn.Name)
		}
		for _, fn := range f.Functions {
			fmt.Fprintf(&b, "FNDA:%d,%s\n", fn.Count, fn.Name)
			if fn.Count > 0 {
				hit++
			}
		}
		fmt.Fprintf(&b, "FNF:%d\nFNH:%d\n", len(f.Functions), hit)
		for _, l := range slices.Sorted(maps.Keys(f.Lines)) {
			fmt.Fprintf(&b, "DA:%d,%d\n", l, f.Lines[l])
		}
		all := f.All()
		fmt.Fprintf(&b, "LF:%d\nLH:%d\nend_of_record\n", all.Lines, all.Ran)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
