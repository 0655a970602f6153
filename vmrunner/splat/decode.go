package splat

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"kbuild-run/patches/job"
)

// Symbols are what the addresses of a report are looked up in.
type Symbols struct {
	Repository, Commit string // git repository with the kernel's own scripts
	Vmlinux, Modules   string // a file, and the folder that holds lib/modules
}

// maxDecoded is how many reports are decoded: each takes seconds, and who has so
// many reads the first ones.
const maxDecoded = 8

// left are parts of a report that are not decoded: frames of a stack that may be
// from earlier calls, and the registers and code of the program that called.
var left = regexp.MustCompile(`(?m)^.*\] +\? .*\n|^.*RIP: 0033:(?s:.*?)(^.*</TASK>)`)

// Decode fills in the Decoded of the reports by the kernel's own
// scripts/decode_stacktrace.sh. Frames that the kernel itself is not sure of and
// registers of programs are left out. Without debug information in vmlinux nothing is done.
func (s Symbols) Decode(ctx context.Context, reports []Report) error {
	if len(reports) == 0 || !hasLines(s.Vmlinux) {
		return nil
	}
	dir, err := os.MkdirTemp("", "kbuild-run-decode-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"decode_stacktrace.sh", "decodecode"} {
		text, err := job.Command("git", "-C", s.Repository, "show", s.Commit+":scripts/"+name).Probe(ctx)
		if err != nil {
			return fmt.Errorf("decode kernel reports: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			return err
		}
	}
	for i := range reports[:min(len(reports), maxDecoded)] {
		c := job.Command("bash", filepath.Join(dir, "decode_stacktrace.sh"), s.Vmlinux, "auto", s.Modules)
		c.Stdin = strings.NewReader(left.ReplaceAllString(reports[i].Text, "$1"))
		out, err := c.Probe(ctx)
		if err != nil {
			return fmt.Errorf("decode %s: %w", reports[i].Title, err)
		}
		reports[i].Decoded = string(out)
	}
	return nil
}

// hasLines tells whether the ELF file knows source lines.
func hasLines(name string) bool {
	f, err := elf.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Section(".debug_line") != nil
}
