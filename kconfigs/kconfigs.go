// Package kconfigs: tree + fragments -> kernel (bzImage, modules).
//
// A fragment is a text in the form of .config that asks for some options. The
// fragments are merged onto allnoconfig, and every option they ask for is looked
// up in the .config that Kconfig made of them: one that Kconfig dropped stops the
// build. The kernel is built out of tree, in a folder of its own for each base,
// set of fragments and compiler, so that the next tree costs what differs.
package kconfigs

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Kernel is a kernel in the cache.
type Kernel struct {
	Tree      *patches.Tree
	Fragments []string
	Compiler  string // "gcc (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40"
	Release   string // as uname -r says it
	Key       string
	Cached    bool // an earlier run built it

	Dir     string // folder of the files below
	BzImage string
	Vmlinux string
	Modules string // folder that holds lib/modules/<Release>
	Config  string // the whole .config
	Notes   string // gcov's notes, as they lie in Counted; no folder: gcov counts nowhere
}

// Default are the fragments of a kernel when none are named.
var Default = []string{"base", "ksmbd", "kunit"}

// With adds a fragment to others, unless it is among them.
func With(fragments []string, more string) []string {
	if slices.Contains(fragments, more) {
		return fragments
	}
	return append(slices.Clone(fragments), more)
}

// Options of Build.
type Options struct {
	Fragments []string // names, or files of the user's; nil: Default
}

// recipe is part of every key. Raise it when the same tree, fragments and
// compiler would give other files than before.
const recipe = "1"

// Build builds the kernel of a tree, unless the same one was built before. A
// compiler that rejects the source is a job.Failed error.
func Build(ctx context.Context, s *job.Step, t *patches.Tree, o Options) (*Kernel, error) {
	names, want, err := o.request(t.Base)
	if err != nil {
		return nil, err
	}
	cc, err := compiler(ctx)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Tree: t, Fragments: names, Compiler: cc, Key: cache.Key(recipe, t.Key, text(want), cc)}
	meta := map[string]string{
		"what": t.String(), "tree": t.Key, "version": t.Version,
		"fragments": strings.Join(names, " "), "compiler": cc,
	}
	objects := 0
	k.Dir, k.Cached, err = cache.Once(ctx, "kernels", k.Key, meta, func(dir string) (err error) {
		objects, err = build(ctx, s, k, want, dir, meta)
		return err
	})
	if err != nil {
		return nil, err
	}
	k.BzImage = filepath.Join(k.Dir, "bzImage")
	k.Vmlinux = filepath.Join(k.Dir, "vmlinux")
	k.Modules = filepath.Join(k.Dir, "modules")
	k.Config = filepath.Join(k.Dir, "config")
	k.Notes = filepath.Join(k.Dir, "notes")
	if k.Cached {
		s.Cached()
		if meta, err = cache.Meta(k.Dir); err != nil {
			return nil, err
		}
	}
	k.Release = meta["release"]
	s.Note("Linux %s, %s", k.Release, strings.Join(names, "+"))
	if !k.Cached {
		s.Note("Linux %s, %s, %d objects compiled", k.Release, strings.Join(names, "+"), objects)
	}
	return k, nil
}

// request returns the fragments and what they ask for.
func (o Options) request(base string) (names []string, want []line, err error) {
	if names = o.Fragments; names == nil {
		names = Default
	}
	names, all, err := load(names, base)
	if err != nil {
		return nil, nil, err
	}
	want, err = merge(all)
	// Where a line stands does not matter, so it shall not make another kernel.
	slices.SortFunc(want, func(a, b line) int { return strings.Compare(a.name, b.name) })
	return names, want, err
}

// text returns the lines as a .config.
func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// compiler says in words what compiles and links.
func compiler(ctx context.Context) (string, error) { return versions(ctx, "gcc", "ld") }

// versions returns what some programs call themselves.
func versions(ctx context.Context, programs ...string) (string, error) {
	var words []string
	for _, tool := range programs {
		out, err := job.Command(tool, "--version").With("LC_ALL=C").Probe(ctx)
		if err != nil {
			return "", err
		}
		first, _, _ := strings.Cut(string(out), "\n")
		words = append(words, first)
	}
	return strings.Join(words, ", "), nil
}
