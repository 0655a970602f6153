// Sum runs go test with its arguments and prints a line a package, every skip
// with its reason, every failure with its output, and last of all the sum:
//
//	N passed, N failed, N skipped
//
// Tests and subtests count one each; so does a package that does not compile,
// as a failure.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"gotest.tools/gotestsum/testjson"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ok, err := run(ctx, os.Stdout, "", os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "sum:", err)
		os.Exit(3)
	}
	if !ok {
		os.Exit(1)
	}
}

// run reports whether go test succeeded in dir.
func run(ctx context.Context, out io.Writer, dir string, args []string) (ok bool, err error) {
	// -count=1: go test would show yesterday's skips after smbd or QEMU came,
	// for it does not know that a test looked for them.
	c := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1", "-timeout=30m"}, args...)...)
	c.Dir = dir
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	stdout, err := c.StdoutPipe()
	if err != nil {
		return false, err
	}
	stderr, err := c.StderrPipe()
	if err != nil {
		return false, err
	}
	if err := c.Start(); err != nil {
		return false, fmt.Errorf("run go test: %w", err)
	}
	h := handler{out, testjson.NewEventFormatter(out, "pkgname", testjson.FormatOptions{Icons: "text", HideEmptyPackages: true})}
	all, err := testjson.ScanTestOutput(testjson.ScanConfig{Stdout: stdout, Stderr: stderr, Handler: h})
	if err != nil {
		c.Cancel()
		c.Wait()
		return false, fmt.Errorf("read go test: %w", err)
	}
	failed := c.Wait()
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	testjson.PrintSummary(out, all, testjson.SummarizeAll)
	passed := 0
	for _, name := range all.Packages() {
		passed += len(all.Package(name).Passed)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, len(all.Failed()), len(all.Skipped()))
	return failed == nil, nil
}

// handler prints what comes while the tests run.
type handler struct {
	out    io.Writer
	format testjson.EventFormatter
}

func (h handler) Event(e testjson.TestEvent, all *testjson.Execution) error {
	return h.format.Format(e, all)
}

func (h handler) Err(text string) error {
	_, err := fmt.Fprintln(h.out, text)
	return err
}
