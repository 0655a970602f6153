package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"kbuild-run/gen/smb2"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/client"
	"kbuild-run/vmrunner"
)

// Variants of the group fs.
const (
	unpatched  = "unpatched"
	unwatched  = "no watch"
	gone       = "watches gone"
	inotify    = "inotify elsewhere"
	flat       = "flat elsewhere"
	treeNames  = "tree, names"
	treeData   = "tree, data"
	treeBoth   = "tree, both"
	manyTrees  = "100 trees, both"
	insideTree = "inside the tree"
)

var fileSystem = Group{
	Name: "fs",
	About: `What operations cost on a file system that nobody watches, and on one where something
else is watched. Guest instructions, by QEMU's -icount: exact and repeatable, but no time. An
operation is raw system calls on entries of an open directory; its figure is what a tenth of
many stays below: nothing comes on top, no interrupt, no search for room on the disk. "rename"
is there and back, "write" 4 KiB into the page cache. The watches lie on directories beside the
one that is worked in, in six folders in turn, with the mean of the middle four. "inotify
elsewhere" is inotify's there on the unpatched kernel: what any watch costs. A metric "reported"
is one in the watched tree itself, of a share watched for names and data by a client that reads
nothing while it is measured, each operation as often as its buffer has room for, so that every
change is kept for it; "watches gone" comes after all of them.`,
	Axis:    "depth of the directory",
	Base:    unpatched,
	Percent: true,
	Bounds: []Bound{
		{Says: "nobody watches: no instruction more", Variant: unwatched, Against: unpatched, Limit: 1},
		{Says: "a flat watch elsewhere", Variant: flat, Against: unpatched, Limit: 1.01},
		{Says: "a tree watch on names: create and unlink", Metrics: "^create", Variant: treeNames, Against: unpatched, Limit: 1.1},
		{Says: "a tree watch on names: write", Metrics: "^write", Variant: treeNames, Against: unpatched, Limit: 1},
		{Says: "a tree watch on data: write of 4 KiB", Metrics: "^write", Variant: treeData, Against: unpatched, Limit: 1.1},
	},
	Run: runFS,
}

// What the watches are for.
const (
	names = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME
	data  = smb2.FILE_NOTIFY_CHANGE_SIZE | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE
)

// depths of the directories.
var depths = []int{3, 10, 30}

// operations of fscost, and the most records that each is.
var operations = []struct {
	name    string
	records int
}{{"create+unlink", 2}, {"mkdir+rmdir", 2}, {"rename", 4}, {"write", 1}, {"setxattr", 1}}

// buffer is the largest that ksmbd keeps changes in, in bytes: kept records of a
// name below 30 directories fit, and some that fscost makes beside.
const (
	buffer = 64 << 10
	kept   = 400
)

// groves are folders that are worked in, each with the directories that are watched:
// each has another key in hash tables, where what has the same hash costs instructions,
// and another place on the disk.
var groves = []string{"grove0", "grove1", "grove2", "grove3", "grove4", "grove5"}

// place is a file system of the guest with a share on it.
type place struct{ name, share, dir string }

// fsGuest is a guest that counts instructions.
type fsGuest struct {
	vm     *vmrunner.VM
	places []place
	count  int // how often an operation is done in a directory
}

