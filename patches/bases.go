package patches

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

//go:embed bases.toml
var basesText string

// Base is a kernel that a series can be applied to.
type Base struct {
	Name    string   `toml:"name"`    // "v6.12"
	Default bool     `toml:"default"` // taken when none is named
	Sources []source `toml:"source"`  // tried in order
}

// source is one place a base comes from: a tarball or a distribution's package.
type source struct {
	Tarball string `toml:"tarball"` // address; sha256sums.asc lies beside it
	Package string `toml:"package"` // Debian package
	Suite   string `toml:"suite"`   // suite of the Debian archive that has it
}

// Bases returns the bases of bases.toml, newest first.
func Bases() []Base { return bases }

var bases = mustBases(basesText)

func mustBases(text string) []Base {
	var file struct{ Base []Base }
	if _, err := toml.Decode(text, &file); err != nil {
		panic("patches/bases.toml: " + err.Error())
	}
	return file.Base
}

// FindBase returns the base of that name, or the default one for "".
func FindBase(name string) (Base, error) {
	var names []string
	for _, b := range bases {
		if b.Name == name || name == "" && b.Default {
			return b, nil
		}
		names = append(names, b.Name)
	}
	return Base{}, job.Usage(fmt.Errorf("find base %s: there is %s", name, strings.Join(names, ", ")))
}

// baseOf returns the base that a tree of this version ("6.12.117") belongs to:
// the newest one that is not newer than the tree, or the oldest.
func baseOf(version string) Base {
	var major, minor int
	fmt.Sscanf(version, "%d.%d", &major, &minor)
	for _, b := range bases {
		var bmajor, bminor int
		fmt.Sscanf(b.Name, "v%d.%d", &bmajor, &bminor)
		if bmajor < major || bmajor == major && bminor <= minor {
			return b
		}
	}
	return bases[len(bases)-1]
}

// Space that a base needs at the worst: a tarball, the tree of 1.5 GiB that
// comes out of it, and git's pack of the tree.
const unpackSpace = 3 << 30

// unpack makes the base's git repository in dir/tree from the first source that
// gives it, and returns the source in words.
func (b Base) unpack(ctx context.Context, s *job.Step, dir string) (from string, err error) {
	if !job.From(ctx).DryRun {
		if err := cache.NeedSpace(unpackSpace); err != nil {
			return "", err
		}
	}
	tree := filepath.Join(dir, "tree")
	var tried []error
	for _, src := range b.Sources {
		if err := remake(ctx, tree); err != nil {
			return "", err
		}
		if src.Tarball != "" {
			from, err = src.fromTarball(ctx, s, dir, tree)
		} else {
			from, err = src.fromPackage(ctx, s, dir, tree)
		}
		if err == nil {
			return from, commitTree(ctx, s, tree, b.Name)
		}
		if ctx.Err() != nil {
			return "", err
		}
		tried = append(tried, err)
	}
	return "", fmt.Errorf("get base %s: no source has it:\n%w\nname a kernel tree of your own with: --tree DIR",
		b.Name, errors.Join(tried...))
}

// remake makes dir an empty folder.
func remake(ctx context.Context, dir string) error {
	if dry(ctx, "rm -rf "+job.Quote(dir)+" && mkdir -p "+job.Quote(dir)) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	return os.MkdirAll(dir, 0o755)
}

// untar unpacks a tarball into tree, without its top folder. The files are as
// old as the unpacking: make would take a newer release with the old dates of
// its tarball for built already.
func untar(ctx context.Context, s *job.Step, tarball, tree string) error {
	c := job.Command("tar", "-xf", tarball, "--strip-components=1", "--no-same-owner", "--touch", "--checkpoint=1000",
		"--checkpoint-action=echo=%T", "-C", tree)
	c.Line = func(l string) { s.Progress("unpack %s: %s", filepath.Base(tarball), amount(l)) }
	return c.Run(ctx)
}

// amount takes "1.4 GiB" out of tar's totals, "R: 1448140800 (1.4GiB, 159MiB/s)".
func amount(totals string) string {
	_, in, _ := strings.Cut(totals, "(")
	size, _, _ := strings.Cut(in, ",")
	return size
}

// dry prints the shell command for what the program does itself, and returns
// true, in a dry run.
func dry(ctx context.Context, command string) bool {
	j := job.From(ctx)
	if j.DryRun && j.Out != nil {
		fmt.Fprintln(j.Out, command)
	}
	return j.DryRun
}
