// Package check: tree + series -> matrix, what the maintainers' own robots find
// in each patch.
//
// A patch must apply, compile with ksmbd and cifs built in, as modules and left
// out, bring no new warning of the compiler, of sparse or of kernel-doc, and
// please checkpatch.pl, codespell and whoever follows its Fixes: tags. What is
// compared is the tree with the patch and the tree before it. A result is
// remembered by what it was found in: the two trees, or the text of the patch.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
)

// Status is how a check of a patch came out.
type Status string

const (
	Pass    Status = "pass"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skip" // could not run: Matrix.Skips says why
	Nothing Status = ""     // has nothing to look at in this patch
)

// Columns are the checks in their order.
var Columns = []string{"applies", "y", "m", "n", "sparse", "clang", "smatch", "checkpatch", "kernel-doc", "codespell", "fixes", boots}

// boots is the check that runs only when it is asked for.
const boots = "boots"

// optional are the checks that the matrix shows only where they ran.
var optional = map[string]bool{"clang": true, "smatch": true, boots: true}

// about says what each check does.
var about = map[string]string{
	"applies":    "git am takes it, on the patches before it",
	"y":          "fs/smb and what the series touches compile with W=1, modules built in; no new warning",
	"m":          "the same, as modules",
	"n":          "the same, modules left out",
	"sparse":     "no new warning of sparse, in m",
	"clang":      "the same as m, compiled by clang; shown where clang is installed",
	"smatch":     "no new warning of smatch, in m; shown where smatch is installed",
	"checkpatch": "checkpatch.pl --strict",
	"kernel-doc": "no new warning of kernel-doc in the files it touches",
	"codespell":  "codespell on its message and on what it adds",
	boots:        "with --boot: boots, complains of nothing, and keeps the scenarios that passed before it",
	"fixes":      "Fixes: names a commit of the tree, or of the file known-commits beside the series",
}

// Cell is what one check found in one patch.
type Cell struct {
	Status Status
	Found  []string // one each; the first line is short

	acceptable bool // though it fails
}

// Row is one patch.
type Row struct {
	Mail     patches.Mail
	Cells    map[string]Cell
	Accepted []string // found, and accepted with a reason
}

// Matrix is the checks of a series.
type Matrix struct {
	Series, Base string
	Rows         []Row
	Skips        map[string]string // checks that could not run, with the reason
	Looked       int               // checks that ran
	Remembered   int               // checks that an earlier run made
}

// Options of Run.
type Options struct {
	patches.Options
	NoBuild bool // leave out what compiles
	Boot    Boot // nil: boot nothing
	Signed  bool // the patches are sent ones: each must be signed off
}

// Boot boots a tree. It returns the scenarios of a series that pass, of all or of the
// named ones, and what is wrong with the kernel, or "".
type Boot func(ctx context.Context, t *patches.Tree, series string, names ...string) (passed []string, fault string, err error)

// Run checks a series patch by patch. The error says why it could not; what it
// finds is in the matrix.
func Run(ctx context.Context, o Options) (*Matrix, error) {
	j := job.From(ctx)
	r := &runner{Options: o, m: &Matrix{Skips: map[string]string{}}}
	if err := j.Step("tree", func(s *job.Step) error { return r.apply(ctx, s) }); err != nil {
		return nil, err
	}
	if j.DryRun && len(r.steps) == 0 {
		return r.m, nil
	}
	accepted, err := r.accepted()
	if err != nil {
		return nil, err
	}
	err = j.Step("check", func(s *job.Step) error {
		r.s = s
		if !o.NoBuild {
			if err := r.build(ctx); err != nil {
				return err
			}
		}
		if err := r.texts(ctx); err != nil {
			return err
		}
		s.Note("%d patches, %d checks, %d of them remembered", len(r.m.Rows), r.m.Looked+r.m.Remembered, r.m.Remembered)
		return nil
	})
	if err == nil && o.Boot != nil {
		err = r.boot(ctx)
	}
	r.accept(accepted)
	return r.m, err
}

// runner is a run.
type runner struct {
	Options
	s      *job.Step // the one that runs
	series *patches.Series
	m      *Matrix
	steps  []*patches.Tree // the base, and the tree with each patch that applies
	tools  string          // folder of the tree's scripts; "": not there yet
}

// set fills a cell; looked says that it was not remembered.
func (r *runner) set(row int, column string, c Cell, looked bool) {
	r.m.Rows[row].Cells[column] = c
	if looked {
		r.m.Looked++
	} else {
		r.m.Remembered++
	}
}

