// Load measures change notification in the guest, for tests/bench: a server, a
// folder and a number of watches -> figures. It runs where the server runs, so
// that one clock is enough, and no emulated network lies between: a change by a
// local process, a change by another client, and the response to the client that
// watches all happen on the loopback device.
//
//	load latency   from a change to the response that tells it, and the server's time for it
//	load rate      how many changes a second a client can follow
//	load watches   what many watches cost: to arm, to keep, at an event, to take down
//
// Each figure is a line of JSON, see Figure. Whatever could not be measured is a
// line with the reason.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Figure is a line of the output.
type Figure struct {
	Name   string    `json:"name"`           // latency/local
	Unit   string    `json:"unit,omitempty"` // ns, B, 1/s, 1
	Values []float64 `json:"values,omitempty"`
	Note   string    `json:"note,omitempty"`
	Skip   string    `json:"skip,omitempty"` // why there is no value
}

// load is what all commands share.
type load struct {
	target
	root   string   // the share's folder as local processes see it
	tasks  []string // names of the server's tasks begin with these
	out    io.Writer
	budget time.Duration // for a step that grows with the number of watches
}

func (l *load) figure(f Figure) { json.NewEncoder(l.out).Encode(f) }

func (l *load) value(name, unit string, v float64) {
	l.figure(Figure{Name: name, Unit: unit, Values: []float64{v}})
}

func (l *load) times(name string, all []time.Duration) {
	f := Figure{Name: name, Unit: "ns"}
	for _, d := range all {
		f.Values = append(f.Values, float64(d))
	}
	l.figure(f)
}

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, args []string) error {
	l := &load{out: out}
	set := flag.NewFlagSet("load", flag.ContinueOnError)
	set.StringVar(&l.addr, "addr", "127.0.0.1:445", "of the server")
	set.StringVar(&l.share, "share", "share", "its share")
	set.StringVar(&l.user, "user", "", "who logs in")
	set.StringVar(&l.password, "password", "", "")
	set.StringVar(&l.root, "root", "/srv/share", "the share's folder")
	tasks := set.String("tasks", "", "comma-separated beginnings of the names of the server's tasks")
	set.DurationVar(&l.budget, "budget", 5*time.Minute, "for a step that grows with the number of watches")
	n := set.Int("n", 100, "changes, or watches")
	events := set.Int("events", 100, "changes to measure with that many watches")
	window := set.Duration("window", time.Second, "how long a rate must be kept up")
	var layout layout
	set.BoolVar(&layout.one, "one", false, "all watches are of one directory")
	set.BoolVar(&layout.tree, "tree", false, "SMB2_WATCH_TREE")
	set.IntVar(&layout.dirs, "dirs", 0, "how many directories there are at least, watched or not")
	if len(args) == 0 {
		return fmt.Errorf("a command is wanted: latency, rate or watches")
	}
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	if *tasks != "" {
		l.tasks = strings.Split(*tasks, ",")
	}
	ctx := context.Background()
	switch args[0] {
	case "latency":
		return l.latency(ctx, *n)
	case "rate":
		return l.rate(ctx, *window)
	case "watches":
		return l.watches(ctx, *n, *events, layout)
	}
	return fmt.Errorf("command %q; there are latency, rate and watches", args[0])
}
