// Package history takes the results of each night and tells how every test has
// fared since: what is new, fixed, flaky, and failing since when.
//
//	runs -> SQLite -> status
package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"kbuild-run/tests/report"
)

// Key names a test over the nights. What is below it, the point release and the
// patches of the series, may change.
type Key struct {
	Test        string // "after: rename-server", or CellTest
	Suite       string
	Base        string // v6.12
	Series      string
	Config      string // base,ksmbd,kunit
	Accelerator string
}

// CellTest is the test that a cell could be run at all.
const CellTest = "cell"

// Run is one try of a cell.
type Run struct {
	Night       string
	Cell        string
	Attempt     int // 1, and 2 when something failed
	Suite       string
	Base        string
	Version     string // 6.12.117
	Source      string // of the base, in words
	Series      string
	Config      string
	Accelerator string
	Program     string // commit of kbuild-run
	Tree        string // git tree hash of what was under test
	Started     time.Time
	Time        time.Duration
	FirstSMB    time.Duration // of what was under test: from power-on to its first answer
	Exit        int           // of the program; -1: it was ended
	Folder      string        // of the results, below that of the nights; "" when pruned
	Results     []Result
	Measures    []Measure
}

// Measure is a value that a run measured.
type Measure struct {
	Name  string
	Value float64
	Unit  string // ns; "": a ratio
}

// Result is how a test ended in a run.
type Result struct {
	Test   string
	Status report.Status
	Time   time.Duration
	Detail string // lines
	Folder string // of the evidence, in that of the run
}

// Failed are the tests that failed.
func (r *Run) Failed() (names []string) {
	for _, t := range r.Results {
		if t.Status == report.Failed {
			names = append(names, t.Test)
		}
	}
	return names
}

// Store is the history: one SQLite file.
type Store struct{ db *sql.DB }

// schema: a night has runs, a run has results. user_version says which schema
// a file has.
const (
	schemaVersion = 3
	schema        = `
CREATE TABLE night (
	name     TEXT PRIMARY KEY,
	started  INTEGER NOT NULL, -- Unix milliseconds
	finished INTEGER           -- NULL: interrupted
) WITHOUT ROWID;
CREATE TABLE run (
	id          INTEGER PRIMARY KEY,
	night       TEXT NOT NULL REFERENCES night(name),
	cell        TEXT NOT NULL,
	attempt     INTEGER NOT NULL,
	suite       TEXT NOT NULL,
	base        TEXT NOT NULL,
	version     TEXT NOT NULL,
	source      TEXT NOT NULL,
	series      TEXT NOT NULL,
	config      TEXT NOT NULL,
	accelerator TEXT NOT NULL,
	program     TEXT NOT NULL,
	tree        TEXT NOT NULL,
	started     INTEGER NOT NULL, -- Unix milliseconds
	time_ns     INTEGER NOT NULL,
	smb_ns      INTEGER NOT NULL,
	exit        INTEGER NOT NULL,
	folder      TEXT NOT NULL,
	UNIQUE (night, cell, attempt)
);
CREATE TABLE result (
	run     INTEGER NOT NULL REFERENCES run(id),
	test    TEXT NOT NULL,
	status  TEXT NOT NULL,
	time_ns INTEGER NOT NULL,
	detail  TEXT NOT NULL,
	folder  TEXT NOT NULL,
	PRIMARY KEY (run, test)
) WITHOUT ROWID;
` + measures + `PRAGMA user_version = 3;`
	measures = `
CREATE TABLE measure (
	run   INTEGER NOT NULL REFERENCES run(id),
	name  TEXT NOT NULL,
	value REAL NOT NULL,
	unit  TEXT NOT NULL,
	PRIMARY KEY (run, name)
) WITHOUT ROWID;
`
)

// later is what a file of an earlier schema lacks, by that schema.
var later = map[int]string{
	1: "ALTER TABLE run ADD COLUMN source TEXT NOT NULL DEFAULT '';" + measures + "PRAGMA user_version = 3;",
	2: measures + "PRAGMA user_version = 3;",
}

// File is the file of the history in the folder of the nights.
const File = "history.db"

