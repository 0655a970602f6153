package page

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kbuild-run/tests/ktap"
	"kbuild-run/tests/nightly/history"
	"kbuild-run/tests/report"
)

// hostile is what a guest can put into a failure.
const hostile = "line 9: \x1b[31m</pre><script>alert(1)</script> \xff ]]> & # not ok 1 x\nnot ok 7 forged"

// twoNights is two nights: one test fails anew, one is flaky, one known, one skipped.
func twoNights(t *testing.T) status {
	t.Helper()
	var nights []*history.Night
	for i, name := range []string{"a", "b"} {
		at := time.Date(2026, 11, 20+i, 2, 0, 0, 0, time.UTC)
		run := history.Run{Night: name, Cell: "main-notify-v6.12", Attempt: 1, Suite: "main", Base: "v6.12", Version: "6.12.117", Series: "notify",
			Config: "base,ksmbd", Accelerator: "tcg", Program: "kbuild-run 0123", Tree: "abcd", Started: at, Time: time.Minute, FirstSMB: 2 * time.Second,
			Folder:   name + "/main-notify-v6.12/1/20261121 #1",
			Measures: []history.Measure{{Name: "CREATE beside inotify", Value: 1.5 + float64(i), Unit: "µs"}},
			Results: []history.Result{
				{Test: "cell", Status: report.Passed},
				{Test: "after: rename", Status: report.Passed, Time: time.Second},
				{Test: "after: create", Status: report.Passed},
				{Test: "after: KUnit: notify.layout", Status: report.Passed},
				{Test: "after: smb2.notify.mask", Status: report.Skipped, Detail: "takes minutes"},
			}}
		night := &history.Night{Name: name, Started: at, Finished: true, Runs: []*history.Run{&run}}
		if i == 1 {
			for n := 1; n <= 3; n++ {
				run.Results[n].Status, run.Results[n].Detail, run.Results[n].Folder = report.Failed, hostile, "after/rename"
			}
			again := run
			again.Attempt = 2
			again.Results = []history.Result{run.Results[1], {Test: "after: create", Status: report.Passed}, run.Results[3]}
			night.Runs = append(night.Runs, &again)
		}
		nights = append(nights, night)
	}
	known := []history.Known{{Test: "after: KUnit*", Reason: "being mended", Until: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}}
	return status{history.Judge(nights, known)}
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	if err := twoNights(t).JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name    string `xml:"name,attr"`
				Failure string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	if len(got.Suites) != 1 || got.Suites[0].Tests != 5 || got.Suites[0].Failures != 1 || got.Suites[0].Skipped != 2 {
		t.Fatalf("got %+v, want 5 tests, 1 failed, 2 skipped", got)
	}
	for _, c := range got.Suites[0].Cases {
		if want := c.Name == "after: rename"; (c.Failure != "") != want {
			t.Errorf("%s: failure %q", c.Name, c.Failure)
		}
	}
}

// The words of a failure are no results.
func TestKTAP(t *testing.T) {
	var b bytes.Buffer
	if err := twoNights(t).KTAP(&b); err != nil {
		t.Fatal(err)
	}
	tests, err := ktap.Parse(b.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	got := map[string]ktap.Status{}
	for _, k := range tests {
		got[k.Name[strings.Index(k.Name, ".")+1:]] = k.Status
	}
	for name, want := range map[string]ktap.Status{
		"after.rename": ktap.Failed, "after.create": ktap.Passed, "after.KUnit.notify_layout": ktap.Skipped, "after.smb2_notify_mask": ktap.Skipped, "cell": ktap.Passed,
	} {
		found := false
		for n, s := range got {
			found = found || strings.HasSuffix(n, name) && s == want
		}
		if !found {
			t.Errorf("no %s %s in %v", name, want, got)
		}
	}
	if len(tests) != 5 {
		t.Errorf("%d tests, want 5, in\n%s", len(tests), &b)
	}
}

// What KCIDB's schema 5.0 wants of what is written.
func TestKCIDB(t *testing.T) {
	var b bytes.Buffer
	if err := twoNights(t).KCIDB(&b, "kbuild_run"); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Version   struct{ Major, Minor int }
		Checkouts []struct{ ID, Origin string }
		Builds    []struct {
			ID       string
			Checkout string `json:"checkout_id"`
			Status   string
		}
		Tests []struct {
			ID     string
			Build  string `json:"build_id"`
			Path   string
			Status string
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Checkouts) != 1 || len(got.Builds) != 1 || got.Version.Major != 5 || got.Builds[0].Checkout != got.Checkouts[0].ID {
		t.Fatalf("got %+v", got)
	}
	path, id, seen, count := regexp.MustCompile(`^([a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*)?$`), regexp.MustCompile(`^[a-z0-9_]+:.*$`), map[string]bool{}, map[string]int{}
	for _, k := range got.Tests {
		count[k.Status]++
		if !path.MatchString(k.Path) || !id.MatchString(k.ID) || seen[k.ID] || k.Build != got.Builds[0].ID {
			t.Errorf("got %+v", k)
		}
		seen[k.ID] = true
	}
	if count["FAIL"] != 5 || count["PASS"] != 1 || count["SKIP"] != 1 {
		t.Errorf("got %v, want 5 that failed and one that passed, in both tries, and one skipped", count)
	}
}

// The page leads to the evidence, and what a guest printed stays text.
func TestPage(t *testing.T) {
	out := t.TempDir()
	dir := filepath.Join(out, "b/main-notify-v6.12/1/20261121 #1/after/rename")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"transcript.txt", "messages.pcap"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := twoNights(t).page(&b, out); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{
		`href="./b/main-notify-v6.12/1/20261121%20%231/after/rename/transcript.txt"`,
		`rename/messages.pcap"`, `<span class="failed">✗</span>`, `2 failed, 1 flaky, 1 passed, 1 skipped`, `CREATE beside inotify: 2.5 µs (1.5 µs to 2.5 µs)`, "being mended", "&lt;script&gt;alert",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	for _, bad := range []string{"<script>alert", "http:", "https:", "ZgotmplZ"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
}