// apply finds the series, and makes the tree of each patch, up to the first that
// does not fit.
func (r *runner) apply(ctx context.Context, s *job.Step) error {
	o := r.Options.Options
	o.Series, o.Given = "", nil
	bare, err := patches.Prepare(ctx, s, o)
	if err != nil {
		return err
	}
	if r.series = r.Given; r.series == nil {
		if r.series, err = patches.FindSeries(r.Series, bare.Base); err != nil {
			return err
		}
	}
	if job.From(ctx).DryRun {
		o.Given = r.series
		_, err := patches.Prepare(ctx, s, o)
		return err
	}
	r.m.Series, r.m.Base = r.series.Name, bare.Base
	for _, mail := range r.series.Mails {
		r.m.Rows = append(r.m.Rows, Row{Mail: mail, Cells: map[string]Cell{}})
	}
	o.Given = r.series
	t, err := patches.Prepare(ctx, s, o)
	var misfit *patches.Misfit
	if errors.As(err, &misfit) {
		// What comes behind a patch that does not fit is not reached.
		r.m.Rows[misfit.Patch].Cells["applies"] = Cell{Status: Fail, Found: []string{err.Error()}}
		o.Given = &patches.Series{Name: r.series.Name, Mails: r.series.Mails[:misfit.Patch], Dir: r.series.Dir}
		if t, err = bare, nil; misfit.Patch > 0 {
			t, err = patches.Prepare(ctx, s, o)
		}
	}
	if err != nil {
		return err
	}
	if r.steps, err = t.Steps(ctx); err != nil {
		return err
	}
	for i := range r.steps[1:] {
		r.set(i, "applies", Cell{Status: Pass}, true)
	}
	return nil
}

// folders are those to compile: fs/smb, and where the series touches sources.
func (r *runner) folders(ctx context.Context) ([]string, error) {
	set := []string{"fs/smb"}
	for _, f := range r.series.Files() {
		var add []string
		switch top, _, _ := strings.Cut(f, "/"); {
		case strings.HasPrefix(f, "include/") && strings.HasSuffix(f, ".h"):
			out, err := r.steps[0].Look(ctx, "grep", "-l", "-F", "<"+strings.TrimPrefix(f, "include/")+">", r.steps[0].Commit, "--", "*.c")
			if err != nil && len(out) > 0 {
				return nil, err
			}
			for l := range strings.Lines(string(out)) {
				_, file, _ := strings.Cut(strings.TrimSpace(l), ":")
				add = append(add, path.Dir(file))
			}
		case top == "Documentation" || top == "tools" || top == "scripts" || !strings.Contains(f, "/"):
		case strings.HasSuffix(f, ".c") || strings.HasSuffix(f, ".h"):
			add = append(add, path.Dir(f))
		}
		for _, d := range add {
			if d != "fs/smb" && !strings.HasPrefix(d, "fs/smb/") && strings.Count(d, "/") > 0 {
				set = append(set, d)
			}
		}
	}
	slices.Sort(set)
	return slices.Compact(set), nil
}

// compiles says that a patch touches something that a compiler reads.
func compiles(m patches.Mail) bool {
	return slices.ContainsFunc(m.Files(), func(f string) bool {
		return !strings.HasPrefix(f, "Documentation/") && strings.Contains(f, "/")
	})
}

// build compiles each tree and compares what is said about it with what was said
// about the tree before.
func (r *runner) build(ctx context.Context) error {
	folders, err := r.folders(ctx)
	if err != nil {
		return err
	}
	passes := []pass{
		{"y", kconfigs.LintOptions{Modules: "y"}},
		{"m", kconfigs.LintOptions{Modules: "m", Checker: r.checker("sparse")}},
		{"n", kconfigs.LintOptions{Modules: "n"}},
	}
	if r.have("clang", "clang") {
		passes = append(passes, pass{"clang", kconfigs.LintOptions{Modules: "m", Clang: true}})
	}
	if smatch := r.checker("smatch"); smatch != "" {
		passes = append(passes, pass{smatch, kconfigs.LintOptions{Modules: "m", Checker: smatch}})
	}
	var before map[string]*kconfigs.Lint
	for i, t := range r.steps {
		after := map[string]*kconfigs.Lint{}
		for _, p := range passes {
			if i > 0 && !compiles(r.m.Rows[i-1].Mail) {
				after[p.column] = before[p.column]
				continue
			}
			p.o.Folders = folders
			l, err := kconfigs.LintTree(ctx, r.s, t, p.o)
			if err != nil {
				return err
			}
			tool := p.o.Checker
			if p.o.Clang {
				tool = "clang"
			}
			if l.NotRun != "" { // no warning then means nothing
				r.skip(tool, l.NotRun)
			} else if at := slices.IndexFunc(l.Warnings, unread); at >= 0 && i == 0 && tool == "sparse" {
				r.skip(tool, "behind an error it warns of nothing, and it finds one before any patch: "+l.Warnings[at].Text)
			}
			after[p.column] = l
		}
		passes = slices.DeleteFunc(passes, func(p pass) bool { return p.o.Clang && after[p.column].NotRun != "" })
		if i > 0 && compiles(r.m.Rows[i-1].Mail) {
			for _, p := range passes {
				r.compare(i-1, p, before[p.column], after[p.column])
			}
		}
		before = after
	}
	return nil
}

