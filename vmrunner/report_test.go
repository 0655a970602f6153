package vmrunner

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// Each file under testdata is a console log with the titles wanted from it on
// top: "TITLE: text" lines, one a report, then an empty line, then the log.
func TestScan(t *testing.T) {
	files, err := filepath.Glob("testdata/*.log")
	if err != nil || len(files) == 0 {
		t.Fatalf("no logs: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			log := string(b)
			for strings.HasPrefix(log, "TITLE: ") {
				var line string
				line, log, _ = strings.Cut(log, "\n")
				want = append(want, strings.TrimPrefix(line, "TITLE: "))
			}
			reports, err := Scan(strings.NewReader(log))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			lines := strings.Split(log, "\n")
			for _, r := range reports {
				got = append(got, r.Title)
				if r.Line < 1 || r.Line > len(lines) || !strings.Contains(r.Text, lines[r.Line-1]+"\n") {
					t.Errorf("%s: line %d is not in its text", r.Title, r.Line)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got titles\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
}

// A log that cannot be read to its end is no clean log.
func TestScanError(t *testing.T) {
	broken := errors.New("broken")
	_, err := Scan(io.MultiReader(strings.NewReader("[    0.000000] Linux version 6.12\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestConsoleScanError(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	c.file.Close() // as on a full disk: what is written gets lost
	if n, err := c.Write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("write: got %d, %v; want 5, nil: the guest must not stall", n, err)
	}
	if _, err := c.scan(); err == nil {
		t.Error("scan of a log that is not whole: got no error")
	}
}
