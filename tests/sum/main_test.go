package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const header = "package x\n\nimport \"testing\"\n\n"

func TestRun(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		ok    bool
		want  []string // in the output
		last  string
	}{
		{
			name: "pass and skip",
			files: map[string]string{"x_test.go": header + `
func TestA(t *testing.T) { t.Run("sub", func(t *testing.T) { t.Skip("needs root") }) }
func TestB(t *testing.T) {}
`},
			ok:   true,
			want: []string{"needs root", "TestA/sub"},
			last: "2 passed, 0 failed, 1 skipped",
		},
		{
			name: "fail",
			files: map[string]string{"x_test.go": header + `
func TestA(t *testing.T) { t.Error("got 1, want 2") }
func TestB(t *testing.T) {}
`},
			want: []string{"got 1, want 2"},
			last: "1 passed, 1 failed, 0 skipped",
		},
		{
			name: "a package does not compile",
			files: map[string]string{
				"x_test.go":   header + "func TestB(t *testing.T) {}\n",
				"y/y_test.go": header + "func TestC(t *testing.T) { nosuch() }\n",
			},
			want: []string{"undefined: nosuch"},
			last: "1 passed, 1 failed, 0 skipped",
		},
		{
			name: "a test ends its program",
			files: map[string]string{
				"x_test.go": "package x\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { os.Exit(5) }\n",
			},
			last: "0 passed, 1 failed, 0 skipped",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.files["go.mod"] = "module x\n\ngo 1.26\n"
			for name, text := range test.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			ok, err := run(t.Context(), &out, dir, []string{"./..."})
			if err != nil || ok != test.ok {
				t.Errorf("got %v, %v, want %v", ok, err, test.ok)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got no %q in the output", want)
				}
			}
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if last := lines[len(lines)-1]; last != test.last {
				t.Errorf("got last line %q, want %q\n%s", last, test.last, &out)
			}
		})
	}
}
