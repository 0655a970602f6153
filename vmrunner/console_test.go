package vmrunner

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestConsoleScanError(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	c.file.Close() // as on a full disk: what is written gets lost
	if n, err := c.Write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("write: got %d, %v; want 5, nil: the guest must not stall", n, err)
	}
	if _, err := c.scan(); err == nil {
		t.Error("scan of a log that is not whole: got no error")
	}
}

// A line of ours never lands within one of the guest's.
func TestConsoleMark(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	c.mark("one")
	c.Write([]byte("gu"))
	c.mark("two")
	c.mark("three")
	c.Write([]byte("est\r\nmore"))
	c.mark("four")
	c.close()
	c.mark("five")
	got, err := os.ReadFile(c.path)
	if want := "one\nguest\ntwo\nthree\nmore\nfour\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// What ran between two times began before the later and had not ended before the
// earlier.
func TestDuring(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	endEarly := c.begin("early")
	endLong := c.begin("long")
	endEarly()
	from := time.Now()
	c.begin("middle")()
	to := time.Now()
	c.begin("late")()
	endLong()
	if got, want := c.during(from, to), []string{"long", "middle"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := c.during(to, to), []string{"long"}; !slices.Equal(got, want) {
		t.Errorf("at one moment: got %q, want %q", got, want)
	}
}
