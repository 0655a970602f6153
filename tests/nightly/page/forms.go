package page

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/report"
)

// ran are the tests of the last night, cell by cell.
func (st status) ran() (cells []cellTests) {
	for _, t := range st.Tests {
		if t.Outcome() == history.Absent {
			continue
		}
		name := t.Key.Cell()
		if n := len(cells); n == 0 || cells[n-1].name != name {
			cells = append(cells, cellTests{name: name})
		}
		c := &cells[len(cells)-1]
		c.tests = append(c.tests, t)
	}
	return cells
}

type cellTests struct {
	name  string
	tests []*history.Test
}

// words say why a test of the last night failed, or what else is to be said.
func (st status) words(t *history.Test) string {
	words := strings.TrimSpace(st.Remark(t))
	if t.Last != nil && t.LastRun.Night == st.Night().Name {
		words = strings.TrimSpace(t.Last.Detail + "\n" + words)
	}
	return words
}

// last is the last result of a test in the last night.
func (st status) last(t *history.Test) (last history.Result, run *history.Run) {
	for _, r := range st.Night().Runs {
		for _, res := range r.Results {
			if r.Key(res.Test) == t.Key {
				last, run = res, r
			}
		}
	}
	return last, run
}

// JUnit writes the night as JUnit XML, a suite a cell. A flaky test passed, and a
// known failure is skipped with its reason.
func (st status) JUnit(w io.Writer) error {
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		Time    string   `xml:"time,attr"`
		Skipped *message `xml:"skipped"`
		Failure *message `xml:"failure"`
		Out     string   `xml:"system-out,omitempty"`
	}
	type suite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	all := struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		Suites  []suite  `xml:"testsuite"`
	}{Name: "kbuild-run nightly " + st.Night().Name}
	for _, c := range st.ran() {
		s := suite{Name: c.name, Tests: len(c.tests)}
		for _, t := range c.tests {
			res, _ := st.last(t)
			words := printable(st.words(t))
			first, _, _ := strings.Cut(words, "\n")
			k := testcase{Name: t.Test, Class: c.name, Time: fmt.Sprintf("%.3f", res.Time.Seconds())}
			switch o := t.Outcome(); {
			case o == history.Skipped || o == history.Failed && t.Known != nil && !t.Over:
				k.Skipped = &message{Message: first, Text: words}
				s.Skipped++
			case o == history.Failed:
				k.Failure = &message{Message: first, Text: words}
				s.Failures++
			default:
				k.Out = words
			}
			s.Cases = append(s.Cases, k)
		}
		all.Suites = append(all.Suites, s)
	}
	b, err := xml.MarshalIndent(all, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	}
	return err
}

// printable is s without the control characters that XML cannot hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

var noWord = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// dotted is the name of a test as words with dots between them, of the characters
// that KTAP and KCIDB have in names.
func dotted(t *history.Test) string {
	var words []string
	for w := range strings.SplitSeq(t.Test, ": ") {
		words = append(words, strings.Trim(noWord.ReplaceAllString(w, "_"), "_"))
	}
	return strings.Join(words, ".")
}

