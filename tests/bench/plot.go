package bench

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// colours can be told apart by the colour-blind (Okabe and Ito, 2008).
var colours = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	color.RGBA{0x00, 0x00, 0x00, 0xff}, color.RGBA{0x80, 0x80, 0x80, 0xff}, color.RGBA{0x8b, 0x45, 0x13, 0xff}, color.RGBA{0xb8, 0xa8, 0x00, 0xff},
}

var shapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{},
	draw.RingGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}}

const (
	plotWidth   = 22 * vg.Centimeter
	plotHeight  = 11 * vg.Centimeter
	legendWidth = 7.5 * vg.Centimeter
)

// plot draws a picture of each metric into dir: curves over the size where there
// are sizes, bars where there are none.
func (g *GroupReport) plot(dir string) error {
	var done []string
	for _, r := range g.Rows {
		if slices.Contains(done, r.Metric) {
			continue
		}
		done = append(done, r.Metric)
		p := plot.New()
		legend := plot.NewLegend()
		p.Title.Text = r.Metric
		sized := g.curvesOf(r.Metric)
		err := error(nil)
		if len(sized) > 0 {
			err = g.drawCurves(p, &legend, sized)
		} else if bars := g.variants(r.Metric); len(bars) > 1 {
			err = g.drawBars(p, &legend, r.Metric, bars)
		} else {
			continue
		}
		if err != nil {
			return fmt.Errorf("plot %s: %w", r.Metric, err)
		}
		name := g.Name + "-" + fileName(r.Metric) + ".svg"
		if err := write(p, legend, filepath.Join(dir, name)); err != nil {
			return err
		}
		g.Plots = append(g.Plots, name)
	}
	return nil
}

func (g *GroupReport) curvesOf(metric string) (all []curve) {
	for _, c := range g.curves() {
		if c.metric == metric {
			all = append(all, c)
		}
	}
	return all
}

// boundsOf returns the bounds on a metric whose figure can be drawn.
func (g *GroupReport) boundsOf(metric string) (all []Bound) {
	for _, b := range g.limits {
		if ok, err := regexp.MatchString(b.Metrics, metric); err == nil && ok {
			all = append(all, b)
		}
	}
	return all
}

