package tests

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"kbuild-run/tests/scenario"
)

var pattern = flag.String("scenario", "", "run only the scenarios that match")

// Of many scenarios that run at a time, the one that leaves something behind fails,
// and no other. What the server holds here are files in a folder.
func TestLeftBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("starts smbd")
	}
	ctx, server := startSamba(t)
	dir := t.TempDir()
	const tidy = "# One that cleans up.\n# sections: MS-SMB2 3.3.5.9\n# rules: R-2.92\nconnect one\ncreate one file\n"
	var all []*scenario.Scenario
	want := map[string]scenario.Outcome{}
	for n := range 13 {
		name, text, outcome := fmt.Sprintf("tidy-%d", n), tidy, scenario.Passed
		if n == 5 || n == 11 {
			name, text, outcome = fmt.Sprintf("leaky-%d", n), tidy+"server mktemp "+dir+"/XXXXXX\n", scenario.Failed
		}
		want[name] = outcome
		s, err := scenario.Parse(name, text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	server.Holds = func(ctx context.Context) (scenario.Held, error) {
		left, err := os.ReadDir(dir)
		return scenario.Held{"files": len(left)}, err
	}
	var mu sync.Mutex
	begun, ended := map[string]int{}, map[string]int{}
	server.Begin = func(name string) func() {
		mu.Lock()
		defer mu.Unlock()
		begun[name]++
		return func() {
			mu.Lock()
			defer mu.Unlock()
			ended[name]++
		}
	}
	results, err := scenario.Run(ctx, server, all, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if begun[name] == 0 || begun[name] != ended[name] {
			t.Errorf("%s: it begins %d times and ends %d times", name, begun[name], ended[name])
		}
	}
	for _, r := range results {
		if got := r.Outcome; got != want[r.Scenario.Name] {
			t.Errorf("%s: got %s (%v), want %s", r.Scenario.Name, got, r.Failure, want[r.Scenario.Name])
		}
		if r.Outcome == scenario.Failed && r.Failure.Got != "1 files" {
			t.Errorf("%s: got %q, want 1 files", r.Scenario.Name, r.Failure.Got)
		}
	}
}

// Every scenario is true of the protocol, so it passes on Samba, or its head says
// why Samba differs; then it fails.
func TestScenariosOnSamba(t *testing.T) {
	if testing.Short() {
		t.Skip("starts smbd")
	}
	ctx, server := startSamba(t)
	var patterns []string
	if *pattern != "" {
		patterns = strings.Fields(*pattern)
	}
	all, err := Scenarios("", patterns...)
	if err != nil {
		t.Fatal(err)
	}
	results, err := scenario.Run(ctx, server, all, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = scenario.Again(ctx, server, results, func(first *scenario.Result) {
		t.Logf("%s ran again, since at first %v\n%s", first.Scenario.Name, first.Failure, strings.Join(first.Failure.Last, "\n"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Run(r.Scenario.Name, func(t *testing.T) {
			switch r.Outcome {
			case scenario.Skipped:
				t.Skip(r.Reason)
			case scenario.Differs:
				t.Skipf("Samba differs: %s\n%v", r.Reason, r.Failure)
			case scenario.Failed:
				t.Errorf("%v\n%s", r.Failure, strings.Join(r.Failure.Last, "\n"))
			}
			t.Logf("%v", r.Time)
		})
	}
}
