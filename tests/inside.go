package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/ktap"
	"kbuild-run/tests/report"
	"kbuild-run/vmrunner"
	"kbuild-run/vmrunner/splat"
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
// time or only seemed to have no pointer to it, and prints what it found and the time
// in jiffies.
const leaks = `
cd /sys/kernel/debug
echo scan > kmemleak
sleep 6
echo scan > kmemleak
cat kmemleak
grep '^jiffies: ' /proc/timer_list | tail -n 1
echo clear > kmemleak
`

// inside asks a guest that its clients have left what its kernel says about
// itself: KUnit's tests, what ksmbd still holds, and what it has lost.
type inside struct {
	vm     *vmrunner.VM
	config string // the kernel's .config
	found  []report.Inside

	reports []splat.Report // of kmemleak
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
		i.leaks(ctx, "no leak", options)
	}
	reason, err = i.run(ctx, unload)
	i.note(left, "the module can be removed", reason, err)
	if has("CONFIG_DEBUG_KMEMLEAK=y") {
		i.leaks(ctx, "no leak without the module", options)
	}
}

// leaks has kmemleak look for what is lost, and takes each object as a report of the
// kernel: it was printed into a file instead of the log.
func (i *inside) leaks(ctx context.Context, name string, options []byte) {
	out, err := i.run(ctx, leaks)
	var titles []string
	if err == nil {
		var found []splat.Report
		found, err = leaked(out, options, time.Now(), i.vm.During)
		for _, r := range found {
			titles = append(titles, r.Head())
		}
		i.reports = append(i.reports, found...)
	}
	i.note("left behind", name, strings.Join(titles, "\n"), err)
}

var (
	jiffiesRE = regexp.MustCompile(`\bjiffies (\d+)`)
	hzRE      = regexp.MustCompile(`(?m)^CONFIG_HZ=(\d+)$`)
)

// allocated is how far from the time that kmemleak tells a scenario may have run that
// is to blame.
const allocated = time.Second

// leaked reads what kmemleak found at a time, with the jiffies of that time behind it:
// when an object was allocated is told in jiffies, which stand still early in the boot.
func leaked(out string, options []byte, now time.Time, during func(from, to time.Time) []string) ([]splat.Report, error) {
	out = strings.TrimRight(out, "\n")
	cut := strings.LastIndexByte(out, '\n') + 1
	found, last := out[:cut], out[cut:]
	var end int64
	if _, err := fmt.Sscanf(last, "jiffies: %d", &end); err != nil {
		return nil, fmt.Errorf("read kmemleak: %q: want the jiffies behind it", last)
	}
	hz := 0
	if m := hzRE.FindSubmatch(options); m != nil {
		hz, _ = strconv.Atoi(string(m[1]))
	}
	reports, err := splat.Scan(strings.NewReader(found))
	if err == nil && len(reports) == 0 && found != "" {
		err = fmt.Errorf("read kmemleak: want objects, got %q", found)
	}
	for n := range reports {
		r := &reports[n]
		r.Line = 0 // of no console
		m := jiffiesRE.FindStringSubmatch(r.Text)
		if m == nil || hz == 0 {
			continue
		}
		jiffies, _ := strconv.ParseInt(m[1], 10, 64)
		at := now.Add(-time.Duration(end-jiffies) * time.Second / time.Duration(hz))
		r.During = during(at.Add(-allocated), at.Add(allocated))
	}
	return splat.Merge(reports), err
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
		k.column.Inside, k.leaks = i.found, i.reports
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
