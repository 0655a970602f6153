package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Report is one run.
type Report struct {
	Program string        `json:"program"`
	Started time.Time     `json:"started"`
	Time    time.Duration `json:"time_ns"`
	Command string        `json:"command"`
	Quick   bool          `json:"quick"`

	Base     string `json:"base"`    // v6.12
	Version  string `json:"version"` // 6.12.117
	Series   string `json:"series"`
	Compiler string `json:"compiler"`
	QEMU     string `json:"qemu"`
	Host     string `json:"host"` // its processors, in words

	Groups []*GroupReport `json:"groups"`
}

// GroupReport is what a group found.
type GroupReport struct {
	Name    string    `json:"name"`
	About   string    `json:"about"`
	Axis    string    `json:"axis,omitempty"`
	Base    string    `json:"base,omitempty"`
	Failure string    `json:"failure,omitempty"` // why it could not be measured to its end
	Skips   []Skip    `json:"skips,omitempty"`
	Rows    []Row     `json:"rows"`
	Growth  []Growth  `json:"growth,omitempty"`
	Bounds  []Verdict `json:"bounds,omitempty"`
	Plots   []string  `json:"plots,omitempty"` // files in the report's folder
	Percent bool      `json:"-"`
	limits  []Bound
}

// Skip is a part that was left out.
type Skip struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Growth is the power law of one metric of one variant.
type Growth struct {
	Metric  string `json:"metric"`
	Variant string `json:"variant"`
	Fit
}

// Verdict is how a bound came out.
type Verdict struct {
	Says     string  `json:"says"`
	Limit    float64 `json:"limit"`
	Ratio    bool    `json:"ratio"` // Limit and Worst are ratios, not values
	Measured bool    `json:"measured"`
	Worst    float64 `json:"worst"`
	Where    string  `json:"where,omitempty"`
	Unit     string  `json:"unit,omitempty"`
	Reached  bool    `json:"reached"`
}

// figure prints a limit or a worst value.
func (v Verdict) figure(x float64) string {
	if v.Ratio {
		if x > 0.75 && x < 1.75 {
			return fmt.Sprintf("%+.2f %%", 100*(x-1))
		}
		return fmt.Sprintf("%.3g times", x)
	}
	return quantity(x, v.Unit)
}

func (v Verdict) outcome() string {
	switch {
	case !v.Measured:
		return "not measured"
	case v.Reached && v.Worst > v.Limit:
		return "reached, within the spread"
	case v.Reached:
		return "reached"
	case v.Ratio && v.Worst > 0.75 && v.Worst < 1.75:
		return fmt.Sprintf("missed by %.2f points", 100*(v.Worst-v.Limit))
	case v.Limit == 0:
		return "missed by " + v.figure(v.Worst)
	}
	return fmt.Sprintf("missed by %.0f %%", 100*(v.Worst/v.Limit-1))
}

// finish works out what follows from the rows.
func (g *GroupReport) finish() {
	for _, c := range g.curves() {
		if f, ok := FitPower(c.x, c.y); ok && len(c.x) > 2 {
			g.Growth = append(g.Growth, Growth{c.metric, c.variant, f})
		}
	}
	for _, bound := range g.limits {
		g.Bounds = append(g.Bounds, bound.hold(g.Rows))
	}
}

// curve is a variant of a metric over its sizes.
type curve struct {
	metric, variant, unit string
	x, y                  []float64
}

// curves returns those with more than one size, in the order of the rows.
func (g *GroupReport) curves() (all []curve) {
	var rows []Row
	for _, r := range g.Rows {
		if r.Size > 0 {
			rows = append(rows, r)
		}
	}
	for len(rows) > 0 {
		c := curve{metric: rows[0].Metric, variant: rows[0].Variant, unit: rows[0].Unit}
		mine := func(r Row) bool { return r.Metric == c.metric && r.Variant == c.variant }
		var of []Row
		for _, r := range rows {
			if mine(r) {
				of = append(of, r)
			}
		}
		slices.SortFunc(of, func(a, b Row) int { return int(math.Copysign(1, a.Size-b.Size)) })
		for _, r := range of {
			c.x, c.y = append(c.x, r.Size), append(c.y, Median(r.Values))
		}
		if rows = slices.DeleteFunc(rows, mine); len(c.x) > 1 {
			all = append(all, c)
		}
	}
	return all
}

// variants returns the names of those that measured a metric, in their order.
func (g *GroupReport) variants(metric string) (all []string) {
	for _, r := range g.Rows {
		if (metric == "" || r.Metric == metric) && !slices.Contains(all, r.Variant) {
			all = append(all, r.Variant)
		}
	}
	return all
}

func (g *GroupReport) row(metric, variant string, size float64) *Row {
	for i, r := range g.Rows {
		if r.Metric == metric && r.Variant == variant && r.Size == size {
			return &g.Rows[i]
		}
	}
	return nil
}

