package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailLines is how much of a failing child's output its error shows.
const tailLines = 40

// Cmd is a child process of the job. It is killed with its whole process group
// when the context ends, and by the kernel when the program dies.
type Cmd struct {
	Args  []string
	Dir   string
	Env   []string // added to the program's own environment
	Stdin io.Reader

	// Line, when set, gets each line the child prints, standard output and
	// standard error in the order they came.
	Line func(string)
}

// Command returns a child process to run.
func Command(name string, args ...string) *Cmd { return &Cmd{Args: append([]string{name}, args...)} }

// In sets the folder the child runs in.
func (c *Cmd) In(dir string) *Cmd { c.Dir = dir; return c }

// With adds NAME=value pairs to the child's environment.
func (c *Cmd) With(env ...string) *Cmd { c.Env = append(c.Env, env...); return c }

// String returns the command as it can be pasted into a shell.
func (c *Cmd) String() string {
	var b strings.Builder
	if c.Dir != "" {
		fmt.Fprintf(&b, "cd %s && ", Quote(c.Dir))
	}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&b, "%s=%s ", name, Quote(value))
	}
	for i, a := range c.Args {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(Quote(a))
	}
	return b.String()
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// Quote quotes s for a POSIX shell where it needs it.
func Quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// CmdError is a child that failed.
type CmdError struct {
	Cmd  string   // pastable
	Err  error    // cause; *exec.ExitError when the child ran
	Tail []string // its last lines
}

func (e *CmdError) Error() string {
	if len(e.Tail) == 0 {
		return fmt.Sprintf("run %s: %v", e.Cmd, e.Err)
	}
	return fmt.Sprintf("run %s: %v\n    %s", e.Cmd, e.Err, strings.Join(e.Tail, "\n    "))
}

func (e *CmdError) Unwrap() error { return e.Err }

// Run runs the child to its end. In a dry run it prints the command instead.
func (c *Cmd) Run(ctx context.Context) error {
	_, err := c.output(ctx, false)
	return err
}

// Output runs the child and returns its standard output. In a dry run it prints
// the command and returns nothing.
func (c *Cmd) Output(ctx context.Context) ([]byte, error) { return c.output(ctx, true) }

func (c *Cmd) output(ctx context.Context, keep bool) ([]byte, error) {
	j := From(ctx)
	if j.DryRun {
		if j.Out != nil {
			fmt.Fprintln(j.Out, c)
		}
		return nil, nil
	}
	return c.run(ctx, j, keep)
}

// Probe is Output for a command that only looks: it runs in a dry run too.
func (c *Cmd) Probe(ctx context.Context) ([]byte, error) { return c.run(ctx, From(ctx), true) }

func (c *Cmd) run(ctx context.Context, j *Job, keep bool) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	x.Dir, x.Stdin = c.Dir, c.Stdin
	x.Env = append(os.Environ(), c.Env...)
	// A group of its own, so that make's children end with make; and the
	// kernel's SIGKILL for the child when we die without a word.
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	x.Cancel = func() error { return syscall.Kill(-x.Process.Pid, syscall.SIGTERM) }
	x.WaitDelay = 5 * time.Second

	var out bytes.Buffer
	lines := &lineWriter{each: func(l string) {
		if c.Line != nil {
			c.Line(l)
		}
		if j.Verbose {
			j.Logf("%s", l)
		}
	}}
	x.Stderr = lines
	x.Stdout = lines
	if keep {
		x.Stdout = &out
	}
	if j.Verbose {
		j.Logf("$ %s", c)
	}
	err := runLocked(x)
	lines.flush()
	if x.Process != nil && ctx.Err() != nil {
		syscall.Kill(-x.Process.Pid, syscall.SIGKILL)
	}
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run %s: %w", c, context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("run %s: %w; install it with: kbuild-run setup", c.Args[0], err)
	}
	return out.Bytes(), &CmdError{Cmd: c.String(), Err: err, Tail: lines.tail}
}

// lineWriter cuts what is written into lines and keeps the last ones.
type lineWriter struct {
	mu   sync.Mutex
	each func(string)
	part []byte
	tail []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexByte(w.part, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.part[:i]))
		w.part = w.part[i+1:]
	}
}

func (w *lineWriter) line(l string) {
	if w.tail = append(w.tail, l); len(w.tail) > tailLines {
		w.tail = w.tail[1:]
	}
	w.each(l)
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.line(string(w.part))
		w.part = nil
	}
}
