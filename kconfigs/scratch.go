package kconfigs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/patches/job"
)

// Scratch is a copy of one folder of a kernel's tree, in which files can be
// changed and the folder's modules built for that kernel. The tree, the build
// folder and the kernel stay as they are.
type Scratch struct {
	f      *folder
	root   string // has the folder at its place in the tree, and links around it
	folder string // "fs/smb/server"
}

// Scratch copies the folder. Until release others build kernels only of the same tree,
// with other fragments. The modules of the folder are built once, so that Build costs only what
// it changes.
func (k *Kernel) Scratch(ctx context.Context, s *job.Step, name string) (c *Scratch, release func(), err error) {
	if err := needs(); err != nil {
		return nil, nil, err
	}
	_, want, err := Options{Fragments: k.Fragments}.request(k.Tree.Base)
	if err != nil {
		return nil, nil, err
	}
	f, leave, err := enter(ctx, s, k.Tree, k.Fragments, k.Compiler)
	if err != nil {
		return nil, nil, err
	}
	c = &Scratch{f: f, folder: name}
	release = func() {
		if c.root != "" {
			os.RemoveAll(c.root)
		}
		leave()
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if c.root, err = os.MkdirTemp("", "kbuild-run-scratch-"); err != nil {
		return nil, nil, err
	}
	if err := c.copy(); err != nil {
		return nil, nil, fmt.Errorf("copy %s: %w", name, err)
	}
	if err := f.configure(ctx, s, want); err != nil {
		return nil, nil, err
	}
	// What vmlinux and the other modules export stands there after a build.
	if _, err := os.Stat(filepath.Join(f.dir, "Module.symvers")); errors.Is(err, os.ErrNotExist) {
		if _, err := f.compile(ctx, s); err != nil {
			return nil, nil, err
		}
	}
	return c, release, c.make(ctx)
}

// copy copies the folder and links what is beside it and beside its parents:
// sources include "../common/x.h".
func (c *Scratch) copy() error {
	at := ""
	for part := range strings.SplitSeq(c.folder, "/") {
		if err := os.Mkdir(filepath.Join(c.root, at), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		all, err := os.ReadDir(filepath.Join(c.f.tree, at))
		if err != nil {
			return err
		}
		for _, e := range all {
			if e.Name() == part || e.Name() == ".git" {
				continue
			}
			if err := os.Symlink(filepath.Join(c.f.tree, at, e.Name()), filepath.Join(c.root, at, e.Name())); err != nil {
				return err
			}
		}
		at = filepath.Join(at, part)
	}
	return os.CopyFS(filepath.Join(c.root, at), os.DirFS(filepath.Join(c.f.tree, at)))
}

func (c *Scratch) make(ctx context.Context) error {
	m := c.f.make("--output-sync=target", "M="+filepath.Join(c.root, c.folder), "modules")
	var e complaints
	m.Line = e.line
	err := m.Run(ctx)
	if err != nil && ctx.Err() == nil && len(e.text) > 0 {
		return job.Failed(fmt.Errorf("compile %s:\n%s", c.folder, strings.Join(e.text, "\n")))
	}
	return err
}

// Read returns a file of the folder, by its path in the tree.
func (c *Scratch) Read(file string) ([]byte, error) {
	if !strings.HasPrefix(file, c.folder+"/") {
		return nil, fmt.Errorf("read %s: not in %s", file, c.folder)
	}
	return os.ReadFile(filepath.Join(c.root, file))
}

// Build builds the folder with other text in one file and returns what is in the
// module, a path from the folder: "ksmbd.ko". The file is then as it was. Text
// that the compiler rejects is a job.Failed error.
func (c *Scratch) Build(ctx context.Context, file string, text []byte, module string) (ko []byte, err error) {
	was, err := c.Read(file)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.root, file)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, was, 0o644)) }()
	if err := c.make(ctx); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(c.root, c.folder, module))
}
