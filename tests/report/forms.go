package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/patches/job"
)

// JSON writes the report with its verdict. Times are nanoseconds.
func (r *Report) JSON(w io.Writer) error {
	type plain Report
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		OK      bool   `json:"ok"`
		Verdict string `json:"verdict"`
		*plain
	}{r.OK(), r.Verdict(), (*plain)(r)})
}

// The elements of JUnit XML that Jenkins, GitLab and GitHub all read, in the
// shape of the schema of Jenkins' xUnit plugin (junit-10.xsd).
type (
	suites struct {
		XMLName  xml.Name `xml:"testsuites"`
		Name     string   `xml:"name,attr"`
		Time     string   `xml:"time,attr"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Suites   []suite  `xml:"testsuite"`
	}
	suite struct {
		Name       string     `xml:"name,attr"`
		Tests      int        `xml:"tests,attr"`
		Failures   int        `xml:"failures,attr"`
		Errors     int        `xml:"errors,attr"`
		Skipped    int        `xml:"skipped,attr"`
		Time       string     `xml:"time,attr"`
		Timestamp  string     `xml:"timestamp,attr,omitempty"`
		Properties []property `xml:"properties>property"`
		Cases      []testcase `xml:"testcase"`
	}
	property struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	testcase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		Time    string   `xml:"time,attr"`
		Skipped *message `xml:"skipped"`
		Failure *message `xml:"failure"`
	}
	message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the checks as JUnit XML, a suite a column. A scenario that fails
// without the series, as it must, is a test that passed.
func (r *Report) JUnit(w io.Writer) error {
	all := suites{Name: oneLine("kbuild-run " + r.name()), Time: seconds(r.Time)}
	for i, c := range r.Columns {
		s := suite{Name: oneLine(c.Name)}
		if !r.Started.IsZero() {
			s.Timestamp = r.Started.UTC().Format("2006-01-02T15:04:05")
		}
		for _, p := range []property{
			{"server", c.Server}, {"release", c.Release}, {"tree", c.Tree}, {"config", c.Config},
			{"accelerator", r.Accelerator}, {"program", r.Program},
		} {
			if p.Value != "" {
				s.Properties = append(s.Properties, property{p.Name, oneLine(p.Value)})
			}
		}
		var sum time.Duration
		for _, k := range r.checkColumn(i) {
			sum += k.Time
			t := testcase{Name: oneLine(k.Name), Class: oneLine(r.name() + "." + c.Name), Time: seconds(k.Time)}
			m := &message{oneLine(k.What), printable(k.Detail)}
			switch k.Status {
			case Failed:
				t.Failure = m
				s.Failures++
			case Skipped:
				if d := firstLine(k.Detail); d != "" {
					m.Message += ": " + d
				}
				m.Text = ""
				t.Skipped = m
				s.Skipped++
			}
			s.Cases = append(s.Cases, t)
		}
		s.Tests, s.Time = len(s.Cases), seconds(sum)
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Suites = append(all.Suites, s)
	}
	b, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	return err
}

// name is what was tested, as one word.
func (r *Report) name() string {
	if r.Series == "" {
		return r.Base
	}
	return r.Series + "-" + r.Base
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// TAP writes the checks as TAP version 14.
func (r *Report) TAP(w io.Writer) error {
	var b bytes.Buffer
	all := r.Checks()
	fmt.Fprintf(&b, "TAP version 14\n1..%d\n", len(all))
	for i, k := range all {
		ok, directive := "ok", ""
		switch k.Status {
		case Failed:
			ok = "not ok"
		case Skipped:
			directive = " # SKIP"
			if d := firstLine(k.Detail); d != "" {
				directive += " " + tap(d)
			}
		}
		fmt.Fprintf(&b, "%s %d - %s: %s%s\n", ok, i+1, tap(k.Column), tap(k.What), directive)
		fmt.Fprintf(&b, "  ---\n  duration_ms: %d\n", k.Time.Milliseconds())
		if k.Detail != "" && k.Status != Skipped {
			// A JSON string is a YAML double-quoted scalar.
			b.WriteString("  message: ")
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(printable(k.Detail)); err != nil {
				return err
			}
		}
		b.WriteString("  ...\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

// tap escapes s for a description, where # begins a directive.
func tap(s string) string {
	return strings.NewReplacer(`\`, `\\`, "#", `\#`).Replace(oneLine(s))
}

// Files writes report.md, report.json, junit.xml and report.tap into dir, which
// must exist.
func (r *Report) Files(dir string) error {
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"report.md", r.Markdown},
		{"report.json", r.JSON},
		{"junit.xml", r.JUnit},
		{"report.tap", r.TAP},
	} {
		var b bytes.Buffer
		if err := f.write(&b); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}

// Err returns nil when the run has shown what it had to, else the verdict as
// the program's error, with exit code 1.
func (r *Report) Err() error {
	if p := r.problem(); p != "" {
		return job.Failed(fmt.Errorf("test %s: %s", r.name(), p))
	}
	return nil
}
