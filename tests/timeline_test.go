package tests

import (
	"iter"
	"testing"
	"time"

	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
)

func TestTimeline(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	r := &scenario.Result{Messages: [][]client.Entry{
		{{Time: at(0), Text: "--  step: connect a"}, {Time: at(1), Text: "->  NEGOTIATE"}, {Time: at(30), Text: "<-  NEGOTIATE"}},
		{{Time: at(20), Text: "--  step: connect b"}, {Time: at(40), Text: "->  ECHO"}},
	}}
	r.Server = &scenario.Server{Printed: func(from, to time.Time) iter.Seq2[time.Time, string] {
		if from.After(at(-10)) || to.Before(at(25)) {
			t.Errorf("asked for the console from %v to %v", from, to)
		}
		return func(yield func(time.Time, string) bool) {
			_ = yield(at(-10), "before") && yield(at(25), "during") && yield(at(26), "event")
		}
	}, Traced: func(line string) bool { return line == "event" }}
	want := `  -0.010000 guest   before
   0.000000 step    connect a
   0.001000 conn 1  ->  NEGOTIATE
   0.020000 step    connect b
   0.025000 guest   during
   0.026000 trace   event
   0.030000 conn 1  <-  NEGOTIATE
   0.040000 conn 2  ->  ECHO
`
	if got := timeline(r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := timeline(&scenario.Result{Server: r.Server}); got != "" {
		t.Errorf("no message: got %q", got)
	}
}
