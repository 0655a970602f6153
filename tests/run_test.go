package tests

import (
	"testing"

	"kbuild-run/patches"
	"kbuild-run/tests/scenario"
)

func TestNeedsSeries(t *testing.T) {
	for _, test := range []struct {
		s         scenario.Scenario
		v612, v73 bool
	}{
		{scenario.Scenario{Series: "x"}, true, true},
		{scenario.Scenario{Series: "x", Base: "v6.12"}, true, false},
		{scenario.Scenario{Needs: []string{"notify"}}, true, true},
		{scenario.Scenario{Needs: []string{"pending"}}, true, false},
		{scenario.Scenario{}, false, false},
	} {
		if got := needsSeries(&test.s, "v6.12"); got != test.v612 {
			t.Errorf("%+v on v6.12: got %v", test.s, got)
		}
		if got := needsSeries(&test.s, "v7.3"); got != test.v73 {
			t.Errorf("%+v on v7.3: got %v", test.s, got)
		}
	}
}

// The series that a scenario is kept for exists, on the base that it names.
func TestSeriesOfScenarios(t *testing.T) {
	all, err := Scenarios("")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		for _, base := range patches.Bases() {
			if s.Series == "" || s.Base != "" && s.Base != base.Name {
				continue
			}
			if _, err := patches.FindSeries(s.Series, base.Name); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
		if s.Base != "" {
			if _, err := patches.FindBase(s.Base); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
	}
}
