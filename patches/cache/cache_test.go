package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kbuild-run/patches/job"
)

func TestKey(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") || Key("a") == Key("a", "") {
		t.Error("lists that differ have one key")
	}
	if got, want := Key("a", "b"), Key("a", "b"); got != want || len(got) != 16 {
		t.Errorf("got %q and %q", got, want)
	}
}

// names returns what lies in a kind's folder, without locks.
func names(t *testing.T, kind string) (names []string) {
	t.Helper()
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	found, err := os.ReadDir(filepath.Join(dir, kind))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range found {
		if !strings.HasSuffix(f.Name(), ".lock") {
			names = append(names, f.Name())
		}
	}
	return names
}

func TestOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	broken := errors.New("broken")
	ctx, cancel := context.WithCancel(t.Context())
	for _, test := range []struct {
		name string
		ctx  context.Context
		fill func(dir string) error
		want error
		left int
	}{
		{"fails", t.Context(), func(string) error { return broken }, broken, 0},
		{"interrupted at its end", ctx, func(string) error { cancel(); return nil }, context.Canceled, 0},
		{"works", t.Context(), func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644) }, nil, 1},
	} {
		_, cached, err := Once(test.ctx, "kind", "key", map[string]string{"what": "test"}, test.fill)
		if !errors.Is(err, test.want) || cached {
			t.Errorf("%s: got cached %v, error %v, want %v", test.name, cached, err, test.want)
		}
		if got := names(t, "kind"); len(got) != test.left {
			t.Errorf("%s: left %q, want %d", test.name, got, test.left)
		}
	}
	dir, cached, err := Once(t.Context(), "kind", "key", nil, func(string) error { return broken })
	if err != nil || !cached {
		t.Errorf("again: cached %v, error %v", cached, err)
	}
	if m, err := Meta(dir); err != nil || m["what"] != "test" {
		t.Errorf("got metadata %v, %v", m, err)
	}
	// An interrupted removal leaves a folder without metadata: no entry.
	if err := os.Remove(filepath.Join(dir, metadata)); err != nil {
		t.Fatal(err)
	}
	if _, cached, err := Once(t.Context(), "kind", "key", nil, func(string) error { return nil }); err != nil || cached {
		t.Errorf("after half a removal: cached %v, error %v", cached, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err == nil {
		t.Error("the rest of a removed entry is in the new one")
	}
}

// Of many who want an entry one makes it and the others get it.
func TestOnceTogether(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var fills, cached atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, had, err := Once(t.Context(), "kind", "key", nil, func(string) error { fills.Add(1); return nil })
			if err != nil {
				t.Error(err)
			}
			if had {
				cached.Add(1)
			}
		})
	}
	wg.Wait()
	if fills.Load() != 1 || cached.Load() != 7 {
		t.Errorf("%d filled, %d found it there; want 1 and 7", fills.Load(), cached.Load())
	}
}

func TestOnceDryRun(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", filepath.Join(t.TempDir(), "cache"))
	ctx := job.With(t.Context(), &job.Job{DryRun: true})
	called := false
	dir, cached, err := Once(ctx, "kind", "key", nil, func(string) error { called = true; return nil })
	if err != nil || cached || !called {
		t.Errorf("got cached %v, filled %v, error %v", cached, called, err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Errorf("a dry run made %s", filepath.Dir(dir))
	}
}

func TestShare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entry")
	one, err := Share(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Share(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	two()
	ctx, cancel := context.WithCancel(t.Context())
	defer func(w func(string)) { Waiting = w }(Waiting)
	waited := ""
	Waiting = func(p string) { waited = p; cancel() }
	if _, err := Lock(ctx, path); !errors.Is(err, context.Canceled) || waited != path {
		t.Errorf("lock of what is shared: %v, waited for %q", err, waited)
	}
	one()
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestNeedSpace(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if err := NeedSpace(1); err != nil {
		t.Error(err)
	}
	err := NeedSpace(1 << 60)
	if err == nil || !strings.Contains(err.Error(), "kbuild-run cache prune") {
		t.Errorf("got %v, want what to do", err)
	}
}

func TestList(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, key := range []string{"a", "b"} {
		_, _, err := Once(t.Context(), "kind", key, map[string]string{"what": "entry " + key}, func(dir string) error {
			hole := filepath.Join(dir, "hole")
			if err := os.WriteFile(hole, nil, 0o644); err != nil {
				return err
			}
			if err := os.Truncate(hole, 1<<30); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1000), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := List()
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	if e := all[0]; e.Kind != "kind" || e.Key != "a" || e.Meta["what"] != "entry a" || e.Size < 1000 || e.Size > 1<<20 || time.Since(e.Used) > time.Hour {
		t.Errorf("got %+v", e)
	}
	if err := all[0].Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if _, ok := Have("kind", "a"); ok {
		t.Error("a removed entry is there")
	}
	if _, ok := Have("kind", "b"); !ok {
		t.Error("the other entry is gone")
	}
}

// What was not used for longest goes first, and what is in use stays.
func TestPrune(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	now := time.Now()
	var used func()
	for age, key := range []string{"new", "later", "used", "old", "oldest"} {
		dir, _, err := Once(t.Context(), "kind", key, nil, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		at := now.Add(-time.Duration(age) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, metadata), at, at); err != nil {
			t.Fatal(err)
		}
		if key == "used" {
			if used, err = Share(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			defer used()
		}
	}
	for _, test := range []struct {
		old  time.Time
		most uint64
		left string
	}{
		{now.Add(-time.Hour * 7 / 2), 0, "later new old used"},
		{time.Time{}, 0, "later new old used"},
		{time.Time{}, 7 << 19, "later new used"},
		{time.Time{}, 1, "used"},
	} {
		remove := func(e Entry) error { return e.Remove(t.Context()) }
		if err := Prune(t.Context(), test.old, test.most, remove, func(e Entry) {
			if e.Key != "used" {
				t.Errorf("%s is in use", e.Key)
			}
		}); err != nil {
			t.Fatal(err)
		}
		all, err := List()
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, e := range all {
			left = append(left, e.Key)
		}
		if got := strings.Join(left, " "); got != test.left {
			t.Errorf("older than %s, most %d: left %s, want %s", test.old, test.most, got, test.left)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, test := range []struct {
		n    uint64
		want string
	}{{0, "0.0 KiB"}, {1536, "1.5 KiB"}, {3 << 20, "3.0 MiB"}, {5 << 29, "2.5 GiB"}} {
		if got := Bytes(test.n); got != test.want {
			t.Errorf("Bytes(%d) = %q, want %q", test.n, got, test.want)
		}
	}
}
