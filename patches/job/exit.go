package job

import (
	"context"
	"errors"
)

// Exit codes of the program.
const (
	ExitFailed    = 1 // a check or a scenario failed
	ExitUsage     = 2 // the command line is wrong
	ExitCannotRun = 3 // missing tool, no disk, base not obtainable, our own fault
	ExitInterrupt = 130
)

// exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Failed marks err as the verdict of a check or scenario.
func Failed(err error) error { return &exitError{ExitFailed, err} }

// Usage marks err as a mistake on the command line.
func Usage(err error) error { return &exitError{ExitUsage, err} }

// Exit marks err as the end of a command that was run for the user: its exit code
// becomes ours.
func Exit(code int, err error) error { return &exitError{code, err} }

// Code returns the exit code for err. An error nobody marked means that the job
// could not run: a verdict must be given on purpose.
func Code(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return ExitInterrupt
	}
	return ExitCannotRun
}
