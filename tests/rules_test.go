package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
)

// A rule shows the newest result of its scenario on each base.
func TestCover(t *testing.T) {
	dir := t.TempDir()
	for i, r := range []struct {
		folder, base, series string
		status               report.Status
	}{
		{"b", "v1", "notify", report.Passed}, // the newer one is not the last by name
		{"a", "v1", "notify", report.Failed},
		{"c", "v2", "notify", report.Passed},
		{"d", "v2", "other", report.Failed},
		{"e", "v2", "notify", report.NotRun},
	} {
		file := report.Report{Base: r.base, Series: r.series, Started: time.Unix(int64(i), 0), Columns: []report.Column{{Role: report.Before}, {Role: report.After}},
			Scenarios: []report.Scenario{{Name: "fifo", Results: []report.Result{{Status: report.Skipped}, {Status: r.status}}}}}
		if err := os.Mkdir(filepath.Join(dir, r.folder), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := file.Files(filepath.Join(dir, r.folder)); err != nil {
			t.Fatal(err)
		}
	}
	last, err := ReadLast(dir, "notify")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	uncovered, err := Cover(&b, []*scenario.Scenario{{Name: "fifo", Rules: []string{"R-2.27"}}, {Name: "merge", Rules: []string{"R-2.31"}}}, last)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n            fifo: failed on v1, passed on v2\n", "\n            merge: not run\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got %s\nwant %q in it", b.String(), want)
		}
	}
	if got, want := len(uncovered), len(Rules())-2; got != want {
		t.Errorf("got %d rules that no scenario names, want %d", got, want)
	}
}
