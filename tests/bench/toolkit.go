package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests"
	"kbuild-run/vmrunner"
)

// Variants and metrics of the group toolkit.
const (
	ours     = "kbuild-run"
	virtme   = "virtme-ng"
	oneTest  = "one scenario"
	mainJob  = "main job"
	verdict  = "nothing changed to verdict"
	firstSMB = "power-on to first answer"
)

var toolkit = Group{
	Name: "toolkit",
	About: `What a developer waits for, in time of this host, and what it takes. "First answer" is the
first SMB response for kbuild-run, and for virtme-ng, which serves nothing, the end of a
command; "boot and run a command" is the whole of "kbuild-run vm exec -- uname -r" and of
"vng -- uname -r" on the same kernel without KVM. A change is a line that was never there
before, so that nothing is cached: one of a header, then one of ksmbd on top of it;
"one scenario" is "kbuild-run --scenario explorer", "main job" is without that: two kernels
and all scenarios. Memory is the sum of what all processes of the job have resident, at
its peak.`,
	Axis: "number of scenarios",
	Bounds: []Bound{
		{Says: "power-on to first SMB response without KVM", Metrics: "^" + firstSMB, Variant: ours, Limit: 4e9},
		{Says: "beside virtme-ng's time for a command", Metrics: "^" + firstSMB, Variant: ours, Against: virtme, Limit: 0.5},
	},
	Run: runToolkit,
}

func runToolkit(ctx context.Context, b *Bench) error {
	j := job.From(ctx)
	image, err := b.Image(ctx, b.Series)
	if err != nil {
		return err
	}
	boot := []Variant{{ours, func(ctx context.Context) (all []Reading, err error) { return b.boot(ctx, image) }}}
	err = j.Step("virtme-ng", func(s *job.Step) error {
		command, err := virtmeNG(ctx, s)
		if why := (lacking{}); errors.As(err, &why) {
			b.Skip(virtme, why.Error())
			return nil
		}
		if err != nil {
			return err
		}
		boot = append(boot, Variant{virtme, func(ctx context.Context) ([]Reading, error) {
			took, err := vngRun(ctx, command, image.Kernel.BzImage, image.Kernel.Release)
			return []Reading{Elapsed(firstSMB, 0, took), Elapsed("boot and run a command", 0, took)}, err
		}})
		return nil
	})
	if err != nil {
		return err
	}
	err = j.Step("bench boot", func(s *job.Step) error {
		return b.Alternate(ctx, s, b.Times(0, 1), b.Times(2, 7), boot...)
	})
	if err != nil {
		return err
	}
	err = j.Step("bench verdict", func(s *job.Step) error { return b.verdicts(ctx, s, image) })
	if err != nil {
		return err
	}
	if !b.Quick {
		err = j.Step("bench first build", func(s *job.Step) error { return b.firstBuild(ctx, s) })
	} else {
		b.Skip("first build", "it takes minutes; without --quick it is done, in a cache of its own")
	}
	return err
}

// boot boots the guest twice: until it answers SMB, and for a command by the program
// itself.
func (b *Bench) boot(ctx context.Context, image *rootfs.Image) ([]Reading, error) {
	var first time.Duration
	err := (&job.Job{}).Step("boot", func(s *job.Step) error {
		vm, err := vmrunner.Start(ctx, s, image, vmrunner.Options{Accel: "tcg"})
		if err != nil {
			return err
		}
		err = vm.WaitSMB(ctx)
		first = vm.Times().SMB
		return errors.Join(err, vm.Stop(ctx))
	})
	if err != nil {
		return nil, err
	}
	r, err := b.self(ctx, nil, append([]string{"vm", "exec", "--accel", "tcg"}, append(b.kernel(), "--config", strings.Join(fragments, ","), "--", "uname -r")...)...)
	return []Reading{Elapsed(firstSMB, 0, first), Elapsed("boot and run a command", 0, r.time),
		{"memory to boot and run a command", 0, Bytes, r.peak}}, err
}

// kernel are the flags that name the kernel.
func (b *Bench) kernel() []string {
	flags := []string{"--series", b.Series}
	if b.Base != "" {
		flags = append(flags, "--base", b.Base)
	}
	return flags
}

// ran is what a run of this program took.
type ran struct {
	time time.Duration
	peak float64 // bytes resident, of all its processes
}

