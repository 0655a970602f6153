package bench

import (
	"math"
	"slices"
)

// Median returns the middle of the values; of an even number, the mean of the two
// in the middle. Of none it is 0.
func Median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	default:
		return (s[n/2-1] + s[n/2]) / 2
	}
}

// Percentile returns the value that p of a hundred values do not exceed (nearest
// rank). Of none it is 0.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[max(rank, 1)-1]
}

// Fit is y = A x^Exponent through points, by least squares of the logarithms.
type Fit struct {
	Exponent float64 `json:"exponent"`
	A        float64 `json:"a"`
	R2       float64 `json:"r2"` // how much of the variance it explains; 1 for a constant
}

// FitPower fits a power law. It needs points of two sizes, all greater than 0.
func FitPower(x, y []float64) (f Fit, ok bool) {
	var n, sx, sy, sxx, sxy float64
	for i := range x {
		if x[i] <= 0 || y[i] <= 0 {
			return f, false
		}
		lx, ly := math.Log(x[i]), math.Log(y[i])
		n, sx, sy, sxx, sxy = n+1, sx+lx, sy+ly, sxx+lx*lx, sxy+lx*ly
	}
	d := n*sxx - sx*sx
	if n < 2 || d < 1e-12 {
		return f, false
	}
	f.Exponent = (n*sxy - sx*sy) / d
	c := (sy - f.Exponent*sx) / n
	f.A = math.Exp(c)
	var rest, all float64
	for i := range x {
		e := math.Log(y[i]) - c - f.Exponent*math.Log(x[i])
		m := math.Log(y[i]) - sy/n
		rest, all = rest+e*e, all+m*m
	}
	if f.R2 = 1; all > 1e-18 {
		f.R2 = 1 - rest/all
	}
	return f, true
}
