package bench

import (
	"os"
	"os/exec"
	"testing"
)

func TestStatLine(t *testing.T) {
	const line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 12345 1000000 77 18446744073709551615 1 1\n"
	m := statLine.FindStringSubmatch(line)
	if m == nil || m[1] != "4242" || m[2] != "17" || m[3] != "77" {
		t.Errorf("got %q, want process 4242, parent 17, 77 pages", m)
	}
}

// A child, and a child of a child, count.
func TestResident(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skipf("no /proc: %v", err)
	}
	before := resident(os.Getpid())
	c := exec.Command("sh", "-c", "cat; true")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	// What cat gives back shows that it runs.
	if _, err := in.Write([]byte{'x'}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	during, shell := resident(os.Getpid())-before, resident(c.Process.Pid)
	in.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if shell <= 0 || during <= shell {
		t.Errorf("got %v bytes for sh and cat, %v for cat alone, want some and less", during, shell)
	}
}