// self runs this program. A verdict against the series is a verdict; that there is
// none is an error.
func (b *Bench) self(ctx context.Context, env []string, args ...string) (r ran, err error) {
	program, err := os.Executable()
	if err != nil {
		return r, err
	}
	peak := watchMemory()
	began := time.Now()
	_, err = job.Command(program, args...).With(env...).Probe(ctx)
	r.time, r.peak = time.Since(began), peak()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == job.ExitFailed {
		job.From(ctx).Logf("%s: the verdict is bad", strings.Join(args, " "))
		err = nil
	}
	return r, err
}

// verdicts measures how long changes take to their verdict.
func (b *Bench) verdicts(ctx context.Context, s *job.Step, image *rootfs.Image) error {
	out, err := os.MkdirTemp("", "kbuild-run-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(out)
	t := image.Kernel.Tree
	test := func(scenarios ...string) []string {
		return append([]string{"test", "--accel", "tcg", "--out", out, "--scenario", strings.Join(scenarios, ",")}, b.kernel()...)
	}
	all, err := tests.Scenarios("")
	if err != nil {
		return err
	}
	var names []string
	for _, one := range all {
		if one.Series == "" || one.Series == b.Series {
			names = append(names, one.Name)
		}
	}
	run := append([]string{"run", "--accel", "tcg", "--out", out}, b.kernel()...)
	variants := map[string][]string{oneTest: append(slices.Clone(run), "--scenario", "explorer")}
	if !b.Quick {
		variants[mainJob] = run
	}
	// What the first run of all has to build is not its time.
	if _, err := b.self(ctx, nil, variants[oneTest]...); err != nil {
		return err
	}
	for range b.Times(1, 3) {
		for _, v := range []string{oneTest, mainJob} {
			args := variants[v]
			if args == nil {
				continue
			}
			s.Progress("%s, %s", verdict, v)
			r, err := b.self(ctx, nil, args...)
			if err != nil {
				return err
			}
			b.Note(v, Elapsed(verdict, 0, r.time), Reading{"memory to verdict", 0, Bytes, r.peak})
			// The second on top of the first: to take that back is not its work.
			now := time.Now()
			var files []string
			for _, c := range []struct{ what, file string }{{"a header", "fs/smb/common/smb2pdu.h"}, {"a line of ksmbd", "fs/smb/server/server.c"}} {
				s.Progress("%s changed to verdict, %s", c.what, v)
				mbox := filepath.Join(out, "changed.mbox")
				files = append(files, c.file)
				forget, err := b.change(ctx, t, files, now, mbox)
				if err != nil {
					return err
				}
				r, err := b.self(ctx, nil, append(slices.Clone(args), "--mbox", mbox)...)
				if err != nil {
					return err
				}
				b.Note(v, Elapsed(c.what+" changed to verdict", 0, r.time), Reading{"memory to compile", 0, Bytes, r.peak})
				if err := forget(ctx); err != nil {
					return err
				}
			}
		}
	}
	for range b.Times(1, 3) {
		for _, n := range []int{1, 10, b.Times(30, len(names))} {
			s.Progress("%d scenarios", n)
			r, err := b.self(ctx, nil, test(names[:min(n, len(names))]...)...)
			if err != nil {
				return err
			}
			b.Note(ours, Elapsed("scenarios to verdict", float64(n), r.time))
		}
	}
	b.Note(ours, Reading{"disk", 0, Bytes, b.disk(image)})
	return nil
}

// change writes the series with more patches, each of which puts a line with the time
// into a file, to a mailbox. forget takes what was made of it out of the cache.
func (b *Bench) change(ctx context.Context, t *patches.Tree, files []string, now time.Time, mbox string) (forget func(context.Context) error, err error) {
	series, err := patches.FindSeries(b.Series, t.Base)
	if err != nil {
		return nil, err
	}
	n := len(series.Mails) + len(files)
	var all bytes.Buffer
	for i, m := range series.Mails {
		subject := fmt.Appendf(nil, "\nSubject: [PATCH %d/%d]", i+1, n)
		all.Write(bytes.Replace(m.Text, []byte("\nSubject: [PATCH]"), subject, 1))
	}
	for i, file := range files {
		text, err := t.Look(ctx, "show", t.Commit+":"+file)
		if err != nil {
			return nil, err
		}
		lines := strings.SplitN(string(text), "\n", 4)
		if len(lines) < 4 {
			return nil, fmt.Errorf("change %s: it has less than three lines", file)
		}
		fmt.Fprintf(&all, "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"+
			"From: A Developer <developer@example.org>\nDate: Thu, 1 Jan 2026 00:00:00 +0000\nSubject: [PATCH %d/%d] a change for a benchmark\n\n"+
			"---\ndiff --git a/%[3]s b/%[3]s\n--- a/%[3]s\n+++ b/%[3]s\n@@ -1,3 +1,4 @@\n %[4]s\n+/* benchmark %[5]d */\n %[6]s\n %[7]s\n-- \n2.39\n\n",
			len(series.Mails)+i+1, n, file, lines[0], now.UnixNano(), lines[1], lines[2])
	}
	if err := os.WriteFile(mbox, all.Bytes(), 0o644); err != nil {
		return nil, err
	}
	given, err := patches.ReadMailbox(ctx, b.Series, all.Bytes())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		var changed *patches.Tree
		err := (&job.Job{}).Step("tree", func(s *job.Step) (err error) {
			changed, err = patches.Prepare(ctx, s, patches.Options{Base: t.Base, Series: b.Series, Given: given})
			return err
		})
		if err != nil {
			return err
		}
		return forgetTree(ctx, changed.Key)
	}, nil
}

