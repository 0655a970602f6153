package bench

import (
	"slices"
	"testing"
)

// The readings of what the load in the guest prints.
func TestReadings(t *testing.T) {
	many := make([]float64, 100)
	for i := range many {
		many[i] = float64(i + 1)
	}
	f := figures{{Name: "latency/local", Values: many}, {Name: "latency/client", Values: many[:10]}, {Name: "cpu/local", Values: []float64{5}}}
	got := latencies(server{}, f)
	want := []Reading{
		{"create by a local process to response, p50", 0, Nanoseconds, 50},
		{"create by a local process to response, p95", 0, Nanoseconds, 95},
		{"create by a local process to response, p99", 0, Nanoseconds, 99},
		{"CPU time of the server for an event by a local process", 0, Nanoseconds, 5},
		{"create by another client to response, p50", 0, Nanoseconds, 5},
	}
	if !slices.Equal(got[:5], want) {
		t.Errorf("got %v, want %v", got[:5], want)
	}

	f = figures{{Name: "open", Values: []float64{7}}, {Name: "none/before/local", Values: []float64{100, 90, 110}}, {Name: "none/local", Values: []float64{130}},
		{Name: "watches", Skip: "too long"}}
	if got, want := watched(f, "flat", 3), []Reading{{"open, flat", 3, Nanoseconds, 7}}; !slices.Equal(got, want) {
		t.Errorf("what came before the end: got %v, want %v", got, want)
	}
	if got := f.skipped(); got != "too long" {
		t.Errorf("skipped: got %q", got)
	}
	if got, want := counted(f, "flat", 3), []Reading{{"concerns none, flat", 3, Instructions, 130}, {"concerns none, before there was a watch, flat", 3, Instructions, 100}}; !slices.Equal(got, want) {
		t.Errorf("counted: got %v, want %v", got, want)
	}
}

// A bound can be about large sizes only.
func TestBoundFrom(t *testing.T) {
	bound := Bound{Metrics: "^arm", Variant: "a", Against: "b", Limit: 0.1, From: 10}
	rows := []Row{{"arm", "a", 1, Nanoseconds, []float64{9}}, {"arm", "b", 1, Nanoseconds, []float64{10}}}
	if v := bound.hold(rows); v.Measured {
		t.Errorf("below it: got %+v", v)
	}
	rows = append(rows, Row{"arm", "a", 10, Nanoseconds, []float64{5}}, Row{"arm", "b", 10, Nanoseconds, []float64{100}})
	if v := bound.hold(rows); !v.Reached || v.Worst != 0.05 {
		t.Errorf("got %+v, want 0.05 and reached", v)
	}
}
