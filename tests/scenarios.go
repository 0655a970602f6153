package tests

import (
	"embed"
	"io/fs"
	"os"

	"kbuild-run/tests/scenario"
)

//go:embed scenarios/*.txt
var embedded embed.FS

// Scenarios returns the scenarios that match the patterns, see scenario.Load. A
// non-empty dir is read instead of those in the program.
func Scenarios(dir string, patterns ...string) ([]*scenario.Scenario, error) {
	if dir != "" {
		return scenario.Load(os.DirFS(dir), patterns...)
	}
	fsys, err := fs.Sub(embedded, "scenarios")
	if err != nil {
		return nil, err
	}
	return scenario.Load(fsys, patterns...)
}