// pass is one compilation of a tree.
type pass struct {
	column string // of what the compiler says
	o      kconfigs.LintOptions
}

// unread says that sparse gave a file up.
func unread(w kconfigs.Warning) bool {
	return w.Tool == "sparse" && strings.Contains(w.Text, ": error: ")
}

// compare fills the cells of one compilation.
func (r *runner) compare(row int, p pass, was, is *kconfigs.Lint) {
	cells := map[string]Cell{p.column: {Status: Pass}}
	if p.column == "m" {
		cells["sparse"] = Cell{Status: Pass}
	}
	for _, w := range fresh(was.Warnings, is.Warnings) {
		column := p.column
		switch {
		case w.Tool == "sparse":
			column = w.Tool
		case column == "smatch" && w.Tool != column: // the compiler says it in m
			continue
		}
		cells[column] = Cell{Status: Warn, Found: append(cells[column].Found, w.Text)}
	}
	if is.Failed != "" && is.Failed != was.Failed && p.column != "smatch" {
		cells[p.column] = Cell{Status: Fail, Found: []string{is.Failed}}
	}
	for column, c := range cells {
		if r.m.Skips[column] != "" {
			r.m.Rows[row].Cells[column] = Cell{Status: Skipped}
		} else {
			r.set(row, column, c, !is.Cached)
		}
	}
}

// fresh returns the warnings that were not there before. The same one twice, on
// other lines, is one more.
func fresh(before, after []kconfigs.Warning) (found []kconfigs.Warning) {
	left := slices.Clone(before)
	for _, w := range after {
		if i := slices.IndexFunc(left, w.Same); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			found = append(found, w)
		}
	}
	return found
}

// boot boots each tree: a patch that breaks what worked stops a bisection.
func (r *runner) boot(ctx context.Context) error {
	var before []string
	var last *patches.Tree
	for i, t := range r.steps {
		if i > 0 && !compiles(r.m.Rows[i-1].Mail) {
			continue
		}
		passed, fault, err := r.Boot(ctx, t, r.series.Name)
		if err != nil {
			return err
		}
		c := Cell{Status: Pass}
		lost := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return slices.Contains(passed, name) })
		if fault == "" && len(lost) > 0 {
			if lost, fault, err = r.again(ctx, last, t, lost); err != nil {
				return err
			}
		}
		if fault != "" {
			c = Cell{Status: Fail, Found: []string{fault}}
		} else {
			for _, name := range lost {
				c.Status, c.acceptable = Fail, true
				c.Found = append(c.Found, "scenario "+name+" passes before the patch, and not with it")
			}
			before, last = passed, t
		}
		if i > 0 {
			r.set(i-1, boots, c, true)
		}
	}
	return nil
}

// again runs the scenarios that a patch seems to break once more, without it and with
// it, and returns those that it breaks: what passes only sometimes says nothing about it.
func (r *runner) again(ctx context.Context, before, after *patches.Tree, scenarios []string) (lost []string, fault string, err error) {
	was, _, err := r.Boot(ctx, before, r.series.Name, scenarios...)
	if err != nil {
		return nil, "", err
	}
	is, fault, err := r.Boot(ctx, after, r.series.Name, scenarios...)
	if err != nil {
		return nil, "", err
	}
	for _, name := range scenarios {
		if slices.Contains(was, name) && !slices.Contains(is, name) {
			lost = append(lost, name)
		}
	}
	return lost, fault, nil
}

// have says that the program of a check is installed, and notes when it is not.
func (r *runner) have(column, program string) bool {
	_, err := exec.LookPath(program)
	if err != nil {
		r.skip(column, program+" is not installed; install it with: kbuild-run setup --with "+program)
	}
	return err == nil
}

// checker is the program of that name, or "" when it is not installed.
func (r *runner) checker(name string) string {
	if name == "smatch" { // no distribution has it
		if _, err := exec.LookPath(name); err != nil {
			r.skip(name, "smatch is not installed; build it from https://repo.or.cz/smatch.git and have it in PATH")
			return ""
		}
	} else if !r.have(name, name) {
		return ""
	}
	return name
}

