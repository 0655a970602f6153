package vmrunner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"kbuild-run/patches/cache"
)

func TestVerdict(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	now := time.Now()
	remember := func(key, text string, at time.Time) {
		t.Helper()
		dir, _, err := cache.Once(t.Context(), "accel", key, map[string]string{"what": "a verdict"}, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "verdict"), []byte(text), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "verdict"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	want := func(why string, known bool) {
		t.Helper()
		if gotWhy, gotKnown := Verdict(now.Add(-time.Hour)); gotWhy != why || gotKnown != known {
			t.Errorf("got %q, %v, want %q, %v", gotWhy, gotKnown, why, known)
		}
	}
	want("", false)
	remember("a", "of an earlier boot", now.Add(-2*time.Hour))
	want("", false)
	remember("c", "kvm: opens, but boots no guest", now.Add(-30*time.Minute))
	want("kvm: opens, but boots no guest", true)
	remember("b", "older", now.Add(-40*time.Minute))
	want("kvm: opens, but boots no guest", true)
	remember("0", "", now.Add(-time.Minute))
	want("", true)
}
