package kconfigs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Warning is what a compiler or a checker says about a file.
type Warning struct {
	Tool string // gcc, clang, sparse, smatch
	File string // the object it was made for: fs/smb/server/vfs.o
	Text string // its lines, with the place first: fs/smb/server/vfs.c:12:3: warning: ...
}

var (
	placeOf   = regexp.MustCompile(`^(\S+?):[\d:]+`)
	otherLine = regexp.MustCompile(`\blines?:? \d+(,\d+)*`) // smatch: (see line 10), on lines: 3,9
)

// Same says that two warnings differ in their line numbers at most.
func (w Warning) Same(v Warning) bool {
	a, _, _ := strings.Cut(w.Text, "\n")
	b, _, _ := strings.Cut(v.Text, "\n")
	words := func(l string) string { return otherLine.ReplaceAllString(placeOf.ReplaceAllString(l, "$1"), "line") }
	return w.Tool == v.Tool && words(a) == words(b)
}

// Lint is what a compiler and a checker say about some folders of a tree.
type Lint struct {
	Warnings []Warning
	Failed   string // why it does not compile; "": it does
	NotRun   string // why the checker or clang did not run although it was wanted
	Cached   bool   `json:"-"`
}

// LintOptions of LintTree.
type LintOptions struct {
	Fragments []string // nil: kunit, which needs what Build takes
	Modules   string   // what becomes of the options that are modules there: y, m, n
	Folders   []string // to compile: fs/smb
	Checker   string   // sparse or smatch, to run too; "": none
	Clang     bool     // compile with clang instead of gcc
}

// LintTree compiles some folders of a tree with W=1, and with C=1 where a checker
// is wanted, and returns every warning of theirs: also of the objects that an
// earlier tree compiled and that need no compiling again. Nothing is linked.
func LintTree(ctx context.Context, s *job.Step, t *patches.Tree, o LintOptions) (*Lint, error) {
	if o.Fragments == nil {
		o.Fragments = []string{"kunit"}
	}
	names, want, err := (Options{Fragments: o.Fragments}).request(t.Base)
	if err != nil {
		return nil, err
	}
	want = modules(want, o.Modules)
	tools, err := compiler(ctx)
	if o.Clang {
		tools, err = versions(ctx, "clang", "ld")
	}
	if err != nil {
		return nil, err
	}
	if o.Checker != "" {
		version, err := job.Command(o.Checker, "--version").Probe(ctx)
		if err != nil {
			return nil, err
		}
		tools += ", " + checkers[o.Checker] + " " + strings.TrimSpace(string(version))
	}
	key := cache.Key(append([]string{"lint", recipe, t.Key, text(want), tools}, o.Folders...)...)
	meta := map[string]string{"what": "warnings of " + t.String() + ", modules as " + o.Modules, "compiler": tools}
	l := &Lint{}
	dir, cached, err := cache.Once(ctx, "checks", key, meta, func(dir string) error {
		if err := l.make(ctx, s, t, names, want, tools, o); err != nil || job.From(ctx).DryRun {
			return err
		}
		return writeJSON(filepath.Join(dir, "lint.json"), l)
	})
	if err != nil || job.From(ctx).DryRun {
		return l, err
	}
	l = &Lint{Cached: cached}
	return l, readJSON(filepath.Join(dir, "lint.json"), l)
}

// modules makes y or n of the options that are m. Options below one that is off,
// which begin with its name, are not asked for.
func modules(want []line, value string) (changed []line) {
	var off []string
	for _, l := range want {
		if l.value == "m" {
			if l.value = value; value == "n" {
				off = append(off, l.name+"_")
			}
		}
		if !slices.ContainsFunc(off, func(prefix string) bool { return strings.HasPrefix(l.name, prefix) }) {
			changed = append(changed, l)
		}
	}
	return changed
}

