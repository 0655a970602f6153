package kconfigs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"kbuild-run/gen/kernel"
	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// tools that Kbuild runs. What else it needs are headers, which it names itself.
var tools = []string{"make", "gcc", "ld", "flex", "bison", "bc"}

// Space that a build folder and the kernel taken from it need.
const buildSpace = 2 << 30

// environment makes the kernel depend on nothing but the source, the config and
// the compiler (Documentation/kbuild/reproducible-builds.rst). What a make around
// us hands to its children is taken back: the number of jobs is ours.
var environment = []string{
	"KBUILD_BUILD_TIMESTAMP=1991-09-17 00:00:00 UTC", "KBUILD_BUILD_USER=kbuild-run", "KBUILD_BUILD_HOST=localhost",
	"KBUILD_BUILD_VERSION=1", "LC_ALL=C", "MAKEFLAGS=", "MFLAGS=", "MAKELEVEL=",
}

// Counted is the folder in whose objects gcov counts, if the kernel has it.
const Counted = "fs/smb/server"

// counting stands on make's command line, where it wins over what a Makefile says
// for its own folder; Kbuild knows the folder as obj (scripts/Makefile.lib).
const counting = "GCOV_PROFILE=$(if $(filter " + Counted + " " + Counted + "/%,$(obj)),y,n)"

// folder is a build folder: O= of one base, set of fragments and compiler.
type folder struct {
	t         *patches.Tree
	tree, dir string
	clang     bool   // compile with clang
	expected  string // file with the number of objects of a build from nothing
}

func openFolder(t *patches.Tree, names []string, cc string) (*folder, error) {
	set := strings.ReplaceAll(strings.Join(names, "+"), "/", "_")
	dir, err := cache.Path("builds", t.Base+"-"+cache.Key(t.Repository(), set, cc))
	if err != nil {
		return nil, err
	}
	return &folder{t: t, dir: dir, expected: filepath.Join(filepath.Dir(dir), "objects-"+set)}, nil
}

// make returns a make command on the tree. The variables stand on the command
// line, where they win over the environment's.
func (f *folder) make(args ...string) *job.Cmd {
	all := append([]string{"--no-print-directory", "-C", f.tree, "O=" + f.dir, "-j" + strconv.Itoa(runtime.NumCPU()),
		"ARCH=x86_64", "CROSS_COMPILE=", "LLVM=", "LOCALVERSION=", "KCFLAGS=", counting}, args...)
	if f.clang {
		all = append(all, "CC=clang")
	}
	return job.Command("make", all...).With(environment...)
}

// build builds k into dir, adds to meta what it found out, and returns how many
// objects were compiled.
func build(ctx context.Context, s *job.Step, k *Kernel, want []line, dir string, meta map[string]string) (objects int, err error) {
	if err := needs(); err != nil {
		return 0, err
	}
	if !job.From(ctx).DryRun {
		if err := cache.NeedSpace(buildSpace); err != nil {
			return 0, err
		}
	}
	f, release, err := enter(ctx, s, k.Tree, k.Fragments, k.Compiler)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := f.configure(ctx, s, want); err != nil {
		return 0, err
	}
	if objects, err = f.compile(ctx, s); err != nil {
		return 0, err
	}
	s.Progress("install modules")
	modules := filepath.Join(dir, "modules")
	if err := f.make("INSTALL_MOD_PATH="+modules, "modules_install").Run(ctx); err != nil {
		return 0, err
	}
	for from, to := range map[string]string{"arch/x86/boot/bzImage": "bzImage", "vmlinux": "vmlinux", ".config": "config", "System.map": "System.map"} {
		if err := copyFile(ctx, filepath.Join(f.dir, from), filepath.Join(dir, to)); err != nil {
			return 0, fmt.Errorf("keep %s: %w", to, err)
		}
	}
	if job.From(ctx).DryRun {
		meta["release"] = "RELEASE"
		return 0, nil
	}
	if err := f.keepNotes(filepath.Join(dir, "notes")); err != nil {
		return 0, fmt.Errorf("keep gcov's notes: %w", err)
	}
	r, err := os.ReadFile(filepath.Join(f.dir, "include/config/kernel.release"))
	if err != nil {
		return 0, err
	}
	meta["release"] = strings.TrimSpace(string(r))
	// Links into the build folder mean nothing in a guest.
	for _, link := range []string{"build", "source"} {
		if err := os.Remove(filepath.Join(modules, "lib/modules", meta["release"], link)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	return objects, nil
}

// keepNotes copies what gcov has to know of the objects in which it counts, if
// there are any.
func (f *folder) keepNotes(dir string) error {
	objects := os.DirFS(filepath.Join(f.dir, Counted))
	return fs.WalkDir(objects, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case name == "." && errors.Is(err, fs.ErrNotExist): // a tree without it
			return fs.SkipAll
		case err != nil || filepath.Ext(name) != ".gcno":
			return err
		}
		text, err := fs.ReadFile(objects, name)
		if err == nil {
			err = os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), text, 0o644)
	})
}

