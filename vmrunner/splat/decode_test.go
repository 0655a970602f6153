package splat

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The tree's own script decodes, and gets what the kernel is sure of; a kernel
// without lines is left alone.
func TestDecode(t *testing.T) {
	for _, tool := range []string{"gcc", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no ", tool)
		}
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		c := exec.Command(args[0], args[1:]...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("scripts/decode_stacktrace.sh", `test -x "${0%/*}/decodecode" && echo "$2 $3" && sed 's/fn+.*/fn (file.c:1)/'`)
	write("scripts/decodecode", "")
	run("git", "init", "-q")
	run("git", "add", ".")
	run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "scripts")
	write("main.c", "int main(void) { return 0; }\n")
	run("gcc", "-g", "-o", "vmlinux", "main.c")
	run("gcc", "-s", "-o", "stripped", "main.c")

	s := Symbols{Repository: dir, Commit: "HEAD", Vmlinux: filepath.Join(dir, "vmlinux"), Modules: "modules"}
	reports := []Report{{Title: "WARNING in fn", Text: "[    1.0] Call Trace:\n[    1.0]  ? old+0x1/0x2\n[    1.0]  fn+0x1/0x2\n[    1.0] RIP: 0033:0x40d5ee\n[    1.0] Code: ff\n[    1.0]  </TASK>\nend\n"}}
	if err := s.Decode(t.Context(), reports); err != nil {
		t.Fatal(err)
	}
	want := "auto modules\n[    1.0] Call Trace:\n[    1.0]  fn (file.c:1)\n[    1.0]  </TASK>\nend\n"
	if got := reports[0].Body(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	reports[0].Decoded = ""
	s.Vmlinux = filepath.Join(dir, "stripped")
	if err := s.Decode(t.Context(), reports); err != nil || !strings.Contains(reports[0].Body(), "? old") {
		t.Errorf("without lines: got %q, %v", reports[0].Body(), err)
	}
	s.Vmlinux, s.Commit = filepath.Join(dir, "vmlinux"), "nosuch"
	if err := s.Decode(t.Context(), reports); err == nil {
		t.Error("no script: got no error")
	}
}
