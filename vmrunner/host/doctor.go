package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/vmrunner"
)

const (
	// A first run leaves an unpacked tree (1.6 GiB), its git objects, a
	// scratch worktree and two builds.
	wantDisk = 6 << 30
	// The guest takes 1 GiB; the largest compilation beside it 0.5 GiB.
	wantMemory = 3 << 29
)

// Doctor returns `kbuild-run doctor`.
func Doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "say what is there, what is missing, which accelerator works",
		Long: `Doctor prints a line for everything the road takes from the host: what it is
for, its version, or how to get it. Then what the guests run on and why, free
disk space and memory. It changes nothing.

The code is 0 when all that the main job needs is there, else 3. Optional things
do not count.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return Host{}.Doctor(ctx, job.From(ctx).Out)
		},
	}
}

// Doctor prints what it finds to w. Its error counts what is missing.
func (h Host) Doctor(ctx context.Context, w io.Writer) error {
	d := h.Distro()
	all := h.LookAll(ctx, func(*Need) bool { return true })
	if err := ctx.Err(); err != nil {
		return err
	}
	line := func(mark, name, version, rest string) {
		fmt.Fprintf(w, "%-8s %-18s %-14s %s\n", mark, name, version, rest)
	}
	line("host", runtime.GOARCH, "", fmt.Sprintf("%s, %d CPUs", d.Name, runtime.NumCPU()))
	missing := 0
	for _, f := range all {
		rest := fmt.Sprintf("%-9s %s", f.Need.Step, f.Need.For)
		switch {
		case f.Path != "":
			line("there", f.Need.Name, f.Version, rest)
		case f.Need.Optional:
			line("optional", f.Need.Name, "-", rest+"; get it: "+f.How(d))
		default:
			missing++
			line("missing", f.Need.Name, "-", rest+"; get it: "+f.How(d))
		}
	}
	if h.needsLists() {
		missing++
		line("missing", "package lists", "-", fmt.Sprintf("%-9s %s; get it: apt-get update", "rootfs", "which packages there are to download"))
	}
	for _, look := range []func(context.Context) check{accelerator, disk, memory} {
		c := look(ctx)
		mark := "there"
		if c.short {
			mark = "missing"
			missing++
		}
		line(mark, c.name, c.value, c.why)
	}
	if missing > 0 {
		return fmt.Errorf("check host: %d of what the main job needs is missing; packages come with: kbuild-run setup", missing)
	}
	return nil
}

// check is a line that is no Need.
type check struct {
	name, value, why string
	short            bool // less than the main job needs
}

// accelerator says what QEMU runs guests on. TCG always works.
func accelerator(context.Context) check {
	c := check{name: "accelerator", value: "tcg"}
	if err := vmrunner.CheckAccel("kvm"); err != nil {
		c.why = "vmrunner  " + err.Error()
		return c
	}
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		c.why = "vmrunner  " + err.Error()
		return c
	}
	verdict, known := vmrunner.Verdict(time.Now().Add(-time.Duration(up.Uptime) * time.Second))
	switch {
	case !known:
		c.value, c.why = "kvm or tcg", "vmrunner  kvm opens; whether it boots a guest shows when the first one boots"
	case verdict == "":
		c.value, c.why = "kvm", "vmrunner  kvm has booted a guest"
	default:
		c.why = "vmrunner  " + verdict
	}
	return c
}

func disk(context.Context) check {
	c := check{name: "disk"}
	dir, err := cache.Dir()
	if err != nil {
		return check{name: "disk", why: err.Error(), short: true}
	}
	// The cache need not exist yet: its file system does.
	at := dir
	var st unix.Statfs_t
	for err = unix.Statfs(at, &st); errors.Is(err, unix.ENOENT); err = unix.Statfs(at, &st) {
		at = filepath.Dir(at)
	}
	if err != nil {
		return check{name: "disk", why: fmt.Sprintf("read free space of %s: %v", at, err), short: true}
	}
	free := st.Bavail * uint64(st.Bsize)
	var used uint64
	entries, err := cache.List()
	if err != nil {
		return check{name: "disk", why: err.Error(), short: true}
	}
	for _, e := range entries {
		used += e.Size
	}
	c.value = cache.Bytes(free)
	c.why = fmt.Sprintf("%-9s free for %s, which holds %s", "all", dir, cache.Bytes(used))
	if c.short = free+used < wantDisk; c.short {
		c.why += fmt.Sprintf("; a first run wants %s: set XDG_CACHE_HOME to a larger disk", cache.Bytes(wantDisk))
	}
	return c
}

func memory(context.Context) check {
	c := check{name: "memory"}
	free, err := available("/proc/meminfo")
	if err != nil {
		c.why = err.Error()
		return c // no reason to stop anybody
	}
	c.value = cache.Bytes(free)
	c.why = fmt.Sprintf("%-9s available", "vmrunner")
	if c.short = free < wantMemory; c.short {
		c.why += fmt.Sprintf("; build and guest want %s", cache.Bytes(wantMemory))
	}
	return c
}

// available returns the bytes of MemAvailable of meminfo (proc(5)).
func available(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) == 3 && fields[0] == "MemAvailable:" && fields[2] == "kB" {
			kb, err := strconv.ParseUint(fields[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("read %s: no MemAvailable", path)
}
