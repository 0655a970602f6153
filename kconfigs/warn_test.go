package kconfigs

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"kbuild-run/patches/job"
)

// What lies below an option that is off is not asked for.
func TestModules(t *testing.T) {
	want := []line{{name: "CIFS", value: "m"}, {name: "CIFS_DEBUG", value: "y"}, {name: "NET", value: "y"}}
	for value, wanted := range map[string]string{
		"y": "CONFIG_CIFS=y\nCONFIG_CIFS_DEBUG=y\nCONFIG_NET=y\n",
		"m": "CONFIG_CIFS=m\nCONFIG_CIFS_DEBUG=y\nCONFIG_NET=y\n",
		"n": "# CONFIG_CIFS is not set\nCONFIG_NET=y\n",
	} {
		if got := text(modules(want, value)); got != wanted {
			t.Errorf("%s: got %q, want %q", value, got, wanted)
		}
	}
}

// Warnings belong to the object that make names above them; what kernel-doc says
// under W=1 is not the compiler's.
func TestLintReader(t *testing.T) {
	r := lintReader{compiler: "gcc", checker: "sparse", tree: "/t", dir: "/o", book: notebook{"a.o": {{"gcc", "a.o", "a.c:1:1: warning: gone"}}}}
	for l := range strings.Lines(`  CC      fs/smb/a.o
/t/fs/smb/a.c: In function 'f':
/t/fs/smb/a.c:3:6: warning: unused variable 'x' [-Wunused-variable]
    3 |  int x;
      |      ^
  CHECK   fs/smb/a.c
fs/smb/a.c:9:1: warning: incorrect type
fs/smb/a.c:9:1:    expected restricted __le32
fs/smb/a.c:20: warning: Function parameter 'x' not described
  CC [M]  a.o
  LD [M]  fs/smb/cifs.o
a.c:1:1: warning: of nobody
`) {
		r.line(strings.TrimRight(l, "\n"))
	}
	want := []Warning{
		{"gcc", "fs/smb/a.o", "fs/smb/a.c:3:6: warning: unused variable 'x' [-Wunused-variable]\n    3 |  int x;\n      |      ^"},
		{"sparse", "fs/smb/a.o", "fs/smb/a.c:9:1: warning: incorrect type\nfs/smb/a.c:9:1:    expected restricted __le32"},
	}
	if got := r.book["fs/smb/a.o"]; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := r.book["a.o"]; len(got) != 0 {
		t.Errorf("compiled again: got %q, want none", got)
	}
	r = lintReader{compiler: "gcc", checker: "smatch", tree: "/t", dir: "/o", book: notebook{}}
	for _, l := range []string{"  CC [M]  fs/smb/a.o", "  CHECK   /t/fs/smb/a.c", "/t/include/b.h:3:9: error: static assertion failed", "/t/fs/smb/a.c:12 f() warn: variable dereferenced before check 'x' (see line 10)", "  LD [M]  fs/smb/cifs.o"} {
		r.line(l)
	}
	want = []Warning{{"smatch", "fs/smb/a.o", "fs/smb/a.c:12 f() warn: variable dereferenced before check 'x' (see line 10)"}}
	if got := r.book["fs/smb/a.o"]; !slices.Equal(got, want) {
		t.Errorf("smatch: got %q, want %q", got, want)
	}
}

// A compiler that is too old is no fault of the tree's.
func TestTooOld(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&job.CmdError{Tail: []string{
			"  HOSTLD  scripts/kconfig/conf", "***", "*** C compiler is too old.", "***   Your Clang version:    14.0.6",
			"***   Minimum Clang version: 17.0.1", "***", "scripts/Kconfig.include:45: Sorry, this C compiler is not supported.",
			"make[3]: *** [scripts/kconfig/Makefile:85: allnoconfig] Error 1"}},
			"C compiler is too old: Your Clang version: 14.0.6, Minimum Clang version: 17.0.1"},
		{&job.CmdError{Tail: []string{"make: *** [Makefile:1: allnoconfig] Error 1"}}, ""},
		{errors.New("other"), ""},
	} {
		if got := tooOld(test.err); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
