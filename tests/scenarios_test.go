package tests

import (
	"context"
	"errors"
	"flag"
	"strings"
	"testing"

	"kbuild-run/patches/job"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/servers"
)

var pattern = flag.String("scenario", "", "run only the scenarios that match")

// Every scenario is true of the protocol, so it passes on Samba, or its head says
// why Samba differs; then it fails.
func TestScenariosOnSamba(t *testing.T) {
	if testing.Short() {
		t.Skip("starts smbd")
	}
	ctx := job.With(context.Background(), &job.Job{})
	server, stop, err := SambaServer(ctx)
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
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