// Open opens the history in dir, or begins one.
func Open(ctx context.Context, dir string) (*Store, error) {
	name := filepath.Join(dir, File)
	// A path may hold ? and #. Full synchronisation, the default, makes a
	// committed run outlive the power.
	file := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(),
		RawQuery: "_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate"}).String()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db}
	err = s.change(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		switch version {
		case schemaVersion:
			return nil
		case 0:
			_, err := tx.ExecContext(ctx, schema)
			return err
		}
		if more := later[version]; more != "" {
			_, err := tx.ExecContext(ctx, more)
			return err
		}
		return fmt.Errorf("its schema is %d, want %d: a newer kbuild-run made it", version, schemaVersion)
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return s, nil
}

// Close closes the history.
func (s *Store) Close() error { return s.db.Close() }

// change does something wholly or not at all.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err == nil {
		defer tx.Rollback()
		if err = f(tx); err == nil {
			err = tx.Commit()
		}
	}
	if IsFull(err) {
		return fmt.Errorf("%w; free some with: kbuild-run cache prune", err)
	}
	return err
}

// IsFull says that the disk is full.
func IsFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
}

// Begin notes a night. One that was begun before goes on.
func (s *Store) Begin(ctx context.Context, night string, at time.Time) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO night (name, started) VALUES (?, ?) ON CONFLICT DO NOTHING", night, at.UnixMilli())
		return err
	})
}

// Tried is how far a night has come with a cell.
type Tried struct {
	Attempt int      // the last one
	Failed  []string // tests, in that
}

// Tried returns the cells that a night has run.
func (s *Store) Tried(ctx context.Context, night string) (map[string]Tried, error) {
	all := map[string]Tried{}
	const query = `SELECT cell, attempt, coalesce(test, '') FROM run LEFT JOIN result ON run = id AND status = ? WHERE night = ? ORDER BY attempt`
	err := s.each(ctx, query, []any{string(report.Failed), night}, func(scan func(...any) error) error {
		var cell, test string
		var attempt int
		if err := scan(&cell, &attempt, &test); err != nil {
			return err
		}
		t := all[cell]
		if attempt > t.Attempt {
			t = Tried{Attempt: attempt}
		}
		if test != "" {
			t.Failed = append(t.Failed, test)
		}
		all[cell] = t
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return all, nil
}

// End notes that a night ran to its end.
func (s *Store) End(ctx context.Context, night string, at time.Time) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE night SET finished = ? WHERE name = ?", at.UnixMilli(), night)
		return err
	})
}

