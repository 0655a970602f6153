package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// Waits, on a server that is not slowed down by emulation.
const (
	answerWait   = 5 * time.Second        // for what must come
	missingWait  = time.Second            // for what does not come on a server that differs
	quietWait    = 200 * time.Millisecond // for what must not come
	slotWait     = 300 * time.Millisecond // with nobody else in one's place
	retryWait    = 50 * time.Millisecond  // between two tries to get a handle back
	scenarioWait = time.Minute            // for a whole scenario
)

// Outcome is how a scenario ended.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
	Differs Outcome = "differs" // failed, as the scenario says of this kind of server
)

// Result is a scenario on a server.
type Result struct {
	Scenario *Scenario
	Server   *Server
	Outcome  Outcome
	Reason   string // why it was skipped, or how the server differs
	Failure  *Failure
	Time     time.Duration

	// Transcript is all that crossed the wire in words, a part a connection;
	// Messages are the same for programs.
	Transcript string
	Messages   [][]client.Entry
	Keys       []string // of the sessions, see client.Conn.Keys

	flaked bool // see RunTimes
}

// Failure is the step at which a scenario failed.
type Failure struct {
	Line int    // in the script, from 1; 0: after the last step
	Step string // the line
	Want string
	Got  string
	Last []string // last messages of the connection it is about, in words
}

func (f *Failure) String() string {
	what := "want: " + f.Want + "\ngot:  " + f.Got
	switch {
	case f.Line > 0:
		return fmt.Sprintf("line %d: %s\n%s", f.Line, f.Step, what)
	case f.Step != "":
		return f.Step + "\n" + what
	}
	return what
}

// Mismatch is an error that says what a step wanted.
type Mismatch struct {
	Want, Got string
	conn      *client.Conn
}

func (m *Mismatch) Error() string { return "want " + m.Want + ", got " + m.Got }

// Run runs the scenarios against the server, several at a time and those that
// need it alone behind the others, and returns a result for each in their order.
// done, when set, gets each as it ends. Each scenario has a fresh folder of its
// own in the share. One that leaves something behind on the server fails. The error
// is one of making the folders, or of asking the server what it holds.
func Run(ctx context.Context, server *Server, scenarios []*Scenario, done func(*Result)) ([]*Result, error) {
	before, _, err := server.settle(ctx, nil)
	if err != nil {
		return nil, err
	}
	results, now, more, err := play(ctx, server, scenarios, done, before)
	if err != nil || more == "" {
		return results, err
	}
	return results, blame(ctx, server, results, now, more)
}

// play is Run without the question who left something. It returns what the server
// holds in the end, and what of that is beyond before.
func play(ctx context.Context, server *Server, scenarios []*Scenario, done func(*Result), before Held) (results []*Result, now Held, more string, err error) {
	tmp, err := os.MkdirTemp("", "kbuild-run-scenarios-")
	if err != nil {
		return nil, nil, "", err
	}
	defer os.RemoveAll(tmp)
	folder := fmt.Sprintf("kbuild-run-%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff)
	on := map[*Server][]*Scenario{}
	for _, s := range scenarios {
		on[server.forScenario(s)] = append(on[server.forScenario(s)], s)
	}
	for server, its := range on {
		clean, err := makeFolders(ctx, server, folder, its)
		if err != nil {
			return nil, nil, "", fmt.Errorf("make folders on %s: %w", server.Name, err)
		}
		defer clean()
	}

	results = make([]*Result, len(scenarios))
	// Waiting for the server is most of a scenario's time.
	slots := make(chan struct{}, cmp.Or(server.Slots, 8*runtime.NumCPU()))
	var wg sync.WaitGroup
	var mu sync.Mutex
	run := func(i int) {
		s := scenarios[i]
		r := runOne(ctx, server.forScenario(s), s, folder+"/"+s.Name, filepath.Join(tmp, s.Name), slots)
		mu.Lock()
		defer mu.Unlock()
		results[i] = r
		if done != nil {
			done(r)
		}
	}
	var last []int
	for i, s := range scenarios {
		if s.Has("alone") {
			last = append(last, i)
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			run(i)
		})
	}
	wg.Wait()
	for _, i := range last {
		slots <- struct{}{}
		run(i)
		<-slots
	}
	if err := ctx.Err(); err != nil {
		return results, nil, "", err
	}
	// While the folders are there: what is deleted takes its watches along.
	now, more, err = server.settle(ctx, before)
	return results, now, more, err
}

