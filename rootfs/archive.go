package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/cpio"
)

// Archive collects files for one initramfs archive. Owner is root, times are
// zero and folders are 0755, so equal content gives equal bytes. The kernel
// unpacks archives one behind the other: a later one adds to, and replaces, what
// an earlier one brought.
type Archive struct {
	records map[string]cpio.Record
}

// File adds a regular file; name is its path in the guest.
func (a *Archive) File(name string, content []byte, perm fs.FileMode) {
	a.add(cpio.StaticFile(clean(name), string(content), bits(perm)))
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) { a.add(cpio.Symlink(clean(name), target)) }

// Dir adds a folder with the given mode; folders on the way to a file need none.
func (a *Archive) Dir(name string, perm fs.FileMode) {
	a.add(cpio.Directory(clean(name), bits(perm)))
}

// Copy adds a file of the host.
func (a *Archive) Copy(name, from string, perm fs.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	a.File(name, b, perm)
	return nil
}

// Tree adds the regular files below from, under name.
func (a *Archive) Tree(name, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		return a.Copy(path.Join(name, filepath.ToSlash(rel)), p, 0o644)
	})
}

// bits returns the permissions as cpio has them.
func bits(perm fs.FileMode) uint64 {
	b := uint64(perm.Perm())
	if perm&fs.ModeSticky != 0 {
		b |= 0o1000
	}
	return b
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (a *Archive) add(r cpio.Record) {
	if a.records == nil {
		a.records = map[string]cpio.Record{}
	}
	if r.Name == "" {
		r.Name = "."
	}
	r.NLink = 1
	a.records[r.Name] = r
	for dir := path.Dir(r.Name); r.Name != "." && dir != r.Name; dir = path.Dir(dir) {
		if _, ok := a.records[dir]; !ok {
			d := cpio.Directory(dir, 0o755)
			d.NLink = 1
			a.records[dir] = d
		}
		if dir == "." {
			break
		}
	}
}

// WriteTo writes the archive, padded so that another one can follow.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	names := make([]string, 0, len(a.records))
	for n := range a.records {
		names = append(names, n)
	}
	slices.Sort(names) // a folder sorts before what is in it
	var b bytes.Buffer
	rw := cpio.Newc.Writer(&b)
	for _, n := range names {
		if err := rw.WriteRecord(a.records[n]); err != nil {
			return 0, fmt.Errorf("pack %s: %w", n, err)
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return 0, err
	}
	for b.Len()%512 != 0 {
		b.WriteByte(0)
	}
	return b.WriteTo(w)
}