// forgetTree removes kernels and images of a tree from the cache.
func forgetTree(ctx context.Context, tree string) error {
	entries, err := cache.List()
	if err != nil {
		return err
	}
	kernels := map[string]bool{}
	for _, e := range entries {
		if e.Kind == "kernels" && e.Meta["tree"] == tree {
			kernels[e.Key] = true
		}
	}
	for _, e := range entries {
		if e.Kind == "kernels" && kernels[e.Key] || e.Kind == "rootfs" && kernels[e.Meta["kernel"]] {
			err = errors.Join(err, e.Remove(ctx))
		}
	}
	return err
}

// disk returns what the cache holds for this kernel: the source, the objects, the
// kernel, the image and what every image is made of.
func (b *Bench) disk(image *rootfs.Image) float64 {
	entries, err := cache.List()
	if err != nil {
		return 0
	}
	k := image.Kernel
	objects := "objects of " + k.Tree.Base + ", " + strings.Join(k.Fragments, "+")
	sum := uint64(0)
	for _, e := range entries {
		switch {
		case e.Kind == "bases" && e.Key == k.Tree.Base, e.Kind == "kernels" && e.Key == k.Key, e.Kind == "builds" && e.Meta["what"] == objects,
			e.Kind == "rootfs" && (e.Key == image.Key || e.Meta["kernel"] == "" && e.Meta["what"] != "agent"),
			e.Kind == "packages" && strings.HasPrefix(e.Meta["what"], "ksmbd-tools"):
			sum += e.Size
		}
	}
	return float64(sum)
}

