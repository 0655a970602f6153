// Package torture runs smbtorture, the test client of Samba, against a server:
// the names of tests and an address go in, a result for each comes out.
//
// Every test is a process of its own with a deadline of its own, on a share that
// is empty: one that hangs, or leaves something behind, does not decide how the
// next one ends. Nothing is run a second time.
//
// Tests that fail for a known reason stand with it in the lists of the folder
// known. One that stands there and passes is a failure, too.
package torture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
)

// ErrNone says that the host lacks smbtorture: a reason to skip.
var ErrNone = errors.New("smbtorture is not installed; install it with: kbuild-run setup")

// Program is a smbtorture that can be run.
type Program struct {
	Version string   // 4.17.12-Debian
	command []string // the program, or the loader that runs it
}

// Installed returns the host's smbtorture.
func Installed(ctx context.Context) (*Program, error) {
	path, err := exec.LookPath("smbtorture")
	if err != nil {
		return nil, ErrNone
	}
	return program(ctx, path)
}

func program(ctx context.Context, command ...string) (*Program, error) {
	p := &Program{command: command}
	out, err := p.child("--version").Probe(ctx)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "Version "); ok {
			p.Version = strings.TrimSpace(v)
			return p, nil
		}
	}
	return nil, fmt.Errorf("run smbtorture --version: it says %q", out)
}

func (p *Program) child(args ...string) *job.Cmd {
	return job.Command(p.command[0], append(slices.Clone(p.command[1:]), args...)...)
}

// List returns the names of the tests that match a pattern (path.Match) by their
// whole name or by that of a suite they are in, and none that begins with "!":
// "smb2.notify", "smb2.*.rename*", "!smb2.oplock". They are in smbtorture's order.
func (p *Program) List(ctx context.Context, patterns ...string) ([]string, error) {
	out, err := p.child("--list").Probe(ctx)
	if err != nil {
		return nil, err
	}
	return choose(string(out), patterns)
}

// choose reads what --list prints, names of the form SUITE.CASE.TEST. Almost all
// cases have one test of the same name, which smbtorture knows by SUITE.CASE.
func choose(list string, patterns []string) (names []string, err error) {
	seen := map[string]bool{}
	for name := range strings.Lines(list) {
		name = strings.TrimSuffix(name, "\n")
		if i := strings.LastIndexByte(name, '.'); i > 0 && strings.HasSuffix(name[:i], name[i:]) {
			name = name[:i]
		}
		// What is no test of SMB2 needs other arguments.
		if strings.HasPrefix(name, "smb2.") && !seen[name] && chosen(name, patterns) {
			names, seen[name] = append(names, name), true
		}
	}
	if names == nil {
		return nil, fmt.Errorf("no test of smbtorture matches %s; list them with: smbtorture --list", strings.Join(patterns, " "))
	}
	return names, nil
}

// endless are tests that end when somebody ends them or the server is full, and
// measurements: no pattern for many tests chooses them.
var endless = regexp.MustCompile(`^smb2\.(bench|hold-oplock|hold-sharemode|maxfid)\b`)

func chosen(name string, patterns []string) (in bool) {
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if endless.MatchString(name) && !endless.MatchString(p) {
			continue
		}
		whole, _ := path.Match(p, name)
		suite, _ := path.Match(p+".*", name)
		if whole || suite {
			in = !not
		}
	}
	return in
}

// Server is what tests run against.
type Server struct {
	Addr  string // host:port
	Share string
	User  client.Credentials

	// Kind and Version choose among the known failures: "ksmbd" and "v6.12".
	Kind, Version string

	// Empty removes everything from the share; nil: it cannot be done, and a test
	// may trip over what another has left.
	Empty func(ctx context.Context) error

	// Begin notes that the test of that name runs, until end is called; nil: nobody
	// wants to know.
	Begin func(name string) (end func())
}

// Outcome is how a test ended.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Result is the result of a test.
type Result struct {
	Test    string
	Outcome Outcome
	Reason  string // of a failure or a skip, as smbtorture or the known failures say it
	Output  string // all of it
	Time    time.Duration
}

// Deadline is how long a test may take that is not among the slow ones. Nearly
// all end within two seconds, on a guest without KVM too.
const Deadline = 30 * time.Second

// slow are tests that take long because of what they do.
var slow = map[string]time.Duration{
	"smb2.notify.mask":                       4 * time.Minute, // 384 times arm, change, wait, cancel: 78 s against Samba
	"smb2.compound_find.compound_find_close": 2 * time.Minute, // makes thousands of files: 15 s against Samba
	"smb2.dir.large-files":                   2 * time.Minute, // 2000 files, listed in many ways
	"smb2.dir.1kfiles_rename":                2 * time.Minute, // makes and renames 1000 files: 15 s on an emulated guest
}

// Options of Run.
type Options struct {
	Deadline time.Duration // 0: Deadline
	Scale    float64       // stretches all deadlines of a server that is slower than a plain guest without KVM
	Done     func(Result)  // called after each test, may be nil
}

