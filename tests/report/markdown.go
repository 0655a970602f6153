package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"kbuild-run/patches/job"
)

// duration prints d like the steps do, and shorter times in milliseconds.
func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return job.Duration(d)
}

// Markdown writes the report for a person, who reads it as it is as well.
func (r *Report) Markdown(w io.Writer) error {
	var b bytes.Buffer
	title := r.Base
	if r.Series != "" {
		title = r.Series + " on " + r.Base
	}
	fmt.Fprintf(&b, "# %s\n\n%s\n", cell(title), cell(r.Verdict()))
	r.scenarios(&b)
	r.clients(&b)
	r.kernels(&b)
	r.failures(&b)
	r.complaints(&b)
	r.remarks(&b)
	r.made(&b)
	r.steps(&b)
	if r.Command != "" {
		fmt.Fprintf(&b, "\n## Again\n\n    %s\n", oneLine(r.Command))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// scenarios writes the table of scenarios and columns.
func (r *Report) scenarios(b *bytes.Buffer) {
	if len(r.Scenarios) == 0 {
		return
	}
	head := []string{"scenario"}
	for _, c := range r.Columns {
		head = append(head, c.Name)
	}
	rows := [][]string{head}
	for _, s := range r.Scenarios {
		row := []string{s.Name}
		for i, c := range r.Columns {
			row = append(row, s.cell(&c, s.result(i)))
		}
		rows = append(rows, row)
	}
	b.WriteByte('\n')
	table(b, rows)
}

func (s *Scenario) cell(c *Column, r Result) string {
	switch {
	case r.Status == NotRun:
		return "not run"
	case r.Status == Skipped:
		return "skip"
	case r.Status == Passed && c.Role == Before && s.NeedsSeries:
		return "PASS, must fail, " + duration(r.Time)
	case r.Status == Passed:
		return "pass, " + duration(r.Time)
	case c.Role == Before && s.NeedsSeries:
		return "fail, as it must, " + duration(r.Time)
	case c.Role == After:
		return "FAIL, " + duration(r.Time)
	}
	return "fail, " + duration(r.Time)
}

// clients writes what SMB clients that others wrote did and saw.
func (r *Report) clients(b *bytes.Buffer) {
	rows := [][]string{{"client", "what it did"}}
	for _, c := range r.Columns {
		rows[0] = append(rows[0], c.Name)
	}
	for _, s := range r.Scenarios {
		if !s.Client {
			continue
		}
		row := []string{s.Name, s.Shows}
		for i, c := range r.Columns {
			row = append(row, s.cell(&c, s.result(i))+": "+s.result(i).Reason)
		}
		rows = append(rows, row)
	}
	if len(rows) == 1 {
		return
	}
	b.WriteString("\n## Other clients\n\n")
	table(b, rows)
}

// kernels says what the columns are.
func (r *Report) kernels(b *bytes.Buffer) {
	if len(r.Columns) == 0 {
		return
	}
	rows := [][]string{{""}}
	row := func(name string, value func(*Column) string) {
		line := []string{name}
		said := false
		for i := range r.Columns {
			v := value(&r.Columns[i])
			said = said || v != ""
			line = append(line, v)
		}
		if said {
			rows = append(rows, line)
		}
	}
	for _, c := range r.Columns {
		rows[0] = append(rows[0], c.Name)
	}
	row("server", func(c *Column) string { return c.Server })
	row("scenarios", func(c *Column) string {
		return fmt.Sprintf("%d passed, %d failed, %d skipped", r.count(c.Name, Passed), r.count(c.Name, Failed), r.count(c.Name, Skipped))
	})
	row("coverage", func(c *Column) string {
		if c.Coverage == nil {
			return ""
		}
		return c.Coverage.String()
	})
	var groups []string
	for i := range r.Columns {
		names, _ := r.Columns[i].inside()
		groups = append(groups, names...)
	}
	slices.Sort(groups)
	for _, g := range slices.Compact(groups) {
		row(g, func(c *Column) string {
			_, count := c.inside()
			if count[g] == nil {
				return ""
			}
			return fmt.Sprintf("%d passed, %d failed, %d skipped", count[g][Passed], count[g][Failed], count[g][Skipped])
		})
	}
	row("release", func(c *Column) string { return c.Release })
	row("tree", func(c *Column) string { return short(c.Tree) })
	row("config", func(c *Column) string { return short(c.Config) })
	row("power-on to first SMB", func(c *Column) string {
		if c.FirstSMB == 0 {
			return ""
		}
		return fmt.Sprintf("%.2fs", c.FirstSMB.Seconds())
	})
	row("kernel reports", func(c *Column) string {
		if c.Console == "" && len(c.Reports) == 0 {
			return ""
		}
		return fmt.Sprint(len(c.Reports))
	})
	row("console", func(c *Column) string { return c.Console })
	b.WriteByte('\n')
	table(b, rows)
}

// short is a hash as git shortens it.
func short(hash string) string { return hash[:min(len(hash), 12)] }

// failures writes what went wrong, a section a scenario.
func (r *Report) failures(b *bytes.Buffer) {
	head := "\n## Failures\n"
	section := func(format string, args ...any) {
		b.WriteString(head)
		head = ""
		fmt.Fprintf(b, format, args...)
	}
	for _, c := range r.Columns {
		if c.Failure != "" {
			section("\n### %s: the server fails\n\n%s", cell(c.Name), fence(c.Failure))
		}
	}
	for _, c := range r.Columns {
		for _, i := range c.Inside {
			if k := i.check(c.Name); k.Status == Failed {
				section("\n### %s: %s\n\n%s", cell(c.Name), cell(k.What), fence(k.Detail))
			}
		}
	}
	for _, s := range r.Scenarios {
		for i, c := range r.Columns {
			res := s.result(i)
			what, status, detail := s.check(&c, res)
			if status != Failed {
				continue
			}
			section("\n### %s: %s %s\n", cell(c.Name), cell(s.Name), what)
			if s.Shows != "" {
				fmt.Fprintf(b, "\n%s", cell(s.Shows))
				if s.Sections != "" {
					fmt.Fprintf(b, " (%s)", cell(s.Sections))
				}
				b.WriteByte('\n')
			}
			if detail != "" {
				fmt.Fprintf(b, "\n%s", fence(detail))
			}
			if res.Folder != "" {
				fmt.Fprintf(b, "\nEvidence: %s\n", cell(res.Folder))
			}
		}
	}
}

// remarks writes the reasons of what is no failure, like ones together: that all
// scenarios fail in one way without the series is worth one line.
func (r *Report) remarks(b *bytes.Buffer) {
	head := "\n## Remarks\n"
	for i, c := range r.Columns {
		var order [][2]string // what, gist
		names := map[[2]string][]string{}
		for _, s := range r.Scenarios {
			what, status, detail := s.check(&c, s.result(i))
			if s.Client || status == Failed || detail == "" || c.Failure != "" && s.result(i).Status == NotRun {
				continue
			}
			key := [2]string{what, gist(detail)}
			if names[key] == nil {
				order = append(order, key)
			}
			names[key] = append(names[key], cell(s.Name))
		}
		slices.SortStableFunc(order, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		last := ""
		for _, key := range order {
			if key[0] != last {
				fmt.Fprintf(b, "%s\n%s: %s:\n\n", head, cell(c.Name), key[0])
				head, last = "", key[0]
			}
			fmt.Fprintf(b, "- %s (%s)\n", cell(key[1]), strings.Join(names[key], ", "))
		}
	}
}

// gist is a reason on one line, without the step of the script that it names
// first: the same thing goes wrong in different lines of different scripts.
func gist(reason string) string {
	lines := strings.Split(strings.TrimSpace(reason), "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[0], "line ") {
		lines = lines[1:]
	}
	return strings.Join(lines, "; ")
}

// complaints quotes the kernel.
func (r *Report) complaints(b *bytes.Buffer) {
	head := "\n## Kernel reports\n"
	for _, c := range r.Columns {
		for _, k := range c.Reports {
			b.WriteString(head)
			head = ""
			at := ""
			if c.Console != "" && k.Line > 0 {
				at = fmt.Sprintf(", %s line %d", oneLine(c.Console), k.Line)
			}
			fmt.Fprintf(b, "\n%s: %s%s\n\n%s", cell(c.Name), cell(k.Head()), at, fence(k.Body()))
		}
	}
}

// made says what everything was made from and with.
func (r *Report) made(b *bytes.Buffer) {
	b.WriteString("\n## Made from\n\n")
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "- %s: %s\n", name, cell(value))
		}
	}
	base := r.Base
	if r.Version != "" {
		base += ", Linux " + r.Version
	}
	if r.Source != "" {
		base += ", from " + r.Source
	}
	line("base", base)
	for i, p := range r.Patches {
		line(fmt.Sprintf("patch %d", i+1), p)
	}
	line("config", strings.Join(r.Fragments, " "))
	line("compiler", r.Compiler)
	line("QEMU", r.QEMU)
	accelerator := r.Accelerator
	if r.Why != "" {
		accelerator += ": " + r.Why
	}
	line("accelerator", accelerator)
	line("by", r.Program)
	if !r.Started.IsZero() {
		line("at", r.Started.UTC().Format(time.RFC3339))
	}
}

