package tests

import (
	"slices"
	"strings"
	"testing"

	"kbuild-run/patches/job"
)

func TestMatchingTopologies(t *testing.T) {
	for _, c := range []struct{ patterns, want, err string }{
		{"*", "links guests cut", ""},
		{"cut,links", "cut links", ""},
		{"", "", ""},
		{"g*,moon", "", "no topology matches moon; there is links, guests, cut"},
	} {
		var patterns []string
		if c.patterns != "" {
			patterns = strings.Split(c.patterns, ",")
		}
		all, err := matching(patterns)
		var names []string
		for _, t := range all {
			names = append(names, t.name)
		}
		if got := strings.Join(names, " "); got != c.want || (err == nil) != (c.err == "") || err != nil && (err.Error() != c.err || job.Code(err) != job.ExitUsage) {
			t.Errorf("%q: got %q, %v; want %q, %q", c.patterns, got, err, c.want, c.err)
		}
	}
}

// What an option needs of the kernel comes with it.
func TestFragments(t *testing.T) {
	o := Options{Topologies: []string{"*"}, Trace: []string{"ksmbd:*"}}
	if got, want := o.fragments(), []string{"base", "ksmbd", "kunit", "links", "tracing"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	o = Options{Fragments: []string{"debug", "tracing"}, Trace: []string{"ksmbd:*"}}
	if got, want := o.fragments(), o.Fragments; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
