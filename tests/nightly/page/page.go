// Package page takes the status of a night and returns it for readers: a page that
// needs no network, and the forms that other programs read.
//
//	status -> index.html, junit.xml, results.ktap, kcidb.json
package page

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/report"
)

// Publish writes the page and the forms for other programs into the folder of the
// nights. They show the last one.
func Publish(ctx context.Context, s *history.Store, known []history.Known, origin, out string) error {
	last, err := history.Compare(ctx, s, known, "")
	if err != nil {
		return err
	}
	st := status{last}
	return errors.Join(
		writeFile(filepath.Join(out, "index.html"), func(w io.Writer) error { return st.page(w, out) }),
		writeFile(filepath.Join(out, "junit.xml"), st.JUnit),
		writeFile(filepath.Join(out, "results.ktap"), st.KTAP),
		writeFile(filepath.Join(out, "kcidb.json"), func(w io.Writer) error { return st.KCIDB(w, cmp.Or(origin, "kbuild_run")) }),
	)
}

// status is what is shown.
type status struct{ *history.Status }

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what page.html shows.
type page struct {
	Title, Began, Before string
	Interrupted          bool
	Count                struct{ Passed, Failed, Flaky, Skipped int }
	Nights               string
	Changes              []string
	Groups               []pageGroup
	Bases                []string
	Matrix               []matrixRow
	Cells                []*pageCell
}

type pageGroup struct {
	Title string
	Rows  []pageRow
}

// matrixRow is a line of the matrix, with a field for each base; nil: not run.
type matrixRow struct {
	Name   string
	Fields []*pageField
}

type pageField struct {
	ID, Words string
	Worst     history.Outcome
}

type pageCell struct {
	ID, Name, Made string
	Trends         []trend
	Bad, Good      []pageRow
	base, row      string
	field          pageField
}

// pageRow is a test.
type pageRow struct {
	ID       string
	Key      history.Key
	Test     string
	Outcome  history.Outcome
	Remark   string
	Strip    []segment
	Said     string // the strip, for a pointer that rests on it
	Time     string
	Detail   string // of the last failure
	Night    string
	Evidence []link
}

// segment is a piece of a strip.
type segment struct {
	Class history.Outcome
	Marks string
}

type link struct{ Name, Link string }

// trend is a line over the nights.
type trend struct{ Name, Words, Points string }

// page writes the status as a page that needs no network. Its links lead to the
// results below out, beside it.
func (st status) page(w io.Writer, out string) error {
	n, count := st.Night(), st.Count(len(st.Nights)-1)
	p := page{Title: "Night " + n.Name, Began: n.Started.Format("Monday, 2006-01-02 15:04 MST"), Interrupted: !n.Finished, Nights: report.Plural(len(st.Nights), "night", "nights"), Changes: st.Changes()}
	p.Count.Passed, p.Count.Failed, p.Count.Flaky, p.Count.Skipped = count[history.Passed], count[history.Failed], count[history.Flaky], count[history.Skipped]
	if i := len(st.Nights) - 2; i >= 0 {
		p.Before = st.Nights[i].Name
	}
	rows := map[*history.Test]pageRow{}
	cells := map[string]*pageCell{}
	for i, t := range st.Tests {
		row := st.row(t, out)
		row.ID = fmt.Sprintf("t%d", i)
		rows[t] = row
		name := t.Key.Cell()
		c := cells[name]
		if c == nil {
			c = &pageCell{ID: fmt.Sprintf("c%d", len(p.Cells)), Name: name, base: t.Base}
			k := t.Key
			k.Base = ""
			c.row = k.Cell()
			c.Made, c.Trends = st.made(t.Key), st.trends(t.Key)
			cells[name] = c
			p.Cells = append(p.Cells, c)
			if !slices.Contains(p.Bases, t.Base) {
				p.Bases = append(p.Bases, t.Base)
			}
		}
		if o := t.Outcome(); o == history.Passed && t.Known == nil || o == history.Skipped || o == history.Absent {
			c.Good = append(c.Good, row)
		} else {
			c.Bad = append(c.Bad, row)
		}
	}
	for _, g := range st.Groups() {
		group := pageGroup{Title: g.Title}
		for _, t := range g.Tests {
			group.Rows = append(group.Rows, rows[t])
		}
		p.Groups = append(p.Groups, group)
	}
	slices.SortFunc(p.Bases, history.Newest)
	p.matrix()
	return pageTemplate.Execute(w, p)
}

// matrix makes the table of the cells.
func (p *page) matrix() {
	at := map[string]int{}
	for _, c := range p.Cells {
		i, ok := at[c.row]
		if !ok {
			i = len(p.Matrix)
			at[c.row] = i
			p.Matrix = append(p.Matrix, matrixRow{Name: c.row, Fields: make([]*pageField, len(p.Bases))})
		}
		count := map[history.Outcome]int{}
		for _, rows := range [][]pageRow{c.Bad, c.Good} {
			for _, r := range rows {
				count[r.Outcome]++
			}
		}
		var words []string
		worst := history.Absent
		for _, o := range []history.Outcome{history.Failed, history.Flaky, history.Passed, history.Skipped} {
			if count[o] > 0 {
				words = append(words, fmt.Sprintf("%d %s", count[o], o))
				worst = cmp.Or(worst, o)
			}
		}
		if words != nil {
			p.Matrix[i].Fields[slices.Index(p.Bases, c.base)] = &pageField{ID: c.ID, Words: strings.Join(words, ", "), Worst: worst}
		}
	}
}