// KTAP writes the night as KTAP version 1, a cell a test with the tests of it
// (Documentation/dev-tools/ktap.rst).
func (st status) KTAP(w io.Writer) error {
	var b strings.Builder
	cells := st.ran()
	fmt.Fprintf(&b, "KTAP version 1\n1..%d\n", len(cells))
	line := func(indent string, bad bool, n int, name, directive string) {
		not := ""
		if bad {
			not = "not "
		}
		fmt.Fprintf(&b, "%s%sok %d %s%s\n", indent, not, n, name, directive)
	}
	for i, c := range cells {
		fmt.Fprintf(&b, "    KTAP version 1\n    1..%d\n", len(c.tests))
		bad := false
		for n, t := range c.tests {
			words := st.words(t)
			skip := t.Outcome() == history.Skipped || t.Outcome() == history.Failed && t.Known != nil && !t.Over
			directive := ""
			if skip {
				directive = " # SKIP"
				if t.Known != nil {
					directive += " " + t.Known.Reason
				}
			} else {
				for l := range strings.Lines(words) {
					fmt.Fprintf(&b, "    # %s\n", printable(strings.TrimRight(l, "\n")))
				}
			}
			failed := t.Outcome() == history.Failed && !skip
			bad = bad || failed
			line("    ", failed, n+1, dotted(t), directive)
		}
		line("", bad, i+1, strings.Trim(noWord.ReplaceAllString(c.name, "_"), "_"), "")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// The objects of KCIDB's schema 5.0, as far as they are filled here.
type (
	kcidb struct {
		Version   map[string]int  `json:"version"`
		Checkouts []kcidbCheckout `json:"checkouts"`
		Builds    []kcidbBuild    `json:"builds"`
		Tests     []kcidbTest     `json:"tests"`
	}
	kcidbCheckout struct {
		ID         string            `json:"id"`
		Origin     string            `json:"origin"`
		CommitName string            `json:"git_commit_name,omitempty"`
		Comment    string            `json:"comment"`
		Misc       map[string]string `json:"misc,omitempty"`
	}
	kcidbBuild struct {
		ID           string `json:"id"`
		Checkout     string `json:"checkout_id"`
		Origin       string `json:"origin"`
		Architecture string `json:"architecture"`
		Config       string `json:"config_name"`
		Status       string `json:"status"`
	}
	kcidbTest struct {
		ID       string            `json:"id"`
		Build    string            `json:"build_id"`
		Origin   string            `json:"origin"`
		Path     string            `json:"path"`
		Status   string            `json:"status"`
		Start    string            `json:"start_time"`
		Duration float64           `json:"duration"` // seconds
		Excerpt  string            `json:"log_excerpt,omitempty"`
		Misc     map[string]string `json:"misc,omitempty"`
	}
)

// maxExcerpt is how many characters the schema takes of a log.
const maxExcerpt = 16384

// KCIDB writes the night for kernelci: what was checked out and built, and every
// result, also of what was run again. The origin names the submitter.
func (st status) KCIDB(w io.Writer, origin string) error {
	k := kcidb{Version: map[string]int{"major": 5, "minor": 0}, Checkouts: []kcidbCheckout{}, Builds: []kcidbBuild{}, Tests: []kcidbTest{}}
	seen := map[string]bool{}
	for _, r := range st.Night().Runs {
		if r.Tree == "" {
			continue // it was not built: there is nothing to tell others
		}
		checkout := origin + ":" + r.Tree
		build := checkout + "-" + noWord.ReplaceAllString(r.Config, "_")
		if !seen[checkout] {
			seen[checkout] = true
			c := kcidbCheckout{ID: checkout, Origin: origin, CommitName: "v" + r.Version, Comment: "Linux " + r.Version,
				Misc: map[string]string{"git_tree_hash": r.Tree}}
			if r.Series != "" {
				c.Comment += " with " + r.Series
			}
			k.Checkouts = append(k.Checkouts, c)
		}
		if !seen[build] {
			seen[build] = true
			k.Builds = append(k.Builds, kcidbBuild{build, checkout, origin, "x86_64", r.Config, "PASS"})
		}
		for _, res := range r.Results {
			if !strings.HasPrefix(res.Test, string(report.After)+": ") {
				continue // of another tree
			}
			t := &history.Test{Key: r.Key(res.Test)}
			status := map[report.Status]string{report.Passed: "PASS", report.Failed: "FAIL", report.Skipped: "SKIP"}[res.Status]
			if status == "" {
				status = "MISS"
			}
			excerpt := []rune(printable(res.Detail))
			k.Tests = append(k.Tests, kcidbTest{
				ID: fmt.Sprintf("%s:%s-%s-%d-%s", origin, r.Night, r.Cell, r.Attempt, dotted(t)), Build: build, Origin: origin,
				Path: "ksmbd." + r.Suite + "." + strings.TrimPrefix(dotted(t), "after."), Status: status,
				Start: r.Started.UTC().Format(time.RFC3339), Duration: res.Time.Seconds(), Excerpt: string(excerpt[:min(len(excerpt), maxExcerpt)]),
				Misc: map[string]string{"accelerator": r.Accelerator},
			})
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(k)
}