// make compiles, and fills l.
func (l *Lint) make(ctx context.Context, s *job.Step, t *patches.Tree, names []string, want []line, tools string, o LintOptions) error {
	if err := needs(); err != nil {
		return err
	}
	f, release, err := enter(ctx, s, t, append(slices.Clip(names), "W=1", "m="+o.Modules), tools)
	if err != nil {
		return err
	}
	defer release()
	f.clang = o.Clang
	if err := f.configure(ctx, s, want); err != nil {
		if l.NotRun = tooOld(err); o.Clang && l.NotRun != "" {
			return nil
		}
		return err
	}
	said := filepath.Join(f.dir, "warnings.json")
	book := notebook{}
	if err := readJSON(said, &book); err != nil {
		// Objects whose warnings nobody kept are compiled again.
		for _, d := range o.Folders {
			if err := removeAll(ctx, filepath.Join(f.dir, d)); err != nil {
				return err
			}
		}
	}
	args := []string{"W=1", "--keep-going", "--output-sync=target"}
	if o.Checker != "" {
		args = append(args, "C=1", "CHECK="+checkers[o.Checker])
	}
	for _, d := range o.Folders {
		args = append(args, d+"/")
	}
	c := f.make(args...)
	var e complaints
	r := lintReader{compiler: "gcc", checker: o.Checker, tree: f.tree, dir: f.dir, book: book}
	if o.Clang {
		r.compiler = "clang"
	}
	c.Line = func(line string) {
		e.line(line)
		r.line(line)
		if strings.Contains(line, "not available or not up to date") {
			l.NotRun = strings.TrimSpace(line)
		}
		s.Progress("%s, modules as %s: %d objects", strings.Join(o.Folders, " "), o.Modules, r.objects)
	}
	// While make runs the notebook is not what lies in the folder.
	if err := removeAll(ctx, said); err != nil {
		return err
	}
	if !job.From(ctx).DryRun {
		if err := os.WriteFile(f.mark(), nil, 0o644); err != nil {
			return err
		}
	}
	if err = c.Run(ctx); job.From(ctx).DryRun {
		return err
	}
	if !killed(err) {
		os.Remove(f.mark())
	}
	var failed *job.CmdError
	switch {
	case ctx.Err() != nil || err != nil && !errors.As(err, &failed):
		return err
	case err != nil && len(e.text) == 0:
		return err
	case err != nil:
		l.Failed = strings.ReplaceAll(strings.Join(e.text, "\n"), f.tree+"/", "")
	}
	for object, warnings := range book {
		if _, err := os.Stat(filepath.Join(f.tree, strings.TrimSuffix(object, ".o")+".c")); err != nil {
			delete(book, object)
			continue
		}
		l.Warnings = append(l.Warnings, warnings...)
	}
	slices.SortStableFunc(l.Warnings, func(a, b Warning) int { return strings.Compare(a.File, b.File) })
	return writeJSON(said, book)
}

// tooOld returns what scripts/Kconfig.include says of a compiler that it refuses.
func tooOld(err error) string {
	var failed *job.CmdError
	var said []string
	if errors.As(err, &failed) {
		for _, l := range failed.Tail {
			if l, ok := strings.CutPrefix(l, "***"); ok && strings.TrimSpace(l) != "" {
				said = append(said, strings.Join(strings.Fields(l), " "))
			}
		}
	}
	return strings.Replace(strings.Join(said, ", "), "., ", ": ", 1)
}

// notebook holds the warnings of each object when it was compiled last.
type notebook map[string][]Warning

// lintReader finds the warnings in what make prints.
type lintReader struct {
	compiler  string
	checker   string
	tree, dir string
	book      notebook
	tool      string
	object    string // that make speaks of; "": none
	objects   int
}

var (
	compiles = regexp.MustCompile(`^  CC (?:\[M\])? +(\S+\.o)$`)
	checks   = regexp.MustCompile(`^  CHECK +(\S+)\.c$`)
	warns    = regexp.MustCompile(`^\S+?:\d+:\d+: (?:warning|error): `)
	// smatch's own have no column. What its parser, an old sparse's, does not
	// understand does not stop it, and is no fault of the tree's.
	smatchWarns = regexp.MustCompile(`^\S+?:\d+ \S+\(\) (?:warn|error): `)
	document    = regexp.MustCompile(`^([^\s:]+:\d+: (warning|info): |(Warning|Error): )`) // kernel-doc's: no column
)

// line takes a line of make's. With --output-sync the lines of one target stand
// together, behind its name.
func (r *lintReader) line(l string) {
	if m := compiles.FindStringSubmatch(l); m != nil {
		r.tool, r.object = r.compiler, m[1]
		r.objects++
		delete(r.book, r.object)
		r.book[r.object] = nil
		return
	}
	if m := checks.FindStringSubmatch(l); m != nil {
		r.tool, r.object = r.checker, r.relative(m[1])+".o"
		return
	}
	if progress.MatchString(l) || document.MatchString(l) {
		r.object = ""
	}
	if r.object == "" {
		return
	}
	all := r.book[r.object]
	switch {
	case r.tool != "smatch" && warns.MatchString(l) || r.tool == "smatch" && smatchWarns.MatchString(l):
		r.book[r.object] = append(all, Warning{r.tool, r.object, r.relative(l)})
	case r.tool != "smatch" && len(all) > 0 && all[len(all)-1].Tool == r.tool:
		all[len(all)-1].Text += "\n" + l
	}
}

// relative drops the tree's folder from the beginning of a path.
func (r *lintReader) relative(path string) string {
	path = strings.TrimPrefix(path, r.tree+"/")
	if up, err := filepath.Rel(r.dir, r.tree); err == nil {
		path = strings.TrimPrefix(path, up+"/")
	}
	return path
}

// checkers are the commands that check. Sparse gets what it does not know up to 0.6.4.
// To it __typeof_unqual__, which Linux 6.16 took up, is __typeof__ but for what is
// const: without that scripts/checker-valid.sh refuses it, and C=1 checks nothing.
// And it does not fold __builtin_strlen(), which MODULE_INFO() of Linux 7.3 asserts
// on: that is an error, and behind an error sparse warns of nothing more in a file.
var checkers = map[string]string{
	"sparse": "sparse -D__typeof_unqual__=__typeof__ '-D__builtin_strlen(s)=(sizeof(s)-1)'",
	"smatch": "smatch -p=kernel",
}

func removeAll(ctx context.Context, path string) error {
	if j := job.From(ctx); j.DryRun {
		fmt.Fprintln(j.Out, "rm -rf", job.Quote(path))
		return nil
	}
	return os.RemoveAll(path)
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