// firstBuild runs the main job from an empty cache.
func (b *Bench) firstBuild(ctx context.Context, s *job.Step) error {
	dir, err := os.MkdirTemp("", "kbuild-run-bench-cache-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.Progress("the main job, from an empty cache")
	args := append([]string{"run", "--accel", "tcg", "--out", filepath.Join(dir, "out")}, b.kernel()...)
	r, err := b.self(ctx, []string{"XDG_CACHE_HOME=" + dir}, args...)
	if err != nil {
		return err
	}
	out, err := job.Command("du", "-s", "-B1", dir).Probe(ctx)
	if err != nil {
		return err
	}
	var size float64
	if _, err := fmt.Sscan(string(out), &size); err != nil {
		return err
	}
	b.Note(mainJob, Elapsed("empty cache to verdict", 0, r.time), Reading{"memory from an empty cache", 0, Bytes, r.peak},
		Reading{"disk from an empty cache", 0, Bytes, size})
	return nil
}

// watchMemory follows what the children of this program, and theirs, have resident,
// until it is asked for the peak.
func watchMemory() (peak func() float64) {
	stop, done := make(chan struct{}), make(chan float64)
	go func() {
		most := 0.
		for {
			most = max(most, resident(os.Getpid()))
			select {
			case <-stop:
				done <- most
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() float64 { close(stop); return <-done }
}

// statLine is /proc/PID/stat (proc(5)): the name may hold anything, so the last
// parenthesis counts. Parent and pages resident are fields 4 and 24.
var statLine = regexp.MustCompile(`^(\d+) \((?s:.*)\) \S (\d+)(?: \S+){19} (\d+)`)

// resident sums what the descendants of a process have resident.
func resident(pid int) float64 {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	children, pages := map[string][]string{}, map[string]float64{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if m := statLine.FindStringSubmatch(string(text)); m != nil {
			children[m[2]] = append(children[m[2]], m[1])
			var n float64
			fmt.Sscan(m[3], &n)
			pages[m[1]] = n
		}
	}
	sum := 0.
	for queue := children[fmt.Sprint(pid)]; len(queue) > 0; queue = queue[1:] {
		sum += pages[queue[0]]
		queue = append(queue, children[queue[0]]...)
	}
	return sum * float64(os.Getpagesize())
}

// lacking is why something cannot be measured on this host.
type lacking struct{ error }

// virtmePackages are virtme-ng with what it imports, of Debian's suite trixie: they
// are unpacked, not installed.
var virtmePackages = []string{"virtme-ng", "python3-argcomplete", "python3-requests", "python3-urllib3", "python3-idna",
	"python3-certifi", "python3-chardet", "python3-pkg-resources"}

const virtmeSuite = "trixie"

// virtmeNG returns a command for vng, without arguments.
func virtmeNG(ctx context.Context, s *job.Step) (*job.Cmd, error) {
	for _, tool := range []string{"apt-get", "dpkg-deb", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, lacking{err}
		}
	}
	// Its guest has the host's root, and finds its ports by udev.
	udev := false
	for _, f := range []string{"/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"} {
		_, err := os.Stat(f)
		udev = udev || err == nil
	}
	if !udev {
		return nil, lacking{errors.New("its guest wants the host's udevd, which is not installed; install it with: kbuild-run setup --with udevd")}
	}
	meta := map[string]string{"what": "virtme-ng of " + virtmeSuite}
	dir, cached, err := cache.Once(ctx, "packages", cache.Key(append([]string{virtmeSuite}, virtmePackages...)...), meta, func(dir string) error {
		apt := filepath.Join(dir, "apt")
		conf, err := patches.PrivateApt(ctx, s, apt, virtmeSuite)
		if err != nil {
			return lacking{err}
		}
		s.Progress("download virtme-ng")
		if err := job.Command("apt-get", append([]string{"-c", conf, "-q", "-o", "APT::Sandbox::User=", "download"}, virtmePackages...)...).In(apt).Run(ctx); err != nil {
			return lacking{err}
		}
		debs, err := filepath.Glob(filepath.Join(apt, "*.deb"))
		if err != nil {
			return err
		}
		for _, deb := range debs {
			if strings.HasPrefix(filepath.Base(deb), "virtme-ng_") {
				_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(deb), "_all.deb"), "_")
				meta["version"] = version
			}
			if err := job.Command("dpkg-deb", "-x", deb, dir).Run(ctx); err != nil {
				return err
			}
		}
		return os.RemoveAll(apt)
	})
	if err != nil {
		return nil, err
	}
	if cached {
		s.Cached()
		if meta, err = cache.Meta(dir); err != nil {
			return nil, err
		}
	}
	s.Note("virtme-ng %s", meta["version"])
	bin := filepath.Join(dir, "usr/bin")
	return job.Command("python3", filepath.Join(bin, "vng")).With("PYTHONPATH="+filepath.Join(dir, "usr/lib/python3/dist-packages"),
		"PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH")), nil
}

// vngRun runs uname in a guest of virtme-ng and returns how long that took. An
// answer that is not the kernel's release is an error.
func vngRun(ctx context.Context, vng *job.Cmd, kernel, release string) (time.Duration, error) {
	c := *vng
	c.Args = append(slices.Clone(vng.Args), "--disable-kvm", "--run", kernel, "--", "uname -r")
	ctx, stop := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no end after five minutes"))
	defer stop()
	began := time.Now()
	out, err := c.Probe(ctx)
	took := time.Since(began)
	if err == nil && strings.TrimSpace(string(out)) != release {
		err = fmt.Errorf("run vng: uname says %q, want %q", bytes.TrimSpace(out), release)
	}
	return took, err
}
