package tests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/ktap"
	"kbuild-run/tests/report"
	"kbuild-run/tests/torture"
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
// time or only seemed to have no pointer to it, and prints what it found.
const leaks = `
cd /sys/kernel/debug
echo scan > kmemleak
sleep 6
echo scan > kmemleak
cat kmemleak
echo clear > kmemleak
`

// jiffies prints the time in jiffies, and does nothing else: how long that takes, on a
// busy host as well, is how far its time there may be from ours.
const jiffies = `grep '^jiffies: ' /proc/timer_list | tail -n 1`

// inside asks a guest that its clients have left what its kernel says about
// itself: KUnit's tests, what ksmbd still holds, and what it has lost.
type inside struct {
	vm     *vmrunner.VM
	config string        // the kernel's .config
	wait   time.Duration // how long ksmbd may hold what clients have left
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

	_, reason, err := guestHolds(i.vm).Settle(ctx, nil, i.wait)
	i.note(left, "nothing held when all clients are gone", reason, err)
	for option, module := range units {
		if has(option) {
			i.kunit(ctx, module)
		}
	}
	kmemleak, symbols := has("CONFIG_DEBUG_KMEMLEAK=y"), ""
	if kmemleak {
		// Now, and when the variables of the module, and what its kworkers have left on
		// their stacks, are gone too. Then its functions have no names any more.
		if symbols, err = i.run(ctx, `grep '\[ksmbd\]' /proc/kallsyms || true`); err != nil {
			i.note(left, "names of functions", "", err)
		}
		i.leaks(ctx, "no leak", options, "")
	}
	reason, err = i.run(ctx, unload)
	i.note(left, "the module can be removed", reason, err)
	if kmemleak {
		i.leaks(ctx, "no leak without the module", options, symbols)
	}
}

// leaks has kmemleak look for what is lost, and takes each object as a report of the
// kernel: it was printed into a file instead of the log. symbols are those of a module
// that is gone, as /proc/kallsyms had them.
func (i *inside) leaks(ctx context.Context, name string, options []byte, symbols string) {
	out, err := i.run(ctx, leaks)
	c := clock{from: time.Now()}
	if err == nil {
		c.jiffies, err = i.run(ctx, jiffies)
		c.to = time.Now()
	}
	var titles []string
	if err == nil {
		var found []splat.Report
		found, err = leaked(named(out, symbols), options, c, i.vm.During)
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

// addressRE is a frame without a name.
var addressRE = regexp.MustCompile(`(?m)\b0x[0-9a-f]{16}$`)

// named puts names for the addresses in stacks that lie between the first and the
// last of symbols.
func named(stacks, symbols string) string {
	type symbol struct {
		at           uint64
		name, module string // planted, [ksmbd]
	}
	var all []symbol
	for line := range strings.Lines(symbols) {
		// ffffffffa006f010 t planted\t[ksmbd]
		if f := strings.Fields(line); len(f) == 4 && strings.Contains("tT", f[1]) {
			if at, err := strconv.ParseUint(f[0], 16, 64); err == nil {
				all = append(all, symbol{at, f[2], f[3]})
			}
		}
	}
	slices.SortFunc(all, func(a, b symbol) int { return cmp.Compare(a.at, b.at) })
	return addressRE.ReplaceAllStringFunc(stacks, func(address string) string {
		at, err := strconv.ParseUint(address[2:], 16, 64)
		n := sort.Search(len(all), func(n int) bool { return all[n].at > at })
		if err != nil || n == 0 || n == len(all) {
			return address
		}
		s := all[n-1]
		return fmt.Sprintf("%s+%#x/%#x %s", s.name, at-s.at, all[n].at-s.at, s.module)
	})
}

// clock is a time in the guest's jiffies, which was between two of ours.
type clock struct {
	jiffies  string // as /proc/timer_list says it
	from, to time.Time
}

// leaked reads what kmemleak found. When an object was allocated is told in jiffies,
// which stand still early in the boot: c says when they were what.
func leaked(found string, options []byte, c clock, during func(from, to time.Time) []string) ([]splat.Report, error) {
	var end int64
	if _, err := fmt.Sscanf(c.jiffies, "jiffies: %d", &end); err != nil {
		return nil, fmt.Errorf("read kmemleak: %q: want jiffies", c.jiffies)
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
		ago := time.Duration(end-jiffies) * time.Second / time.Duration(hz)
		r.During = during(c.from.Add(-ago-allocated), c.to.Add(-ago+allocated))
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

// durableWait is how long ksmbd keeps a durable handle whose client does not come back.
// It may look at one that has less time only when that of another is over.
const durableWait = 2 * 5 * time.Minute

// inside looks at the guest and writes what it finds to the column.
func (k *kernel) inside(ctx context.Context) {
	i := &inside{vm: k.vm, config: k.built.Config, wait: k.vm.Deadline(2 * time.Second)}
	job.From(ctx).Step(k.step("inside"), func(s *job.Step) error {
		if slices.ContainsFunc(k.torture, func(r torture.Result) bool { return durables.MatchString(r.Test) }) {
			i.wait += durableWait
			s.Progress("wait for durable handles to end, %v at most", durableWait)
		}
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
