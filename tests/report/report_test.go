package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kbuild-run/patches/job"
	"kbuild-run/vmrunner/splat"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// example is a whole report that passes. Tests bend it.
func example() *Report {
	return &Report{
		Program: "kbuild-run 0123456789abcdef0123456789abcdef01234567",
		Started: time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC),
		Time:    14*time.Minute + 3*time.Second,
		Command: "kbuild-run --series notify --base v6.12",
		Base:    "v6.12", Version: "6.12.117", Source: "linux-source-6.12 6.12.117-1~deb12u1",
		Series:    "notify",
		Patches:   []string{"smb: move FILE_NOTIFY_INFORMATION to the common header", "ksmbd: report changes in a directory"},
		Fragments: []string{"base", "ksmbd"}, Compiler: "gcc 12.2.0", QEMU: "7.2.22",
		Accelerator: "tcg", Why: "kvm opens but boots no guest",
		Columns: []Column{
			{Name: "before", Role: Before, Server: "Linux 6.12.117", Release: "6.12.117", FirstSMB: 2510 * time.Millisecond,
				Tree: "1111111111111111111111111111111111111111", Config: "aaaaaaaaaaaaaaaa", Console: "before/console.log"},
			{Name: "after", Role: After, Server: "Linux 6.12.117 with notify", Release: "6.12.117", FirstSMB: 2490 * time.Millisecond,
				Tree: "2222222222222222222222222222222222222222", Config: "aaaaaaaaaaaaaaaa", Console: "after/console.log",
				Inside: []Inside{{"KUnit", "ksmbd_notify.layout", Passed, ""}, {"KUnit", "ksmbd_notify.limit", Passed, ""}, {"left behind", "open files", Passed, ""}}},
		},
		Scenarios: []Scenario{
			{Name: "explorer-new-file", Shows: "A file that is created on the server appears in Explorer's window.",
				Sections: "MS-SMB2 3.3.5.19", NeedsSeries: true,
				Results: []Result{
					{Status: Failed, Time: 1200 * time.Millisecond, Folder: "before/explorer-new-file",
						Reason: "line 7: notify dir\nwant: STATUS_PENDING\ngot:  STATUS_NOT_IMPLEMENTED"},
					{Status: Passed, Time: 310 * time.Millisecond},
				}},
			{Name: "list", Shows: "A directory is listed.",
				Results: []Result{{Status: Passed, Time: 90 * time.Millisecond}, {Status: Passed, Time: 80 * time.Millisecond}}},
		},
		Steps: []job.Record{
			{Name: "tree v6.12", Time: 400 * time.Millisecond, Cached: true, Note: "6.12.117"},
			{Name: "kernel", Time: 6*time.Minute + 40*time.Second, Note: "1204 objects"},
		},
	}
}

// useAfterFree is a kernel report with what a guest can do to a reader: escape
// sequences, bytes that are no text, marks of every form.
var useAfterFree = splat.Report{
	Kind: "KASAN", Title: "KASAN: slab-use-after-free Read in ksmbd_notify_fire", Line: 812,
	Text: "BUG: KASAN: slab-use-after-free in ksmbd_notify_fire+0x40/0x1f0 [ksmbd]\n" +
		"\x1b[31mRead\x1b[0m of size 8 at addr ffff888012345678 by task <kworker/0:1>/31\n" +
		"``` | # ]]> & \xff\x00 \u202e\n",
}

