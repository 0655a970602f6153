package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCode(t *testing.T) {
	plain := errors.New("x")
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{plain, ExitCannotRun},
		{Failed(plain), ExitFailed},
		{Usage(plain), ExitUsage},
		{fmt.Errorf("around: %w", Failed(plain)), ExitFailed},
		{fmt.Errorf("around: %w", context.Canceled), ExitInterrupt},
	} {
		if got := Code(test.err); got != test.want {
			t.Errorf("Code(%v) = %d, want %d", test.err, got, test.want)
		}
	}
	if err := Failed(plain); err.Error() != "x" || !errors.Is(err, plain) {
		t.Errorf("a mark changed the error to %v", err)
	}
}

func TestString(t *testing.T) {
	for _, test := range []struct {
		cmd  *Cmd
		want string
	}{
		{Command("make", "-j2", "bzImage"), "make -j2 bzImage"},
		{Command("echo", "a b", "it's", ""), `echo 'a b' 'it'\''s' ''`},
		{Command("make").In("/a b").With("X=1 2", "Y=1"), "cd '/a b' && X='1 2' Y=1 make"},
	} {
		if got := test.cmd.String(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

func TestCmd(t *testing.T) {
	var lines []string
	c := Command("sh", "-c", "echo one; printf two >&2")
	c.Line = func(l string) { lines = append(lines, l) }
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "two"}; !reflect.DeepEqual(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
	out, err := Command("sh", "-c", "echo $A; echo noise >&2").With("A=b").Output(t.Context())
	if err != nil || string(out) != "b\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestCmdFails(t *testing.T) {
	err := Command("sh", "-c", "for i in $(seq 50); do echo line $i; done; exit 3").Run(t.Context())
	var ce *CmdError
	if !errors.As(err, &ce) || len(ce.Tail) != tailLines || ce.Tail[0] != "line 11" {
		t.Fatalf("got %v, want the last %d lines", err, tailLines)
	}
	if !strings.HasPrefix(err.Error(), "run sh -c ") || !strings.Contains(err.Error(), "exit status 3\n    line 11\n") {
		t.Errorf("got %q", err)
	}
	err = Command("nosuch-program").Run(t.Context())
	if err == nil || !strings.HasSuffix(err.Error(), "install it with: kbuild-run setup") || Code(err) != ExitCannotRun {
		t.Errorf("got %v", err)
	}
}

// When the context ends, so does the child with all of its children.
func TestCmdInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var child int
	c := Command("sh", "-c", "sleep 1000 & echo $!; wait")
	c.Line = func(l string) { child, _ = strconv.Atoi(l); cancel() }
	if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if child == 0 {
		t.Fatal("the child never spoke")
	}
	// It is dead, or a zombie that init has yet to collect.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(child, 0) != nil {
			return
		}
	}
	t.Errorf("process %d outlived the command that started it", child)
}

func TestDryRun(t *testing.T) {
	var out bytes.Buffer
	ctx := With(t.Context(), &Job{Out: &out, DryRun: true})
	if err := Command("false").Run(ctx); err != nil {
		t.Error(err)
	}
	if b, err := Command("echo", "seen").Output(ctx); err != nil || b != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if b, err := Command("echo", "probed").Probe(ctx); err != nil || string(b) != "probed\n" {
		t.Errorf("got %q, %v", b, err)
	}
	if got, want := out.String(), "false\necho seen\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestStep(t *testing.T) {
	var err bytes.Buffer
	j := New(nil, &err)
	broken := errors.New("broken")
	j.Step("one", func(s *Step) error { s.Note("%d things", 3); return nil })
	j.Step("two", func(s *Step) error { s.Cached(); return nil })
	if got := j.Step("three", func(*Step) error { return broken }); got != broken {
		t.Errorf("got %v, want %v", got, broken)
	}
	lines := strings.Split(strings.TrimSpace(err.String()), "\n")
	for i, want := range []string{"one +ok +3 things", "two +cached", "three +FAILED"} {
		for _, w := range strings.Split(want, " +") {
			if i >= len(lines) || !strings.Contains(lines[i], w) {
				t.Errorf("line %d of %q lacks %q", i, lines, w)
			}
		}
	}
	steps := j.Steps()
	if len(steps) != 3 || steps[0].Note != "3 things" || !steps[1].Cached || steps[2].Err != "broken" {
		t.Errorf("got %+v", steps)
	}
}

func TestDuration(t *testing.T) {
	for _, test := range []struct {
		d    time.Duration
		want string
	}{{300 * time.Millisecond, "0.3s"}, {59 * time.Second, "59.0s"}, {400*time.Second + time.Millisecond, "6m40s"}} {
		if got := Duration(test.d); got != test.want {
			t.Errorf("Duration(%d) = %q, want %q", test.d, got, test.want)
		}
	}
}
