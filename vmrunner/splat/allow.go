package splat

import (
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

//go:embed allow.toml
var allowTOML string

// Allowed is a report that fails nothing.
type Allowed struct {
	Title  string // of the report, whole
	Frame  string // a function among its frames; "" is any
	Bare   string // the base, "v7.3", that has it as long as no series is on it; "" is any kernel
	Reason string // why it is not ours, with where it is known
	Until  string // last day, 2027-01-31

	until time.Time
}

// Allow returns the list in the repository. An entry whose last day is over is an
// error: somebody has to look whether it still comes.
func Allow(now time.Time) ([]Allowed, error) { return readAllow(allowTOML, now) }

func readAllow(text string, now time.Time) ([]Allowed, error) {
	var file struct{ Allow []Allowed }
	meta, err := toml.Decode(text, &file)
	if err != nil {
		return nil, fmt.Errorf("read allow.toml: %w", err)
	}
	if more := meta.Undecoded(); len(more) > 0 {
		return nil, fmt.Errorf("read allow.toml: unknown key %s", more[0])
	}
	for i := range file.Allow {
		a := &file.Allow[i]
		if a.Title == "" || strings.TrimSpace(a.Reason) == "" {
			return nil, fmt.Errorf("read allow.toml: entry %d lacks its title or reason", i+1)
		}
		if a.until, err = time.Parse(time.DateOnly, a.Until); err != nil {
			return nil, fmt.Errorf("read allow.toml: %q: last day: %w", a.Title, err)
		}
		if now.After(a.until.AddDate(0, 0, 1)) {
			return nil, fmt.Errorf("read allow.toml: %q was allowed until %s; take the entry out, or look at it again and give it a new day", a.Title, a.Until)
		}
	}
	return file.Allow, nil
}

func (a *Allowed) allows(r *Report, bare string) bool {
	if a.Title != r.Title || a.Bare != "" && a.Bare != bare {
		return false
	}
	for _, f := range r.Frames {
		if f == a.Frame {
			return true
		}
	}
	return a.Frame == ""
}

// Without returns the reports that no entry allows. bare is the kernel's base, or "" of
// a kernel with a series on it.
func Without(reports []Report, allowed []Allowed, bare string) []Report {
	var left []Report
next:
	for _, r := range reports {
		for _, a := range allowed {
			if a.allows(&r, bare) {
				continue next
			}
		}
		left = append(left, r)
	}
	return left
}