// enter puts the tree in place and takes the build folder, until release.
func enter(ctx context.Context, s *job.Step, t *patches.Tree, names []string, cc string) (f *folder, release func(), err error) {
	if f, err = openFolder(t, names, cc); err != nil {
		return nil, nil, err
	}
	s.Progress("check out %s", t)
	tree, done, err := t.Checkout(ctx)
	if err != nil {
		return nil, nil, err
	}
	f.tree = tree
	if job.From(ctx).DryRun {
		return f, done, nil
	}
	unlock, err := cache.Lock(ctx, f.dir)
	if err != nil {
		done()
		return nil, nil, err
	}
	release = func() { unlock(); done() }
	if err = os.MkdirAll(f.dir, 0o755); err == nil {
		err = cache.WriteMeta(f.dir, map[string]string{"what": "objects of " + t.Base + ", " + strings.Join(names, "+"), "compiler": cc})
	}
	if err == nil {
		err = f.mend()
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return f, release, nil
}

// Open puts the tree of a base and a series in place and, with objects, compiles what
// the kernel of the default fragments has of gen/kernel.Units. Source and build folder
// are the caller's until done.
func Open(ctx context.Context, base, series string, objects bool) (source, build string, done func(), err error) {
	j := job.From(ctx)
	var t *patches.Tree
	err = j.Step("tree", func(s *job.Step) (err error) {
		t, err = patches.Prepare(ctx, s, patches.Options{Base: base, Series: series})
		return err
	})
	if err != nil {
		return "", "", nil, err
	}
	if !objects {
		source, done, err = t.Checkout(ctx)
		return source, "", done, err
	}
	err = j.Step("objects", func(s *job.Step) error {
		names, want, err := Options{}.request(t.Base)
		if err != nil {
			return err
		}
		if err := needs(); err != nil {
			return err
		}
		cc, err := compiler(ctx)
		if err != nil {
			return err
		}
		f, release, err := enter(ctx, s, t, names, cc)
		if err != nil {
			return err
		}
		targets := make([]string, len(kernel.Units))
		for i, u := range kernel.Units {
			targets[i] = u + ".o"
		}
		if err = f.configure(ctx, s, want); err == nil {
			_, err = f.compile(ctx, s, targets...)
		}
		if err != nil {
			release()
			return err
		}
		source, build, done = f.tree, f.dir, release
		s.Note("%s", strings.Join(targets, ", "))
		return nil
	})
	return source, build, done, err
}

// configure makes .config and checks that nothing asked for is lost. A .config
// that does not change keeps its date.
func (f *folder) configure(ctx context.Context, s *job.Step, want []line) error {
	s.Progress("configure")
	if f.configured(ctx, want) {
		return nil
	}
	request := filepath.Join(f.dir, "request.config")
	if j := job.From(ctx); j.DryRun {
		fmt.Fprintf(j.Out, "mkdir -p %s && cat > %s <<'EOF'\n%sEOF\n", job.Quote(f.dir), job.Quote(request), text(want))
	} else if err := os.WriteFile(request, []byte(text(want)), 0o644); err != nil {
		return err
	}
	if err := f.make("KCONFIG_ALLCONFIG="+request, "allnoconfig").Run(ctx); err != nil {
		return err
	}
	if err := f.make("olddefconfig").Run(ctx); err != nil || job.From(ctx).DryRun {
		return err
	}
	c, err := readConfig(f.dir)
	if err != nil {
		return err
	}
	if lost := c.lost(want); len(lost) > 0 {
		if err := lostError(f.tree, c, lost); err != nil {
			return fmt.Errorf("configure the kernel: %w", err)
		}
	}
	return os.WriteFile(f.stamp(), []byte(f.t.Commit+" "+f.configKey(want)), 0o644)
}

// stamp is the file that says which commit and which request .config is of.
func (f *folder) stamp() string { return filepath.Join(f.dir, "configured") }

// configKey stands for the request and for the .config made of it.
func (f *folder) configKey(want []line) string {
	made, err := os.ReadFile(filepath.Join(f.dir, ".config"))
	if err != nil {
		return ""
	}
	return cache.Key(text(want), string(made))
}

// configured says that .config is what configure would make. It saves the four
// seconds that allnoconfig and olddefconfig take, on each turn of the loop from
// a changed line to a verdict.
func (f *folder) configured(ctx context.Context, want []line) bool {
	b, err := os.ReadFile(f.stamp())
	if err != nil {
		return false
	}
	commit, key, _ := strings.Cut(string(b), " ")
	return key == f.configKey(want) && f.t.Same(ctx, commit, "*Kconfig*", "scripts", "Makefile", "arch/x86/Makefile*")
}

// compiled is how Kbuild names an object it makes.
var compiled = regexp.MustCompile(`^  (CC|AS)( \[M\])? `)

// compile builds targets, or the kernel and its modules, and returns how many objects
// were compiled.
func (f *folder) compile(ctx context.Context, s *job.Step, targets ...string) (objects int, err error) {
	about, most := "", 0
	_, err = os.Stat(filepath.Join(f.dir, "vmlinux"))
	whole := errors.Is(err, os.ErrNotExist) && len(targets) == 0
	if len(targets) == 0 {
		targets = []string{"bzImage", "modules"}
	}
	if b, err := os.ReadFile(f.expected); err == nil && whole {
		if most, _ = strconv.Atoi(strings.TrimSpace(string(b))); most > 0 {
			about = fmt.Sprintf(" of about %d", most)
		}
	}
	// Each target's output in one piece, so that an error keeps its lines.
	c := f.make(append([]string{"--output-sync=target"}, targets...)...)
	var e complaints
	c.Line = func(l string) {
		if compiled.MatchString(l) {
			objects++
		}
		e.line(l)
		s.Progress("%d%s objects", objects, about)
	}
	if !job.From(ctx).DryRun {
		if err := os.WriteFile(f.mark(), nil, 0o644); err != nil {
			return 0, err
		}
	}
	err = c.Run(ctx)
	switch {
	case job.From(ctx).DryRun:
		return 0, err
	case err == nil && whole && objects > most: // one that goes on after an interrupt counts the rest only
		if err := os.WriteFile(f.expected, []byte(strconv.Itoa(objects)+"\n"), 0o644); err != nil {
			return 0, err
		}
	}
	if !killed(err) {
		os.Remove(f.mark())
	}
	if err == nil || ctx.Err() != nil || len(e.text) == 0 {
		return objects, err
	}
	said := strings.Join(e.text, "\n")
	if hostHeader.MatchString(said) {
		return 0, fmt.Errorf("compile the kernel's own tools:\n%s\ninstall the header with: kbuild-run setup", said)
	}
	return 0, job.Failed(fmt.Errorf("compile the kernel:\n%s", said))
}

// mark is a file that is there while make runs.
func (f *folder) mark() string { return filepath.Join(f.dir, "build-unfinished") }

// killed says that make had no time to remove the targets it was at.
func killed(err error) bool {
	var x *exec.ExitError
	return err != nil && (!errors.As(err, &x) || x.ExitCode() < 0)
}

// torn is how long before its end a dying machine or make may have left half a
// file: more than ext4's 30 s until written data reach the disk.
const torn = time.Minute

// mend removes the files that were made last before a build was killed.
func (f *folder) mend() error {
	if _, err := os.Stat(f.mark()); err != nil {
		return nil
	}
	made := map[string]time.Time{}
	var last time.Time
	err := filepath.WalkDir(f.dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch d.Name() {
		case ".config", "request.config", "metadata.json", "configured", filepath.Base(f.mark()):
			return nil
		}
		if made[name] = fi.ModTime(); fi.ModTime().After(last) {
			last = fi.ModTime()
		}
		return nil
	})
	for name, at := range made {
		if err == nil && last.Sub(at) < torn {
			err = os.Remove(name)
		}
	}
	if err != nil {
		return fmt.Errorf("mend the build folder %s: %w", f.dir, err)
	}
	return os.Remove(f.mark())
}

