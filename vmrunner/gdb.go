package vmrunner

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

func gdbCommand() *cobra.Command {
	var f flags
	var start bool
	c := &cobra.Command{
		Use:   "gdb",
		Short: "debug a fresh guest's kernel with gdb",
		Long: `Gdb boots a guest that gdb can stop, and prints the command that attaches it with
the symbols of vmlinux and of the modules that are loaded; with --start it runs
that command. Lines and variables need a kernel with debug information:
--config debug. The guest ends with Ctrl-C, or with the gdb of --start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			f.o.GDB = true
			return f.run(ctx, func(vm *VM) (int, error) {
				script, err := vm.GDBScript(ctx)
				if err != nil {
					return 0, err
				}
				j := job.From(ctx)
				j.Logf("gdb -x %s", job.Quote(script))
				if !start {
					select {
					case <-ctx.Done():
						return 0, nil
					case <-vm.Done():
						return 0, vm.Err()
					}
				}
				// A Ctrl-C is gdb's.
				g := exec.Command("gdb", "-q", "-x", script)
				g.Stdin, g.Stdout, g.Stderr = os.Stdin, os.Stdout, os.Stderr
				if err := g.Run(); err != nil {
					return 0, fmt.Errorf("run gdb: %w", err)
				}
				return 0, nil
			})
		},
	}
	f.add(c)
	c.Flags().BoolVar(&start, "start", false, "run gdb")
	return c
}

// GDBScript writes the commands that attach gdb to a guest with Options.GDB, and
// returns their file. The modules are those loaded now.
func (vm *VM) GDBScript(ctx context.Context) (string, error) {
	// SECTION FILE per line: /sys/module/ksmbd/sections/.text 0xffffffffa0000000
	r, err := vm.Run(ctx, `for s in .text .data .bss .rodata; do for f in /sys/module/*/sections/$s; do test -e $f && echo $f $(cat $f); done; done; true`)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return "", fmt.Errorf("list modules in the guest: exit status %d: %s", r.Code, r.Stderr)
	}
	files, err := moduleFiles(vm.image.Kernel.Modules)
	if err != nil {
		return "", err
	}
	var names []string
	sections := map[string]string{}
	for line := range strings.Lines(string(r.Stdout)) {
		file, addr, ok := strings.Cut(strings.TrimSpace(line), " ")
		parts := strings.Split(file, "/") // "", sys, module, NAME, sections, SECTION
		if !ok || len(parts) != 6 {
			continue
		}
		name, section := parts[3], parts[5]
		if files[name] == "" {
			continue
		}
		if sections[name] == "" {
			names = append(names, name)
		}
		sections[name] += " -s " + section + " " + addr
	}
	var b strings.Builder
	fmt.Fprintf(&b, "set confirm off\nset pagination off\nfile %s\ntarget remote %s\n", vm.image.Kernel.Vmlinux, vm.gdb)
	for _, n := range names {
		fmt.Fprintf(&b, "add-symbol-file %s%s\n", files[n], sections[n])
	}
	script := filepath.Join(filepath.Dir(vm.gdb), "attach.gdb")
	return script, os.WriteFile(script, []byte(b.String()), 0o644)
}

// moduleFiles returns the files of a kernel's modules by their names.
func moduleFiles(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && err == nil {
			all[strings.ReplaceAll(name, "-", "_")] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find modules: %w", err)
	}
	return all, nil
}
