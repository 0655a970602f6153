package gen

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"kbuild-run/patches/job/script"
)

func TestMain(m *testing.M) {
	script.Main(m, nil, func() []*cobra.Command { return []*cobra.Command{Command(ours), DecodeCommand()} })
}

// ours stands for the kernel of a base and a series: the folder small of a script.
func ours(_ context.Context, base, series string, objects bool) (source, build string, done func(), err error) {
	fmt.Printf("open %s %s %v\n", base, series, objects)
	return "small", "small", func() { fmt.Println("done") }, nil
}

// The scripts begin in a checkout that has the tables and nothing else. They also have
//
//	replace OLD NEW FILE		replaces the first OLD in a file
//
// and $VECTORS, the captures.
func TestScripts(t *testing.T) {
	vectors, err := filepath.Abs("vectors")
	if err != nil {
		t.Fatal(err)
	}
	script.Run(t, testscript.Params{
		Setup: func(env *testscript.Env) error {
			env.Setenv("VECTORS", vectors)
			if err := os.Mkdir(filepath.Join(env.WorkDir, "gen"), 0o777); err != nil {
				return err
			}
			if err := os.Mkdir(filepath.Join(env.WorkDir, "gen/smb2"), 0o777); err != nil {
				return err
			}
			return os.CopyFS(filepath.Join(env.WorkDir, "gen/tables"), os.DirFS("tables"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"replace": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 3 {
					ts.Fatalf("usage: replace OLD NEW FILE")
				}
				path := ts.MkAbs(args[2])
				text := ts.ReadFile(args[2])
				if !strings.Contains(text, args[0]) {
					ts.Fatalf("%q is not in %s", args[0], args[2])
				}
				ts.Check(os.WriteFile(path, []byte(strings.Replace(text, args[0], args[1], 1)), 0o666))
			},
		},
	})
}