// drawCurves draws variants over the size, and their bounds: of one against
// another variant the line that it may not exceed.
func (g *GroupReport) drawCurves(p *plot.Plot, legend *plot.Legend, curves []curve) error {
	unit, scale := axisUnit(curves[0].unit, largest(curves))
	xs, ys := span(curves)
	base := slices.IndexFunc(curves, func(c curve) bool { return c.variant == g.Base })
	percent := g.Percent && base >= 0 && len(curves) > 1
	value := func(y float64, i int) float64 { return y * scale }
	if percent {
		unit, ys = "more "+unit+" than "+g.Base+", %", 1
		of := curves[base]
		value = func(y float64, i int) float64 { return 100 * (y/of.y[min(i, len(of.y)-1)] - 1) }
	}
	p.X.Label.Text, p.Y.Label.Text = g.Axis, unit
	if xs > 20 {
		p.X.Scale = plot.LogScale{}
	}
	p.X.Tick.Marker = at(curves[0].x)
	wide := ys > 20
	if wide {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, powers{}
	}
	for i, c := range curves {
		if percent && i == base {
			continue
		}
		points := make(plotter.XYs, len(c.x))
		for j := range c.x {
			points[j].X, points[j].Y = c.x[j], value(c.y[j], j)
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		style(i, line, dots)
		p.Add(line, dots)
		text := c.variant
		if f, ok := FitPower(c.x, c.y); ok && len(c.x) > 2 {
			text += fmt.Sprintf(", ~ x^%.2f", f.Exponent)
		}
		legend.Add(text, line, dots)
	}
	for _, b := range g.boundsOf(curves[0].metric) {
		i := slices.IndexFunc(curves, func(c curve) bool { return c.variant == b.Variant })
		if i < 0 {
			continue
		}
		limit := plotter.XYs{}
		for j, x := range curves[i].x {
			switch o := slices.IndexFunc(curves, func(c curve) bool { return c.variant == b.Against }); {
			case b.Against == "":
				limit = append(limit, plotter.XY{X: x, Y: value(b.Limit, j)})
			case b.Against == Smallest:
				limit = append(limit, plotter.XY{X: x, Y: value(b.Limit*curves[i].y[0], j)})
			case o >= 0 && j < len(curves[o].y):
				limit = append(limit, plotter.XY{X: x, Y: value(b.Limit*curves[o].y[j], j)})
			}
		}
		if len(limit) < 2 || wide && limit[0].Y <= 0 {
			continue
		}
		line, err := plotter.NewLine(limit)
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = colours[i%len(colours)], vg.Points(1.2), []vg.Length{vg.Points(5), vg.Points(3)}
		p.Add(line)
		legend.Add("bound of "+b.Variant, line)
	}
	p.Add(plotter.NewGrid())
	if !wide {
		// Room above and below: the differences are small beside the values.
		d := (p.Y.Max - p.Y.Min) * 0.08
		if p.Y.Min, p.Y.Max = p.Y.Min-d, p.Y.Max+d; !percent {
			p.Y.Min = max(0, p.Y.Min)
		}
		p.Y.Tick.Marker = plain{}
	}
	return nil
}

// drawBars draws a bar a variant, with the span of its values.
func (g *GroupReport) drawBars(p *plot.Plot, legend *plot.Legend, metric string, variants []string) error {
	var all []curve
	for _, v := range variants {
		r := g.row(metric, v, 0)
		if r == nil {
			return nil
		}
		all = append(all, curve{variant: v, unit: r.Unit, y: []float64{Median(r.Values)}})
	}
	unit, scale := axisUnit(all[0].unit, largest(all))
	p.Y.Label.Text, p.Y.Min = unit, 0
	p.X.Label.Text = "variant"
	for i, c := range all {
		bar, err := plotter.NewBarChart(plotter.Values{c.y[0] * scale}, vg.Points(40))
		if err != nil {
			return err
		}
		bar.XMin, bar.Color, bar.LineStyle.Width = float64(i), colours[i%len(colours)], 0
		p.Add(bar)
		legend.Add(fmt.Sprintf("%s: %s", c.variant, quantity(c.y[0], c.unit)), bar)
		values := g.row(metric, c.variant, 0).Values
		whisker, err := plotter.NewLine(plotter.XYs{{X: float64(i), Y: slices.Min(values) * scale}, {X: float64(i), Y: slices.Max(values) * scale}})
		if err != nil {
			return err
		}
		whisker.Width = vg.Points(1.5)
		p.Add(whisker)
	}
	for _, b := range g.boundsOf(metric) {
		limit := b.Limit
		if o := g.row(metric, b.Against, 0); o != nil {
			limit *= Median(o.Values)
		} else if b.Against != "" {
			continue
		}
		line, err := plotter.NewLine(plotter.XYs{{X: -0.6, Y: limit * scale}, {X: float64(len(all)) - 0.4, Y: limit * scale}})
		if err != nil {
			return err
		}
		line.Width, line.Dashes = vg.Points(1.2), []vg.Length{vg.Points(5), vg.Points(3)}
		if i := slices.Index(variants, b.Variant); i >= 0 {
			line.Color = colours[i%len(colours)]
		}
		p.Add(line)
		legend.Add(fmt.Sprintf("bound of %s: %s", b.Variant, quantity(limit, all[0].unit)), line)
	}
	p.X.Min, p.X.Max = -0.6, float64(len(all))-0.4
	p.NominalX(variants...)
	p.Y.Tick.Marker = plain{}
	return nil
}

func style(i int, line *plotter.Line, dots *plotter.Scatter) {
	line.Color, line.Width = colours[i%len(colours)], vg.Points(1.6)
	dots.Color, dots.Shape, dots.Radius = colours[i%len(colours)], shapes[i%len(shapes)], vg.Points(3)
}

// write writes the plot with its legend beside it.
func write(p *plot.Plot, legend plot.Legend, file string) error {
	p.BackgroundColor = color.White
	p.Title.TextStyle.Font.Size, p.Title.Padding = vg.Points(14), vg.Points(8)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size, a.Tick.Label.Font.Size, a.Label.Padding = vg.Points(11), vg.Points(10), vg.Points(4)
	}
	legend.Top, legend.Left, legend.TextStyle.Font.Size, legend.Padding = true, true, vg.Points(10), vg.Points(4)
	c := vgsvg.New(plotWidth, plotHeight)
	whole := draw.New(c)
	p.Draw(draw.Crop(whole, vg.Points(6), -legendWidth, vg.Points(6), -vg.Points(6)))
	legend.Draw(draw.Crop(whole, plotWidth-legendWidth+vg.Points(8), 0, 0, -vg.Points(34)))
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = c.WriteTo(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// axisUnit chooses a unit in which the largest value has few digits.
func axisUnit(unit string, largest float64) (text string, scale float64) {
	steps := map[string][]struct {
		from  float64
		text  string
		scale float64
	}{
		Nanoseconds: {{1e9, "seconds", 1e-9}, {1e6, "milliseconds", 1e-6}, {1e3, "microseconds", 1e-3}, {0, "nanoseconds", 1}},
		Bytes:       {{1 << 30, "GiB", 1. / (1 << 30)}, {1 << 20, "MiB", 1. / (1 << 20)}, {1 << 10, "KiB", 1. / (1 << 10)}, {0, "bytes", 1}},
	}
	for _, s := range steps[unit] {
		if largest >= s.from {
			return s.text, s.scale
		}
	}
	return unit, 1
}

func largest(curves []curve) (m float64) {
	for _, c := range curves {
		m = max(m, slices.Max(c.y))
	}
	return m
}

// span returns how many times the largest size and value exceed the smallest; 1
// where there is a zero, which has no place on a logarithmic axis.
func span(curves []curve) (x, y float64) {
	lowX, highX, lowY, highY := math.Inf(1), 0., math.Inf(1), 0.
	for _, c := range curves {
		lowX, highX = min(lowX, slices.Min(c.x)), max(highX, slices.Max(c.x))
		lowY, highY = min(lowY, slices.Min(c.y)), max(highY, slices.Max(c.y))
	}
	x, y = 1, 1
	if lowX > 0 {
		x = highX / lowX
	}
	if lowY > 0 {
		y = highY / lowY
	}
	return x, y
}

// at marks an axis at the sizes that were measured.
type at []float64

func (a at) Ticks(float64, float64) (all []plot.Tick) {
	for _, v := range a {
		all = append(all, plot.Tick{Value: v, Label: short(v)})
	}
	return all
}

// powers marks a logarithmic axis with plain numbers.
type powers struct{}

func (powers) Ticks(low, high float64) []plot.Tick {
	ticks := plot.LogTicks{Prec: -1}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = short(t.Value)
		}
	}
	return ticks
}

// plain marks an axis with numbers without an exponent.
type plain struct{}

func (plain) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = short(t.Value)
		}
	}
	return ticks
}

// short prints 100000 as 100,000.
func short(v float64) string {
	s := number(v)
	if v != math.Trunc(v) || math.Abs(v) < 10000 {
		return s
	}
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// fileName makes a name of a file out of a metric's.
func fileName(s string) string {
	return strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(s, "-"), "-")
}