// RunTimes is Run n times in a row. The result of a scenario is that of its first
// time that is unlike the time before: one that does not always end in the same
// way has failed.
func RunTimes(ctx context.Context, server *Server, scenarios []*Scenario, n int, done func(*Result)) ([]*Result, error) {
	first, err := Run(ctx, server, scenarios, done)
	for turn := 2; turn <= n && err == nil; turn++ {
		var next []*Result
		if next, err = Run(ctx, server, scenarios, done); err != nil {
			break
		}
		for i, r := range next {
			if r.Outcome == first[i].Outcome || first[i].flaked {
				continue
			}
			if r.Outcome != Failed {
				r = first[i]
			}
			if r.Failure == nil {
				r.Failure = &Failure{Want: string(first[i].Outcome), Got: string(next[i].Outcome)}
			}
			r.Outcome, r.flaked = Failed, true
			r.Failure.Got += fmt.Sprintf(" (time %d of %d ends in another way than the first)", turn, n)
			first[i] = r
		}
	}
	return first, err
}

// Again runs what has failed on Samba once more and by itself: an event takes its
// way through two processes of Samba, which counts its own tests of this among those
// that flap (selftest/flapping.d/smb2_notify). The result of the second time counts;
// told gets that of the first.
func Again(ctx context.Context, server *Server, results []*Result, told func(first *Result)) error {
	for i, r := range results {
		if server.Kind != "samba" || r == nil || r.Outcome != Failed {
			continue
		}
		again, err := Run(ctx, server, []*Scenario{r.Scenario}, nil)
		if err != nil {
			return err
		}
		told(r)
		results[i] = again[0]
	}
	return nil
}

