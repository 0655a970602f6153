package matrix

import (
	"os"
	"slices"
	"strings"
	"testing"

	"kbuild-run/patches"
)

// The matrix names bases and series that there are.
func TestMatrix(t *testing.T) {
	text, err := os.ReadFile("../../nightly.toml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read("nightly.toml", string(text))
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
	m, err := Read("m", `
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

// What failed is run again alone where that can be said to the program.
func TestOnly(t *testing.T) {
	for _, test := range []struct{ command, tests, want string }{
		{"run", "after: rename,before: rename,after: create", "run --scenario rename --scenario create"},
		{"run --scenario a*,b*", "after: alias", "run --scenario alias"},
		{"run --torture smb2.* --torture-newest", "after: smb2.notify.dir", "run --torture-newest --torture smb2.notify.dir"},
		{"run", "after: smb2.notify.dir,after: rename", "run --torture smb2.notify.dir --scenario rename"},
		{"run", "after: rename,after: KUnit: notify.layout", "run"},
		{"run", "after: console", "run"},
		{"run", "after: client smbclient", "run"},
		{"run", "cell", "run"},
		{"run", "", "run"},
		{"test --stress 30m", "after: rename", "test --stress 30m"},
		{"bench", "after: rename", "bench"},
	} {
		var tests []string
		if test.tests != "" {
			tests = strings.Split(test.tests, ",")
		}
		c := &Cell{Command: strings.Fields(test.command)}
		if got := strings.Join(c.Only(tests).Command, " "); got != test.want {
			t.Errorf("%s, %s: got %s, want %s", test.command, test.tests, got, test.want)
		}
	}
}
