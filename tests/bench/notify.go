package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/vmrunner"
)

var notification = Group{
	Name: "notify",
	About: `How soon and how cheaply a client learns of a change: ksmbd with the series and Debian's
smbd serve the same folder of one guest, and one client, inside the guest, asks both. A file
is made when the one before has been told, by a local process or by another client; the clock
starts before the call, or the request, and stops when the response of the client that watches
passes the loopback device. The server's CPU time is that of all its processes, or for ksmbd
of all kernel workers, for an event and the next request. "events/s" is the highest rate of
changes by a local process, each of which is told: no STATUS_NOTIFY_ENUM_DIR, with a buffer of
64 KiB, and both on the guest's two CPUs; or the rate at which that process gets no further,
beside a server that takes its CPU. In instructions the same is measured on one CPU,
where the call and all that works for it run in turn, each until it waits.`,
	Bounds: []Bound{
		{Says: "latency: half of Samba's", Metrics: "to response", Variant: "ksmbd", Against: "samba", Limit: 0.5},
	},
	Run: runNotify,
}

// server is one of the two in the guest of a load.
type server struct{ name, addr, tasks string }

var loadServers = []server{
	{"ksmbd", "127.0.0.1:445", "ksmbd,kworker"},
	{"samba", fmt.Sprintf("127.0.0.1:%d", vmrunner.PortSamba), "smbd"},
}

// loadGuest is a guest with both servers and tests/bench/load.
type loadGuest struct{ vm *vmrunner.VM }

// startLoad boots it. Its console goes to a folder of that name.
func startLoad(ctx context.Context, b *Bench, name string, o vmrunner.Options) (*loadGuest, error) {
	image, err := b.Image(ctx, b.Series)
	if err != nil {
		return nil, err
	}
	g := &loadGuest{}
	err = job.From(ctx).Step("boot "+name, func(s *job.Step) error {
		if o.Files, err = loadFiles(ctx); err != nil {
			return err
		}
		o.Samba, o.Dir = vmrunner.PortSamba, filepath.Join(b.Dir, name)
		if g.vm, err = vmrunner.Start(ctx, s, image, o); err != nil {
			return err
		}
		if err = g.vm.WaitSMB(ctx); err == nil && o.Count {
			err = g.inTurn(ctx)
		}
		return err
	})
	if err != nil && g.vm != nil {
		g.stop(ctx)
	}
	return g, err
}

// inTurn lets each task of the guest run until it waits: one that wakes another goes
// on. Who overtakes whom would differ from run to run otherwise.
func (g *loadGuest) inTurn(ctx context.Context) error {
	r, err := g.vm.Run(ctx, "echo NO_WAKEUP_PREEMPTION > /sys/kernel/debug/sched/features")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("switch wakeup preemption off in the guest: %s", strings.TrimSpace(string(r.Stderr)))
	}
	return err
}

func (g *loadGuest) stop(ctx context.Context) { g.vm.Stop(context.WithoutCancel(ctx)) }

// loadFiles puts the client into the guest, and the share's configuration without
// limits that a benchmark reaches.
func loadFiles(ctx context.Context) (*rootfs.Archive, error) {
	dir, err := os.MkdirTemp("", "kbuild-run-load-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "load")
	if err := rootfs.Program(ctx, "tests/bench/load", file); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	a := &rootfs.Archive{}
	a.File("bin/load", program, 0o755)
	a.File("etc/ksmbd/ksmbd.conf", []byte(`[global]
	netbios name = GUEST
	server string = ksmbd under test
	tcp port = 445
	max connections = 4096
	max open files = 65536
[share]
	path = /srv/share
	read only = no
	max connections = 4096
	vfs objects = streams_xattr acl_xattr
`), 0o644)
	return a, nil
}

// figure is a line of the load's output, Figure there.
type figure struct {
	Name, Skip string
	Values     []float64
}

// figures are the lines of one run.
type figures []figure

func (all figures) get(name string) []float64 {
	for _, f := range all {
		if f.Name == name {
			return f.Values
		}
	}
	return nil
}

// load runs the client against a server of the guest.
func (g *loadGuest) load(ctx context.Context, s server, args ...string) (all figures, err error) {
	u := rootfs.Users[0]
	words := append([]string{"load", args[0], "-addr", s.addr, "-tasks", s.tasks, "-user", u.Name, "-password", u.Password}, args[1:]...)
	var stdout, stderr bytes.Buffer
	code, err := g.vm.Exec(ctx, strings.Join(words, " "), nil, &stdout, &stderr)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(stdout.Bytes()) {
		var f figure
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("read figure %q: %w", line, err)
		}
		all = append(all, f)
	}
	if code != 0 {
		return all, fmt.Errorf("load %s: exit status %d: %s", strings.Join(args, " "), code, strings.TrimSpace(stderr.String()))
	}
	return all, nil
}

