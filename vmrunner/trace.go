package vmrunner

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"kbuild-run/patches/job"
	"kbuild-run/vmrunner/splat"
)

// trace switches trace events on. With tp_printk on its command line the kernel
// prints them among its messages, so that they come with those, in one order, to
// the console. /etc/rc switches them on again whenever it loads ksmbd: events of a
// module go with it.
func (vm *VM) trace(ctx context.Context, patterns []string) error {
	if patterns == nil {
		return nil
	}
	const set = "/sys/kernel/tracing/set_event"
	r, err := vm.Run(ctx, "set -e\necho "+job.Quote(strings.Join(patterns, " "))+" > /run/trace\ncat /run/trace >> "+set+"\ncat "+set)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("trace %s: exit status %d: %s; the kernel needs the fragment tracing, and has what this lists: kbuild-run vm exec --config base,ksmbd,tracing -- cat /sys/kernel/tracing/available_events",
			strings.Join(patterns, " "), r.Code, strings.TrimSpace(string(r.Stderr)))
	}
	for _, event := range strings.Fields(string(r.Stdout)) {
		_, name, _ := strings.Cut(event, ":")
		vm.traced = append(vm.traced, name)
	}
	return nil
}

// Traced tells whether a line of the console is a trace event.
func (vm *VM) Traced(line string) bool {
	_, text := splat.CutStamp(line)
	name, _, ok := strings.Cut(text, ": ")
	return ok && slices.Contains(vm.traced, name)
}
