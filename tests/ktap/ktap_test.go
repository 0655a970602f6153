package ktap

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func words(tests []Test) string {
	var all []string
	for _, t := range tests {
		all = append(all, fmt.Sprintf("%s %s: %s", t.Status, t.Name, t.Detail))
	}
	return strings.Join(all, "\n")
}

// The two files of results that a kernel of the series v6.12 has.
func TestReal(t *testing.T) {
	text, err := os.ReadFile("testdata/pass.ktap")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(tests) != 37 {
		t.Errorf("got %d tests, want 37", len(tests))
	}
	for _, x := range tests {
		if x.Status != Passed || x.Detail != "" {
			t.Errorf("%+v: did not pass", x)
		}
	}
	if got, want := tests[0].Name+" "+tests[36].Name, "ksmbd_notify.notify_test_filters ksmbd_notify_tree.notify_test_path_many"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Cut anywhere, some tests have no result.
	lines := strings.SplitAfter(string(text), "\n")
	for n := range len(lines) - 1 {
		if n > 0 && (strings.HasPrefix(lines[n], "KTAP") || strings.HasPrefix(lines[n-1], "KTAP")) {
			continue // between the two files
		}
		if tests, err := Parse(strings.Join(lines[:n], "")); err == nil {
			t.Errorf("%d lines: %d tests and no error", n, len(tests))
		}
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct{ name, text, want, err string }{
		{"fail", `KTAP version 1
1..1
    KTAP version 1
    # Subtest: s
    1..3
    ok 1 a
    # b: EXPECTATION FAILED at fs/smb/server/notify_test.c:350
    Expected !buf.overflow == rows[i].fits, but
        rows[i].fits == 1 (0x1)
limit 32
    not ok 2 b
    ok 3 c # SKIP no memory
# s: pass:1 fail:1 skip:1 total:3
# Totals: pass:1 fail:1 skip:1 total:3
not ok 1 s
`, "passed s.a: \nfailed s.b: b: EXPECTATION FAILED at fs/smb/server/notify_test.c:350\nExpected !buf.overflow == rows[i].fits, but\n" +
			"rows[i].fits == 1 (0x1)\nlimit 32\nskipped s.c: no memory", ""},
		{"suite", "1..1\n    1..1\n    ok 1 a\n# s: ASSERTION FAILED at x.c:1\nnot ok 1 s\n", "passed s.a: \nfailed s: s: ASSERTION FAILED at x.c:1", ""},
		{"stamps", "[    1.000000] KTAP version 1\n[    1.000001] 1..1\n[    1.000002][  T1]     1..1\n[    1.000003][  T1]     ok 1 a\n[    1.000004] ok 1 s\n", "passed s.a: ", ""},
		{"parameters", "1..1\n    1..1\n        KTAP version 1\n        # Subtest: a\n        1..2\n        ok 1 x\n        not ok 2 y\n    not ok 1 a\nnot ok 1 s\n",
			"passed s.a.x: \nfailed s.a.y: ", ""},
		{"missing", "1..1\n    1..2\n    ok 1 a\nok 1 s\n", "passed s.a: ", "read KTAP: 1 of 2 tests have a result"},
		{"dead", "1..1\n    1..2\n    ok 1 a\n", "", "read KTAP: 1 of 2 tests have a result\nread KTAP: 0 of 1 suites have a result"},
		{"nothing", "", "", "read KTAP: 0 of 0 suites have a result"},
	} {
		tests, err := Parse(test.text)
		if got := words(tests); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
		if got := fmt.Sprint(err); err != nil && got != test.err || err == nil && test.err != "" {
			t.Errorf("%s: got error %q, want %q", test.name, got, test.err)
		}
	}
}