// base is what other variants of the metric are compared with.
func (g *GroupReport) base(metric string) string {
	if all := g.variants(metric); g.Base == "" && len(all) > 0 {
		return all[0]
	}
	return g.Base
}

// Markdown writes the report for a person, who reads it as it is as well. last is
// the run before, or nil.
func (r *Report) Markdown(w io.Writer, last *Report) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What %s costs on Linux %s\n\n", r.Series, r.Version)
	fmt.Fprintf(&b, "A cell is the median of the repetitions, with the half of their span where they differ, and\nthe change against the first column with figures. Where a table has ranges, they are over all sizes.\n")
	r.bounds(&b)
	for _, g := range r.Groups {
		g.markdown(&b)
	}
	r.since(&b, last)
	fmt.Fprintf(&b, "\n## Made with\n\n%s; %s; %s; %s; %s\n\n    %s\n", r.Program, r.Compiler, r.QEMU, r.Host, job.Duration(r.Time), r.Command)
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) bounds(b *bytes.Buffer) {
	rows := [][]string{{"to reach", "bound", "worst", "where", ""}}
	for _, g := range r.Groups {
		for _, v := range g.Bounds {
			row := []string{v.Says, v.figure(v.Limit), "", v.Where, v.outcome()}
			if v.Measured {
				row[2] = v.figure(v.Worst)
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		b.WriteString("\n## To reach\n\n")
		table(b, rows)
	}
}

func (g *GroupReport) markdown(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n", g.Name, g.About)
	if g.Failure != "" {
		fmt.Fprintf(b, "\nIt ended early: %s\n", g.Failure)
	}
	for _, s := range g.Skips {
		fmt.Fprintf(b, "\nSkipped: %s: %s\n", s.What, s.Why)
	}
	// Metrics with the same variants share a table.
	var metrics []string
	for _, r := range g.Rows {
		if !slices.Contains(metrics, r.Metric) {
			metrics = append(metrics, r.Metric)
		}
	}
	if g.Percent {
		g.short(b, metrics)
	}
	for len(metrics) > 0 {
		same := g.variants(metrics[0])
		var of, rest []string
		for _, m := range metrics {
			if slices.Equal(g.variants(m), same) {
				of = append(of, m)
			} else {
				rest = append(rest, m)
			}
		}
		g.table(b, of, same)
		metrics = rest
	}
	if len(g.Growth) > 0 {
		rows := [][]string{{"growth with the " + g.Axis, "variant", "exponent", "R²"}}
		for _, f := range g.Growth {
			rows = append(rows, []string{f.Metric, f.Variant, fmt.Sprintf("%.3f", f.Exponent), fmt.Sprintf("%.3f", f.R2)})
		}
		b.WriteByte('\n')
		table(b, rows)
	}
	for _, p := range g.Plots {
		fmt.Fprintf(b, "\n![%s](%s)\n", strings.TrimSuffix(filepath.Base(p), ".svg"), p)
	}
}

// short writes the changes against Base over all sizes, a line a metric.
func (g *GroupReport) short(b *bytes.Buffer, metrics []string) {
	variants := slices.DeleteFunc(g.variants(metrics[0]), func(v string) bool { return v == g.Base })
	rows := [][]string{append([]string{"", g.Base}, variants...)}
	for _, m := range metrics {
		row := []string{m, ""}
		for _, v := range variants {
			low, high := math.Inf(1), math.Inf(-1)
			for _, r := range g.Rows {
				base := g.row(m, g.Base, r.Size)
				if r.Metric != m || r.Variant != v || base == nil || Median(base.Values) == 0 {
					continue
				}
				if row[1] == "" {
					row[1] = quantity(Median(base.Values), base.Unit)
				}
				change := 100 * (Median(r.Values)/Median(base.Values) - 1)
				low, high = min(low, change), max(high, change)
			}
			text := ""
			if l, h := fmt.Sprintf("%+.1f", low), fmt.Sprintf("%+.1f", high); low <= high && l == h {
				text = h + " %"
			} else if low <= high {
				text = l + " to " + h + " %"
			}
			row = append(row, text)
		}
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		b.WriteByte('\n')
		table(b, rows)
	}
}

func (g *GroupReport) table(b *bytes.Buffer, metrics, variants []string) {
	head := []string{"", g.Axis, "unit"}
	sized := slices.ContainsFunc(g.Rows, func(r Row) bool { return slices.Contains(metrics, r.Metric) && r.Size != 0 })
	if !sized {
		head = slices.Delete(head, 1, 2)
	}
	rows := [][]string{append(head, variants...)}
	for _, m := range metrics {
		var sizes []float64
		unit := ""
		for _, r := range g.Rows {
			if r.Metric == m {
				if unit = r.Unit; !slices.Contains(sizes, r.Size) {
					sizes = append(sizes, r.Size)
				}
			}
		}
		slices.Sort(sizes)
		for _, size := range sizes {
			row := []string{m, number(size), unit}
			if size == 0 {
				row[1] = ""
			}
			if !sized {
				row = slices.Delete(row, 1, 2)
			}
			base := g.row(m, g.base(m), size)
			for _, v := range variants {
				row = append(row, cell(g.row(m, v, size), base))
			}
			rows = append(rows, row)
		}
	}
	b.WriteByte('\n')
	table(b, rows)
}

// cell prints the value of a row beside that of base.
func cell(r, base *Row) string {
	if r == nil {
		return ""
	}
	m := Median(r.Values)
	s := quantity(m, r.Unit)
	if span := slices.Max(r.Values) - slices.Min(r.Values); span > 0 {
		s += " ±" + quantity(span/2, r.Unit)
	}
	if base != nil && base != r && Median(base.Values) != 0 {
		ratio := m / Median(base.Values)
		if ratio < 0.1 || ratio > 10 {
			s += fmt.Sprintf(" (%.3g times)", ratio)
		} else {
			s += fmt.Sprintf(" (%+.2f %%)", 100*(ratio-1))
		}
	}
	return s
}

// same is how far two medians may lie apart to count as the same.
const same = 0.005

// since compares the medians with those of the last run.
func (r *Report) since(b *bytes.Buffer, last *Report) {
	if last == nil {
		return
	}
	head := []string{"", "variant", "then", "now", "change"}
	rows := [][]string{head}
	n, equal := 0, 0
	for _, g := range r.Groups {
		i := slices.IndexFunc(last.Groups, func(o *GroupReport) bool { return o.Name == g.Name })
		if i < 0 {
			continue
		}
		for _, row := range g.Rows {
			old := last.Groups[i].row(row.Metric, row.Variant, row.Size)
			if old == nil || len(old.Values) == 0 {
				continue
			}
			n++
			then, now := Median(old.Values), Median(row.Values)
			if then == now || then != 0 && math.Abs(now/then-1) <= same {
				equal++
				continue
			}
			rows = append(rows, []string{g.Name + ": " + row.where(), row.Variant, quantity(then, row.Unit), quantity(now, row.Unit),
				fmt.Sprintf("%+.1f %%", 100*(now/then-1))})
		}
	}
	fmt.Fprintf(b, "\n## Since the last run\n\nOf %d medians %d are within %.1f %% of those of %s.\n", n, equal, 100*same, last.Started.Format("2006-01-02 15:04"))
	if len(rows) > 1 {
		b.WriteByte('\n')
		table(b, rows)
	}
}

// quantity prints a value of a unit.
func quantity(v float64, unit string) string {
	switch {
	case unit == Nanoseconds && math.Abs(v) >= 1e9:
		return fmt.Sprintf("%.2fs", v/1e9)
	case unit == Nanoseconds && math.Abs(v) >= 1e6:
		return fmt.Sprintf("%.1fms", v/1e6)
	case unit == Nanoseconds && math.Abs(v) >= 1e3:
		return fmt.Sprintf("%.1fµs", v/1e3)
	case unit == Bytes && math.Abs(v) >= 10240:
		return cache.Bytes(uint64(v))
	}
	return number(v)
}

// number prints four digits, and all before the point.
func number(v float64) string {
	if a := math.Abs(v); a >= 1000 || v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// table writes rows as a Markdown table whose columns line up, the first its head.
func table(b *bytes.Buffer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c), 3)
		}
	}
	for n, row := range rows {
		for i, c := range row {
			fmt.Fprintf(b, "| %s%s ", c, strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range width {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
}

const jsonFile = "bench.json"

// Files writes the report's files to dir.
func (r *Report) Files(dir string, last *Report) error {
	for _, g := range r.Groups {
		if err := g.plot(dir); err != nil {
			return err
		}
	}
	var md bytes.Buffer
	if err := r.Markdown(&md, last); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bench.md"), md.Bytes(), 0o644); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, jsonFile), append(text, '\n'), 0o644)
}

// Last returns of each group what the newest report below out that measured the
// same (base, series, pace) has of it, as one report. nil: there is none.
func Last(out string, r *Report) (*Report, error) {
	files, err := filepath.Glob(filepath.Join(out, "*", jsonFile))
	if err != nil {
		return nil, err
	}
	var all []*Report
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		o := new(Report)
		if err := json.Unmarshal(text, o); err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		if o.Base == r.Base && o.Series == r.Series && o.Quick == r.Quick && o.Started.Before(r.Started) {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *Report) int { return b.Started.Compare(a.Started) })
	var last *Report
	for _, g := range r.Groups {
		for _, o := range all {
			i := slices.IndexFunc(o.Groups, func(og *GroupReport) bool { return og.Name == g.Name && len(og.Rows) > 0 })
			if i < 0 {
				continue
			}
			if last == nil {
				last = &Report{Started: o.Started}
			}
			last.Groups = append(last.Groups, o.Groups[i])
			break
		}
	}
	return last, nil
}
