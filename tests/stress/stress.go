// Package stress works a server hard: a share -> what got lost.
//
// Four parties meet. Mirrors watch a tree and know it from the records alone, as
// Windows Explorer does. Local processes and polite clients change that tree.
// Rude clients arm watches on other folders, cancel, close, log off and drop
// connections at random. Visitors share a folder, which each in turn is the last
// to close. Now and then the server is ended, its module removed and
// loaded again, with the local processes still at work.
//
// Every few seconds the changes pause, and each mirror is compared with the tree:
// what is missing or too much, and was not replaced by STATUS_NOTIFY_ENUM_DIR, is
// a lost event.
package stress

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// Server is what is worked on.
type Server struct {
	Addr, Share string
	User        client.Credentials

	// Addrs are more ways to the server, which the connections take in turn; nil:
	// all take Addr.
	Addrs []string

	// Shell runs a command as a local process of the server in the share's folder
	// and returns what it prints.
	Shell func(ctx context.Context, command string) (string, error)

	// Restart ends the server, removes its module, loads it and starts the server;
	// nil: it is left running.
	Restart func(ctx context.Context) error

	// Deadline stretches a time that is right on a fast server.
	Deadline func(time.Duration) time.Duration
}

// Count is what was done.
type Count struct {
	Changes   atomic.Int64 // by local processes and polite clients
	Requests  atomic.Int64 // CHANGE_NOTIFY, of rude clients
	Finals    atomic.Int64 // their final responses
	Drops     atomic.Int64 // connections that a rude client left open
	Records   atomic.Int64 // that the mirrors were told
	Overflows atomic.Int64 // STATUS_NOTIFY_ENUM_DIR to the mirrors
	Compared  atomic.Int64 // mirrors that equal the tree
	Read      atomic.Int64 // mirrors that had to read the tree after an overflow
	Restarts  atomic.Int64
}

func (c *Count) String() string {
	return fmt.Sprintf("%d changes, %d records and %d overflows to mirrors, %d comparisons and %d rescans; %d requests of others with %d final responses, %d connections dropped; %d restarts",
		c.Changes.Load(), c.Records.Load(), c.Overflows.Load(), c.Compared.Load(), c.Read.Load(),
		c.Requests.Load(), c.Finals.Load(), c.Drops.Load(), c.Restarts.Load())
}

// Folders below the share.
const (
	mirrored = "mirrored" // watched by mirrors
	outside  = "outside"  // where things come from and go to
	wild     = "wild"     // of rude clients
	visited  = "visited"  // of visitors
)

// stress is one run.
type stress struct {
	Server
	Count
	world   sync.RWMutex // held for reading while one changes the mirrored tree
	logins  atomic.Int64
	batch   atomic.Int64 // changes that a local process makes at a time
	mirrors []*mirror

	mu       sync.Mutex
	problems []string
}

// problem takes down what is wrong with the server.
func (s *stress) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.problems) < 20 {
		s.problems = append(s.problems, fmt.Sprintf(format, args...))
	}
}

