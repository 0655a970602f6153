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
	// At 250 Hz 2500 jiffies are 10 s. The guest took 4 s to say how many they are.
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	c := clock{"jiffies: 4294907296\n", now, now.Add(4 * time.Second)}
	during := func(from, to time.Time) []string {
		first, last := now.Add(-10*time.Second), now.Add(-6*time.Second)
		if from.After(first) || to.Before(last) {
			t.Errorf("asked for %v to %v, want all from %v to %v", from, to, first, last)
		}
		return []string{"some-scenario"}
	}
	got, err := leaked(object+object, []byte("CONFIG_SMP=y\nCONFIG_HZ=250\n"), c, during)
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v; want one report", got, err)
	}
	if got, want := got[0].Head(), "unreferenced object of 96 bytes (2 times), during some-scenario"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := []string{"planted", "smb2_ioctl"}; !slices.Equal(got[0].Frames, want) {
		t.Errorf("frames: got %q, want %q", got[0].Frames, want)
	}
	if got, err := leaked("", nil, c, nil); len(got) != 0 || err != nil {
		t.Errorf("no leak: got %v, %v", got, err)
	}
	for _, bad := range []struct{ found, jiffies string }{{object, ""}, {"something new\n", c.jiffies}} {
		if _, err := leaked(bad.found, nil, clock{jiffies: bad.jiffies}, nil); err == nil || !strings.HasPrefix(err.Error(), "read kmemleak: ") {
			t.Errorf("%q: got %v, want that it cannot be read", bad, err)
		}
	}
}

// A function of a module that is gone has the name it had.
func TestNamed(t *testing.T) {
	const symbols = "ffffffffa0100000 t second\t[ksmbd]\nffffffffa006f010 t planted\t[ksmbd]\n" +
		"ffffffffa006f020 d data\t[ksmbd]\nffffffffa006f050 T last\t[ksmbd]\n"
	const stack = "unreferenced object 0xffffffffa006f031 (size 96):\n    a+0x1/0x2\n    0x%s\n    b+0x3/0x4\n"
	for address, want := range map[string]string{
		"ffffffffa006f031": "planted+0x21/0x40 [ksmbd]",
		"ffffffffa006f050": "last+0x0/0x90fb0 [ksmbd]",
		"ffffffffa006f00f": "0xffffffffa006f00f", // before it
		"ffffffffa0100010": "0xffffffffa0100010", // nobody knows where the last one ends
	} {
		want := strings.Replace(stack, "0x%s", want, 1)
		if got := named(strings.Replace(stack, "%s", address, 1), symbols); got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
	if got := named(stack, ""); got != stack {
		t.Errorf("without symbols: got %q", got)
	}
}
