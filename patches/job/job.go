// Package job runs one long job for a person: it prints one line a step with
// its time, runs child processes that do not outlive the job, and maps errors
// to exit codes.
//
// Results go to standard output, progress to standard error. A terminal gets a
// live line under the finished ones, a pipe gets plain lines only.
package job

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Job is one run of the program. The zero value is silent and usable.
type Job struct {
	Out     io.Writer // results
	Err     io.Writer // progress
	Verbose bool      // print what child processes print
	DryRun  bool      // print commands, run none

	// Live says that Err is a terminal on which the current step may
	// rewrite its own line.
	Live bool

	mu    sync.Mutex
	live  string // text of the live line on screen
	shown time.Time
	steps []Record
}

// New returns a job that writes results to out and progress to err.
func New(out, err io.Writer) *Job {
	j := &Job{Out: out, Err: err}
	if f, ok := err.(*os.File); ok {
		j.Live = term.IsTerminal(int(f.Fd()))
	}
	return j
}

// Record is what is left of a step: for the report.
type Record struct {
	Name   string        `json:"name"`
	Note   string        `json:"note,omitempty"`
	Cached bool          `json:"cached,omitempty"`
	Time   time.Duration `json:"time_ns"`
	Err    string        `json:"error,omitempty"`
}

// Steps returns the finished steps in the order they ended.
func (j *Job) Steps() []Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]Record(nil), j.steps...)
}

// Step is one running step.
type Step struct {
	j      *Job
	name   string
	note   string
	cached bool
	start  time.Time
}

// Step runs f as a step and prints its line when it ends. The error of f comes
// back unchanged.
func (j *Job) Step(name string, f func(*Step) error) error {
	s := &Step{j: j, name: name, start: time.Now()}
	s.Progress("")
	err := f(s)
	r := Record{Name: name, Note: s.note, Cached: s.cached, Time: time.Since(s.start)}
	mark := "ok"
	switch {
	case err != nil:
		r.Err = err.Error()
		mark = "FAILED"
	case s.cached:
		mark = "cached"
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.steps = append(j.steps, r)
	j.line(strings.TrimRight(fmt.Sprintf("%-28s %-7s %8s  %s", name, mark, Duration(r.Time), s.note), " "))
	return err
}

// Note sets the words behind the step's line.
func (s *Step) Note(format string, args ...any) { s.note = fmt.Sprintf(format, args...) }

// Cached marks the step as done in an earlier run.
func (s *Step) Cached() { s.cached = true }

// Progress rewrites the live line of the step. On a pipe it prints a plain line
// at most every 30 seconds, so that a log shows the job is alive.
func (s *Step) Progress(format string, args ...any) {
	j := s.j
	j.mu.Lock()
	defer j.mu.Unlock()
	text := strings.TrimSpace(s.name + "  " + fmt.Sprintf(format, args...))
	now := time.Now()
	switch {
	case j.Err == nil:
	case j.Live:
		if now.Sub(j.shown) < 100*time.Millisecond && format != "" {
			return
		}
		j.shown = now
		j.live = fmt.Sprintf("%s  %s", text, Duration(now.Sub(s.start)))
		fmt.Fprintf(j.Err, "\r\033[K%s", clip(j.live))
	case format != "" && now.Sub(j.shown) > 30*time.Second:
		j.shown = now
		fmt.Fprintf(j.Err, "%s  %s\n", text, Duration(now.Sub(s.start)))
	}
}

// Logf prints a line of progress that stays.
func (j *Job) Logf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line(fmt.Sprintf(format, args...))
}

// line prints text above the live line. j.mu is held.
func (j *Job) line(text string) {
	if j.Err == nil {
		return
	}
	if j.Live && j.live != "" {
		fmt.Fprint(j.Err, "\r\033[K")
		j.live = ""
	}
	fmt.Fprintln(j.Err, text)
}

// clip shortens a live line to the width of a narrow terminal, since a wrapped
// line cannot be rewritten.
func clip(s string) string {
	if r := []rune(s); len(r) > 78 {
		return string(r[:77]) + "…"
	}
	return s
}

// Duration prints d for people: 0.3s, 12.4s, 6m40s.
func Duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

type key struct{}

// With returns a context that carries j.
func With(ctx context.Context, j *Job) context.Context { return context.WithValue(ctx, key{}, j) }

// From returns the job ctx carries, or a silent one.
func From(ctx context.Context) *Job {
	if j, ok := ctx.Value(key{}).(*Job); ok {
		return j
	}
	return &Job{}
}
