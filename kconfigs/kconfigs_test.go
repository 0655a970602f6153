package kconfigs

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"kbuild-run/patches"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		text string
		want []line
		err  string
	}{
		{"CONFIG_A=y\n", []line{{"f", 1, "A", "y", false}}, ""},
		{"# words\n\n  CONFIG_A=m  \n", []line{{"f", 3, "A", "m", false}}, ""},
		{"# CONFIG_A is not set\nCONFIG_B=n\n", []line{{"f", 1, "A", "n", false}, {"f", 2, "B", "n", false}}, ""},
		{"CONFIG_N=-64\nCONFIG_H=0xfF\nCONFIG_S=\"a \\\"b\\\"\"\n",
			[]line{{"f", 1, "N", "-64", false}, {"f", 2, "H", "0xfF", false}, {"f", 3, "S", `"a \"b\""`, false}}, ""},
		{"CONFIG_A=m # if known\n", []line{{"f", 1, "A", "m", true}}, ""},
		{"CONFIG_A=y\nCONFIG_B=yes\n", nil, `read f:2: "CONFIG_B=yes" is no option; write CONFIG_NAME=value or # CONFIG_NAME is not set`},
		{"A=y\n", nil, `read f:1: "A=y" is no option; write CONFIG_NAME=value or # CONFIG_NAME is not set`},
		{"CONFIG_A=y # why\n", nil, `read f:1: "CONFIG_A=y # why" is no option; write CONFIG_NAME=value or # CONFIG_NAME is not set`},
	} {
		got, err := parse("f", []byte(test.text))
		if errText(err) != test.err || !reflect.DeepEqual(got, test.want) {
			t.Errorf("parse(%q) = %v, %q; want %v, %q", test.text, got, errText(err), test.want, test.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestMerge(t *testing.T) {
	a := []line{{"a.config", 1, "A", "y", false}, {"a.config", 2, "B", "m", false}}
	got, err := merge(append(a, line{"b.config", 7, "A", "y", false}))
	if err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %v, %v; want %v", got, err, a)
	}
	_, err = merge(append(a, line{"b.config", 7, "A", "n", false}, line{"b.config", 8, "B", "y", false}))
	const want = "merge fragments: b.config:7: # CONFIG_A is not set contradicts a.config:1: CONFIG_A=y\n" +
		"merge fragments: b.config:8: CONFIG_B=y contradicts a.config:2: CONFIG_B=m"
	if errText(err) != want {
		t.Errorf("got  %q\nwant %q", errText(err), want)
	}
}

// Each fragment built in agrees on every base with those it needs.
func TestFragments(t *testing.T) {
	for _, b := range patches.Bases() {
		for _, name := range Fragments() {
			_, lines, err := load([]string{name}, b.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := merge(lines); err != nil {
				t.Errorf("%s for %s: %v", name, b.Name, err)
			}
		}
	}
	files, _ := filepath.Glob("*.config")
	for _, f := range files {
		parts := strings.Split(f, ".")
		switch {
		case len(parts) == 2:
		default: // NAME.vX.Y.config
			base := strings.TrimSuffix(strings.TrimPrefix(f, parts[0]+"."), ".config")
			if _, err := patches.FindBase(base); err != nil {
				t.Errorf("%s: no base is called %s", f, base)
			}
			if _, err := os.Stat(parts[0] + ".config"); err != nil {
				t.Errorf("%s: there is no %s.config beside it", f, parts[0])
			}
		}
	}
}

func TestLoad(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine.config")
	for name, text := range map[string]string{
		mine: "CONFIG_A=y\n",
		strings.TrimSuffix(mine, ".config") + ".v6.12.config": "CONFIG_B=y\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for base, want := range map[string]string{"v6.12": "CONFIG_A=y\nCONFIG_B=y\n", "v7.3": "CONFIG_A=y\n"} {
		_, lines, err := load([]string{mine}, base)
		if err != nil || text(lines) != want {
			t.Errorf("%s: got %q, %v; want %q", base, text(lines), err, want)
		}
	}
	for _, name := range []string{"nosuch", "base.v7.3"} {
		if _, _, err := load([]string{name}, "v7.3"); !strings.Contains(errText(err), "find fragment "+name+": there is base") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What a fragment needs comes before it, once.
func TestNeeds(t *testing.T) {
	for _, test := range []struct{ names, want string }{
		{"base", "base"},
		{"ksmbd", "base ksmbd"},
		{"debug base", "base ksmbd kunit debug"},
		{strings.Join(Default, " "), strings.Join(Default, " ")},
	} {
		got, _, err := load(strings.Fields(test.names), "v6.12")
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("load(%s) reads %v, %v; want %s", test.names, got, err, test.want)
		}
	}
}

// tree is a small Kconfig tree with the constructs that dependencies hide in.
var tree = fstest.MapFS{
	"Kconfig": {Data: []byte(`mainmenu "Linux"
source "lib/Kconfig"
source "arch/$(SRCARCH)/Kconfig"

config NET
	bool "Networking"
	depends on PCI # a comment
	help
	  Text of any kind, such as
	  config NOT_AN_OPTION
	    or: depends on NOTHING

if NET

menu "File systems"
	depends on BLOCK || \
		   MTD

config SERVER
	tristate "Server"
	depends on INET && !BROKEN
	select HASH
	select CRYPTO if NET

endmenu

config UNDER
	bool "Under" if EXPERT
	depends on NET="y"

endif

choice
	prompt "One of"
	depends on PCI
config ONE
	bool "One"
config TWO
	bool "Two"
endchoice

comment "Nothing"
	depends on NEVER

config AFTER
	bool "After"
	depends on SERVER if PCI
`)},
	"lib/Kconfig":      {Data: []byte("config HASH\n\ttristate\n\nconfig ALONE\n\tbool\n")},
	"arch/x86/Kconfig": {Data: []byte("config PCI\n\tbool \"PCI\"\n\tdepends on $(cc-option,-mpci)\nconfig PCI\n\tbool\nconfig INET\n\tbool \"INET\"\nconfig CRYPTO\n\tbool \"Crypto\"\nconfig BLOCK\n\tbool \"Block\"\n")},
}

func TestWhy(t *testing.T) {
	k, err := readKconfig(tree, "x86")
	if err != nil {
		t.Fatal(err)
	}
	if k["NOT_AN_OPTION"] != nil {
		t.Error("an option was read from a help text")
	}
	for _, test := range []struct {
		name string
		want line
		c    config
		why  []string
	}{
		{"unknown", line{name: "GHOST", value: "y"}, config{}, []string{"no Kconfig file of this kernel knows GHOST"}},
		{"chain", line{name: "SERVER", value: "m"}, config{"INET": "y", "BLOCK": "y"}, []string{
			"SERVER (Kconfig:19) depends on NET [=n]",
			"NET (Kconfig:5) depends on PCI [=n]",
		}},
		{"menu and not", line{name: "SERVER", value: "m"}, config{"PCI": "y", "NET": "y", "BROKEN": "y"}, []string{
			"SERVER (Kconfig:19) depends on BLOCK [=n] || MTD [=n]",
			"SERVER (Kconfig:19) depends on INET [=n]",
			"SERVER (Kconfig:19) depends on !BROKEN [=y]",
			"no Kconfig file of this kernel knows MTD",
		}},
		{"prompt if", line{name: "UNDER", value: "y"}, config{"PCI": "y", "NET": "y"}, []string{
			"UNDER (Kconfig:27) depends on EXPERT [=n]",
			"no Kconfig file of this kernel knows EXPERT",
		}},
		{"conditional", line{name: "AFTER", value: "y"}, config{"PCI": "y", "NET": "y", "INET": "y", "BLOCK": "y"}, []string{
			"AFTER (Kconfig:45) depends on !(PCI [=y]) || (SERVER [=n])",
		}},
		{"no prompt", line{name: "HASH", value: "m"}, config{}, []string{"it has no prompt (lib/Kconfig:1); it is selected by SERVER"}},
		{"no selector", line{name: "ALONE", value: "y"}, config{}, []string{"it has no prompt and nothing selects it (lib/Kconfig:4)"}},
		{"choice", line{name: "ONE", value: "y"}, config{"PCI": "y", "TWO": "y"}, []string{
			"its dependencies are met (Kconfig:36): another member of its choice may be set, or the value is out of range"}},
		{"selected", line{name: "CRYPTO", value: "n"}, config{"CRYPTO": "y", "SERVER": "m", "NET": "y"}, []string{"selected by SERVER [=m]"}},
	} {
		if got := k.why(test.want, test.c); !reflect.DeepEqual(got, test.why) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.name, got, test.why)
		}
	}
}

func TestEval(t *testing.T) {
	c := config{"Y": "y", "M": "m", "S": `"text"`, "N8": "8"}
	for _, test := range []struct {
		e    string
		want int
	}{
		{"", 2}, {"Y", 2}, {"M", 1}, {"OFF", 0}, {"!M", 1}, {"!OFF", 2},
		{"Y && M", 1}, {"OFF || M", 1}, {"OFF && Y || M", 1}, {"OFF && (Y || M)", 0},
		{"M = m", 2}, {"M != y", 2}, {"M=n", 0}, {`S="text"`, 2}, {"N8 = 8", 2},
		{"!(Y && OFF)", 2}, {"$(success,true) && M", 1}, {"$(cc-option,$(flag)) && OFF", 0}, {"GCC_VERSION >= 80000 && M", 1},
	} {
		if got := kconfig(nil).eval(test.e, c); got != test.want {
			t.Errorf("eval(%q) = %d, want %d", test.e, got, test.want)
		}
	}
}

func TestComplaints(t *testing.T) {
	out, err := os.ReadFile("testdata/make.out")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/make.want")
	if err != nil {
		t.Fatal(err)
	}
	var e complaints
	for l := range strings.Lines(string(out)) {
		e.line(strings.TrimSuffix(l, "\n"))
	}
	if got := strings.Join(e.text, "\n") + "\n"; got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What was made in the last minute before a build was killed is made again.
func TestMend(t *testing.T) {
	f := &folder{dir: t.TempDir()}
	end := time.Now().Add(-time.Hour)
	for name, at := range map[string]time.Time{
		"old.o": end.Add(-2 * time.Minute), "new.o": end.Add(-2 * time.Second), "vmlinux": end, ".config": end, "build-unfinished": end,
	} {
		name = filepath.Join(f.dir, name)
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		files, err := os.ReadDir(f.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, f.Name())
		}
		return names
	}
	for range 2 { // the second time there is no mark
		if err := f.mend(); err != nil {
			t.Fatal(err)
		}
		if got, want := left(), []string{".config", "old.o"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