// makeFolders makes the folder of each scenario, before the first runs: one that
// watches the share's root is not to see them come. clean removes what is left.
func makeFolders(ctx context.Context, server *Server, folder string, scenarios []*Scenario) (clean func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, server.deadline(scenarioWait))
	defer cancel()
	c, t, err := login(ctx, server, client.Options{User: server.User.User, Password: server.User.Password, Domain: server.User.Domain})
	if err != nil {
		return nil, err
	}
	defer c.Drop()
	for _, name := range append([]string{""}, names(scenarios)...) {
		d, err := t.Create(ctx, strings.TrimSuffix(folder+`\`+name, `\`), client.Create{Disposition: &disposition, Options: smb2.FILE_DIRECTORY_FILE})
		if err != nil {
			return nil, err
		}
		if err := d.Close(ctx); err != nil {
			return nil, err
		}
	}
	return func() {
		if server.Shell != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), server.deadline(answerWait))
			defer cancel()
			server.Shell(ctx, "", "rm -rf "+folder)
		}
	}, nil
}

func names(scenarios []*Scenario) []string {
	var all []string
	for _, s := range scenarios {
		all = append(all, s.Name)
	}
	return all
}

func login(ctx context.Context, server *Server, o client.Options) (*client.Conn, *client.Tree, error) {
	c, err := server.Dial(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	s, err := c.Login(ctx)
	if err != nil {
		c.Drop()
		return nil, nil, err
	}
	t, err := s.TreeConnect(ctx, server.Share)
	if err != nil {
		c.Drop()
		return nil, nil, err
	}
	return c, t, nil
}

// runOne runs one scenario in the folder, with tmp for the script engine.
// slots is how many run at a time; this one has its place in it.
func runOne(ctx context.Context, server *Server, s *Scenario, folder, tmp string, slots chan struct{}) (r *Result) {
	r = &Result{Scenario: s, Server: server, Outcome: Passed}
	start := time.Now()
	defer func() { r.Time = time.Since(start) }()
	for _, need := range s.Needs {
		if r.Reason = server.lacks(need); r.Reason != "" {
			r.Outcome = Skipped
			return r
		}
	}

	if server.Begin != nil {
		defer server.Begin(s.Name)()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, server.deadline(scenarioWait), errors.New("the scenario takes too long"))
	defer cancel()
	patience := answerWait
	if s.differs(server) != "" {
		patience = missingWait
	}
	st := &state{ctx: ctx, server: server, folder: folder, patience: patience, peers: map[string]*peer{}, files: map[string]*handle{}, requests: map[string]*request{}, slots: slots}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		r.Outcome, r.Failure = Failed, &Failure{Want: "a folder for the script", Got: err.Error()}
		return r
	}
	file := filepath.Join(tmp, s.Name+".txt")
	if err := os.WriteFile(file, []byte(s.Text), 0o644); err != nil {
		r.Outcome, r.Failure = Failed, &Failure{Want: "a file for the script", Got: err.Error()}
		return r
	}
	t := &scriptT{}
	t.Run(s.Name, func(testscript.T) {
		testscript.RunT(t, testscript.Params{
			Files:       []string{file},
			WorkdirRoot: tmp,
			Cmds:        st.commands(),
			Setup: func(e *testscript.Env) error {
				e.Vars = append(e.Vars, "folder="+folder)
				return nil
			},
		})
	})
	if t.failed {
		cancel()
	}
	behind := st.behind.Wait()
	for _, p := range st.order {
		p.conn.Drop()
	}
	switch {
	case t.failed:
		r.Outcome, r.Failure = Failed, st.failure(t.log.String())
	case behind != nil:
		r.Outcome, r.Failure = Failed, &Failure{Step: "server COMMAND &", Want: "the command to succeed", Got: behind.Error()}
	case t.skipped != "":
		r.Outcome, r.Reason = Skipped, t.skipped
	default:
		if f := st.violation(); f != nil {
			r.Outcome, r.Failure = Failed, f
		}
	}
	r.Transcript = st.transcript()
	for _, p := range st.order {
		r.Messages = append(r.Messages, p.conn.Transcript())
		r.Keys = append(r.Keys, p.conn.Keys()...)
	}
	if differs := s.differs(server); differs != "" {
		r.Reason = differs
		switch r.Outcome {
		case Failed:
			r.Outcome = Differs
		case Passed:
			r.Outcome = Failed
			r.Failure = &Failure{Want: "to fail, since the head says of " + server.Kind + ": " + differs, Got: "it passes; take that line out of its head"}
		}
	}
	return r
}

// scriptT lets testscript run outside of go test. A script ends its goroutine
// where it fails, as a test does.
type scriptT struct {
	log     strings.Builder
	failed  bool
	skipped string
}

func (t *scriptT) Skip(args ...any) {
	t.skipped = fmt.Sprint(args...)
	runtime.Goexit()
}

func (t *scriptT) Fatal(args ...any) {
	t.Log(args...)
	t.FailNow()
}

func (t *scriptT) Log(args ...any) { fmt.Fprintln(&t.log, args...) }

func (t *scriptT) FailNow() {
	t.failed = true
	runtime.Goexit()
}

func (t *scriptT) Parallel()     {}
func (t *scriptT) Verbose() bool { return true }

func (t *scriptT) Run(_ string, f func(testscript.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(t)
	}()
	<-done
}

// state is a scenario that runs.
type state struct {
	ctx      context.Context
	server   *Server
	folder   string // of the scenario, below the share
	patience time.Duration
	peers    map[string]*peer
	order    []*peer // those that made a connection
	files    map[string]*handle
	requests map[string]*request
	slots    chan struct{}
	behind   errgroup.Group // commands on the server that nobody waits for
	failed   *Failure
}

// peer is a tree connect with the session and the connection it is on.
type peer struct {
	name    string
	persona *Persona // nil: none
	conn    *client.Conn
	sess    *client.Session
	tree    *client.Tree
}

// request is a request that has a name in the script.
type request struct {
	*client.Pending
	conn *client.Conn
}

// failure makes the Failure of a script that failed, from what its command left
// or, when the script engine itself complains, from its log.
func (st *state) failure(log string) *Failure {
	f := st.failed
	if f == nil {
		f = &Failure{Want: "a script that can be read", Got: strings.TrimSpace(log)}
	}
	for line := range strings.Lines(log) {
		// FAIL: /tmp/.../name.txt:12: message
		if rest, ok := strings.CutPrefix(line, "FAIL: "); ok {
			parts := strings.SplitN(rest, ":", 3)
			if len(parts) == 3 {
				fmt.Sscan(parts[1], &f.Line)
				if st.failed == nil {
					f.Got = strings.TrimSpace(parts[2])
				}
			}
		}
		if step, ok := strings.CutPrefix(line, "> "); ok && st.failed == nil {
			f.Step = strings.TrimSpace(step)
		}
	}
	return f
}

// violation is the first rule that any message of the scenario broke.
func (st *state) violation() *Failure {
	for _, p := range st.order {
		for _, v := range p.conn.Violations() {
			return &Failure{
				Step: "every message of the server is held against the rules",
				Want: "no violation on " + p.name + "'s connection",
				Got:  v.Error(),
				Last: around(p.conn.Lines(), "VIOLATION", 10),
			}
		}
	}
	return nil
}

func (st *state) transcript() string {
	var b strings.Builder
	for _, p := range st.order {
		fmt.Fprintf(&b, "%s:\n", p.name)
		for _, l := range p.conn.Lines() {
			fmt.Fprintf(&b, "%s\n", l)
		}
	}
	return b.String()
}

// around returns the lines up to the first that has what in it, at most n.
func around(lines []string, what string, n int) []string {
	for i, l := range lines {
		if strings.Contains(l, what) {
			lines = lines[:i+1]
			break
		}
	}
	return lines[max(0, len(lines)-n):]
}

// path is a path of the script as the server takes it: below the scenario's
// folder, or below the share where it begins with /.
func (st *state) path(p string) string {
	p, root := strings.CutPrefix(p, "/")
	if p == "." {
		p = ""
	}
	if !root {
		p = strings.TrimSuffix(st.folder+"/"+p, "/")
	}
	return strings.ReplaceAll(p, "/", `\`)
}

// lend gives the scenario's place to another as long as a step waits for what
// does not come: on a server without CHANGE_NOTIFY most scenarios end so. back
// takes a place again.
func (st *state) lend() (back func()) {
	timer := time.AfterFunc(st.server.deadline(slotWait), func() { <-st.slots })
	return func() {
		if !timer.Stop() {
			st.slots <- struct{}{}
		}
	}
}

// answer waits for what must come. A server that is slow is none that is silent:
// before the wait ends, it has to answer a NEGOTIATE, and as long as that takes
// more than a tenth of the wait, the wait goes on.
func (st *state) answer() (context.Context, context.CancelFunc) {
	d := st.server.deadline(st.patience)
	ctx, cancel := context.WithCancelCause(st.ctx)
	silent := time.AfterFunc(d, func() {
		for {
			asked := time.Now()
			c, err := st.server.Dial(ctx, client.Options{})
			if err == nil {
				c.Drop()
				if st.server.Settle != nil {
					err = st.server.Settle(ctx)
				}
			}
			if took := time.Since(asked); err != nil || took < d/10 {
				cancel(fmt.Errorf("nothing came for %v", d))
				return
			}
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, func() {
		silent.Stop()
		cancel(context.Canceled)
	}
}

// Count says how many scenarios ended in which way.
func Count(results []*Result) string {
	n := map[Outcome]int{}
	for _, r := range results {
		if r != nil {
			n[r.Outcome]++
		}
	}
	var words []string
	for _, o := range []Outcome{Passed, Failed, Differs, Skipped} {
		if n[o] > 0 {
			words = append(words, fmt.Sprintf("%d %s", n[o], o))
		}
	}
	return strings.Join(words, ", ")
}
