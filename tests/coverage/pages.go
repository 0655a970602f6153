package coverage

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed pages.html
var pagesText string

var pages = template.Must(template.New("").Funcs(template.FuncMap{"page": page}).Parse(pagesText))

// page is the name of the page of a file.
func page(name string) string { return strings.ReplaceAll(name, "/", "-") + ".html" }

// row is a file on the first page.
type row struct {
	Name   string
	All    Figure
	Own    Figure
	Missed []missed
}

// missed are own lines, one behind the other, that did not run.
type missed struct {
	First, Last int
	Function    string
}

// line is a line of a file's page.
type line struct {
	No    int
	Count string // "": it has no code
	Class string
	Text  string
}

// Write writes to a folder coverage.info, for lcov and editors, and for a person
// index.html and a page for each file, whose text source gives.
func (c Counts) Write(dir, title string, source func(name string) (string, error)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Create(filepath.Join(dir, "coverage.info"))
	if err != nil {
		return err
	}
	if err := errors.Join(c.Lcov(info), info.Close()); err != nil {
		return fmt.Errorf("write coverage.info: %w", err)
	}
	var rows []row
	for _, name := range c.Names() {
		f := c[name]
		text, err := source(name)
		if err != nil {
			return err
		}
		rows = append(rows, row{Name: name, All: f.All(), Own: f.Series(), Missed: f.missed()})
		if err := write(filepath.Join(dir, page(name)), "file", map[string]any{"Name": name, "Row": rows[len(rows)-1], "Lines": f.lines(text)}); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "index.html"), "index", map[string]any{
		"Title": title, "Rows": rows, "All": c.Sum((*File).All), "Own": c.Sum((*File).Series),
	})
}

func write(file, name string, data any) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pages.ExecuteTemplate(f, name, data), f.Close())
}

// missed returns the own lines that did not run. Lines without code between two of
// them do not part them.
func (f *File) missed() (all []missed) {
	var lines []int
	for l := range f.Lines {
		lines = append(lines, l)
	}
	slices.Sort(lines)
	open := false
	for _, l := range lines {
		if !f.Own[l] || f.Lines[l] > 0 {
			open = false
			continue
		}
		function := f.function(l)
		if n := len(all) - 1; open && all[n].Function == function {
			all[n].Last = l
			continue
		}
		all, open = append(all, missed{l, l, function}), true
	}
	return all
}

// function is the name of the one that a line is in.
func (f *File) function(l int) (name string) {
	for _, fn := range f.Functions {
		if fn.Start <= l && l <= fn.End {
			name = fn.Name
		}
	}
	return name
}

func (f *File) lines(text string) (all []line) {
	no := 0
	for t := range strings.Lines(text) {
		no++
		one := line{No: no, Text: strings.TrimRight(t, "\n")}
		if n, ok := f.Lines[no]; ok {
			one.Count, one.Class = fmt.Sprint(n), "ran"
			if n == 0 {
				one.Class = "not"
			}
		}
		if f.Own[no] {
			one.Class += " own"
		}
		all = append(all, one)
	}
	return all
}