var examples = map[string]func(*Report){
	"pass": func(*Report) {},
	"fail": func(r *Report) {
		r.Scenarios[0].Results[1] = Result{Status: Failed, Time: 5 * time.Second, Folder: "after/explorer-new-file",
			Reason: "line 9: want ADDED | \"new # file\", got <nothing>"}
		r.Columns[1].Reports = []splat.Report{useAfterFree}
		r.Columns[1].Inside[1] = Inside{"KUnit", "ksmbd_notify.limit", Failed, "EXPECTATION FAILED at fs/smb/server/notify_test.c:350"}
		r.Steps = append(r.Steps, job.Record{Name: "scenarios", Err: "failed", Time: 6 * time.Second})
	},
	"proves-nothing": func(r *Report) {
		r.Scenarios[0].Results[0] = Result{Status: Passed, Time: 300 * time.Millisecond}
	},
	"no-boot": func(r *Report) {
		r.Columns[1].Failure = "wait for agent: nothing within 20s\n[    0.8] Kernel panic - not syncing"
		r.Columns[1].FirstSMB, r.Columns[1].Inside = 0, nil
		r.Scenarios[0].Results = r.Scenarios[0].Results[:1]
		r.Scenarios[1].Results = r.Scenarios[1].Results[:1]
	},
	"bare-base": func(r *Report) {
		r.Series, r.Patches = "", nil
		r.Command = "kbuild-run run --base v6.12 list"
		r.Columns = []Column{r.Columns[0], {Name: "samba", Role: Beside, Server: "samba 4.17.12"}}
		r.Columns[0].Name, r.Columns[0].Role = "v6.12", After
		r.Scenarios = r.Scenarios[1:]
		r.Scenarios[0].Results[1] = Result{Status: Failed, Reason: "want 2 entries, got 3"}
		r.Scenarios = append(r.Scenarios, Scenario{Name: "encrypted", Shows: "All is encrypted.",
			Results: []Result{{Status: Skipped, Reason: "the server offers no encryption"}, {Status: Passed, Time: time.Millisecond}}})
	},
}

func bent(name string) *Report {
	r := example()
	examples[name](r)
	return r
}

func TestGolden(t *testing.T) {
	for name := range examples {
		r := bent(name)
		for _, f := range []struct {
			ext   string
			write func(io.Writer) error
		}{{"md", r.Markdown}, {"json", r.JSON}, {"xml", r.JUnit}, {"tap", r.TAP}} {
			path := filepath.Join("testdata", name+"."+f.ext)
			var b bytes.Buffer
			if err := f.write(&b); err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if *update {
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("%s: got\n%s\nwant\n%s\n(go test -update rewrites it)", path, b.Bytes(), want)
			}
		}
	}
}

// What another client saw stands in a table of its own.
func TestClients(t *testing.T) {
	r := &Report{
		Columns: []Column{{Name: "before", Role: Before}, {Name: "after", Role: After}},
		Scenarios: []Scenario{{Name: "client smbclient", Shows: "notify in a folder", Client: true, NeedsSeries: true, Results: []Result{
			{Status: Failed, Reason: "it was told nothing"}, {Status: Passed, Reason: "added new-1"},
		}}},
	}
	var b strings.Builder
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for want, n := range map[string]int{
		"## Other clients": 1,
		"| client smbclient | notify in a folder | fail, as it must, 0ms: it was told nothing | pass, 0ms: added new-1 |": 1,
		"added new-1": 1,
		"PASS: ":      1,
	} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%q: got %d times, want %d in\n%s", want, got, n, b.String())
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		name string
		bend func(*Report)
		want string
	}{
		{"all as it should be", func(*Report) {},
			"PASS: 2 scenarios pass on Linux 6.12.117 with notify; without it 1 fails, as it must; the kernel reports nothing."},
		{"a scenario fails after", func(r *Report) { r.Scenarios[1].Results[1].Status = Failed },
			"FAIL: after: list fails."},
		{"one that needs the series passes before", func(r *Report) { r.Scenarios[0].Results[0].Status = Passed },
			"FAIL: before: explorer-new-file passes without the series, so it proves nothing about it."},
		{"one that needs no series fails before", func(r *Report) { r.Scenarios[1].Results[0].Status = Failed },
			"PASS: 2 scenarios pass on Linux 6.12.117 with notify; without it 1 fails, as it must; the kernel reports nothing."},
		{"the patched kernel complains", func(r *Report) { r.Columns[1].Reports = []splat.Report{useAfterFree, useAfterFree} },
			"FAIL: after: the kernel reports: KASAN: slab-use-after-free Read in ksmbd_notify_fire and 1 more."},
		{"the unpatched kernel complains", func(r *Report) { r.Columns[0].Reports = []splat.Report{useAfterFree} },
			"FAIL: before: the kernel reports: KASAN: slab-use-after-free Read in ksmbd_notify_fire."},
		{"the unpatched kernel does not boot", func(r *Report) {
			r.Columns[0].Failure = "no answer"
			r.Scenarios[0].Results[0], r.Scenarios[1].Results[0] = Result{}, Result{}
		}, "FAIL: before: the server fails."},
		{"all skipped", func(r *Report) {
			r.Scenarios[0].Results[1].Status, r.Scenarios[1].Results[1].Status = Skipped, Skipped
		}, "FAIL: no scenario ran on the kernel under test."},
		{"nothing at all", func(r *Report) { r.Columns, r.Scenarios = nil, nil },
			"FAIL: no scenario ran on the kernel under test."},
		{"skipped before", func(r *Report) { r.Scenarios[0].Results[0].Status = Skipped },
			"PASS: 2 scenarios pass on Linux 6.12.117 with notify; 1 not tried without it; the kernel reports nothing."},
		{"skipped after", func(r *Report) { r.Scenarios[0].Results[1].Status = Skipped },
			"PASS: 1 scenario passes on Linux 6.12.117 with notify, 1 skipped; the kernel reports nothing."},
		{"no kernel without the series", func(r *Report) {
			r.Columns = r.Columns[1:]
			for i := range r.Scenarios {
				r.Scenarios[i].Results = r.Scenarios[i].Results[1:]
			}
		}, "PASS: 2 scenarios pass on Linux 6.12.117 with notify; 1 not tried without it; the kernel reports nothing."},
		{"results are missing", func(r *Report) { r.Scenarios[1].Results = r.Scenarios[1].Results[:1] },
			"FAIL: after: list did not run."},
		{"another server fails", func(r *Report) {
			r.Columns = append(r.Columns, Column{Name: "samba", Role: Beside})
			r.Scenarios[0].Results = append(r.Scenarios[0].Results, Result{Status: Failed})
		}, "PASS: 2 scenarios pass on Linux 6.12.117 with notify; without it 1 fails, as it must; the kernel reports nothing."},
	} {
		r := example()
		test.bend(r)
		got := r.Verdict()
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if pass := strings.HasPrefix(test.want, "PASS"); r.OK() != pass || (r.Err() == nil) != pass {
			t.Errorf("%s: got ok %v, error %v, want %v", test.name, r.OK(), r.Err(), pass)
		}
		if err := r.Err(); err != nil && job.Code(err) != job.ExitFailed {
			t.Errorf("%s: got code %d, want %d", test.name, job.Code(err), job.ExitFailed)
		}
	}
}

