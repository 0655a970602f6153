package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// layout is where watches are.
type layout struct {
	one, tree bool
	dirs      int
}

func (y layout) String() string {
	s := "flat"
	if y.tree {
		s = "tree"
	}
	if y.one {
		return s + "/one"
	}
	return s + "/many"
}

// dir is the directory of watch i. No folder gets more than a thousand entries, and
// none of the folders on the way is watched.
func (y layout) dir(i int) string {
	if y.one {
		return "bench/watches/one"
	}
	return fmt.Sprintf("bench/watches/%03d/%03d", i/1000, i%1000)
}

const elsewhere = "bench/elsewhere" // nobody watches it

// perConnection is how many watches a connection has: ksmbd lets 511 requests of
// one wait, as a Windows server does.
const perConnection = 500

// parallel is how many connections send at the same time.
const parallel = 4

// crowd is many watches on several connections.
type crowd struct {
	*load
	layout layout
	wires  []*wire
	all    []watch
}

// watches measures n watches. A step that takes longer than the budget ends it: how
// far it came is said, and no smaller number stands in for the one that was wanted.
func (l *load) watches(ctx context.Context, n, events int, y layout) error {
	err := l.crowd(ctx, n, events, y)
	if errors.Is(err, errLate) {
		l.figure(Figure{Name: "watches", Skip: err.Error()})
		return nil
	}
	return err
}

func (l *load) crowd(ctx context.Context, n, events int, y layout) error {
	c := &crowd{load: l, layout: y, all: make([]watch, n)}
	if err := c.folders(); err != nil {
		return err
	}
	began := time.Now()
	for range c.parts() {
		w, err := l.dial(ctx)
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(c.wires)+1, err)
		}
		defer w.drop()
		c.wires = append(c.wires, w)
	}
	l.value("connect", "ns", float64(time.Since(began)))
	for i := range c.all {
		c.all[i] = watch{wire: c.wires[i/perConnection], dir: y.dir(i), tree: y.tree, size: 4096}
	}

	// What costs something without a single watch is not a watch's.
	if err := c.nobody("none/before/", events); err != nil {
		return err
	}
	empty, err := l.memory()
	if err != nil {
		return err
	}
	if err := c.step("open", c.open); err != nil {
		return err
	}
	handles, err := l.memory()
	if err != nil {
		return err
	}
	if err := c.step("arm", c.arm); err != nil {
		return err
	}
	// Armed is what reports. Where all are told of all, some servers are slow to tell
	// the others.
	began = time.Now()
	if y.one {
		err = c.settleAll(began.Add(l.budget))
	} else {
		err = c.settleLast()
	}
	if err != nil {
		return err
	}
	armed, err := l.memory()
	if err != nil {
		return err
	}
	if n >= 1000 { // less is lost in the pages of slabs
		l.grown("handle", n, empty, handles)
		l.grown("watch", n, handles, armed)
	}
	if err := c.nobody("none/", events); err != nil {
		return err
	}
	if err := c.concerned(events); err != nil {
		return err
	}
	return c.step("close", c.close)
}

// folders makes the directories, a part of the disk and not of the measurement.
func (c *crowd) folders() error {
	if err := errors.Join(c.folder("bench/watches"), c.folder(elsewhere)); err != nil {
		return err
	}
	if c.layout.one {
		return c.folder(c.layout.dir(0))
	}
	for i := range max(len(c.all), c.layout.dirs) {
		path := filepath.Join(c.root, c.layout.dir(i))
		if i%1000 == 0 {
			if err := c.folder(filepath.Dir(c.layout.dir(i))); err != nil {
				return err
			}
		}
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(path, 0o777); err != nil {
			return err
		}
	}
	return nil
}

// parts are the watches of each connection.
func (c *crowd) parts() [][]watch { return slices.Collect(slices.Chunk(c.all, perConnection)) }

// settleLast is settle for the last watch of each connection, which was the last in
// its queue.
func (c *crowd) settleLast() error {
	for _, part := range c.parts() {
		if err := c.settle(&part[len(part)-1]); err != nil {
			return err
		}
	}
	return nil
}

// settleAll is settle for watches of one directory.
func (c *crowd) settleAll(limit time.Time) error {
	if err := c.settle(&c.all[0]); err != nil {
		return err
	}
	for i := 1; i < len(c.all); i++ {
		if time.Now().After(limit) {
			return fmt.Errorf("the first change was told to %d of %d: %w", i, len(c.all), errLate)
		}
		w := &c.all[i]
		if _, err := w.hears(settled, true); err != nil {
			return err
		}
		if err := w.again(); err != nil {
			return err
		}
	}
	return nil
}

// step does something with all watches, on several connections at once, and prints
// how long it took.
func (c *crowd) step(name string, do func(all []watch, limit time.Time, done *atomic.Int64) error) error {
	before := c.cpu()
	began := time.Now()
	var done atomic.Int64
	parts := c.parts()
	errs := make([]error, len(parts))
	turn := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			errs[i] = do(part, began.Add(c.budget), &done)
		})
	}
	group.Wait()
	took := time.Since(began)
	err := errors.Join(errs...)
	if errors.Is(err, errLate) {
		return fmt.Errorf("%s: %d of %d in %v: %w", name, done.Load(), len(c.all), took.Round(time.Second), errLate)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.value(name, "ns", float64(took))
	c.value(name+"/cpu", "ns", float64(c.since(before)))
	return nil
}

