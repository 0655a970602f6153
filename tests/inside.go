package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/ktap"
	"kbuild-run/tests/report"
	"kbuild-run/vmrunner"
)

// units are the modules with KUnit tests of ksmbd, by the option that makes them.
var units = map[string]string{"CONFIG_SMB_SERVER_KUNIT_TEST=m": "ksmbd_notify_test"}

// unload ends the server and removes its module, again and again while something
// holds it.
const unload = `
ksmbd.control --shutdown >/dev/null
n=0
until modprobe -r ksmbd 2>/tmp/why; do
	n=$((n + 1))
	if [ $n -gt 50 ]; then
		cat /tmp/why
		exit 1
	fi
	sleep 0.1
done
`

// leaks has kmemleak look through memory, and again for what was young the first
// time or only seemed to have no pointer to it, and prints what it found.
const leaks = `
cd /sys/kernel/debug
echo scan > kmemleak
sleep 6
echo scan > kmemleak
cat kmemleak
`

// inside asks a guest that its clients have left what its kernel says about
// itself: KUnit's tests, what ksmbd still holds, and what it has lost.
type inside struct {
	vm     *vmrunner.VM
	config string // the kernel's .config
	found  []report.Inside
}

// note takes down one answer. An error of ours is a failure too: what could not
// be looked at is not known to be right.
func (i *inside) note(group, name, reason string, err error) {
	status := report.Passed
	if err != nil {
		reason = strings.TrimSpace(reason + "\n" + err.Error())
	}
	if reason != "" {
		status = report.Failed
	}
	i.found = append(i.found, report.Inside{Group: group, Name: name, Status: status, Reason: reason})
}

// run runs a command in the guest and returns what it prints.
func (i *inside) run(ctx context.Context, command string) (string, error) {
	r, err := i.vm.Run(ctx, command)
	if err != nil {
		return "", err
	}
	out := string(r.Stdout)
	if r.Code != 0 {
		return out, fmt.Errorf("exit status %d: %s", r.Code, strings.TrimSpace(string(r.Stderr)))
	}
	return out, nil
}

// look asks everything. The server is gone afterwards.
func (i *inside) look(ctx context.Context) {
	const left = "left behind"
	options, err := os.ReadFile(i.config)
	if err != nil {
		i.note(left, "config", "", err)
		return
	}
	has := func(option string) bool { return slices.Contains(strings.Split(string(options), "\n"), option) }

	_, reason, err := guestHolds(i.vm).Settle(ctx, nil, i.vm.Deadline(2*time.Second))
	i.note(left, "nothing held when all clients are gone", reason, err)
	for option, module := range units {
		if has(option) {
			i.kunit(ctx, module)
		}
	}
	if has("CONFIG_DEBUG_KMEMLEAK=y") {
		// Now, with the names of ksmbd's functions, and when its variables are gone too.
		reason, err := i.run(ctx, leaks)
		i.note(left, "no leak", reason, err)
	}
	reason, err = i.run(ctx, unload)
	i.note(left, "the module can be removed", reason, err)
	if has("CONFIG_DEBUG_KMEMLEAK=y") {
		reason, err := i.run(ctx, leaks)
		i.note(left, "no leak without the module", reason, err)
	}
}

// kunit runs the tests of a module.
func (i *inside) kunit(ctx context.Context, module string) {
	const group = "KUnit"
	out, err := i.run(ctx, "modprobe "+module+" && cat /sys/kernel/debug/kunit/*/results")
	if err != nil {
		i.note(group, module, "", err)
		return
	}
	tests, err := ktap.Parse(out)
	for _, t := range tests {
		reason := t.Detail
		if t.Status == ktap.Failed && reason == "" {
			reason = "KUnit gives no reason"
		}
		i.found = append(i.found, report.Inside{Group: group, Name: t.Name, Status: report.Status(t.Status), Reason: reason})
	}
	if err != nil {
		i.note(group, module, "", err)
	}
	if _, err := i.run(ctx, "modprobe -r "+module); err != nil {
		i.note(group, module+" can be removed", "", err)
	}
}

// inside looks at the guest and writes what it finds to the column.
func (k *kernel) inside(ctx context.Context) {
	i := &inside{vm: k.vm, config: k.built.Config}
	job.From(ctx).Step(k.step("inside"), func(s *job.Step) error {
		i.look(ctx)
		k.column.Inside = i.found
		count := map[report.Status]int{}
		for _, f := range i.found {
			count[f.Status]++
		}
		s.Note("%d passed, %d failed, %d skipped", count[report.Passed], count[report.Failed], count[report.Skipped])
		if count[report.Failed] > 0 {
			return job.Failed(errors.New("see the report"))
		}
		return nil
	})
}