// Add adds a run with its results to the history. One that is there stays.
func (s *Store) Add(ctx context.Context, r *Run) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `INSERT INTO run (night, cell, attempt, suite, base, version, source, series, config,
			accelerator, program, tree, started, time_ns, smb_ns, exit, folder)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
			r.Night, r.Cell, r.Attempt, r.Suite, r.Base, r.Version, r.Source, r.Series, r.Config,
			r.Accelerator, r.Program, r.Tree, r.Started.UnixMilli(), int64(r.Time), int64(r.FirstSMB), r.Exit, r.Folder)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		id, err := done.LastInsertId()
		if err != nil {
			return err
		}
		for _, t := range r.Results {
			_, err := tx.ExecContext(ctx, "INSERT INTO result (run, test, status, time_ns, detail, folder) VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING",
				id, t.Test, string(t.Status), int64(t.Time), t.Detail, t.Folder)
			if err != nil {
				return err
			}
		}
		for _, m := range r.Measures {
			_, err := tx.ExecContext(ctx, "INSERT INTO measure (run, name, value, unit) VALUES (?,?,?,?) ON CONFLICT DO NOTHING", id, m.Name, m.Value, m.Unit)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store results of %s: %w", r.Cell, err)
	}
	return nil
}

// Forget notes that the folder of a cell is gone. Its results stay.
func (s *Store) Forget(ctx context.Context, night, cell string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE run SET folder = '' WHERE night = ? AND cell = ?", night, cell)
		return err
	})
}

// Night is one night of the history.
type Night struct {
	Name     string
	Started  time.Time
	Finished bool
	Runs     []*Run // in the order they were stored
}

// Nights returns the last n nights with their runs and results, oldest first.
// n < 0: all.
func (s *Store) Nights(ctx context.Context, n int) (nights []*Night, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read history: %w", err)
		}
	}()
	const last = "(SELECT name, started, finished FROM night ORDER BY started DESC, name DESC LIMIT ?)"
	byName := map[string]*Night{}
	err = s.each(ctx, "SELECT name, started, finished IS NOT NULL FROM "+last+" ORDER BY started, name", []any{n}, func(scan func(...any) error) error {
		var night Night
		var started int64
		if err := scan(&night.Name, &started, &night.Finished); err != nil {
			return err
		}
		night.Started = time.UnixMilli(started).UTC()
		nights = append(nights, &night)
		byName[night.Name] = &night
		return nil
	})
	if err != nil {
		return nil, err
	}
	byID := map[int64]*Run{}
	err = s.each(ctx, `SELECT id, night, cell, attempt, suite, base, version, source, series, config, accelerator, program, tree,
		run.started, time_ns, smb_ns, exit, folder FROM run JOIN `+last+` AS n ON n.name = night ORDER BY id`, []any{n}, func(scan func(...any) error) error {
		var r Run
		var id, started int64
		err := scan(&id, &r.Night, &r.Cell, &r.Attempt, &r.Suite, &r.Base, &r.Version, &r.Source, &r.Series, &r.Config, &r.Accelerator, &r.Program, &r.Tree,
			&started, &r.Time, &r.FirstSMB, &r.Exit, &r.Folder)
		r.Started = time.UnixMilli(started).UTC()
		byID[id] = &r
		night := byName[r.Night]
		night.Runs = append(night.Runs, &r)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, `SELECT measure.run, name, value, unit FROM measure
		JOIN run ON run.id = measure.run WHERE night IN (SELECT name FROM `+last+`) ORDER BY measure.run, name`, []any{n}, func(scan func(...any) error) error {
		var id int64
		var m Measure
		err := scan(&id, &m.Name, &m.Value, &m.Unit)
		byID[id].Measures = append(byID[id].Measures, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	return nights, s.each(ctx, `SELECT result.run, test, status, result.time_ns, detail, result.folder FROM result
		JOIN run ON run.id = result.run JOIN `+last+` AS n ON n.name = night ORDER BY result.run, test`, []any{n}, func(scan func(...any) error) error {
		var id int64
		var t Result
		err := scan(&id, &t.Test, &t.Status, &t.Time, &t.Detail, &t.Folder)
		byID[id].Results = append(byID[id].Results, t)
		return err
	})
}

func (s *Store) each(ctx context.Context, query string, args []any, row func(scan func(...any) error) error) error {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Merge takes the nights of another history into this one. Nights of one name
// are one night: shards of it.
func (s *Store) Merge(ctx context.Context, other *Store) (runs int, err error) {
	nights, err := other.Nights(ctx, -1)
	if err != nil {
		return 0, err
	}
	for _, n := range nights {
		if err := s.Begin(ctx, n.Name, n.Started); err != nil {
			return runs, err
		}
		for _, r := range n.Runs {
			if err := s.Add(ctx, r); err != nil {
				return runs, err
			}
			runs++
		}
		if n.Finished {
			if err := s.End(ctx, n.Name, time.Now()); err != nil {
				return runs, err
			}
		}
	}
	return runs, nil
}

// Key is what the history calls a test of the run.
func (r *Run) Key(test string) Key {
	k := Key{Test: test, Suite: r.Suite, Base: r.Base, Series: r.Series, Config: r.Config, Accelerator: r.Accelerator}
	if test == CellTest {
		k.Accelerator = "" // a cell that cannot be run has none
	}
	return k
}

// Cell names what a test belongs to.
func (k Key) Cell() string {
	k.Test, k.Accelerator = "", ""
	return strings.TrimSuffix(k.String(), ": ")
}

func (k Key) String() string {
	parts := []string{k.Suite, k.Base, k.Series, k.Config, k.Accelerator}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ") + ": " + k.Test
}