// runs calls f for the first try of the cell of k in each night that has one.
func (st status) runs(k history.Key, f func(night int, r *history.Run)) {
	for i, n := range st.Nights {
		for _, r := range n.Runs {
			if r.Attempt == 1 && r.Key("").Cell() == k.Cell() {
				f(i, r)
			}
		}
	}
}

// made says what the cell was made from the last time.
func (st status) made(k history.Key) (words string) {
	st.runs(k, func(_ int, r *history.Run) {
		var parts []string
		for _, w := range []string{"night " + r.Night, r.Version, r.Accelerator, r.Program, "took " + job.Duration(r.Time)} {
			if w != "" {
				parts = append(parts, w)
			}
		}
		words = strings.Join(parts, ", ")
	})
	return words
}

// trends are the lines of a cell.
func (st status) trends(k history.Key) (all []trend) {
	type curve struct {
		nights []int
		values []float64
		words  func(float64) string
	}
	curves := map[string]*curve{}
	var names []string // in the order they came
	add := func(name string, night int, value float64, words func(float64) string) {
		c := curves[name]
		if c == nil {
			c = &curve{words: words}
			curves[name] = c
			names = append(names, name)
		}
		c.nights, c.values = append(c.nights, night), append(c.values, value)
	}
	number := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	short := func(v float64) string { return job.Duration(time.Duration(v)) }
	st.runs(k, func(i int, r *history.Run) {
		n := 0
		for _, t := range r.Results {
			if t.Status == report.Passed {
				n++
			}
		}
		add("passed", i, float64(n), number)
		add("time", i, float64(r.Time), short)
		if r.FirstSMB > 0 {
			add("power-on to first SMB", i, float64(r.FirstSMB), short)
		}
		for _, m := range r.Measures {
			add(m.Name, i, m.Value, func(v float64) string { return strings.TrimSpace(fmt.Sprintf("%.3g %s", v, m.Unit)) })
		}
	})
	for _, name := range names {
		all = append(all, line(name, curves[name].nights, curves[name].values, curves[name].words))
	}
	return all
}

// line draws values over nights into a box of 100 by 30. One is no line.
func line(name string, nights []int, values []float64, words func(float64) string) trend {
	low, high := slices.Min(values), slices.Max(values)
	first, last := nights[0], nights[len(nights)-1]
	var points []string
	for i, v := range values {
		x, y := 100.0, 15.0
		if last > first {
			x = 100 * float64(nights[i]-first) / float64(last-first)
		}
		if high > low {
			y = 28 - 26*(v-low)/(high-low)
		}
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
	}
	if len(points) == 1 {
		points = nil
	}
	t := trend{Name: name, Words: words(values[len(values)-1]), Points: strings.Join(points, " ")}
	if high > low {
		t.Words += fmt.Sprintf(" (%s to %s)", words(low), words(high))
	}
	return t
}

// marks are the outcomes in a strip.
var marks = map[history.Outcome]string{history.Passed: "·", history.Failed: "✗", history.Flaky: "~", history.Skipped: "-", history.Absent: " "}

// row is a test on the page.
func (st status) row(t *history.Test, out string) pageRow {
	row := pageRow{Key: t.Key, Test: t.Test, Outcome: t.Outcome(), Remark: st.Remark(t)}
	for _, o := range t.Outcomes {
		if n := len(row.Strip) - 1; n >= 0 && row.Strip[n].Class == o {
			row.Strip[n].Marks += marks[o]
		} else {
			row.Strip = append(row.Strip, segment{o, marks[o]})
		}
	}
	row.Said = fmt.Sprintf("failed %d of %d times", t.Failures, t.Tries)
	for _, r := range st.Night().Runs {
		for _, res := range r.Results {
			if r.Attempt == 1 && res.Time > 0 && r.Key(res.Test) == t.Key {
				row.Time = fmt.Sprintf("%.2fs", res.Time.Seconds())
			}
		}
	}
	if t.Last == nil {
		return row
	}
	row.Night, row.Detail = t.LastRun.Night, cmp.Or(t.Last.Detail, "no words")
	if t.LastRun.Folder != "" {
		row.Evidence = evidence(out, t.LastRun.Folder, t)
	}
	return row
}

// evidence links the files about the last failure of a test, and those about its
// whole run.
func evidence(out, run string, t *history.Test) (links []link) {
	seen := map[string]bool{}
	add := func(pattern string) {
		found, _ := filepath.Glob(filepath.Join(out, pattern))
		for _, f := range found {
			rel, err := filepath.Rel(out, f)
			if fi, e := os.Stat(f); err != nil || e != nil || !fi.Mode().IsRegular() || seen[f] {
				continue
			}
			seen[f] = true
			name := filepath.Base(f)
			if t.Test == history.CellTest && name == "console.log" { // of each guest
				name = filepath.Base(filepath.Dir(f)) + "/" + name
			}
			links = append(links, link{name, (&url.URL{Path: "./" + filepath.ToSlash(rel)}).String()})
		}
	}
	if folder := t.Last.Folder; folder != "" {
		for _, name := range []string{"transcript.txt", "messages.pcap", "*"} {
			add(filepath.Join(run, folder, name))
		}
	}
	if column, _, ok := strings.Cut(t.Test, ": "); ok {
		add(filepath.Join(run, column, "console.log"))
	} else {
		add(filepath.Join(run, "*", "console.log"))
	}
	add(filepath.Join(run, "report.md"))
	add(filepath.Join(run, "log.txt"))
	add(filepath.Join(filepath.Dir(run), "log.txt")) // where there is a report, it lies below
	return links
}

// writeFile writes a file that a reader finds whole, as it was or as it is.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
