package main

import (
	"flag"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job/script"
	"kbuild-run/tests"
	"kbuild-run/tests/nightly/matrix"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kbuild-run": func() { os.Exit(run()) }})
}

// TestScript runs testdata/script: what a user types and sees.
func TestScript(t *testing.T) {
	script.Run(t, testscript.Params{UpdateScripts: *update})
}

// Each cell of the matrix is a command line of this program.
func TestNightlyCells(t *testing.T) {
	m, err := matrix.Read("nightly.toml", tests.Nightly)
	if err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{}
	for _, c := range commands {
		root.AddCommand(c())
	}
	for _, cell := range m.Cells() {
		c, args, err := root.Find(cell.Args("out"))
		if err == nil {
			err = c.ParseFlags(args)
		}
		if err == nil && c.Args != nil {
			err = c.Args(c, c.Flags().Args())
		}
		if err != nil {
			t.Errorf("%s: %v", cell.Name, err)
		}
	}
}