// Run works on the server for d and returns what was done and what is wrong. The
// error is why it could not go on.
func Run(ctx context.Context, server Server, d time.Duration, progress func(*Count)) (*Count, []string, error) {
	s := &stress{Server: server}
	s.batch.Store(50)
	if _, err := s.Shell(ctx, "rm -rf "+mirrored+" "+outside+" "+wild+" "+visited+"; mkdir -p "+mirrored+" "+outside+" "+visited+" "+wild+"/a/c "+wild+"/b; chmod 777 . * */* */*/*"); err != nil {
		return &s.Count, nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, m := range []*mirror{
		{size: 65536},
		{size: 65536, options: client.Options{Encrypt: true}},
		{size: 8192, options: client.Options{Signing: client.SigningEnabled}},
		{size: 600},
	} {
		m.stress, m.seen = s, make(chan string, 1)
		m.name = fmt.Sprintf("mirror with a buffer of %d", m.size)
		s.mirrors = append(s.mirrors, m)
	}
	var wg sync.WaitGroup
	work := func(f func(context.Context, *rand.Rand)) {
		r := rand.New(rand.NewPCG(uint64(seed.Add(1)), uint64(time.Now().UnixNano())))
		wg.Go(func() {
			for ctx.Err() == nil {
				f(ctx, r)
			}
		})
	}
	for _, m := range s.mirrors {
		work(func(ctx context.Context, _ *rand.Rand) { m.watch(ctx) })
	}
	for range 3 {
		work(s.rude)
	}
	work(s.polite)
	for range 2 {
		work(s.local)
		work(s.visitor)
	}
	work(s.localWild)

	var err error
	end := time.Now().Add(d)
	restart := time.Now()
	for err == nil && ctx.Err() == nil && time.Now().Before(end) {
		s.pause(ctx, s.Deadline(time.Second))
		if s.Restart != nil && time.Since(restart) > s.Deadline(5*time.Second) {
			if err = s.Restart(ctx); err != nil {
				err = fmt.Errorf("restart the server: %w", err)
				break
			}
			s.Restarts.Add(1)
			s.pause(ctx, s.Deadline(time.Second))
			restart = time.Now()
		}
		err = s.compare(ctx)
		progress(&s.Count)
	}
	if err == nil {
		err = s.compare(ctx)
	}
	stop()
	wg.Wait()
	if s.Compared.Load() == 0 && err == nil {
		s.problem("no mirror was ever compared with the tree")
	}
	return &s.Count, s.problems, err
}

// seed is another number each time.
var seed atomic.Int64

func (s *stress) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// local is a process of the server's machine in the mirrored tree.
func (s *stress) local(ctx context.Context, r *rand.Rand) {
	s.world.RLock()
	defer s.world.RUnlock()
	n := s.batch.Load()
	began := time.Now()
	if _, err := s.Shell(ctx, fmt.Sprintf("churn %s %s %d %d", mirrored, outside, n, r.Uint32())); err != nil && ctx.Err() == nil {
		s.problem("churn: %v", err)
	}
	s.Changes.Add(n)
	switch took := time.Since(began); {
	case took > s.Deadline(time.Second):
		s.batch.Store(max(50, n/2))
	case took < s.Deadline(time.Second)/4:
		s.batch.Store(min(1000, 2*n))
	}
}

// localWild is one in the folders of rude clients, which it removes and makes again.
func (s *stress) localWild(ctx context.Context, r *rand.Rand) {
	s.Shell(ctx, fmt.Sprintf("churn %s %s 100 %d; rm -rf %s/a; mkdir -p %s/a/c %s/b; chmod 777 %s/* %s/*/*", wild, outside, r.Uint32(), wild, wild, wild, wild, wild))
}

// login connects and opens the share.
func (s *stress) login(ctx context.Context, o client.Options) (*client.Tree, error) {
	o.User, o.Password, o.Domain = s.User.User, s.User.Password, s.User.Domain
	addr := s.Addr
	if n := int64(len(s.Addrs)); n > 0 {
		addr = s.Addrs[s.logins.Add(1)%n]
	}
	c, err := client.Dial(ctx, addr, o)
	if err != nil {
		return nil, err
	}
	session, err := c.Login(ctx)
	if err == nil {
		var t *client.Tree
		if t, err = session.TreeConnect(ctx, s.Share); err == nil {
			return t, nil
		}
	}
	c.Drop()
	return nil, err
}

// enter is login for some seconds at most, after which one ends; the caller calls
// leave. Where the server does not answer, it has waited a little, and t is nil.
func (s *stress) enter(ctx context.Context, o client.Options) (one context.Context, t *client.Tree, leave func()) {
	one, cancel := context.WithTimeout(ctx, s.Deadline(10*time.Second))
	t, err := s.login(one, o)
	if err != nil {
		cancel()
		s.pause(ctx, 100*time.Millisecond)
		return one, nil, nil
	}
	return one, t, func() {
		s.leave(t)
		cancel()
	}
}

// leave ends a connection, and takes down what was wrong with the answers on it.
func (s *stress) leave(t *client.Tree) {
	c := t.Session.Conn
	for _, v := range c.Violations() {
		s.problem("violation: %v", v)
	}
	c.Drop()
}

var (
	openIf    = smb2.FILE_OPEN_IF
	allAccess = smb2.AccessMask(0x1f01ff)
)

// polite changes files of the mirrored tree as a client, and finishes what it
// begins.
func (s *stress) polite(ctx context.Context, r *rand.Rand) {
	one, t, leave := s.enter(ctx, client.Options{})
	if t == nil {
		return
	}
	defer leave()
	entry := func() string {
		p := mirrored
		for range 1 + r.IntN(3) {
			p += `\` + string(rune('a'+r.IntN(6)))
		}
		return p
	}
	for range 20 {
		if one.Err() != nil {
			return
		}
		s.politeOne(one, t, r, entry)
	}
}

func (s *stress) politeOne(ctx context.Context, t *client.Tree, r *rand.Rand, entry func() string) {
	s.world.RLock()
	defer s.world.RUnlock()
	f, err := t.Create(ctx, entry(), client.Create{Access: allAccess, Disposition: &openIf, Options: smb2.FILE_NON_DIRECTORY_FILE})
	if err != nil {
		return
	}
	switch r.IntN(4) {
	case 0:
		f.Write(ctx, 0, []byte("hello"))
	case 1:
		f.Rename(ctx, entry(), true)
	case 2:
		f.Delete(ctx, true)
	case 3:
		f.SetEnd(ctx, uint64(r.IntN(1000)))
	}
	f.Close(ctx)
	s.Changes.Add(1)
}

// visitor opens a folder or a file in it and closes that at once. The server looks at
// the folder's state for the one, while the other was the last to have it open.
func (s *stress) visitor(ctx context.Context, r *rand.Rand) {
	one, t, leave := s.enter(ctx, client.Options{})
	if t == nil {
		return
	}
	defer leave()
	for one.Err() == nil && t.Session.Conn.Err() == nil {
		name, how := visited, client.Create{Options: smb2.FILE_DIRECTORY_FILE}
		if r.IntN(2) == 0 {
			name, how = visited+`\file`, client.Create{Disposition: &openIf}
		}
		if f, err := t.Create(one, name, how); err == nil {
			f.Close(one)
		}
	}
}

// rude is a client that leaves things in the middle.
func (s *stress) rude(ctx context.Context, r *rand.Rand) {
	o := client.Options{Encrypt: r.IntN(3) == 0}
	if r.IntN(3) == 0 {
		o.Signing = client.SigningEnabled
	}
	one, t, leave := s.enter(ctx, o)
	if t == nil {
		return
	}
	defer leave()
	// A record of a file that a local process made may have any name.
	t.Session.Conn.Allow("notify-separator")
	var files []*client.File
	var pending []*client.Pending
	add := func(p *client.Pending, err error) {
		if err == nil {
			s.Requests.Add(1)
			pending = append(pending, p)
		}
	}
	watch := func() client.Watch {
		sizes := []uint32{0, 1, 32, 300, 4096, 65536}
		return client.Watch{Filter: smb2.CompletionFilter(1 + r.IntN(0xfff)), Size: sizes[r.IntN(len(sizes))], Tree: r.IntN(2) == 0}
	}
	folder := func() string { return []string{wild, wild + `\a`, wild + `\b`, wild + `\a\c`}[r.IntN(4)] }
	for range 40 + r.IntN(60) {
		if one.Err() != nil || t.Session.Conn.Err() != nil {
			return
		}
		switch r.IntN(11) {
		case 0, 1:
			if f, err := t.Create(one, folder(), client.Create{Disposition: &openIf, Options: smb2.FILE_DIRECTORY_FILE}); err == nil {
				files = append(files, f)
			}
		case 2:
			f, p, err := t.CreateNotify(one, folder(), client.Create{}, watch())
			if err == nil {
				files = append(files, f)
			}
			add(p, err)
		case 3, 4, 5:
			if len(files) == 0 {
				continue
			}
			p, err := files[r.IntN(len(files))].Notify(one, watch())
			add(p, err)
			if err != nil {
				continue
			}
			switch r.IntN(6) {
			case 0:
				p.CancelMessage()
			case 1:
				p.Cancel()
			}
		case 6:
			for _, p := range pending {
				if r.IntN(2) == 0 {
					p.Cancel()
				}
			}
		case 7:
			if len(files) > 0 {
				i := r.IntN(len(files))
				files[i].Close(one)
				files = slices.Delete(files, i, i+1)
			}
		case 8, 9:
			f, err := t.Create(one, fmt.Sprintf(`%s\f%d`, folder(), r.IntN(5)), client.Create{Access: allAccess, Disposition: &openIf})
			if err != nil {
				continue
			}
			switch r.IntN(4) {
			case 0:
				f.Write(one, 0, []byte("hello"))
			case 1:
				f.Rename(one, fmt.Sprintf(`%s\g%d`, folder(), r.IntN(5)), true)
			case 2:
				f.Delete(one, true)
			case 3:
				f.SetEnd(one, uint64(r.IntN(1000)))
			}
			f.Close(one)
		case 10:
			if r.IntN(8) == 0 {
				s.Drops.Add(1)
				return
			}
		}
	}
	switch r.IntN(4) {
	case 0:
		s.Drops.Add(1)
		return
	case 1:
		for _, f := range files {
			f.Close(one)
		}
	case 2:
		t.Disconnect(one)
	case 3:
		t.Session.Logoff(one)
	}
	// Now none of them has a handle any more.
	for _, p := range pending {
		w, done := context.WithTimeout(ctx, s.Deadline(5*time.Second))
		if _, err := p.Final(w); err == nil {
			s.Finals.Add(1)
		} else if errors.Is(w.Err(), context.DeadlineExceeded) && t.Session.Conn.Err() == nil {
			s.problem("a CHANGE_NOTIFY has no final response: %v", err)
		}
		done()
	}
}

// paths are entries of the mirrored tree, relative to it, separator \.
type paths map[string]bool

// apply changes p as a record says. old is the name before a rename.
func (p paths) apply(c client.Change, old *string) {
	below := func(name string, f func(path string)) {
		for path := range p {
			if path == name || strings.HasPrefix(path, name+`\`) {
				f(path)
			}
		}
	}
	remove := func(name string) { below(name, func(path string) { delete(p, path) }) }
	switch c.Action {
	case smb2.FILE_ACTION_ADDED:
		p[c.Name] = true
	case smb2.FILE_ACTION_REMOVED:
		remove(c.Name)
	case smb2.FILE_ACTION_RENAMED_OLD_NAME:
		*old = c.Name
	case smb2.FILE_ACTION_RENAMED_NEW_NAME:
		var moved []string
		below(*old, func(path string) { moved = append(moved, path) })
		remove(*old)
		remove(c.Name) // what was there is replaced
		for _, path := range moved {
			p[c.Name+strings.TrimPrefix(path, *old)] = true
		}
	}
}

// mirror knows the tree from what it is told.
type mirror struct {
	*stress
	name    string
	size    uint32
	options client.Options
	seen    chan string // the last marker

	mu    sync.Mutex
	known paths
	lost  bool // the tree must be read
}

// watch follows the tree until the connection ends.
func (m *mirror) watch(ctx context.Context) {
	t, err := m.login(ctx, m.options)
	if err != nil {
		m.pause(ctx, 100*time.Millisecond)
		return
	}
	defer m.leave(t)
	f, err := t.Create(ctx, mirrored, client.Create{Options: smb2.FILE_DIRECTORY_FILE})
	if err != nil {
		return
	}
	w := client.Watch{Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME, Tree: true, Size: m.size}
	next, err := f.Notify(ctx, w)
	m.forget()
	var old string
	for err == nil {
		var r *client.Response
		if r, err = next.Final(ctx); err != nil {
			return
		}
		switch r.Status() {
		case smb2.STATUS_SUCCESS:
			m.learn(r.Changes, &old)
		case smb2.STATUS_NOTIFY_ENUM_DIR:
			m.Overflows.Add(1)
			m.forget()
		default:
			return
		}
		next, err = f.Notify(ctx, w)
	}
}

func (m *mirror) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = true
}

func (m *mirror) learn(changes []client.Change, old *string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Records.Add(int64(len(changes)))
	for _, c := range changes {
		if strings.HasPrefix(c.Name, marker) {
			if c.Action == smb2.FILE_ACTION_ADDED {
				select {
				case <-m.seen:
				default:
				}
				m.seen <- c.Name
			}
			continue
		}
		if m.known != nil {
			m.known.apply(c, old)
		}
	}
}

// marker begins the names of files that say where in the records we are.
const marker = "marker-"

// compare stops all changes and compares each mirror with the tree, or has it
// read the tree when it must.
func (s *stress) compare(ctx context.Context) error {
	s.world.Lock()
	defer s.world.Unlock()
	out, err := s.Shell(ctx, "find "+mirrored)
	if err != nil {
		return fmt.Errorf("read the tree: %w", err)
	}
	tree := paths{}
	for l := range strings.Lines(out) {
		if l = strings.TrimPrefix(strings.TrimSpace(l), mirrored+"/"); l != mirrored && l != "" && !strings.HasPrefix(l, marker) {
			tree[strings.ReplaceAll(l, "/", `\`)] = true
		}
	}
	// What an overflow is in the way of comes with the next marker.
	waiting := slices.Clone(s.mirrors)
	for try := 0; len(waiting) > 0 && try < 10 && ctx.Err() == nil; try++ {
		name := fmt.Sprint(marker, seed.Add(1))
		if _, err := s.Shell(ctx, fmt.Sprintf("touch %s/%s; rm %s/%s", mirrored, name, mirrored, name)); err != nil {
			return err
		}
		late, stop := context.WithTimeout(ctx, s.Deadline(time.Second))
		waiting = slices.DeleteFunc(waiting, func(m *mirror) bool {
			for {
				select {
				case got := <-m.seen:
					if got == name {
						m.check(tree)
						return true
					}
				case <-late.Done():
					return false
				}
			}
		})
		stop()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, m := range waiting {
		s.problem("%s is told nothing any more", m.name)
	}
	return nil
}

// check compares the mirror with the tree, which stands still.
func (m *mirror) check(tree paths) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost || m.known == nil {
		m.known, m.lost = paths{}, false
		for p := range tree {
			m.known[p] = true
		}
		m.Read.Add(1)
		return
	}
	var diff []string
	for p := range tree {
		if !m.known[p] {
			diff = append(diff, "missing "+p)
		}
	}
	for p := range m.known {
		if !tree[p] {
			diff = append(diff, "too much "+p)
		}
	}
	slices.Sort(diff)
	if len(diff) > 0 {
		m.problem("%s differs from the tree without STATUS_NOTIFY_ENUM_DIR: %s", m.name, strings.Join(diff[:min(len(diff), 8)], ", "))
		m.known = nil
		return
	}
	m.Compared.Add(1)
}
