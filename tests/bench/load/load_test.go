package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kbuild-run/tests/servers"
)

// measure runs a command of the program against a Samba of our own and returns what
// it printed by name.
func measure(t *testing.T, args ...string) (map[string]Figure, error) {
	t.Helper()
	s, err := servers.StartSamba(t.Context(), servers.SambaOptions{})
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	// The client's files are its user's: who removes them must be allowed to.
	if os.Getuid() == 0 {
		if err := os.Chmod(s.Dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	err = run(&out, append([]string{args[0], "-addr", s.Addr, "-share", s.Share, "-user", s.User, "-password", s.Password, "-root", s.Dir, "-tasks", "smbd"}, args[1:]...))
	all := map[string]Figure{}
	for line := range bytes.Lines(out.Bytes()) {
		var f Figure
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatal(err)
		}
		all[f.Name] = f
	}
	return all, err
}

// want fails without n positive values of each name.
func want(t *testing.T, all map[string]Figure, n int, names ...string) {
	t.Helper()
	for _, name := range names {
		f := all[name]
		if len(f.Values) != n {
			t.Errorf("%s: got %d values, want %d", name, len(f.Values), n)
		}
		for _, v := range f.Values {
			if v <= 0 {
				t.Errorf("%s: got %v, want more than 0", name, v)
			}
		}
	}
}

func TestLatency(t *testing.T) {
	all, err := measure(t, "latency", "-n", "7")
	if err != nil {
		t.Fatal(err)
	}
	want(t, all, 7, "latency/local", "latency/client", "call/local")
	// The response cannot come before the call has begun, nor the call last longer
	// than everything: the clocks are one.
	for i, v := range all["latency/local"].Values {
		if v > 60e9 {
			t.Errorf("latency %d: got %v ns", i, v)
		}
	}
}

func TestRate(t *testing.T) {
	all, err := measure(t, "rate", "-window", "100ms")
	if err != nil {
		t.Fatal(err)
	}
	want(t, all, 1, "rate/sustained", "rate/responses")
}

// Watches of more than one connection, and what becomes of a step without time.
func TestWatches(t *testing.T) {
	all, err := measure(t, "watches", "-n", "501", "-events", "3")
	if err != nil {
		t.Fatal(err)
	}
	want(t, all, 1, "open", "arm", "close")
	want(t, all, 3, "concerns-one", "none/client")
	want(t, all, 30, "none/local", "none/before/local")

	if all, err = measure(t, "watches", "-n", "4", "-events", "3", "-one", "-tree"); err != nil {
		t.Fatal(err)
	}
	want(t, all, 3, "concerns-all")

	all, err = measure(t, "watches", "-n", "501", "-events", "3", "-budget", "1ns")
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := all["arm"]; ok || !strings.Contains(all["watches"].Skip, "open: 0 of 501") {
		t.Errorf("without time: got %v and %q, want a reason and no figure", f, all["watches"].Skip)
	}
}

// No two watches have one directory, unless all have, and no folder is above another
// watch's.
func TestLayout(t *testing.T) {
	seen := map[string]bool{}
	folders := map[string]int{}
	for i := range 100000 {
		dir := layout{}.dir(i)
		if seen[dir] {
			t.Fatalf("watch %d: %s again", i, dir)
		}
		seen[dir] = true
		folders[filepath.Dir(dir)]++
	}
	for dir, n := range folders {
		if n > 1000 || seen[dir] {
			t.Errorf("%s: %d watched directories in it, watched itself: %v", dir, n, seen[dir])
		}
	}
	if a, b := (layout{one: true}).dir(0), (layout{one: true}).dir(7); a != b {
		t.Errorf("one directory: got %s and %s", a, b)
	}
}

func TestKib(t *testing.T) {
	text := []byte("MemTotal:  100 kB\nSlab:   7 kB\n")
	if got := kib(text, "Slab:"); got != 7168 {
		t.Errorf("got %d, want 7168", got)
	}
	if got := kib(text, "Pss:"); got != 0 {
		t.Errorf("absent: got %d, want 0", got)
	}
}

// A process is found by the beginning of its name, and its time grows.
func TestCPU(t *testing.T) {
	comm, _, ok := stat(fmt.Sprint(os.Getpid()))
	if !ok {
		t.Skip("no /proc")
	}
	l := &load{tasks: []string{comm[:3]}}
	before := l.cpu()
	if _, ok := before[fmt.Sprint(os.Getpid())]; !ok {
		t.Errorf("%s is not among %v", comm, before)
	}
	for l.since(before) < 2*tick {
	}
}
