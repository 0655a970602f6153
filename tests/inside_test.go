package tests

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// What kmemleak finds is a report of what ran when the object was allocated.
func TestLeaked(t *testing.T) {
	const object = `unreferenced object 0xffff88800b2c5c00 (size 96):
  comm "kworker/0:2", pid 45, jiffies 4294904796
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace (crc 0):
    [<ffffffff81234567>] __kmalloc_cache_noprof+0x1c3/0x260
    [<ffffffffc0012345>] planted+0x1d/0x30 [ksmbd]
    [<ffffffffc0012399>] smb2_ioctl+0x99/0x900 [ksmbd]
`
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	// At 250 Hz 2500 jiffies are 10 s.
	during := func(from, to time.Time) []string {
		at := now.Add(-10 * time.Second)
		if at.Before(from) || at.After(to) {
			t.Errorf("asked for %v to %v, want it around %v", from, to, at)
		}
		return []string{"some-scenario"}
	}
	got, err := leaked(object+object+"jiffies: 4294907296\n", []byte("CONFIG_SMP=y\nCONFIG_HZ=250\n"), now, during)
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v; want one report", got, err)
	}
	if got, want := got[0].Head(), "unreferenced object of 96 bytes (2 times), during some-scenario"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := []string{"planted", "smb2_ioctl"}; !slices.Equal(got[0].Frames, want) {
		t.Errorf("frames: got %q, want %q", got[0].Frames, want)
	}
	if got, err := leaked("jiffies: 4294907296\n", nil, now, nil); len(got) != 0 || err != nil {
		t.Errorf("no leak: got %v, %v", got, err)
	}
	for _, bad := range []string{"", object, "something new\njiffies: 4294907296\n"} {
		if _, err := leaked(bad, nil, now, nil); err == nil || !strings.HasPrefix(err.Error(), "read kmemleak: ") {
			t.Errorf("%q: got %v, want that it cannot be read", bad, err)
		}
	}
}
