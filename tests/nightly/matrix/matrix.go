// Package matrix takes the text of a matrix and returns its cells, or what an engine
// that runs cells wants to be told.
//
//	tests/nightly.toml -> cells -> arguments of kbuild-run
package matrix

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/tests/nightly/history"
)

// Matrix is what a night runs: tests/nightly.toml.
type Matrix struct {
	defaults
	Disk   size            `toml:"disk"`   // of all results together
	Cache  size            `toml:"cache"`  // that the cache may take; 0: what was used lately
	Update bool            `toml:"update"` // fetch newer point releases of the bases first
	Origin string          `toml:"origin"` // that kernelci knows the submitter by
	Trees  []Tree          `toml:"tree"`
	Suites []suite         `toml:"suite"`
	Known  []history.Known `toml:"known"`
}

// defaults are what a suite may leave out.
type defaults struct {
	Bases    []string `toml:"bases"`
	Series   []string `toml:"series"`  // "": the bare base
	Configs  []string `toml:"configs"` // fragments: base,ksmbd,kunit
	Deadline duration `toml:"deadline"`
	Guests   int      `toml:"guests"` // that run at once
	Memory   int      `toml:"memory"` // MiB of a guest
}

type suite struct {
	Name    string   `toml:"name"`
	Command []string `toml:"command"` // of kbuild-run, with its arguments
	defaults
}

// Tree is a git tree as one more base: what is checked out there.
type Tree struct {
	Name string `toml:"name"` // that bases call it by
	Dir  string `toml:"dir"`
	Base string `toml:"base"` // whose series it takes: v7.3
}

// Cell is one field of the matrix.
type Cell struct {
	Name     string // smoke-notify-v6.12
	Suite    string
	Base     string
	Tree     Tree // that Base is; nothing in it: a base of the program's
	Series   string
	Config   string
	Deadline time.Duration
	Guests   int
	Memory   int      // MiB of a guest
	Command  []string // of kbuild-run
}

var originName = regexp.MustCompile(`^[a-z0-9_]*$`)

type duration struct{ time.Duration }

