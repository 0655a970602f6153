package vmrunner

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"kbuild-run/vmrunner/splat"
)

// tailLines is how much of the console a failed boot shows.
const tailLines = 40

// keptLines is how much of the console is kept in memory with the times at which it
// was printed: ksmbd's debug messages of some minutes.
const keptLines = 1 << 16

// line is a line of the console.
type line struct {
	at   time.Time
	text string
}

// console writes the guest's serial console to a file and watches it for the
// agent's lines.
type console struct {
	path string
	file *os.File
	bare string // the base of a kernel without a series

	mu      sync.Mutex
	part    []byte // of the line that is being written
	marks   []byte // lines of ours that wait for its end
	lines   []line // the newest, at most keptLines
	written int64
	active  []string // what has begun and not ended, see VM.Begin
	err     error    // of the first write that failed
	closed  bool
	line    func(string, time.Time) // called for each line
}

func newConsole(path string) (*console, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make console log: %w", err)
	}
	return &console{path: path, file: f}, nil
}

// Write takes what the guest prints. It never fails, so that the guest never
// stalls; an error of the file is kept for scan.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := bytes.ReplaceAll(p, []byte{'\r'}, nil)
	if i := bytes.IndexByte(text, '\n'); i >= 0 && len(c.marks) > 0 {
		text = slices.Concat(text[:i+1], c.marks, text[i+1:])
		c.marks = nil
	}
	c.take(text)
	return len(p), nil
}

// begin puts the line that something runs, and end that it does no more.
func (c *console) begin(what string) (end func()) {
	c.mu.Lock()
	c.active = append(c.active, what)
	c.mu.Unlock()
	c.mark(splat.Begin(what))
	return func() {
		c.mu.Lock()
		if i := slices.Index(c.active, what); i >= 0 {
			c.active = slices.Delete(c.active, i, i+1)
		}
		c.mu.Unlock()
		c.mark(splat.End(what))
	}
}

// mark puts a line of ours between those of the guest.
func (c *console) mark(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch line += "\n"; {
	case c.closed:
	case len(c.part) > 0:
		c.marks = append(c.marks, line...)
	default:
		c.take([]byte(line))
	}
}

// take adds text to the log. c.mu is held.
func (c *console) take(text []byte) {
	n, err := c.file.Write(text)
	c.written += int64(n)
	if err != nil && c.err == nil {
		c.err = err
	}
	now := time.Now()
	c.part = append(c.part, text...)
	for {
		i := bytes.IndexByte(c.part, '\n')
		if i < 0 {
			return
		}
		c.emit(string(c.part[:i]), now)
		c.part = c.part[i+1:]
	}
}

// emit hands on one whole line. c.mu is held.
func (c *console) emit(text string, at time.Time) {
	if len(c.lines) == keptLines {
		c.lines = c.lines[keptLines/2:]
	}
	c.lines = append(c.lines, line{at, text})
	if c.line != nil {
		c.line(text, at)
	}
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if len(c.marks) > 0 {
		c.take(slices.Concat([]byte{'\n'}, c.marks))
	}
	if len(c.part) > 0 {
		c.emit(string(c.part), time.Now())
		c.part = nil
	}
	if err := c.file.Close(); err != nil && c.err == nil {
		c.err = err
	}
}

// tail returns the newest lines, with what stands of an unfinished one.
func (c *console) tail() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, l := range c.lines[max(0, len(c.lines)-tailLines):] {
		all = append(all, l.text)
	}
	if rest := strings.TrimSpace(string(c.part)); rest != "" {
		all = append(all, rest)
	}
	return all
}

// printed returns the lines that came between two times.
func (c *console) printed(from, to time.Time) iter.Seq2[time.Time, string] {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := slices.Clone(c.lines)
	return func(yield func(time.Time, string) bool) {
		for _, l := range lines {
			if !l.at.Before(from) && !l.at.After(to) && !yield(l.at, l.text) {
				return
			}
		}
	}
}

// during returns what ran at any time between two.
func (c *console) during(from, to time.Time) (all []string) {
	begin, end := splat.Begin(""), splat.End("")
	running := map[string]int{}
	note := func(what string) {
		if !slices.Contains(all, what) {
			all = append(all, what)
		}
	}
	begun := false
	for at, text := range c.printed(time.Time{}, to) {
		if !begun && !at.Before(from) {
			begun = true
			for what, n := range running {
				if n > 0 {
					note(what)
				}
			}
		}
		if what, ok := strings.CutPrefix(text, begin); ok {
			running[what]++
			if begun {
				note(what)
			}
		} else if what, ok := strings.CutPrefix(text, end); ok {
			running[what]--
		}
	}
	if !begun {
		for what, n := range running {
			if n > 0 {
				note(what)
			}
		}
	}
	slices.Sort(all)
	return all
}

// scan looks through everything printed so far, but for what the allow list
// names. A log that could not be written or read, and a list that is out of date,
// are errors, never a clean log.
func (c *console) scan() ([]splat.Report, error) {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("scan console: log is not whole: %w", err)
	}
	allowed, err := splat.Allow(time.Now())
	if err != nil {
		return nil, fmt.Errorf("scan console: %w", err)
	}
	f, err := os.Open(c.path)
	if err != nil {
		return nil, fmt.Errorf("scan console: %w", err)
	}
	defer f.Close()
	reports, err := splat.Scan(f)
	return splat.Merge(splat.Without(reports, allowed, c.bare)), err
}