func (c *crowd) open(all []watch, limit time.Time, done *atomic.Int64) error {
	return all[0].each(len(all), limit,
		func(i int) (smb2.Command, smb2.Message) { return smb2.SMB2_CREATE, openRequest(all[i].dir) },
		func(i int, m message) (err error) {
			done.Add(1)
			all[i].id, err = opened(m)
			return err
		}, unexpected)
}

func (c *crowd) arm(all []watch, limit time.Time, done *atomic.Int64) error {
	first := all[0].wire.mid
	return all[0].each(len(all), limit,
		func(i int) (smb2.Command, smb2.Message) {
			all[i].mid = first + uint64(i)
			return smb2.SMB2_CHANGE_NOTIFY, all[i].request()
		},
		func(i int, m message) error {
			if m.Status != smb2.STATUS_PENDING {
				return fmt.Errorf("CHANGE_NOTIFY on %s: %v", all[i].dir, m.Status)
			}
			done.Add(1)
			return nil
		}, unexpected)
}

// close closes all directories while their requests wait: each gets its final
// response too.
func (c *crowd) close(all []watch, limit time.Time, done *atomic.Int64) error {
	open := len(all)
	ended := func(m message) error {
		if m.Status == smb2.STATUS_PENDING {
			return unexpected(m)
		}
		open--
		return nil
	}
	w := all[0].wire
	for _, m := range w.seen { // told of something late
		if err := ended(m); err != nil {
			return err
		}
	}
	w.seen = nil
	err := w.each(len(all), limit,
		func(i int) (smb2.Command, smb2.Message) { return smb2.SMB2_CLOSE, closeRequest(all[i].id) },
		func(i int, m message) error {
			if m.Status != smb2.STATUS_SUCCESS {
				return fmt.Errorf("CLOSE of %s: %v", all[i].dir, m.Status)
			}
			done.Add(1)
			return nil
		}, ended)
	for err == nil && open > 0 {
		var m message
		if m, err = w.next(); err == nil {
			err = ended(m)
		}
	}
	return err
}

func unexpected(m message) error {
	return fmt.Errorf("%v %v for message id %d was not expected", m.Command, m.Status, m.MessageId)
}

// nobody measures changes that nobody watches: by a local process the calls
// themselves, by a client the time to its own responses.
func (c *crowd) nobody(name string, events int) error {
	calls, err := untold(filepath.Join(c.root, elsewhere), 10*events)
	if err != nil {
		return err
	}
	var requests []time.Duration
	w := c.wires[0]
	file := w.file(elsewhere)
	before := c.cpu()
	for range events {
		began := time.Now()
		_, closed, err := file("file")
		if err == nil {
			err = closed()
		}
		if err != nil {
			return err
		}
		requests = append(requests, time.Since(began))
	}
	c.value(name+"client/cpu", "ns", float64(c.since(before))/float64(events))
	c.times(name+"local", calls)
	c.times(name+"client", requests)
	return nil
}

// untold makes and removes a file n times and returns how long each took: raw system
// calls on an open directory, and nothing of Go's in between. Under a clock that
// counts instructions that is the cost of the calls.
func untold(dir string, n int) ([]time.Duration, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	name := []byte("file\x00")
	calls := make([]time.Duration, n)
	for i := range calls {
		began := time.Now()
		file, _, e1 := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(fd), uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o666, 0, 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_CLOSE, file, 0, 0)
		_, _, e3 := unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(fd), uintptr(unsafe.Pointer(&name[0])), 0)
		calls[i] = time.Since(began)
		for _, e := range []syscall.Errno{e1, e2, e3} {
			if e != 0 {
				return nil, fmt.Errorf("make and remove %s/file: %w", dir, e)
			}
		}
	}
	return calls, nil
}

// concerned measures changes that concern one watch of all, here and there, or all
// watches where these are of one directory.
func (c *crowd) concerned(events int) error {
	name := "concerns-one"
	if c.layout.one {
		name, events = "concerns-all", 3
	}
	var latency []time.Duration
	before := c.cpu()
	for i := range events {
		w := &c.all[int(uint64(i)*2654435761%uint64(len(c.all)))]
		file := fmt.Sprintf("event%d", i)
		path := filepath.Join(c.root, w.dir, file)
		began, err := create(path)
		if err != nil {
			return err
		}
		last, err := c.told(w, client.Change{Action: smb2.FILE_ACTION_ADDED, Name: file})
		if err != nil {
			return err
		}
		latency = append(latency, last.Sub(began))
		if err := os.Remove(path); err != nil {
			return err
		}
		if _, err := c.told(w, client.Change{Action: smb2.FILE_ACTION_REMOVED, Name: file}); err != nil {
			return err
		}
	}
	c.times(name, latency)
	c.value(name+"/cpu", "ns", float64(c.since(before))/float64(2*events))
	return nil
}

// told waits until everybody concerned has been told and returns when the last one
// was.
func (c *crowd) told(w *watch, want client.Change) (time.Time, error) {
	if c.layout.one {
		return c.hear(want)
	}
	return w.told(want)
}

// hear waits until all watches tell the change, and arms them again.
func (c *crowd) hear(want client.Change) (last time.Time, err error) {
	limit := time.Now().Add(c.budget)
	for i := range c.all {
		at, err := c.all[i].hears(want, false)
		switch {
		case err != nil:
			return last, err
		case time.Now().After(limit):
			return last, fmt.Errorf("%d of %d were told in %v: %w", i+1, len(c.all), c.budget, errLate)
		case at.After(last):
			last = at
		}
	}
	for i := range c.all {
		if err := c.all[i].again(); err != nil {
			return last, err
		}
	}
	return last, nil
}