// node is an XML element.
type node struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nodes   []node     `xml:",any"`
}

// shape is what Jenkins' junit-10.xsd allows of what we write: the attributes
// an element must have, those it may have, and its children in their order.
var shape = map[string]struct{ must, may, children []string }{
	"testsuites": {nil, []string{"name", "time", "tests", "failures", "disabled", "errors"}, []string{"testsuite"}},
	"testsuite": {[]string{"name", "tests"}, []string{"failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id", "package"},
		[]string{"properties", "testcase", "system-out", "system-err"}},
	"properties": {nil, nil, []string{"property"}},
	"property":   {[]string{"name", "value"}, nil, nil},
	"testcase":   {[]string{"name", "classname"}, []string{"time", "assertions", "status"}, []string{"skipped", "error", "failure", "system-out", "system-err"}},
	"skipped":    {nil, []string{"message"}, nil},
	"failure":    {nil, []string{"type", "message"}, nil},
}

func (n *node) attr(name string) string {
	for _, a := range n.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// count counts the elements of that name below n.
func (n *node) count(name string) (sum int) {
	for i := range n.Nodes {
		if n.Nodes[i].XMLName.Local == name {
			sum++
		}
		sum += n.Nodes[i].count(name)
	}
	return sum
}

func (n *node) check(t *testing.T) {
	name := n.XMLName.Local
	s, ok := shape[name]
	if !ok {
		t.Errorf("element %s: not in the schema", name)
		return
	}
	for _, must := range s.must {
		if n.attr(must) == "" {
			t.Errorf("element %s: no attribute %s", name, must)
		}
	}
	for _, a := range n.Attrs {
		if !slices.Contains(s.must, a.Name.Local) && !slices.Contains(s.may, a.Name.Local) {
			t.Errorf("element %s: attribute %s is not in the schema", name, a.Name.Local)
		}
		if a.Name.Local == "time" {
			if _, err := strconv.ParseFloat(a.Value, 64); err != nil {
				t.Errorf("element %s: time %q is no decimal", name, a.Value)
			}
		}
	}
	for _, c := range []struct{ attr, element string }{{"tests", "testcase"}, {"failures", "failure"}, {"skipped", "skipped"}} {
		if v := n.attr(c.attr); v != "" && v != strconv.Itoa(n.count(c.element)) {
			t.Errorf("element %s: got %s=%q, want %d", name, c.attr, v, n.count(c.element))
		}
	}
	at := 0
	for i := range n.Nodes {
		k := slices.Index(s.children, n.Nodes[i].XMLName.Local)
		if k < at {
			t.Errorf("element %s: %s is not allowed there", name, n.Nodes[i].XMLName.Local)
		}
		at = max(at, k)
		n.Nodes[i].check(t)
	}
}

func TestJUnitShape(t *testing.T) {
	for name := range examples {
		r := bent(name)
		var b bytes.Buffer
		if err := r.JUnit(&b); err != nil {
			t.Fatal(err)
		}
		var root node
		if err := xml.Unmarshal(b.Bytes(), &root); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		root.check(t)
		if bad := root.count("failure") > 0; bad == r.OK() {
			t.Errorf("%s: got failures %v, verdict %q", name, bad, r.Verdict())
		}
	}
}

// tapLines is the part of TAP version 14's grammar that we write.
var tapLines = regexp.MustCompile(`^TAP version 14\n1\.\.(\d+)\n((?:(?:not )?ok \d+ - (?:[^#\\\n]|\\[#\\])*(?: # SKIP(?: [^\n]*)?)?\n  ---\n(?:  [a-z_]+: [^\n]*\n)*  \.\.\.\n)*)$`)

func TestTAPGrammar(t *testing.T) {
	for name := range examples {
		r := bent(name)
		var b bytes.Buffer
		if err := r.TAP(&b); err != nil {
			t.Fatal(err)
		}
		m := tapLines.FindStringSubmatch(b.String())
		if m == nil {
			t.Errorf("%s: no TAP:\n%s", name, &b)
			continue
		}
		points := regexp.MustCompile(`(?m)^(?:not )?ok (\d+)`).FindAllStringSubmatch(m[2], -1)
		for i, p := range points {
			if p[1] != strconv.Itoa(i+1) {
				t.Errorf("%s: got test point %s, want %d", name, p[1], i+1)
			}
		}
		if m[1] != strconv.Itoa(len(points)) {
			t.Errorf("%s: got plan %s, want %d", name, m[1], len(points))
		}
		if bad := strings.Contains(m[2], "not ok"); bad == r.OK() {
			t.Errorf("%s: got failures %v, verdict %q", name, bad, r.Verdict())
		}
	}
}

func TestJSONReadsBack(t *testing.T) {
	var b bytes.Buffer
	if err := example().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Verdict() != example().Verdict() || got.Scenarios[0].Results[0].Reason != example().Scenarios[0].Results[0].Reason {
		t.Errorf("got %+v", got)
	}
}

func TestPrintable(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"plain\n\ttext é 文", "plain\n\ttext é 文"},
		{"\x1b[2J\r\x07\x00", `\x1b[2J\x0d\x07\x00`},
		{"a\xffb", `a\xffb`},
		{"\u009b31m\x7f", `\x9b31m\x7f`},
		{"\u202eabc\u2066\u2028", `\u202eabc\u2066\u2028`},
		{"\uFFFD\uFFFE", "\uFFFD\\ufffe"},
	} {
		if got := printable(test.in); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\x07")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) {
			t.Fatalf("%q: got %q, which is no UTF-8", s, got)
		}
		if again := printable(got); again != got {
			t.Errorf("%q: got %q, then %q", s, got, again)
		}
		b, err := xml.Marshal(message{Text: got})
		if err != nil || strings.Count(string(b), "\uFFFD") != strings.Count(got, "\uFFFD") {
			t.Errorf("%q: XML cannot hold %q", s, got)
		}
	})
}

func TestProgram(t *testing.T) {
	for _, test := range []struct {
		settings []debug.BuildSetting
		want     string
	}{
		{nil, "kbuild-run, of an unknown commit"},
		{[]debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "false"}}, "kbuild-run abc"},
		{[]debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}, "kbuild-run abc+dirty"},
	} {
		if got := program(test.settings); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if err := example().Files(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.md", "report.json", "junit.xml", "report.tap"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: got %v, %v", name, fi, err)
		}
	}
	if err := example().Files(filepath.Join(dir, "nosuch")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
