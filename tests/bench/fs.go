package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
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
operation is raw system calls on entries of an open directory; its figure is the median of
many, which leaves interrupts out. "rename" is there and back, "write" 4 KiB into the page
cache. The watches lie on directories beside the one that is worked in, on the same file
system. "inotify elsewhere" is inotify's there on the unpatched kernel: what any watch costs.
A metric "reported" is one in the watched tree itself, of a share watched for names and data
by a client that has read nothing yet, so that every change is kept for it; "watches gone" comes after all of them.
mkdir on ext4 and xfs looks for room: its figure wanders.`,
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

// place is a file system of the guest with a share on it.
type place struct{ name, share, dir string }

// fsGuest is a guest that counts instructions.
type fsGuest struct {
	vm     *vmrunner.VM
	places []place
	count  int
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
		g := &fsGuest{places: places, count: b.Times(400, 2000)}
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
	const names = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME
	const data = smb2.FILE_NOTIFY_CHANGE_SIZE | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE
	return j.Step("bench fs, watched", func(s *job.Step) error {
		return b.Alternate(ctx, s, 0, times,
			Variant{inotify, before.measure("/watched")},
			after.watched(flat, "watched", 1, client.Watch{Filter: names | data}),
			after.watched(treeNames, "watched", 1, client.Watch{Filter: names, Tree: true}),
			after.watched(treeData, "watched", 1, client.Watch{Filter: data, Tree: true}),
			after.watched(treeBoth, "watched", 1, client.Watch{Filter: names | data, Tree: true}),
			after.watched(manyTrees, "watched", 100, client.Watch{Filter: names | data, Tree: true}),
			after.watched(insideTree, "", 1, client.Watch{Filter: names | data, Tree: true}),
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
		conf += fmt.Sprintf("[%s]\n\tpath = %s\n\tread only = no\n", p.share, p.dir)
	}
	a := &rootfs.Archive{}
	a.File("etc/rc", []byte(rc+"ksmbd.mountd\n"), 0o644)
	a.File("etc/ksmbd/ksmbd.conf", []byte(conf), 0o644)
	return a
}

// measure runs the operations in each file system, while inotify watches a
// directory of it.
func (g *fsGuest) measure(inotify string) func(context.Context) ([]Reading, error) {
	return func(ctx context.Context) ([]Reading, error) { return g.run(ctx, inotify) }
}

func (g *fsGuest) run(ctx context.Context, inotify string) ([]Reading, error) {
	var all []Reading
	for _, p := range g.places {
		env := ""
		if inotify != "" {
			env = fmt.Sprintf("mkdir -p %[1]s; export FSCOST_INOTIFY=%[1]s; ", p.dir+inotify)
		}
		r, err := g.vm.Run(ctx, fmt.Sprintf("%sfscost %s/bench %d 3 10 30", env, p.dir, g.count))
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
	}
	return all, nil
}

// watched measures with n watches on directories of each file system: of the name
// dir and a number, or with "" the root of the share.
func (g *fsGuest) watched(name, dir string, n int, w client.Watch) Variant {
	w.Size = 64 << 10
	return Variant{name, func(ctx context.Context) (all []Reading, err error) {
		u := rootfs.Users[0]
		conn, err := client.Dial(ctx, g.vm.Addr(445), client.Options{User: u.Name, Password: u.Password})
		if err != nil {
			return nil, err
		}
		defer conn.Drop()
		session, err := conn.Login(ctx)
		if err != nil {
			return nil, err
		}
		var open []*client.File
		for _, p := range g.places {
			tree, err := session.TreeConnect(ctx, p.share)
			if err != nil {
				return nil, err
			}
			for i := range n {
				f, err := watch(ctx, tree, dir, i, w)
				if err != nil {
					return nil, err
				}
				open = append(open, f)
			}
		}
		if all, err = g.run(ctx, ""); err != nil {
			return nil, err
		}
		if dir == "" {
			for i := range all {
				all[i].Metric += ", reported"
			}
		}
		for _, f := range open {
			if err := f.Close(ctx); err != nil {
				return nil, err
			}
		}
		return all, nil
	}}
}

// watch opens a directory, made when it is not there, and watches it.
func watch(ctx context.Context, tree *client.Tree, dir string, n int, w client.Watch) (*client.File, error) {
	if dir != "" {
		dir = fmt.Sprintf("%s%d", dir, n)
	}
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
