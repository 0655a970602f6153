package history

import (
	"database/sql"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kbuild-run/tests/report"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A run that does not fit on the disk is not there at all, and says what helps; the
// runs before it stay, and those after it are stored when there is room again.
func TestFull(t *testing.T) {
	s := openStore(t, t.TempDir())
	if err := s.Begin(t.Context(), "a", time.Now()); err != nil {
		t.Fatal(err)
	}
	run := func(cell string, results int) *Run {
		r := &Run{Night: "a", Cell: cell, Attempt: 1, Started: time.Now()}
		for i := range results {
			r.Results = append(r.Results, Result{Test: strings.Repeat("x", i), Status: report.Passed, Detail: strings.Repeat("detail ", 100)})
		}
		return r
	}
	limit := func(pages int) {
		t.Helper()
		if err := s.change(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec("PRAGMA max_page_count = " + strings.Repeat("9", pages))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(t.Context(), run("one", 3)); err != nil {
		t.Fatal(err)
	}
	limit(2) // 99 pages of 4 KiB
	err := s.Add(t.Context(), run("two", 1000))
	if err == nil || !IsFull(err) || !strings.HasSuffix(err.Error(), "free some with: kbuild-run cache prune") {
		t.Errorf("got %v, want that the disk is full", err)
	}
	limit(7)
	if err := s.Add(t.Context(), run("three", 1000)); err != nil {
		t.Error(err)
	}
	nights, err := s.Nights(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, r := range nights[0].Runs {
		got[r.Cell] = len(r.Results)
	}
	if len(got) != 2 || got["one"] != 3 || got["three"] != 1000 {
		t.Errorf("got results %v, want one: 3, three: 1000", got)
	}
}

// A file of a newer program is left alone, whatever characters its path has.
func TestNewerSchema(t *testing.T) {
	dir := t.TempDir() + "/a ?#%"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "its schema is 99, want 3") {
		t.Errorf("got %v", err)
	}
}

// A history of an earlier program goes on, and one goes into another whole.
func TestEarlierSchema(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	add := func(s *Store, cell string) {
		t.Helper()
		if err := s.Begin(t.Context(), "a", time.UnixMilli(5000)); err != nil {
			t.Fatal(err)
		}
		err := s.Add(t.Context(), &Run{Night: "a", Cell: cell, Attempt: 1, Source: "a tree", Started: time.UnixMilli(5000).UTC(),
			Results: []Result{{Test: "after: rename", Status: report.Passed}}, Measures: []Measure{{"CREATE", 1.5, "ns"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(s, "old")
	if _, err := s.db.Exec("ALTER TABLE run DROP COLUMN source; DROP TABLE measure; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openStore(t, dir)
	add(s, "new")
	other := openStore(t, t.TempDir())
	if n, err := other.Merge(t.Context(), s); n != 2 || err != nil {
		t.Fatalf("got %d runs, %v", n, err)
	}
	nights, err := other.Nights(t.Context(), -1)
	if err != nil || len(nights) != 1 || len(nights[0].Runs) != 2 {
		t.Fatalf("got %+v, %v", nights, err)
	}
	old, now := nights[0].Runs[0], nights[0].Runs[1]
	if old.Cell != "old" || old.Source != "" || old.Measures != nil || len(old.Results) != 1 {
		t.Errorf("old: got %+v", old)
	}
	if now.Cell != "new" || now.Source != "a tree" || !slices.Equal(now.Measures, []Measure{{"CREATE", 1.5, "ns"}}) || len(now.Results) != 1 {
		t.Errorf("new: got %+v", now)
	}
}
