// Package cache keeps what a step made, keyed by what it was made from, so that
// the next run need not make it again.
//
// Everything lies under $XDG_CACHE_HOME/kbuild-run (or ~/.cache/kbuild-run), in
// one folder a kind and one folder an entry. An entry appears whole or not at
// all, and says in metadata.json what it was made from.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbuild-run/patches/job"
)

const metadata = "metadata.json"

// Dir returns the folder of the cache. It need not exist.
func Dir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "kbuild-run"), nil
}

// Key returns a short name for a list of values: equal lists have equal keys.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Path returns where the entry lies or would lie.
func Path(kind, key string) (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, kind, key), nil
}

// Have returns the folder of an entry that is there, and marks it as used.
func Have(kind, key string) (dir string, ok bool) {
	dir, err := Path(kind, key)
	if err != nil {
		return "", false
	}
	now := time.Now()
	return dir, os.Chtimes(filepath.Join(dir, metadata), now, now) == nil
}

// Once returns the folder of the entry, and true when it was there already.
// Otherwise fill makes it in an empty folder, which becomes the entry only when
// fill returns nil. Of two programs that want the same entry one waits for the
// other. In a dry run fill gets the folder's name and nothing is made. Fill may
// add to meta.
func Once(ctx context.Context, kind, key string, meta map[string]string, fill func(dir string) error) (dir string, cached bool, err error) {
	if dir, ok := Have(kind, key); ok {
		return dir, true, nil
	}
	dir, err = Path(kind, key)
	if err != nil {
		return "", false, err
	}
	if job.From(ctx).DryRun {
		return dir, false, fill(dir)
	}
	unlock, err := Lock(ctx, dir)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if dir, ok := Have(kind, key); ok {
		return dir, true, nil
	}
	tmp := dir + ".tmp" // ours alone: we hold the lock
	if err := os.RemoveAll(tmp); err != nil {
		return "", false, fmt.Errorf("clear %s: %w", tmp, err)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", false, err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		if ctx.Err() != nil {
			// A kernel tree takes a slow disk half a minute.
			job.From(ctx).Logf("interrupted: removing %s", tmp)
		}
		return "", false, err
	}
	if err := ctx.Err(); err != nil {
		return "", false, err
	}
	if err := WriteMeta(tmp, meta); err != nil {
		return "", false, err
	}
	// An entry without metadata is the rest of an interrupted removal.
	if err := os.RemoveAll(dir); err != nil {
		return "", false, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", false, err
	}
	return dir, false, nil
}

// WriteMeta says in dir what it was made from. Once does it by itself.
func WriteMeta(dir string, meta map[string]string) error {
	b, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, metadata), append(b, '\n'), 0o644)
}

// Meta returns what the entry in dir was made from.
func Meta(dir string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, metadata))
	if err != nil {
		return nil, err
	}
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, metadata), err)
	}
	return m, nil
}

// Waiting is called when a lock is held by another process, with its path.
var Waiting = func(path string) {}

// Lock takes the lock that belongs to path (a file beside it) and waits for it
// until ctx ends. The kernel drops the lock of a process that dies.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, unix.LOCK_EX)
}

// Share takes the lock that belongs to path together with others who share it:
// an entry that is in use is neither filled nor removed.
func Share(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, unix.LOCK_SH)
}

func lock(ctx context.Context, path string, how int) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make cache folder: %w", err)
	}
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			Waiting(path)
			told = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// NeedSpace returns an error when the file system of the cache has less than
// want bytes left.
func NeedSpace(want uint64) error {
	dir, err := Dir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cache folder: %w; set XDG_CACHE_HOME to a folder you can write", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("read free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("use %s: %s free, %s wanted; free some with: kbuild-run cache prune, or set XDG_CACHE_HOME",
			dir, Bytes(free), Bytes(want))
	}
	return nil
}

// Entry is one folder of the cache.
type Entry struct {
	Kind, Key, Dir string
	Size           uint64 // bytes on disk
	Used           time.Time
	Meta           map[string]string
}

// List returns every entry, kind by kind.
func List() ([]Entry, error) {
	all, err := entries()
	for i := range all {
		all[i].Size = size(all[i].Dir)
	}
	return all, err
}

// entries are those of List without their sizes, which take a look at every file.
func entries() ([]Entry, error) {
	root, err := Dir()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, d := range dirs {
		fi, err := os.Stat(d)
		if err != nil || !fi.IsDir() {
			continue
		}
		e := Entry{Kind: filepath.Base(filepath.Dir(d)), Key: filepath.Base(d), Dir: d, Used: fi.ModTime()}
		if fi, err := os.Stat(filepath.Join(d, metadata)); err == nil {
			e.Used = fi.ModTime()
		}
		e.Meta, _ = Meta(d)
		all = append(all, e)
	}
	return all, nil
}

// size is what dir takes on disk: images of disks have holes.
func size(dir string) (n uint64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if fi, err := d.Info(); err == nil {
			n += uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512 // stat(2): whatever the block size is
		}
		return nil
	})
	return n
}

// Remove removes the entry unless another process works in it.
func (e Entry) Remove(ctx context.Context) error {
	path := strings.TrimSuffix(e.Dir, ".tmp")
	ctx, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	unlock, err := Lock(ctx, path)
	if err != nil {
		return fmt.Errorf("remove %s: %w", e.Dir, errInUse)
	}
	defer unlock()
	// Metadata first: what is left after an interruption is no entry.
	os.Remove(filepath.Join(e.Dir, metadata))
	return os.RemoveAll(e.Dir)
}

// errInUse says that another process works in an entry.
var errInUse = errors.New("in use by another kbuild-run")

// Prune removes what was last used before old, and of the rest what was not used
// for longest, until it takes no more than most (0: as much as it takes), each by
// remove. What is in use stays, and kept is told of it.
func Prune(ctx context.Context, old time.Time, most uint64, remove func(Entry) error, kept func(Entry)) error {
	all, err := entries()
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Used.Compare(b.Used) })
	var sum uint64
	for i := range all {
		if most > 0 || !all[i].Used.After(old) {
			all[i].Size = size(all[i].Dir)
			sum += all[i].Size
		}
	}
	for _, e := range all {
		if e.Used.After(old) && (most == 0 || sum <= most) {
			continue
		}
		err := remove(e)
		if errors.Is(err, errInUse) {
			kept(e)
			continue
		}
		if err != nil {
			return err
		}
		sum -= e.Size
	}
	return nil
}

// ParseBytes reads a size: 20GiB.
func ParseBytes(text string) (uint64, error) {
	for unit, factor := range map[string]uint64{"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 32)
			return n * factor, err
		}
	}
	return 0, fmt.Errorf("size %s: want a number of MiB, GiB or TiB", text)
}

// Bytes prints a size for people.
func Bytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