// Run runs the tests one after the other. The error is what kept them from
// running.
func (p *Program) Run(ctx context.Context, server Server, tests []string, o Options) ([]Result, error) {
	if o.Deadline == 0 {
		o.Deadline = Deadline
	}
	dir, err := os.MkdirTemp("", "kbuild-run-torture-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	host, port, err := net.SplitHostPort(server.Addr)
	if err != nil {
		return nil, err
	}
	cancels := func() int { return 0 }
	wanted, err := needsRelay(ctx, server.Addr)
	if err != nil {
		return nil, err
	}
	if wanted {
		r, err := startRelay(ctx, server.Addr)
		if err != nil {
			return nil, err
		}
		defer r.stop()
		host, port, cancels = r.host, r.port, func() int { return int(r.named.Load()) }
	}
	login := filepath.Join(dir, "login")
	if err := os.WriteFile(login, []byte(fmt.Sprintf("username = %s\npassword = %s\ndomain = %s\n", server.User.User, server.User.Password, server.User.Domain)), 0o600); err != nil {
		return nil, err
	}
	conf, err := config(dir)
	if err != nil {
		return nil, err
	}
	args := []string{"-s", conf, "-A", login, "-p", port, "--fullname", "//" + host + "/" + server.Share}
	var results []Result
	for _, test := range tests {
		if server.Empty != nil {
			if err := server.Empty(ctx); err != nil {
				return results, fmt.Errorf("empty the share: %w", err)
			}
		}
		limit := time.Duration(float64(max(slow[test], o.Deadline)) * max(1, o.Scale))
		before := cancels()
		end := func() {}
		if server.Begin != nil {
			end = server.Begin(test)
		}
		r := runOne(ctx, p.child(append(args, test)...).In(dir), test, limit)
		end()
		if n := cancels() - before; n > 0 {
			r.Output += fmt.Sprintf("the relay put the MessageId into %d CANCEL requests\n", n)
		}
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
		results = append(results, r)
		if o.Done != nil {
			o.Done(r)
		}
	}
	return results, nil
}

// config writes a configuration that keeps smbtorture out of what the host's
// Samba has.
func config(dir string) (string, error) {
	text := "[global]\n"
	for _, name := range []string{"private dir", "state directory", "lock directory", "cache directory", "pid directory"} {
		text += fmt.Sprintf("\t%s = %s\n", name, dir)
	}
	conf := filepath.Join(dir, "smb.conf")
	return conf, os.WriteFile(conf, []byte(text), 0o644)
}

// runOne runs one test. What it prints says how it ended; its exit status does
// not tell a skip from a success.
func runOne(ctx context.Context, c *job.Cmd, test string, limit time.Duration) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no end after %v", limit))
	defer cancel()
	var mu sync.Mutex
	var out strings.Builder
	c.Line = func(l string) {
		mu.Lock()
		defer mu.Unlock()
		out.WriteString(l + "\n")
	}
	began := time.Now()
	err := c.Run(ctx)
	mu.Lock()
	defer mu.Unlock()
	r := Result{Test: test, Output: out.String(), Time: time.Since(began)}
	r.Outcome, r.Reason = parse(r.Output)
	var failed *job.CmdError
	switch {
	case ctx.Err() != nil:
		// The test, not one of several, since all that is printed is a test's end.
		r.Outcome = Failed
		r.Reason = strings.TrimSpace(context.Cause(ctx).Error() + "\n" + r.Reason)
	case r.Outcome == "" && errors.As(err, &failed):
		r.Outcome, r.Reason = Failed, "no result: "+failed.Err.Error()+"\n"+strings.Join(failed.Tail, "\n")
	case r.Outcome == "" && err != nil:
		r.Outcome, r.Reason = Failed, err.Error()
	case r.Outcome == "":
		r.Outcome, r.Reason = Failed, "no result\n"+r.Output
	}
	return r
}

// end is a line that says how a test ended; a reason may follow in brackets, on
// lines of its own. It is the form of subunit version 1.
var end = regexp.MustCompile(`^(success|failure|error|skip|xfail|uxsuccess): .*?(?: (\[))?$`)

// parse returns how the tests in out ended: as the worst of them, "" without one.
func parse(out string) (o Outcome, reason string) {
	lines := strings.Split(out, "\n")
	for i := 0; i < len(lines); i++ {
		m := end.FindStringSubmatch(lines[i])
		if m == nil {
			continue
		}
		var why []string
		if m[2] != "" {
			for i++; i < len(lines) && lines[i] != "]"; i++ {
				why = append(why, place.ReplaceAllString(lines[i], ""))
			}
		}
		var this Outcome
		switch m[1] {
		case "success", "xfail":
			this = Passed
		case "skip":
			this = Skipped
		default:
			this = Failed
		}
		if rank[this] > rank[o] {
			o, reason = this, strings.Join(why, "\n")
		}
	}
	if o == Passed {
		reason = ""
	}
	return o, reason
}

// place is the folder before a line number of Samba's source, relative to where
// Debian built it.
var place = regexp.MustCompile(`(?:\.\./)*source4/torture/`)

var rank = map[Outcome]int{Skipped: 1, Passed: 2, Failed: 3}

// needsRelay says that smbtorture's CANCEL cannot be matched by this server as it
// is, see relay.
func needsRelay(ctx context.Context, addr string) (bool, error) {
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		return false, fmt.Errorf("ask %s how it signs: %w", addr, err)
	}
	defer c.Drop()
	return c.Negotiated.SigningAlgorithm != smb2.SIGNING_ALG_AES_GMAC, nil
}