// complaints keeps what compilers and linkers find wrong with the source.
type complaints struct {
	text []string
	in   bool
}

var (
	// "fs/smb/server/vfs.c:12:3: error: ...", modpost's "ERROR: ...", ld's
	// "vfs.c:(.text+0x12): undefined reference to ...".
	complaint = regexp.MustCompile(`: (fatal )?error: |^ERROR: |undefined reference to |multiple definition of |^\S+\.[chS]:\d+:\d+: (fatal )?error`)
	// Headers of libelf-dev and libssl-dev, which objtool and the programs
	// under scripts/ and certs/ include.
	hostHeader = regexp.MustCompile(`fatal error: (g?elf|libelf|openssl/\w+)\.h: No such file`)

	progress = regexp.MustCompile(`^(  [A-Z][A-Z0-9_]+( \[M\])? |make(\[\d+\])?: )`)
)

// line takes one line of make's output: a complaint lasts until make speaks
// again, so that the source line and the arrow stay with it.
func (e *complaints) line(l string) {
	switch {
	case complaint.MatchString(l):
		e.in = true
	case progress.MatchString(l):
		e.in = false
	}
	if e.in && len(e.text) < 40 {
		e.text = append(e.text, l)
	}
}

// needs says which tools are missing.
func needs() error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			missing = append(missing, t)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("build the kernel: %s is not installed; install it with: kbuild-run setup", strings.Join(missing, ", "))
	}
	return nil
}

// copyFile copies a file, or prints the command that would.
func copyFile(ctx context.Context, from, to string) error {
	if j := job.From(ctx); j.DryRun {
		fmt.Fprintln(j.Out, "cp", job.Quote(from), job.Quote(to))
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
