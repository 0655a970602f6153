package tests

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kbuild-run/tests/scenario"
)

// margin is how much of the console before the first and after the last message
// of a scenario is part of its timeline.
const margin = time.Second

// timeline is what happened in a scenario in one order: its steps, its messages
// and what the guest printed, which is the kernel's log, with ksmbd's debug
// messages and trace events where they are switched on. The times are those at which it
// happened on this host, in seconds since the first.
func timeline(r *scenario.Result) string {
	type event struct {
		at         time.Time
		from, text string
	}
	var all []event
	for i, c := range r.Messages {
		for _, m := range c {
			e := event{m.Time, fmt.Sprintf("conn %d", i+1), m.Text}
			if step, ok := strings.CutPrefix(m.Text, "--  step: "); ok {
				e.from, e.text = "step", step
			}
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return ""
	}
	sort := func() { slices.SortStableFunc(all, func(a, b event) int { return a.at.Compare(b.at) }) }
	sort()
	first := all[0].at
	if printed := r.Server.Printed; printed != nil {
		for at, line := range printed(first.Add(-margin), all[len(all)-1].at.Add(margin)) {
			from := "guest"
			if traced := r.Server.Traced; traced != nil && traced(line) {
				from = "trace"
			}
			all = append(all, event{at, from, line})
		}
		sort()
	}
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "%11.6f %-7s %s\n", e.at.Sub(first).Seconds(), e.from, e.text)
	}
	return b.String()
}
