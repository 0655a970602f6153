package bench

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{8, 2, 4, 100}, 6},
	} {
		if got := Median(test.values); got != test.want {
			t.Errorf("Median(%v): got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var values []float64
	for i := range 100 {
		values = append(values, float64(100-i))
	}
	for _, test := range []struct{ p, want float64 }{{0, 1}, {50, 50}, {95, 95}, {99, 99}, {100, 100}} {
		if got := Percentile(values, test.p); got != test.want {
			t.Errorf("Percentile(%v): got %v, want %v", test.p, got, test.want)
		}
	}
	if got := Percentile(nil, 50); got != 0 {
		t.Errorf("of nothing: got %v, want 0", got)
	}
}

func TestFitPower(t *testing.T) {
	x := []float64{1, 100, 10000, 100000}
	for _, exponent := range []float64{-0.5, 0, 0.5, 1, 2} {
		var y []float64
		for _, v := range x {
			y = append(y, 3*math.Pow(v, exponent))
		}
		f, ok := FitPower(x, y)
		if !ok || math.Abs(f.Exponent-exponent) > 1e-9 || math.Abs(f.A-3) > 1e-9 || math.Abs(f.R2-1) > 1e-9 {
			t.Errorf("3 x^%v: got %+v, %v", exponent, f, ok)
		}
	}
	// y = 1, 1, 4 over x = 1, 2, 4: the slope of (0,0), (1,0), (2,2) to base 2.
	f, ok := FitPower([]float64{1, 2, 4}, []float64{1, 1, 4})
	if !ok || math.Abs(f.Exponent-1) > 1e-9 || math.Abs(f.R2-0.75) > 1e-9 {
		t.Errorf("with a rest: got %+v, %v, want exponent 1 and R2 0.75", f, ok)
	}
	for _, test := range [][2][]float64{{{1}, {1}}, {{2, 2}, {1, 3}}, {{0, 1}, {1, 1}}, {{1, 2}, {0, 1}}} {
		if f, ok := FitPower(test[0], test[1]); ok {
			t.Errorf("%v: got %+v, want nothing", test, f)
		}
	}
}
