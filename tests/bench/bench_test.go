package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kbuild-run/patches/job"
)

var update = flag.Bool("update", false, "write the golden files")

// Variants take turns, the warm-up counts for nothing, and an error ends it.
func TestAlternate(t *testing.T) {
	var order []string
	n := 0.
	variant := func(name string) Variant {
		return Variant{name, func(context.Context) ([]Reading, error) {
			order = append(order, name)
			n++
			return []Reading{{"what", 1, "x", n}}, nil
		}}
	}
	b := &Bench{group: &GroupReport{}}
	alternate := func(variants ...Variant) error {
		return (&job.Job{}).Step("test", func(s *job.Step) error {
			return b.Alternate(t.Context(), s, 1, 2, variants...)
		})
	}
	if err := alternate(variant("A"), variant("B")); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, ""), "ABABAB"; got != want {
		t.Errorf("order: got %s, want %s", got, want)
	}
	for i, want := range [][]float64{{3, 5}, {4, 6}} {
		if got := b.group.Rows[i].Values; !slices.Equal(got, want) {
			t.Errorf("values of %s: got %v, want %v", b.group.Rows[i].Variant, got, want)
		}
	}
	broken := errors.New("broken")
	err := alternate(Variant{"C", func(context.Context) ([]Reading, error) { return nil, broken }}, variant("A"))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "measure C") || len(order) != 6 {
		t.Errorf("an error: got %v after %v", err, order)
	}
}

// Of what several folders show counts the middle.
func TestMiddle(t *testing.T) {
	var all []Reading
	for _, v := range []float64{10, 14, 900, 12, 1, 12} {
		all = append(all, Reading{"create", 3, Instructions, v}, Reading{"create", 10, Instructions, 2 * v})
	}
	all = append(all, Reading{"write", 3, Instructions, 7})
	want := []Reading{{"create", 3, Instructions, 12}, {"create", 10, Instructions, 24}, {"write", 3, Instructions, 7}}
	if got := middle(all); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// example has all that a report can have.
func example() *Report {
	g := &GroupReport{Name: "fs", About: "What it costs.", Axis: "depth", Base: "unpatched", Percent: true, limits: []Bound{
		{Says: "nobody watches", Variant: "no watch", Against: "unpatched", Limit: 1},
		{Says: "a tree watch", Metrics: "^create", Variant: "tree", Against: "unpatched", Limit: 1.1},
		{Says: "does not grow", Variant: "tree", Against: Smallest, Limit: 1.05},
		{Says: "few", Variant: "no watch", Limit: 500},
		{Says: "nothing of that", Metrics: "^chmod", Variant: "tree", Against: "unpatched", Limit: 1},
	}}
	b := &Bench{group: g}
	for i, size := range []float64{3, 10, 30} {
		for n := range 2 {
			b.Note("unpatched", Reading{"create on ext4", size, Instructions, 1000})
			b.Note("no watch", Reading{"create on ext4", size, Instructions, 1000})
			b.Note("tree", Reading{"create on ext4", size, Instructions, 1050 + float64(100*i+2*n)})
		}
	}
	b.Skip("xfs", "there is no mkfs.xfs")
	g.finish()

	k := &GroupReport{Name: "toolkit", About: "How long it takes.", Failure: "measure vng: it hangs", limits: []Bound{
		{Says: "power-on to SMB", Variant: "kbuild-run", Limit: 4e9},
		{Says: "half of the other", Variant: "kbuild-run", Against: "other", Limit: 0.5},
	}}
	b = &Bench{group: k}
	b.Note("kbuild-run", Elapsed("boot", 0, 2*time.Second), Elapsed("boot", 0, 3*time.Second), Elapsed("boot", 0, 2500*time.Millisecond))
	b.Note("other", Elapsed("boot", 0, 30*time.Second))
	b.Note("kbuild-run", Reading{"memory", 0, Bytes, 3 << 20})
	k.finish()
	return &Report{
		Program: "kbuild-run 1234", Started: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), Time: 90 * time.Second, Command: "kbuild-run bench",
		Base: "v6.12", Version: "6.12.117", Series: "notify", Compiler: "gcc 12", QEMU: "QEMU 7.2", Host: "2 x CPU", Groups: []*GroupReport{g, k},
	}
}

func TestReport(t *testing.T) {
	last := example()
	last.Groups[0].Rows[0].Values = []float64{900}
	last.Started = last.Started.Add(-time.Hour)
	dir := t.TempDir()
	r := example()
	if err := r.Files(dir, last); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "bench.md"))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "bench.md")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s\nrewrite it with: go test ./tests/bench -update", got, want)
	}
	text, err := os.ReadFile(filepath.Join(dir, jsonFile))
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got, want := back.Groups[0].Rows[2].Values, r.Groups[0].Rows[2].Values; !slices.Equal(got, want) {
		t.Errorf("values in JSON: got %v, want %v", got, want)
	}
}

// A picture says what it shows: titles, axes with units, each variant, the bounds.
func TestPlot(t *testing.T) {
	dir := t.TempDir()
	r := example()
	if err := r.Files(dir, nil); err != nil {
		t.Fatal(err)
	}
	for file, words := range map[string][]string{
		"fs-create-on-ext4.svg": {"create on ext4", "depth", "more instructions than unpatched, %", "no watch", "tree", "bound of tree", "x^0.08"},
		"toolkit-boot.svg":      {"boot", "seconds", "kbuild-run", "other", "bound of kbuild-run: 4.00s"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range words {
			if !bytes.Contains(text, []byte(w)) {
				t.Errorf("%s: no %q", file, w)
			}
		}
	}
}

// The run before is the newest of the same kind.
func TestLast(t *testing.T) {
	out := t.TempDir()
	now := example()
	if last, err := Last(out, now); last != nil || err != nil {
		t.Errorf("of no runs: got %v, %v", last, err)
	}
	for name, change := range map[string]func(*Report){
		"a": func(r *Report) { r.Started = r.Started.Add(-3 * time.Hour) },
		"b": func(r *Report) { r.Started = r.Started.Add(-2 * time.Hour); r.Groups[0].About = "this" },
		"only fs": func(r *Report) {
			r.Started = r.Started.Add(-150 * time.Minute)
			r.Groups, r.Groups[0].About = r.Groups[:1], "not this"
		},
		"c": func(r *Report) { r.Started = r.Started.Add(-time.Hour); r.Quick = true },
		"d": func(r *Report) { r.Started = r.Started.Add(-time.Hour); r.Base = "v7.3" },
		"e": func(r *Report) {},
	} {
		dir := filepath.Join(out, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r := example()
		change(r)
		if err := r.Files(dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := Last(out, now); err != nil || last == nil || last.Groups[0].About != "this" || last.Groups[1].Name != "toolkit" {
		t.Errorf("got %+v, %v, want the groups of two hours before", last, err)
	}
}
