package tests

import (
	"strings"
	"testing"

	"kbuild-run/patches"
	"kbuild-run/tests/report"
	"kbuild-run/vmrunner/splat"
)

// Each fault has its patch, its base and its scenarios.
func TestFaults(t *testing.T) {
	base, all, err := Faults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := patches.FindBase(base); err != nil {
		t.Error(err)
	}
	scenarios, err := Scenarios("faults/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{"": true}
	for _, s := range scenarios {
		named[s.Name] = true
	}
	for _, f := range all {
		text, err := faultFiles.ReadFile("faults/" + f.Name + ".mbox")
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := patches.ReadMailbox(t.Context(), f.Name, text); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		if !named[f.Scenario] || f.Title == "" == (f.Left == "") {
			t.Errorf("%s: want a scenario that there is, and a title or what is left: %+v", f.Name, f)
		}
	}
	if _, _, err := Faults("nosuch"); err == nil || !strings.Contains(err.Error(), "there is use-after-free") {
		t.Errorf("nosuch: got %v, want the names that there are", err)
	}
}

// A run finds a fault only if it names it, its scenario and its line.
func TestJudge(t *testing.T) {
	f := &Fault{Title: "BUG in x", Stack: "x", Scenario: "one"}
	found := splat.Report{Title: "BUG in x", During: []string{"one"}, Decoded: "x (fs/f.c:12)", Text: "x+0x1/0x2"}
	with := func(k splat.Report, other report.Status) *report.Report {
		c := report.Column{Role: report.After, Reports: []splat.Report{k}}
		return &report.Report{Columns: []report.Column{c}, Scenarios: []report.Scenario{
			{Name: "one", Results: []report.Result{{Status: report.Failed}}},
			{Name: "two", Results: []report.Result{{Status: other}}},
		}}
	}
	for want, change := range map[string]func(*splat.Report){
		"":                                      func(*splat.Report) {},
		"the reports are: BUG in y, during one": func(k *splat.Report) { k.Title = "BUG in y" },
		"BUG in x, during two: want it during one":    func(k *splat.Report) { k.During = []string{"two"} },
		"BUG in x: no line of the source stands with": func(k *splat.Report) { k.Decoded = "" },
	} {
		k := found
		change(&k)
		got := ""
		if err := f.judge(with(k, report.Passed)); err != nil {
			got = err.Error()
		}
		if got != want && (want == "" || !strings.HasPrefix(got, want)) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := f.judge(with(found, report.Failed)); err == nil {
		t.Error("another scenario fails too: got nothing, want that it is said")
	}
}
