package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Held are what a server holds for its clients, as numbers by name: open files,
// requests.
type Held map[string]int

// Holds asks the server.
type Holds func(ctx context.Context) (Held, error)

// leaveWait is how long a server may take to forget clients that are gone.
const leaveWait = 2 * time.Second

// Settle waits until the server holds no more than before, for at most limit. more
// is what it then holds beyond that, a line each; "": nothing.
func (h Holds) Settle(ctx context.Context, before Held, limit time.Duration) (now Held, more string, err error) {
	pause := 10 * time.Millisecond
	for until := time.Now().Add(limit); ; pause = min(2*pause, time.Second) {
		if now, err = h(ctx); err != nil {
			return nil, "", fmt.Errorf("ask the server what it holds: %w", err)
		}
		if more = now.beyond(before); more == "" || time.Now().After(until) {
			return now, more, nil
		}
		select {
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// beyond says what there is more of than before.
func (h Held) beyond(before Held) string {
	var more []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if n := h[name] - before[name]; n > 0 {
			more = append(more, fmt.Sprintf("%d %s", n, name))
		}
	}
	return strings.Join(more, "\n")
}

// settle is Settle on this server; one that cannot be asked holds nothing.
func (s *Server) settle(ctx context.Context, before Held) (now Held, more string, err error) {
	if s.Holds == nil {
		return nil, "", nil
	}
	return s.Holds.Settle(ctx, before, s.deadline(leaveWait))
}

// maxBlamed is how many scenarios that leave something behind are looked for. The
// first costs about one more run of all.
const maxBlamed = 5

// blame finds the scenarios that left behind what the server now holds beyond before,
// and lets them fail. Many have run at a time: they run again, half of them, and half
// of those, until it is one. What only several leave together is not found; it is
// still held at the end.
func blame(ctx context.Context, server *Server, results []*Result, now Held, more string) error {
	found := 0
	var narrow func([]*Result, Held, string) (Held, error)
	narrow = func(suspects []*Result, now Held, more string) (Held, error) {
		if more == "" {
			return now, nil
		}
		if len(suspects) == 1 {
			found++
			suspects[0].leaves(more)
			return now, nil
		}
		half := len(suspects) / 2
		for _, part := range [][]*Result{suspects[:half], suspects[half:]} {
			if found == maxBlamed {
				break
			}
			var scenarios []*Scenario
			for _, r := range part {
				scenarios = append(scenarios, r.Scenario)
			}
			_, held, more, err := play(ctx, server, scenarios, nil, now)
			if err != nil {
				return nil, err
			}
			if now, err = narrow(part, held, more); err != nil {
				return nil, err
			}
		}
		return now, nil
	}
	ran := slices.DeleteFunc(slices.Clone(results), func(r *Result) bool { return r.Outcome == Skipped })
	if len(ran) == 0 {
		return nil
	}
	_, err := narrow(ran, now, more)
	return err
}

// leaves makes a failure of a result, for what its scenario left behind.
func (r *Result) leaves(more string) {
	const want = "a server that holds no more than before, the connections being gone"
	if r.Outcome == Failed && r.Failure != nil {
		r.Failure.Got += "\nand then the server holds " + strings.ReplaceAll(more, "\n", ", ")
		return
	}
	r.Outcome, r.Failure = Failed, &Failure{Want: want, Got: strings.ReplaceAll(more, "\n", ", ")}
}
