package nightly

import (
	"os"
	"slices"
	"testing"

	"kbuild-run/patches"
)

// The matrix names bases and series that there are.
func TestMatrix(t *testing.T) {
	text, err := os.ReadFile("../nightly.toml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := ReadMatrix("nightly.toml", string(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range m.Cells() {
		if _, err := patches.FindBase(c.Base); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if c.Series != "" {
			if _, err := patches.FindSeries(c.Series, c.Base); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}

// Shards are the whole matrix, each cell once.
func TestShards(t *testing.T) {
	m, err := ReadMatrix("m", `
bases = ["a", "b", "c"]
series = ["s", "t"]
configs = ["one", "one,two"]
deadline = "1m"
[[suite]]
name = "x"
command = ["run"]
`)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, shard := range []string{"1/5", "2/5", "3/5", "4/5", "5/5"} {
		cells, err := m.Choose(nil, shard)
		if err != nil || len(cells) < 2 {
			t.Errorf("shard %s: %d cells, %v", shard, len(cells), err)
		}
		for _, c := range cells {
			all = append(all, c.Name)
		}
	}
	slices.Sort(all)
	if got, want := len(slices.Compact(all)), 12; got != want || len(m.Cells()) != want {
		t.Errorf("%d cells in shards, %d in all, want %d", got, len(m.Cells()), want)
	}
	if !slices.Contains(all, "x-t-c-two") {
		t.Errorf("got %q, want the last fragment in the name of the second configuration", all)
	}
}
