package kconfigs

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job/script"
)

func TestMain(m *testing.M) {
	script.Main(m, nil, func() []*cobra.Command { return []*cobra.Command{Command()} })
}

// The scripts build a tree whose Makefile knows Kbuild's targets and compiles
// two files.
func TestScripts(t *testing.T) {
	if err := needs(); err != nil {
		t.Skip(err)
	}
	script.Run(t, testscript.Params{})
}