func (r *Report) steps(b *bytes.Buffer) {
	if len(r.Steps) == 0 {
		return
	}
	rows := [][]string{{"step", "time", "", ""}}
	for _, s := range r.Steps {
		mark := ""
		switch {
		case s.Err != "":
			mark = "failed"
		case s.Cached:
			mark = "cached"
		}
		rows = append(rows, []string{s.Name, duration(s.Time), mark, s.Note})
	}
	if r.Time > 0 {
		rows = append(rows, []string{"all", duration(r.Time), "", ""})
	}
	b.WriteString("\n## Steps\n\n")
	table(b, rows)
}

// table writes rows as a Markdown table whose columns stand under each other.
// The first row is its head.
func table(b *bytes.Buffer, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i := range row {
			row[i] = cell(row[i])
			if i == len(width) {
				width = append(width, 3)
			}
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	for n, row := range rows {
		for i, text := range row {
			fmt.Fprintf(b, "| %-*s ", width[i], text)
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for _, w := range width {
			fmt.Fprintf(b, "|%s", strings.Repeat("-", w+2))
		}
		b.WriteString("|\n")
	}
}

// cell is s on one line, without what Markdown would take for a table, an
// element or a command. Underscores inside words are none in CommonMark.
func cell(s string) string {
	return escapes.Replace(oneLine(s))
}

var escapes = strings.NewReplacer("|", `\|`, "<", `\<`, "`", "\\`", "*", `\*`)

// fence quotes s as it is, behind a fence longer than any in it.
func fence(s string) string {
	s = strings.Trim(printable(s), "\n")
	mark := "```"
	for strings.Contains(s, mark) {
		mark += "`"
	}
	return mark + "\n" + s + "\n" + mark + "\n"
}