func runFS(ctx context.Context, b *Bench) error {
	j := job.From(ctx)
	places := []place{{"tmpfs", "tmpfs", "/mnt/tmpfs/share"}, {"ext4", "share", "/srv/share"}}
	var disks []string
	err := j.Step("bench disk", func(s *job.Step) error {
		disk, err := xfsDisk(ctx, s)
		if err == nil {
			disks = []string{disk}
			places = append(places, place{"xfs", "xfs", "/mnt/xfs/share"})
		} else if errors.Is(err, exec.ErrNotFound) {
			b.Skip("xfs", "mkfs.xfs is not installed; install it with: kbuild-run setup --with mkfs.xfs")
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	guests := map[string]*fsGuest{}
	for role, series := range map[string]string{"before": "", "after": b.Series} {
		image, err := b.Image(ctx, series)
		if err != nil {
			return err
		}
		g := &fsGuest{places: places, count: b.Times(50, 300)}
		err = j.Step("boot "+role, func(s *job.Step) (err error) {
			g.vm, err = vmrunner.Start(ctx, s, image, vmrunner.Options{Count: true, Disks: disks,
				Dir: filepath.Join(b.Dir, "fs-"+role), Files: fsFiles(places)})
			if err == nil {
				err = g.vm.WaitSMB(ctx)
			}
			return err
		})
		if g.vm != nil {
			defer g.vm.Stop(context.WithoutCancel(ctx))
		}
		if err != nil {
			return err
		}
		guests[role] = g
	}
	before, after := guests["before"], guests["after"]
	times := b.Times(2, 5)
	err = j.Step("bench fs, unwatched", func(s *job.Step) error {
		return b.Alternate(ctx, s, 1, times, Variant{unpatched, before.measure("")}, Variant{unwatched, after.measure("")})
	})
	if err != nil {
		return err
	}
	return j.Step("bench fs, watched", func(s *job.Step) error {
		return b.Alternate(ctx, s, 0, times,
			Variant{inotify, before.measure("-inotify watched0")},
			after.watched(flat, 1, client.Watch{Filter: names | data}),
			after.watched(treeNames, 1, client.Watch{Filter: names, Tree: true}),
			after.watched(treeData, 1, client.Watch{Filter: data, Tree: true}),
			after.watched(treeBoth, 1, client.Watch{Filter: names | data, Tree: true}),
			after.watched(manyTrees, 100, client.Watch{Filter: names | data, Tree: true}),
			Variant{insideTree, after.reported},
			Variant{gone, after.measure("")})
	})
}

// fsFiles puts the file systems and their shares into the guest.
func fsFiles(places []place) *rootfs.Archive {
	rc := "set -e\nmodprobe ksmbd\n"
	conf := "[global]\n\tnetbios name = GUEST\n\tserver string = ksmbd under test\n\ttcp port = 445\n"
	for _, p := range places {
		if mount := filepath.Dir(p.dir); p.name != "ext4" {
			source := map[string]string{"tmpfs": "tmpfs", "xfs": "/dev/vdb"}[p.name]
			rc += fmt.Sprintf("mkdir -p %s\nmount -t %s %s %s\nmkdir %s\nchmod 777 %s\n", mount, p.name, source, mount, p.dir, p.dir)
		}
		for _, folder := range groves {
			rc += fmt.Sprintf("mkdir -p %[1]s/%[2]s/watched0\nchmod 777 %[1]s/%[2]s %[1]s/%[2]s/watched0\n", p.dir, folder)
		}
		conf += fmt.Sprintf("[%s]\n\tpath = %s\n\tread only = no\n", p.share, p.dir)
	}
	a := &rootfs.Archive{}
	a.File("etc/rc", []byte(rc+"ksmbd.mountd\n"), 0o644)
	a.File("etc/ksmbd/ksmbd.conf", []byte(conf), 0o644)
	return a
}

// measure runs the operations in the groves of each file system.
func (g *fsGuest) measure(options string) func(context.Context) ([]Reading, error) {
	return func(ctx context.Context) (all []Reading, err error) {
		for _, p := range g.places {
			some, err := g.grown(ctx, p, options, groves)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
		return middle(all), nil
	}
}

// grown runs the operations in some groves of a file system.
func (g *fsGuest) grown(ctx context.Context, p place, options string, folders []string) (all []Reading, err error) {
	for _, folder := range folders {
		some, err := g.fscost(ctx, p, folder, options, g.count, depths...)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// middle has one reading for each metric and size: the mean of the values without the
// lowest fifth and the highest.
func middle(all []Reading) (some []Reading) {
	values := make([][]float64, 0, len(all))
	for _, r := range all {
		i := slices.IndexFunc(some, func(s Reading) bool { return s.Metric == r.Metric && s.Size == r.Size })
		if i < 0 {
			i, some, values = len(some), append(some, r), append(values, nil)
		}
		values[i] = append(values[i], r.Value)
	}
	for i, v := range values {
		slices.Sort(v)
		some[i].Value = 0
		cut := len(v) / 5
		for _, x := range v[cut : len(v)-cut] {
			some[i].Value += x / float64(len(v)-2*cut)
		}
	}
	return some
}

// fscost runs it in a folder of a file system.
func (g *fsGuest) fscost(ctx context.Context, p place, folder, options string, count int, depths ...int) (all []Reading, err error) {
	r, err := g.vm.Run(ctx, fmt.Sprintf("cd %s/%s && fscost %s bench %d %s", p.dir, folder, options, count, strings.Trim(fmt.Sprint(depths), "[]")))
	if err != nil {
		return nil, err
	}
	if r.Code != 0 {
		return nil, fmt.Errorf("run fscost in the guest: exit status %d: %s", r.Code, strings.TrimSpace(string(r.Stderr)))
	}
	for line := range strings.Lines(string(r.Stdout)) {
		var op string
		var depth, steps float64
		if _, err := fmt.Sscan(line, &op, &depth, &steps); err != nil {
			return nil, fmt.Errorf("read fscost's %q: %w", line, err)
		}
		all = append(all, Reading{op + " on " + p.name, depth, Instructions, steps})
	}
	return all, nil
}

// watched measures with n watches of a file system, of directories in the groves: one
// in each in turn, or all of many at once.
func (g *fsGuest) watched(name string, n int, w client.Watch) Variant {
	w.Size = buffer
	turns := slices.Collect(slices.Chunk(groves, 1))
	if n > 1 {
		turns = [][]string{groves}
	}
	return Variant{name, func(ctx context.Context) (all []Reading, err error) {
		err = g.client(ctx, func(p place, tree *client.Tree) error {
			for _, folders := range turns {
				some, err := g.beside(ctx, p, tree, folders, n, w)
				if err != nil {
					return err
				}
				all = append(all, some...)
			}
			return nil
		})
		return middle(all), err
	}}
}

// beside runs the operations in some groves while n directories there are watched.
func (g *fsGuest) beside(ctx context.Context, p place, tree *client.Tree, folders []string, n int, w client.Watch) ([]Reading, error) {
	var open []*client.File
	for i := range n {
		f, err := watch(ctx, tree, fmt.Sprintf(`%s\watched%d`, folders[i%len(folders)], i/len(folders)), w)
		if err != nil {
			return nil, err
		}
		open = append(open, f)
	}
	readings, err := g.grown(ctx, p, "", folders)
	if err != nil {
		return nil, err
	}
	for _, f := range open {
		if err := f.Close(ctx); err != nil {
			return nil, err
		}
	}
	return readings, nil
}

// reported measures each operation with a watch of the tree that it is done in.
func (g *fsGuest) reported(ctx context.Context) (all []Reading, err error) {
	err = g.client(ctx, func(p place, tree *client.Tree) error {
		for _, depth := range depths {
			for _, op := range operations {
				some, err := g.inside(ctx, p, tree, "-op "+op.name, kept/op.records, depth)
				if err != nil {
					return fmt.Errorf("%s in the watched tree, at %d on %s: %w", op.name, depth, p.name, err)
				}
				all = append(all, some...)
			}
		}
		return nil
	})
	return all, err
}

// inside runs an operation while the share is watched, and makes sure that each change
// was kept.
func (g *fsGuest) inside(ctx context.Context, p place, tree *client.Tree, options string, count, depth int) ([]Reading, error) {
	w := client.Watch{Filter: names | data, Tree: true, Size: buffer}
	f, err := watch(ctx, tree, "", w)
	if err != nil {
		return nil, err
	}
	readings, err := g.fscost(ctx, p, "", options, count, depth)
	if err != nil {
		return nil, err
	}
	for i := range readings {
		readings[i].Metric += ", reported"
	}
	// The first change took the first request: this one gets the others.
	pending, err := f.Notify(ctx, w)
	if err != nil {
		return nil, err
	}
	r, err := pending.Final(ctx)
	if err != nil {
		return nil, err
	}
	if r.Status() != smb2.STATUS_SUCCESS {
		return nil, fmt.Errorf("CHANGE_NOTIFY says %v: not every change was kept", r.Status())
	}
	return readings, f.Close(ctx)
}

// client logs in and hands out each file system and its share, in turn.
func (g *fsGuest) client(ctx context.Context, do func(place, *client.Tree) error) error {
	u := rootfs.Users[0]
	conn, err := client.Dial(ctx, g.vm.Addr(445), client.Options{User: u.Name, Password: u.Password})
	if err != nil {
		return err
	}
	defer conn.Drop()
	session, err := conn.Login(ctx)
	if err != nil {
		return err
	}
	for _, p := range g.places {
		tree, err := session.TreeConnect(ctx, p.share)
		if err == nil {
			err = do(p, tree)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watch opens a directory, made when it is not there, and watches it.
func watch(ctx context.Context, tree *client.Tree, dir string, w client.Watch) (*client.File, error) {
	make := smb2.FILE_OPEN_IF
	f, err := tree.Create(ctx, dir, client.Create{Disposition: &make, Options: smb2.FILE_DIRECTORY_FILE})
	if err != nil {
		return nil, err
	}
	p, err := f.Notify(ctx, w)
	if err != nil {
		return nil, err
	}
	_, err = p.Interim(ctx)
	return f, err
}

// xfsDisk makes an empty xfs, as small as mkfs.xfs allows.
func xfsDisk(ctx context.Context, s *job.Step) (string, error) {
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		return "", err
	}
	const size = "512M"
	args := []string{"-q", "-f", "-m", "uuid=6b627569-6c64-4d72-956e-000000000002", "-d", "file,size=" + size}
	const name = "bench.xfs"
	dir, cached, err := cache.Once(ctx, "rootfs", cache.Key(append([]string{"xfs"}, args...)...),
		map[string]string{"what": "xfs disk for benchmarks, " + size}, func(dir string) error {
			s.Progress("make an xfs disk")
			return job.Command("mkfs.xfs", append(args, "-d", "name="+filepath.Join(dir, name))...).Run(ctx)
		})
	if cached {
		s.Cached()
	}
	return filepath.Join(dir, name), err
}
