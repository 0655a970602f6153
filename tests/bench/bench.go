// Package bench: VMs -> what it costs, as a report with tables and plots.
//
// A group is a set of benchmarks that share a guest. It measures variants of the
// same thing in turn, A B A B, so that what drifts does not fall on one of them, and
// notes a Row for each metric, variant and size. Where a time would only measure
// the emulator, a guest counts instructions: see Count of vmrunner.Options.
//
// A Bound is what the project has set itself to reach. A run says by how much one
// is missed; it fails only when it could not measure.
package bench

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"kbuild-run/patches/job"
)

// Units that rows have. Any other word is allowed.
const (
	Instructions = "instructions"
	Nanoseconds  = "ns"
	Bytes        = "bytes"
	PerSecond    = "events/s"
)

// Group is a set of benchmarks.
type Group struct {
	Name  string // for --only
	About string // what is measured, and how: a paragraph of the report

	// Axis names what sizes count ("depth of the directory"); Base is the
	// variant that the others are compared with, "" for the first of each metric.
	Axis, Base string

	Percent bool // draw the change against Base, where the values hide it

	Bounds []Bound
	Run    func(ctx context.Context, b *Bench) error
}

// Reading is one value that a variant measured.
type Reading struct {
	Metric string  // create+unlink on ext4
	Size   float64 // what the value grows with; 0: with nothing
	Unit   string
	Value  float64
}

// Variant is one way to do what a group measures.
type Variant struct {
	Name string
	Run  func(ctx context.Context) ([]Reading, error)
}

// Row is what one variant showed of one metric at one size.
type Row struct {
	Metric  string    `json:"metric"`
	Variant string    `json:"variant"`
	Size    float64   `json:"size,omitempty"`
	Unit    string    `json:"unit"`
	Values  []float64 `json:"values"` // one a repetition, in their order
}

// Bound is a figure to reach.
type Bound struct {
	Says    string // in words
	Metrics string // regular expression of the metrics it is about
	Variant string // whose value is bound
	Limit   float64

	// Against says what the value is divided by before it is held against
	// Limit: the value of that variant at the same size; Smallest: that of the
	// same variant at the smallest size; "": nothing.
	Against string

	From float64 // the smallest size that it is about
}

// Smallest stands for the value at the smallest size in Bound.Against.
const Smallest = "the smallest size"

// Bench is a run, for the groups to measure into.
type Bench struct {
	Options
	Dir string // folder of the report, for consoles and the like

	group *GroupReport
}

// Alternate runs the variants in turn, once for warm-up and then as often as
// times says, and notes what they read.
func (b *Bench) Alternate(ctx context.Context, s *job.Step, warm, times int, variants ...Variant) error {
	for n := range warm + times {
		for _, v := range variants {
			s.Progress("%s, %d of %d", v.Name, n+1, warm+times)
			readings, err := v.Run(ctx)
			if err != nil {
				return fmt.Errorf("measure %s: %w", v.Name, err)
			}
			if n >= warm {
				b.Note(v.Name, readings...)
			}
		}
	}
	return nil
}

// Note adds values of a variant. Those of the same metric and size are repetitions.
func (b *Bench) Note(variant string, readings ...Reading) {
	for _, r := range readings {
		i := slices.IndexFunc(b.group.Rows, func(row Row) bool {
			return row.Metric == r.Metric && row.Variant == variant && row.Size == r.Size
		})
		if i < 0 {
			i = len(b.group.Rows)
			b.group.Rows = append(b.group.Rows, Row{Metric: r.Metric, Variant: variant, Size: r.Size, Unit: r.Unit})
		}
		b.group.Rows[i].Values = append(b.group.Rows[i].Values, r.Value)
	}
}

// Skip says that a part of the group cannot be measured here, and why.
func (b *Bench) Skip(what, why string) {
	b.group.Skips = append(b.group.Skips, Skip{what, why})
}

// Times returns quick with --quick, and full otherwise: how often to repeat.
func (b *Bench) Times(quick, full int) int {
	if b.Quick {
		return quick
	}
	return full
}

// Elapsed is a reading of a time.
func Elapsed(metric string, size float64, d time.Duration) Reading {
	return Reading{metric, size, Nanoseconds, float64(d)}
}

// hold holds the bound against the rows of its group: the worst case decides. A
// bound within the spread of the values is reached.
func (bound Bound) hold(rows []Row) Verdict {
	v := Verdict{Says: bound.Says, Limit: bound.Limit, Ratio: bound.Against != ""}
	re := regexp.MustCompile(bound.Metrics)
	missed := false
	for _, r := range rows {
		if r.Variant != bound.Variant || r.Size < bound.From || !re.MatchString(r.Metric) {
			continue
		}
		value, least := Median(r.Values), slices.Min(r.Values)
		if bound.Against != "" {
			other, ok := bound.against(r, rows)
			if !ok || Median(other.Values) == 0 {
				continue
			}
			value /= Median(other.Values)
			least /= slices.Max(other.Values)
		}
		if !v.Measured || value > v.Worst {
			v.Measured, v.Worst, v.Where, v.Unit = true, value, r.where(), r.Unit
		}
		if least > v.Limit && value > v.Limit {
			missed = true
		}
	}
	v.Reached = v.Measured && !missed
	return v
}

// against returns what r is divided by.
func (bound Bound) against(r Row, rows []Row) (other Row, found bool) {
	for _, o := range rows {
		if o.Metric != r.Metric {
			continue
		}
		if bound.Against == Smallest {
			if o.Variant == r.Variant && o.Size < r.Size && (!found || o.Size < other.Size) {
				other, found = o, true
			}
		} else if o.Variant == bound.Against && o.Size == r.Size {
			other, found = o, true
		}
	}
	return other, found
}

// where names the row within its group.
func (r Row) where() string {
	if r.Size == 0 {
		return r.Metric
	}
	return fmt.Sprintf("%s at %s", r.Metric, number(r.Size))
}