// both makes a variant of each server.
func (g *loadGuest) both(readings func(server, figures) []Reading, args ...string) (all []Variant) {
	for _, s := range loadServers {
		all = append(all, Variant{s.name, func(ctx context.Context) ([]Reading, error) {
			f, err := g.load(ctx, s, args...)
			return readings(s, f), err
		}})
	}
	return all
}

func runNotify(ctx context.Context, b *Bench) error {
	j := job.From(ctx)
	g, err := startLoad(ctx, b, "notify-time", vmrunner.Options{Memory: 2048})
	if err != nil {
		return err
	}
	defer g.stop(ctx)
	err = j.Step("bench latency", func(s *job.Step) error {
		return b.Alternate(ctx, s, 1, b.Times(3, 7), g.both(latencies, "latency", "-n", fmt.Sprint(b.Times(100, 500)))...)
	})
	if err != nil {
		return err
	}
	err = j.Step("bench rate", func(s *job.Step) error {
		return b.Alternate(ctx, s, 0, b.Times(1, 3), g.both(rates, "rate", "-window", (time.Duration(b.Times(1, 3))*time.Second).String())...)
	})
	if err != nil {
		return err
	}
	counting, err := startLoad(ctx, b, "notify-count", vmrunner.Options{Memory: 2048, Count: true})
	if err != nil {
		return err
	}
	defer counting.stop(ctx)
	b.Skip("instructions of a create by another client, samba", "its processes take 1.3 million, or 1.65 million the next time they are started")
	return j.Step("bench latency, instructions", func(s *job.Step) error {
		return b.Alternate(ctx, s, 1, b.Times(2, 5), counting.both(countedLatencies, "latency", "-n", fmt.Sprint(b.Times(100, 300)))...)
	})
}

// makers are those who make files, and their names in the load's output.
var makers = []struct{ key, name string }{{"local", "a local process"}, {"client", "another client"}}

func latencies(_ server, f figures) (all []Reading) {
	for _, m := range makers {
		for _, p := range []float64{50, 95, 99} {
			all = append(all, Reading{fmt.Sprintf("create by %s to response, p%g", m.name, p), 0, Nanoseconds, Percentile(f.get("latency/"+m.key), p)})
		}
		all = append(all, Reading{"CPU time of the server for an event by " + m.name, 0, Nanoseconds, Median(f.get("cpu/" + m.key))})
	}
	return all
}

func rates(_ server, f figures) []Reading {
	return []Reading{
		{"events that are all told", 0, PerSecond, Median(f.get("rate/sustained"))},
		{"CPU time of the server for an event at that rate", 0, Nanoseconds, Median(f.get("rate/cpu"))},
		{"responses for an event at that rate", 0, "responses", Median(f.get("rate/responses"))},
	}
}

func countedLatencies(s server, f figures) (all []Reading) {
	for _, m := range makers {
		if s.name == "samba" && m.key == "client" {
			continue // see the skip
		}
		all = append(all, Reading{"create by " + m.name + " to response, one CPU, p10", 0, Instructions, Percentile(f.get("latency/"+m.key), 10)})
	}
	return append(all, Reading{"of which the call of the local process", 0, Instructions, Median(f.get("call/local"))})
}
