package nightly

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
	"kbuild-run/patches/job/script"
	"kbuild-run/tests/report"
)

// The cells of the scripts run the program stand-in.
func TestMain(m *testing.M) {
	script.Main(m, map[string]func(){"stand-in": standIn}, func() []*cobra.Command {
		program = func() (string, error) { return exec.LookPath("stand-in") }
		text, err := os.ReadFile("nightly.toml")
		if err != nil {
			panic(err)
		}
		return []*cobra.Command{Command(string(text))}
	})
}

// standIn takes the place of the program that a cell runs. The file does/BASE, of
// the tree if there is one, says what it does:
//
//	hang            run until it is killed
//	interrupt       interrupt the night in a second try, once
//	say TEXT        say it
//	die             end by a signal
//	exit N TEXT     say TEXT, and exit with that code
//	NAME STATUS...  a scenario that ends so; the second try takes the second
//
// With --mbox the patches in the mailbox decide: "break NAME" in one makes the
// scenario fail, "make NAME" makes it pass, after "no build" it does
// not build until "build".
func standIn() {
	args := map[string]string{}
	chosen := map[string]bool{}
	for i := 2; i+1 < len(os.Args); i++ {
		if os.Args[i] == "--scenario" {
			chosen[os.Args[i+1]] = true
		}
		args[os.Args[i]] = os.Args[i+1]
	}
	switch os.Args[1] {
	case "cache":
		os.Exit(0)
	case "series":
		if _, err := os.Stat("offline"); err == nil {
			fmt.Fprintln(os.Stderr, "kbuild-run: look for a newer", os.Args[4]+": no source answers")
			os.Exit(job.ExitCannotRun)
		}
		os.Exit(0)
	}
	text, err := os.ReadFile(filepath.Join(args["--tree"], "does", args["--base"]))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(job.ExitCannotRun)
	}
	try := 0
	if filepath.Base(args["--out"]) == "2" {
		try = 1
	}
	r := &report.Report{
		Program: "kbuild-run 0123456789", Base: args["--base"], Version: os.Getenv("RELEASE"), Source: "git tree " + args["--tree"] + " at " + os.Getenv("AT"), Series: args["--series"], Accelerator: "tcg",
		Columns: []report.Column{{Name: "after", Role: report.After, FirstSMB: 2500 * time.Millisecond, Tree: "1111" + os.Getenv("RELEASE") + os.Getenv("AT"), Console: "after/console.log"}},
	}
	out := filepath.Join(args["--out"], "20261121-000000-notify-"+args["--base"])
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch f[0] {
		case "hang":
			fmt.Println("working")
			time.Sleep(time.Hour) // select {} is a deadlock to a runtime without cgo
		case "interrupt":
			if _, err := os.Stat("interrupted"); err != nil && try == 1 {
				os.WriteFile("interrupted", nil, 0o644)
				syscall.Kill(os.Getppid(), syscall.SIGINT)
				time.Sleep(time.Hour)
			}
		case "say":
			fmt.Println(strings.Join(f[1:], " "))
		case "die":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "exit":
			code, _ := strconv.Atoi(f[1])
			fmt.Fprintln(os.Stderr, strings.Join(f[2:], " "))
			os.Exit(code)
		default:
			if len(chosen) > 0 && !chosen[f[0]] {
				continue
			}
			status := f[min(len(f)-1, 1+try)]
			if mbox, err := os.ReadFile(args["--mbox"]); err == nil {
				status = patched(f[0], string(mbox), status)
			}
			res := report.Result{Status: report.Status(status), Time: 300 * time.Millisecond}
			if status == "failed" {
				res.Reason, res.Folder = "line 9: want ADDED, got <nothing>", "after/"+f[0]
				os.MkdirAll(filepath.Join(out, res.Folder), 0o755)
				os.WriteFile(filepath.Join(out, res.Folder, "transcript.txt"), []byte("CREATE -> STATUS_SUCCESS\n"), 0o644)
			}
			r.Scenarios = append(r.Scenarios, report.Scenario{Name: f[0], Shows: "It works.", Results: []report.Result{res}})
		}
	}
	if err := os.MkdirAll(filepath.Join(out, "after"), 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(job.ExitCannotRun)
	}
	os.WriteFile(filepath.Join(out, "after/console.log"), []byte("Linux version 6.12.117\n"), 0o644)
	if err := r.Files(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(job.ExitCannotRun)
	}
	os.Exit(job.Code(r.Err()))
}

// patched is how a scenario ends with the patches of a mailbox.
func patched(name, mbox, status string) string {
	builds := true
	for line := range strings.Lines(mbox) {
		switch strings.TrimSpace(line) {
		case "break " + name:
			status = "failed"
		case "make " + name:
			status = "passed"
		case "no build":
			builds = false
		case "build":
			builds = true
		}
	}
	if !builds {
		fmt.Fprintln(os.Stderr, "notify.c:1: error")
		os.Exit(job.ExitCannotRun)
	}
	return status
}

func TestScripts(t *testing.T) {
	script.Run(t, testscript.Params{Setup: func(e *testscript.Env) error {
		e.Setenv("RELEASE", "6.12.117")
		return nil
	}})
}
