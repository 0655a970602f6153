package tests

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"kbuild-run/tests/report"
	"kbuild-run/tests/torture"
)

// What passes without the series has to pass with it, known failure or not.
func TestTortureRows(t *testing.T) {
	const again = "it passes without the series\n"
	for _, test := range []struct {
		name          string
		asked         bool
		before, after torture.Result
		want          []report.Status
		reason        string // of the result with the series
	}{
		{"better", true, torture.Result{Outcome: torture.Failed}, torture.Result{Outcome: torture.Passed}, []report.Status{report.Failed, report.Passed}, ""},
		{"as good", true, torture.Result{Outcome: torture.Passed}, torture.Result{Outcome: torture.Passed}, []report.Status{report.Passed, report.Passed}, ""},
		{"worse", true, torture.Result{Outcome: torture.Passed}, torture.Result{Outcome: torture.Failed, Reason: "x"}, []report.Status{report.Passed, report.Failed}, again + "x"},
		{"worse, and known", true, torture.Result{Outcome: torture.Passed}, torture.Result{Outcome: torture.Skipped, Reason: "x"}, []report.Status{report.Passed, report.Failed}, again + "x"},
		{"as bad", true, torture.Result{Outcome: torture.Failed}, torture.Result{Outcome: torture.Failed, Reason: "x"}, []report.Status{report.Failed, report.Failed}, "x"},
		{"as bad, and known", true, torture.Result{Outcome: torture.Failed}, torture.Result{Outcome: torture.Skipped, Reason: "x"}, []report.Status{report.Failed, report.Skipped}, "x"},
		{"not asked", false, torture.Result{}, torture.Result{Outcome: torture.Passed}, []report.Status{report.Skipped, report.Passed}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			const name = "smb2.notify.dir"
			o := Torture{program: &torture.Program{Version: "4.17.12"}, tests: []string{name}}
			before, after := &kernel{role: report.Before}, &kernel{role: report.After, torture: []torture.Result{test.after}}
			if test.asked {
				o.Patterns = []string{name}
				before.torture = []torture.Result{test.before}
			}
			out := t.TempDir()
			rows, err := o.rows([]*kernel{before, after}, out)
			if err != nil || len(rows) != 1 {
				t.Fatalf("%d rows, %v", len(rows), err)
			}
			var got []report.Status
			for _, r := range rows[0].Results {
				got = append(got, r.Status)
			}
			last := rows[0].Results[1]
			if !reflect.DeepEqual(got, test.want) || last.Reason != test.reason {
				t.Errorf("got %q, %q, want %q, %q", got, last.Reason, test.want, test.reason)
			}
			if _, err := os.Stat(filepath.Join(out, "after", name, "smbtorture.txt")); (err == nil) != (last.Status != report.Passed) {
				t.Errorf("what it printed: %v", err)
			}
		})
	}
}

// Without the series, a test that passes sometimes has to pass ten times to have passed.
func TestSteady(t *testing.T) {
	lost := errors.New("lost")
	for _, test := range []struct {
		name   string
		ends   string // each turn: p passes, f fails, e cannot be run
		want   torture.Outcome
		reason string
		err    error
	}{
		{"fails", "f", torture.Failed, "x", nil},
		{"passes", "pppppppppp", torture.Passed, "", nil},
		{"passes twice", "ppf", torture.Failed, "it passes only sometimes: time 3 ends in this way\nx", nil},
		{"fails at the end", "pppppppppf", torture.Failed, "it passes only sometimes: time 10 ends in this way\nx", nil},
		{"cannot be run", "pe", torture.Passed, "", lost},
	} {
		t.Run(test.name, func(t *testing.T) {
			turn := 0
			next := func() (torture.Result, error) {
				end := test.ends[turn]
				turn++
				switch end {
				case 'p':
					return torture.Result{Outcome: torture.Passed}, nil
				case 'f':
					return torture.Result{Outcome: torture.Failed, Reason: "x"}, nil
				}
				return torture.Result{}, lost
			}
			first, _ := next()
			got, err := steady(first, next)
			if got.Outcome != test.want || got.Reason != test.reason || err != test.err || turn != len(test.ends) {
				t.Errorf("got %s %q, %v after %d turns, want %s %q, %v after %d", got.Outcome, got.Reason, err, turn, test.want, test.reason, test.err, len(test.ends))
			}
		})
	}
}

// A host without smbtorture is said to be one.
func TestTortureMissing(t *testing.T) {
	rows, err := (&Torture{missing: torture.ErrNone.Error()}).rows([]*kernel{{role: report.Before}, {role: report.After}}, "")
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, r := range rows[0].Results {
		if r.Status != report.Skipped || !strings.Contains(r.Reason, "not installed") {
			t.Errorf("got %+v, want a skip that says what is missing", r)
		}
	}
}

// Tests that may hang a kernel run behind the others.
func TestTurn(t *testing.T) {
	tests := []string{"smb2.change_notify_disabled.notfiy_disabled", "smb2.notify.dir", "smb2.durable-open.oplock", "smb2.compound.interim1", "smb2.compound.related1", "smb2.credits.1conn_notify_max_async_credits", "smb2.rename.simple"}
	slices.SortStableFunc(tests, func(a, b string) int { return turn(a) - turn(b) })
	want := []string{"smb2.compound.related1", "smb2.rename.simple", "smb2.durable-open.oplock", "smb2.notify.dir", "smb2.compound.interim1", "smb2.credits.1conn_notify_max_async_credits", "smb2.change_notify_disabled.notfiy_disabled"}
	if !slices.Equal(tests, want) {
		t.Errorf("got %q, want %q", tests, want)
	}
}