// skip notes why a check cannot run.
func (r *runner) skip(column, why string) { r.m.Skips[column] = why }

// acceptance is a line of the file accepted.
type acceptance struct {
	column, reason string
	re             *regexp.Regexp
}

// accepted reads the file of that name beside the series: lines of CHECK, a regular
// expression, and the reason behind a #.
func (r *runner) accepted() (all []acceptance, err error) {
	if r.Given != nil {
		return nil, nil
	}
	for l := range strings.Lines(r.series.Beside("accepted")) {
		rule, reason, _ := strings.Cut(strings.TrimSpace(l), " # ")
		column, pattern, _ := strings.Cut(rule, " ")
		if column == "" || column == "#" {
			continue
		}
		re, err := regexp.Compile(strings.TrimSpace(pattern))
		if err != nil || reason == "" || !slices.Contains(Columns, column) {
			return nil, fmt.Errorf("read accepted of series %s for %s: %q; want: CHECK REGEXP # REASON", r.series.Name, r.m.Base, strings.TrimSpace(l))
		}
		all = append(all, acceptance{column, reason, re})
	}
	return all, nil
}

// accept takes what is accepted out of the warnings and of the failures that may be.
func (r *runner) accept(all []acceptance) {
	for _, a := range all {
		for i := range r.m.Rows {
			row := &r.m.Rows[i]
			c := row.Cells[a.column]
			if c.Status != Warn && !c.acceptable {
				continue
			}
			c.Found = slices.DeleteFunc(slices.Clone(c.Found), func(f string) bool {
				if !a.re.MatchString(f) {
					return false
				}
				first, _, _ := strings.Cut(f, "\n")
				row.Accepted = append(row.Accepted, a.column+": "+first+" ("+a.reason+")")
				return true
			})
			if len(c.Found) == 0 {
				c.Status = Pass
			}
			row.Cells[a.column] = c
		}
	}
}

// marks are how the matrix shows a status.
var marks = map[Status]string{Pass: "ok", Warn: "WARN", Fail: "FAIL", Skipped: "skip", Nothing: "-"}

// Print prints the matrix and, below it, what was found.
func (m *Matrix) Print(w io.Writer) {
	columns := slices.DeleteFunc(slices.Clone(Columns), func(c string) bool {
		return optional[c] && !slices.ContainsFunc(m.Rows, func(r Row) bool { return r.Cells[c].Status != Nothing })
	})
	fmt.Fprintf(w, "%3s", "")
	for _, c := range columns {
		fmt.Fprintf(w, "  %-*s", max(4, len(c)), c)
	}
	fmt.Fprintln(w)
	for i, row := range m.Rows {
		fmt.Fprintf(w, "%3d", i+1)
		for _, c := range columns {
			fmt.Fprintf(w, "  %-*s", max(4, len(c)), marks[row.Cells[c].Status])
		}
		fmt.Fprintf(w, "  %s\n", row.Mail.Subject())
	}
	for i, row := range m.Rows {
		in := map[string][]string{} // checks that found the same
		var order []string
		for _, c := range Columns {
			for _, f := range row.Cells[c].Found {
				if in[f] == nil {
					order = append(order, f)
				}
				if !slices.Contains(in[f], c) {
					in[f] = append(in[f], c)
				}
			}
		}
		for _, f := range order {
			fmt.Fprintf(w, "\npatch %d, %s: %s\n", i+1, strings.Join(in[f], " "), strings.ReplaceAll(f, "\n", "\n    "))
		}
	}
	accepted := map[string]int{}
	var order []string
	for _, row := range m.Rows {
		for _, a := range row.Accepted {
			a = lineNumber.ReplaceAllString(a, ": ")
			if accepted[a]++; accepted[a] == 1 {
				order = append(order, a)
			}
		}
	}
	for _, a := range order {
		fmt.Fprintf(w, "\naccepted %d times, %s\n", accepted[a], a)
	}
	for _, c := range Columns {
		if why := m.Skips[c]; why != "" {
			fmt.Fprintf(w, "\n%s: not run: %s\n", c, why)
		}
	}
}

var lineNumber = regexp.MustCompile(`: ?\d+(:\d+)?: `)

// Err is the verdict: nil when no check found anything.
func (m *Matrix) Err() error {
	bad := 0
	for _, row := range m.Rows {
		for _, c := range row.Cells {
			if c.Status == Fail || c.Status == Warn {
				bad++
				break
			}
		}
	}
	if bad == 0 {
		return nil
	}
	return job.Failed(fmt.Errorf("check series %s for %s: something is found in %d of %d patches", m.Series, m.Base, bad, len(m.Rows)))
}
