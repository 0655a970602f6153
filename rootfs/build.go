package rootfs

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

//go:embed busybox.go
var busyboxGo string

// commands returns the import paths of the guest's u-root commands.
func commands() ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "busybox.go", busyboxGo, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// sources returns the folder with our own go.mod. The guest's Go programs are
// compiled when an image is built, from the checkout this program came from: a
// copy of the program itself could not serve, since `go build` links it against
// the host's C library when there is a C compiler.
func sources() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	start := []string{filepath.Dir(file)}
	if wd, err := os.Getwd(); err == nil {
		start = append(start, wd)
	}
	for _, dir := range start {
		for ; filepath.IsAbs(dir); dir = filepath.Dir(dir) {
			b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && modfile.ModulePath(b) == "kbuild-run" {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("find the sources of the guest's agent: no checkout of kbuild-run here; cd into one")
}

// moduleVersions returns "path version" of the modules in our go.mod whose path begins
// with one of the prefixes, and the Go release that would compile them.
func moduleVersions(ctx context.Context, src string, prefixes ...string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(src, "go.mod"))
	if err != nil {
		return nil, err
	}
	mod, err := modfile.Parse("go.mod", b, nil)
	if err != nil {
		return nil, err
	}
	release, err := job.Command("go", "env", "GOVERSION").In(src).Probe(ctx)
	if err != nil {
		return nil, err
	}
	all := []string{strings.TrimSpace(string(release))}
	for _, r := range mod.Require {
		for _, p := range prefixes {
			if strings.HasPrefix(r.Mod.Path, p) {
				all = append(all, r.Mod.Path+" "+r.Mod.Version)
			}
		}
	}
	return all, nil
}

// busybox builds the u-root commands and returns the archive that holds them.
func busybox(ctx context.Context, s *job.Step, src string, list []string) (file, key string, err error) {
	parts, err := moduleVersions(ctx, src, "github.com/u-root/", "mvdan.cc/")
	if err != nil {
		return "", "", err
	}
	// The kernel runs /init of ours, so mkuimage must not make one. goshliner is
	// the shell with a line editor that works on every terminal; the other takes
	// a terminal's answers to its questions for input.
	args := []string{"tool", "mkuimage", "-build=bb", "-base=/dev/null", "-defaultsh=gosh", "-initcmd=", "-uinitcmd=",
		"-go-build-tags=goshliner"}
	key = cache.Key(slices.Concat([]string{"busybox"}, args, list, parts)...)
	meta := map[string]string{"what": fmt.Sprintf("%d u-root commands", len(list)), "from": strings.Join(parts, ", ")}
	const name = "busybox.cpio"
	dir, _, err := cache.Once(ctx, "rootfs", key, meta, func(dir string) error {
		s.Progress("compile %d u-root commands", len(list))
		tmp := filepath.Join(dir, "tmp")
		if err := job.Command("mkdir", "-p", tmp).Run(ctx); err != nil {
			return err
		}
		err := job.Command("go", slices.Concat(args, []string{"-tmp-dir", tmp, "-o", filepath.Join(dir, name)}, list)...).In(src).
			With("CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1").Run(ctx)
		if err != nil {
			return fmt.Errorf("build the guest's commands: %w", err)
		}
		return job.Command("rm", "-rf", tmp).Run(ctx)
	})
	return filepath.Join(dir, name), key, err
}

// agent builds PID 1 of the guest.
func agent(ctx context.Context, s *job.Step, src string) (file, key string, err error) {
	var files []string
	for _, sources := range []string{"rootfs/agent/*.go", "rootfs/agent/*.s", "gen/smb2/*.go"} {
		more, err := filepath.Glob(filepath.Join(src, sources))
		if err != nil {
			return "", "", err
		}
		files = append(files, more...)
	}
	parts, err := moduleVersions(ctx, src, "golang.org/x/", "github.com/pkg/sftp", "github.com/vishvananda/", "github.com/u-root/u-root")
	if err != nil {
		return "", "", err
	}
	parts = append([]string{"agent"}, parts...)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", "", err
		}
		parts = append(parts, filepath.Base(f), string(b))
	}
	key = cache.Key(parts...)
	dir, _, err := cache.Once(ctx, "rootfs", key, map[string]string{"what": "agent"}, func(dir string) error {
		s.Progress("compile the agent")
		return Program(ctx, "rootfs/agent", filepath.Join(dir, "agent"))
	})
	return filepath.Join(dir, "agent"), key, err
}

// Program compiles a program of ours for a guest: folder is that of its package,
// from the top of the checkout, file what is written.
func Program(ctx context.Context, folder, file string) error {
	src, err := sources()
	if err != nil {
		return err
	}
	return job.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "./"+folder).
		In(src).With("CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1").Run(ctx)
}

// concat writes the files one behind the other, each padded to whole blocks.
func concat(out string, files ...string) error {
	w, err := os.Create(out)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, f := range files {
		r, err := os.Open(f)
		if err != nil {
			return err
		}
		n, err := io.Copy(w, r)
		r.Close()
		if err != nil {
			return fmt.Errorf("write %s: %w", out, err)
		}
		if rest := n % 512; rest != 0 {
			if _, err := w.Write(make([]byte, 512-rest)); err != nil {
				return fmt.Errorf("write %s: %w", out, err)
			}
		}
	}
	return w.Close()
}
