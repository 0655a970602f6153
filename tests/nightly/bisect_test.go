package nightly

import (
	"testing"

	"kbuild-run/tests/nightly/history"
)

func TestSearch(t *testing.T) {
	for _, test := range []struct {
		points   string // P passes, F fails, ? cannot be tested; the last one fails
		from, to int
		most     int // tries
	}{
		{"PF", 0, 1, 1},
		{"PPPPPPPPF", 7, 8, 1},
		{"PPPFFFFFF", 2, 3, 6},
		{"FFFFPPFFF", 5, 6, 4}, // the series brings it, and breaks it later
		{"FFFFFFFFF", -1, 0, 9},
		{"?FFFFFFFF", -1, 0, 9},
		{"PFFFFFFFF", 0, 1, 6},
		{"PPPP??FFF", 3, 6, 6},
		{"PPP?P??FF", 4, 7, 6},
		{"PPPPPPP?F", 6, 8, 2},
		{"P???????F", 0, 8, 9},
	} {
		tries := 0
		from, to, err := search(len(test.points)-1, func(i int) (verdict, error) {
			tries++
			return map[byte]verdict{'P': good, 'F': bad, '?': untestable}[test.points[i]], nil
		})
		if err != nil || from != test.from || from >= 0 && to != test.to || tries > test.most {
			t.Errorf("%s: got %d, %d after %d tries, %v; want %d, %d after at most %d", test.points, from, to, tries, err, test.from, test.to, test.most)
		}
	}
}

func TestTries(t *testing.T) {
	for _, test := range []struct{ failures, tries, want int }{{1, 2, 5}, {1, 10, 20}, {9, 10, 2}} {
		flaky := &history.Test{Outcomes: []history.Outcome{history.Flaky, history.Failed}, Failures: test.failures, Tries: test.tries}
		if got := tries(flaky); got != test.want {
			t.Errorf("fails %d of %d times: got %d tries, want %d", test.failures, test.tries, got, test.want)
		}
	}
	if got := tries(&history.Test{Outcomes: []history.Outcome{history.Passed, history.Failed}}); got != 1 {
		t.Errorf("a test that is not flaky: got %d tries, want 1", got)
	}
}
