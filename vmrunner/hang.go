package vmrunner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/vmrunner/splat"
)

// Responds returns nil when the guest's agent runs a command and its SMB server
// answers, each in the time a guest that is only busy needs. One that is silent is
// asked once more: the host may have been busy with something else.
func (vm *VM) Responds(ctx context.Context) error {
	if vm.respond(ctx) == nil {
		return nil
	}
	return vm.respond(ctx)
}

func (vm *VM) respond(ctx context.Context) error {
	limit := vm.Deadline(respondLimit)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer in %v", limit))
	defer stop()
	if _, err := vm.Run(ctx, "true"); err != nil {
		return err
	}
	return vm.WaitSMB(ctx)
}

// looks is how often a task must be seen waiting for the same, a moment apart, to
// count as blocked: on a busy host one may wait long for another to be run.
const looks = 3

// Blocked returns what a task of the kernel waits for, if it goes on waiting for
// the same: ksmbd may go on with other clients, but not with that one. nil: no task
// does, or it cannot be found out.
func (vm *VM) Blocked(ctx context.Context) error {
	vm.console.mark(splat.Asks)
	defer vm.console.mark(splat.Asked)
	var stay []splat.Task
	for look := range looks {
		if look > 0 {
			select {
			case <-time.After(vm.Deadline(time.Second)):
			case <-ctx.Done():
				return nil
			}
		}
		answer, err := vm.sysrq(ctx, 'w')
		if err != nil {
			return nil
		}
		tasks := splat.Blocked(answer)
		if look == 0 {
			stay = tasks
		}
		if stay = splat.Stay(stay, tasks); len(stay) == 0 {
			return nil
		}
	}
	return fmt.Errorf("a task stays %s", stay[0].Where())
}

var respondLimit = 5 * time.Second // a variable for the tests

// Limits of what is asked of a guest that hangs.
const (
	askQuiet = 500 * time.Millisecond // a console that long silent has said all
	askLimit = 20 * time.Second       // of the longest, the stacks of all tasks
	coreTime = 2 * time.Minute        // to write the guest's memory
)

// Hang writes to dir what can be learnt of a guest that does not answer, ends it,
// and returns it as a report: why it counts as hanging, and where the kernel is.
// Nothing of it needs the guest's programs:
//
//   - status.txt: the state of QEMU and its last events
//   - registers.txt: the registers of each CPU
//   - cpus.txt, blocked.txt, tasks.txt: the stacks of all CPUs (an NMI shows them),
//     of blocked and of all tasks; SysRq l, w and t over the serial line
//   - screen.png: the screen, which has the last lines of the console
//   - memory.elf: the memory, with Options.Core
//
// Where a part cannot be had, its file says why. A kernel that loops with all
// interrupts off leaves its registers only: under TCG an NMI from outside ends the
// guest without a word.
func (vm *VM) Hang(ctx context.Context, dir string, why error) (splat.Report, error) {
	report := splat.Report{Kind: "hang", Title: "hang", Text: fmt.Sprintf("%v\n", why), During: vm.console.running(), Count: 1}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return report, fmt.Errorf("keep evidence of a hang: %w", err)
	}
	var errs []error
	part := func(name string, ask func() (string, error)) string {
		text, err := ask()
		if err != nil {
			text += fmt.Sprintf("%v\n", err)
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		if err != nil {
			return ""
		}
		return text
	}
	part("status.txt", func() (string, error) {
		status, err := vm.monitor.Status(ctx)
		return fmt.Sprintf("%s\nevents: %s\nseen as: %v\n", status, strings.Join(vm.monitor.Events(), " "), why), err
	})
	part("registers.txt", func() (string, error) { return vm.registers(ctx) })
	vm.console.mark(splat.Asks)
	cpus := part("cpus.txt", func() (string, error) { return vm.sysrq(ctx, 'l') })
	blocked := part("blocked.txt", func() (string, error) { return vm.sysrq(ctx, 'w') })
	part("tasks.txt", func() (string, error) { return vm.sysrq(ctx, 't') })
	screen := filepath.Join(dir, "screen.png")
	if err := vm.monitor.Screendump(ctx, screen); err != nil {
		part("screen.txt", func() (string, error) { return "", err })
	}
	if vm.core {
		if err := vm.monitor.dump(ctx, filepath.Join(dir, "memory.elf")); err != nil {
			part("memory.txt", func() (string, error) { return "", err })
		}
	}
	vm.console.mark(splat.Asked)
	vm.machine.end()
	if where, text, frames := splat.Stuck(blocked, cpus); where != "" {
		report.Title += ": " + where
		report.Text += text
		report.Frames = frames
	}
	return report, errors.Join(errs...)
}

// registers asks for one CPU after the other: the answer for all may be longer
// than the monitor can take.
func (vm *VM) registers(ctx context.Context) (string, error) {
	var all strings.Builder
	for cpu := range vm.cpus {
		var text string
		err := vm.monitor.Command(ctx, "human-monitor-command", map[string]any{"command-line": "info registers", "cpu-index": cpu}, &text)
		if err != nil {
			return all.String(), err
		}
		fmt.Fprintf(&all, "CPU %d\n%s\n", cpu, strings.ReplaceAll(text, "\r", ""))
	}
	return all.String(), nil
}

// sysrq sends a break and a key over the serial line, and returns what the kernel
// prints: it needs interrupts, but no program of the guest.
func (vm *VM) sysrq(ctx context.Context, key byte) (string, error) {
	return vm.said(ctx, func() error {
		if err := vm.monitor.Command(ctx, "chardev-send-break", map[string]string{"id": "console"}, nil); err != nil {
			return err
		}
		_, err := vm.machine.stdin.Write([]byte{key})
		return err
	})
}

// said returns what the kernel prints after ask, until it is gone or silent.
func (vm *VM) said(ctx context.Context, ask func() error) (string, error) {
	from := vm.console.size()
	if err := ask(); err != nil {
		return "", err
	}
	limit := time.NewTimer(vm.Deadline(askLimit))
	defer limit.Stop()
	tick := time.NewTicker(askQuiet / 10)
	defer tick.Stop()
	last, since := from, time.Now()
	for {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-vm.machine.done:
		case <-limit.C:
		case <-tick.C:
			now := vm.console.size()
			if now != last {
				last, since = now, time.Now()
			}
			if time.Since(since) < vm.Deadline(askQuiet) {
				continue
			}
		}
		break
	}
	text, err := vm.console.since(from)
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = errors.New("the kernel says nothing")
	}
	return string(text), err
}

// dump writes the guest's memory to a file.
func (m *Monitor) dump(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	return m.command(ctx, coreTime, "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + file}, nil)
}

// size returns how much the guest has printed.
func (c *console) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// since returns what was printed from an earlier size on.
func (c *console) since(from int64) ([]byte, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, from, c.size()-from))
}

// running returns what has begun and not ended.
func (c *console) running() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.active...)
}