func (d *duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

type size uint64

func (s *size) UnmarshalText(text []byte) error {
	n, err := cache.ParseBytes(string(text))
	*s = size(n)
	return err
}

// Read reads a matrix. What is wrong with it is a job.Usage error.
func Read(name, text string) (*Matrix, error) {
	var m Matrix
	meta, err := toml.NewDecoder(bytes.NewReader([]byte(text))).Decode(&m)
	if err == nil {
		err = m.check()
	}
	if keys := meta.Undecoded(); err == nil && len(keys) > 0 {
		err = fmt.Errorf("key %s is unknown", keys[0])
	}
	if err != nil {
		return nil, job.Usage(fmt.Errorf("read %s: %w", name, err))
	}
	return &m, nil
}

func (m *Matrix) check() error {
	if !originName.MatchString(m.Origin) {
		return fmt.Errorf("origin %s: want a-z, 0-9, _ only", m.Origin)
	}
	seen := map[string]bool{}
	for _, c := range m.Cells() {
		switch {
		case c.Suite == "":
			return fmt.Errorf("a suite has no name")
		case c.Base == "":
			return fmt.Errorf("suite %s has no base", c.Suite)
		case c.Name != path.Base(c.Name) || strings.HasPrefix(c.Name, "."):
			return fmt.Errorf("cell %s: that is no name of a folder", c.Name)
		case c.Suite == UpdateSuite:
			return fmt.Errorf("suite %s: that is what the update of a base is called", c.Suite)
		case seen[c.Name]:
			return fmt.Errorf("cell %s is there twice", c.Name)
		case len(c.Command) == 0:
			return fmt.Errorf("suite %s has no command", c.Suite)
		case c.Command[0] == "run" && c.Series == "":
			return fmt.Errorf("suite %s: run wants a series; the bare base is for test", c.Suite)
		case c.Deadline <= 0:
			return fmt.Errorf("suite %s has no deadline", c.Suite)
		}
		seen[c.Name] = true
	}
	for _, t := range m.Trees {
		if t.Name == "" || t.Dir == "" || t.Base == "" {
			return fmt.Errorf("tree %q: want name, dir and base", t.Name)
		}
	}
	for _, k := range m.Known {
		if _, err := path.Match(k.Test, ""); err != nil {
			return fmt.Errorf("known %s: %w", k.Test, err)
		}
		if k.Test == "" || k.Reason == "" || k.Until.IsZero() {
			return fmt.Errorf("known %q: want test, reason and until", k.Test)
		}
	}
	return nil
}

// Cells returns the fields of the matrix, suite by suite.
func (m *Matrix) Cells() (all []Cell) {
	or := func(lists ...[]string) []string {
		for _, l := range lists {
			if l != nil {
				return l
			}
		}
		return []string{""}
	}
	for _, s := range m.Suites {
		configs := or(s.Configs, m.Configs)
		for _, base := range or(s.Bases, m.Bases) {
			for _, series := range or(s.Series, m.Series) {
				for i, config := range configs {
					c := Cell{
						Suite: s.Name, Base: base, Tree: m.tree(base), Series: series, Config: config, Command: s.Command,
						Deadline: cmp.Or(s.Deadline.Duration, m.Deadline.Duration),
						Guests:   max(1, cmp.Or(s.Guests, m.Guests)), Memory: cmp.Or(s.Memory, m.Memory, 1024),
					}
					c.Name = strings.Join([]string{s.Name, cmp.Or(series, "none"), base}, "-")
					if i > 0 {
						c.Name += "-" + config[strings.LastIndex(config, ",")+1:]
					}
					all = append(all, c)
				}
			}
		}
	}
	return all
}

// tree is the git tree of that name, or nothing.
func (m *Matrix) tree(name string) (t Tree) {
	if i := slices.IndexFunc(m.Trees, func(t Tree) bool { return t.Name == name }); i >= 0 {
		t = m.Trees[i]
	}
	return t
}

// Choose returns the cells whose suite or name matches one of the patterns (none:
// all), and of these the shard "i/n": the i-th of n, counted from 1.
func (m *Matrix) Choose(patterns []string, shard string) ([]Cell, error) {
	all := m.Cells()
	used := make([]bool, len(patterns))
	all = slices.DeleteFunc(all, func(c Cell) bool {
		keep := len(patterns) == 0
		for i, p := range patterns {
			name, err1 := path.Match(p, c.Name)
			suite, err2 := path.Match(p, c.Suite)
			if err1 == nil && err2 == nil && (name || suite) {
				keep, used[i] = true, true
			}
		}
		return !keep
	})
	for i, p := range patterns {
		if !used[i] {
			var names []string
			for _, s := range m.Suites {
				names = append(names, s.Name)
			}
			return nil, job.Usage(fmt.Errorf("nightly: no cell is %s; there are the suites %s", p, strings.Join(names, ", ")))
		}
	}
	if shard == "" {
		return all, nil
	}
	var i, n uint32
	if _, err := fmt.Sscanf(shard, "%d/%d", &i, &n); err != nil || i < 1 || i > n || fmt.Sprintf("%d/%d", i, n) != shard {
		return nil, job.Usage(fmt.Errorf("nightly: shard %s: want i/n with i from 1 to n", shard))
	}
	at := uint32(0)
	return slices.DeleteFunc(all, func(Cell) bool { at++; return (at-1)%n != i-1 }), nil
}

// UpdateSuite is the suite of the cells that Updates returns.
const UpdateSuite = "update"

// Updates returns a cell for each base of the cells, that fetches what is newer.
func (m *Matrix) Updates(cells []Cell) (all []Cell) {
	if !m.Update {
		return nil
	}
	for _, c := range cells {
		u := Cell{Name: UpdateSuite + "-" + c.Base, Suite: UpdateSuite, Base: c.Base, Tree: c.Tree, Deadline: updateDeadline, Command: []string{"series", "update"}}
		if !slices.ContainsFunc(all, func(o Cell) bool { return o.Name == u.Name }) {
			all = append(all, u)
		}
	}
	return all
}

// updateDeadline is for a source that answers slowly: a tarball is 150 MB.
const updateDeadline = time.Hour

// Args returns the arguments of kbuild-run for the cell, which puts its results
// below out.
func (c *Cell) Args(out string) []string {
	args := append(slices.Clone(c.Command), "--base", c.Kept())
	if c.Tree.Dir != "" {
		args = append(args, "--tree", c.Tree.Dir)
	}
	if c.Suite == UpdateSuite {
		return args
	}
	args = append(args, "--series", c.Series)
	if c.Config != "" {
		args = append(args, "--config", c.Config)
	}
	return append(args, "--out", out)
}

// Kept is the base that the series of the cell is kept for.
func (c *Cell) Kept() string { return cmp.Or(c.Tree.Base, c.Base) }

// choosers are the flags beside which scenarios, and tests of smbtorture, can be
// asked for one by one.
var choosers = []string{"--scenario", "--torture", "--torture-newest", "--repeat"}

// Chooses says that the cell runs tests that can be asked for one by one.
func (c *Cell) Chooses() bool {
	other := func(arg string) bool { return strings.HasPrefix(arg, "-") && !slices.Contains(choosers, arg) }
	return (c.Command[0] == "run" || c.Command[0] == "test") && !slices.ContainsFunc(c.Command, other)
}

// Only returns the cell with a command that runs these tests alone; the cell itself
// when one of them is of the guest, or of a client, or a stress.
func (c *Cell) Only(tests []string) *Cell {
	var choice []string
	for _, t := range tests {
		_, name, ok := strings.Cut(t, ": ")
		if !ok || strings.ContainsAny(name, ": ") || name == "server" || name == "console" || !c.Chooses() {
			return c
		}
		flag := "--scenario"
		if strings.HasPrefix(name, "smb2.") { // as smbtorture calls its tests
			flag = "--torture"
		}
		if !slices.Contains(choice, name) { // in both columns
			choice = append(choice, flag, name)
		}
	}
	if choice == nil {
		return c
	}
	one := *c
	one.Command = nil
	for i := 0; i < len(c.Command); i++ {
		if a := c.Command[i]; a == "--scenario" || a == "--torture" {
			i++
		} else {
			one.Command = append(one.Command, a)
		}
	}
	one.Command = append(one.Command, choice...)
	return &one
}
