package stress

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// What a mirror makes of records: "+a -b <c >d".
func TestApply(t *testing.T) {
	action := map[byte]smb2.FileAction{
		'+': smb2.FILE_ACTION_ADDED, '-': smb2.FILE_ACTION_REMOVED, '~': smb2.FILE_ACTION_MODIFIED,
		'<': smb2.FILE_ACTION_RENAMED_OLD_NAME, '>': smb2.FILE_ACTION_RENAMED_NEW_NAME,
	}
	for _, test := range []struct{ records, want string }{
		{`+a +a\b +ab`, `a a\b ab`},
		{`+a +a\b +ab -a`, `ab`},
		{`+a +a\b +a\b\c <a >d`, `d d\b d\b\c`},
		{`+a +a\b +ab <ab >abc`, `a a\b abc`},
		{`+a +b +b\c <a >b`, `b`}, // what was there is replaced
		{`+a ~a <a >b ~b -b`, ``},
		{`+a\b <a\b >a\c`, `a\c`},
	} {
		p, old := paths{}, ""
		for _, r := range strings.Fields(test.records) {
			p.apply(client.Change{Action: action[r[0]], Name: r[1:]}, &old)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(p)), " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.records, got, test.want)
		}
	}
}

// A mirror that differs from the tree is a problem, unless it knows that it has to
// read the tree.
func TestCheck(t *testing.T) {
	s := &stress{}
	m := &mirror{stress: s, name: "m", lost: true}
	tree := paths{"a": true, `a\b`: true}
	m.check(tree)
	m.check(tree)
	if len(s.problems) != 0 || s.Compared.Load() != 1 || s.Read.Load() != 1 {
		t.Errorf("got %v, %d compared, %d read", s.problems, s.Compared.Load(), s.Read.Load())
	}
	delete(tree, "a")
	tree["c"] = true
	m.check(tree)
	const want = "m differs from the tree without STATUS_NOTIFY_ENUM_DIR: missing c, too much a"
	if len(s.problems) != 1 || s.problems[0] != want {
		t.Errorf("got %q, want %q", s.problems, want)
	}
	m.check(tree) // read it anew
	if len(s.problems) != 1 || s.Read.Load() != 2 {
		t.Errorf("got %v, %d read", s.problems, s.Read.Load())
	}
}
