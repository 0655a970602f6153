package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/vmrunner"
)

var manyWatches = Group{
	Name: "watches",
	About: `What many watches cost, on both servers of one guest, by the client of the group notify. Each
watch is a handle of its own with a request that waits, for names, 500 on a connection, four
connections at once; they are of one directory, or each of its own. "arm" is from the first
request to the last interim response, with the directories open; "close" closes the handles
and takes in each final response. Memory is the growth of the kernel's live slab objects, each
cache shrunk before, and of the processes' proportional set size, for a watch beside its
handle. A change that concerns no watch is the creation and removal of a file elsewhere on the
file system, by raw system calls, and the same in that guest before it had the watches. Counted,
the file system has as many directories with one watch as with all.
Where watches share a directory a change concerns all of them.`,
	Axis: "watches",
	Bounds: []Bound{
		{Says: "arm 10,000 and more: a tenth of Samba's time", Metrics: "^arm", Variant: "ksmbd", Against: "samba", From: 10000, Limit: 0.1},
		{Says: "a change that concerns no watch: the same with 1 and with all", Metrics: "^concerns none, (flat|tree)", Variant: "ksmbd", Against: Smallest, Limit: 1.005},
		{Says: "memory of an idle flat watch: 1 KiB", Metrics: "^kernel memory of a watch, flat", Variant: "ksmbd", Limit: 1024},
	},
	Run: runWatches,
}

// layouts are where watches can be.
var layouts = []struct {
	name string
	args []string
	one  bool
}{
	{"flat, a directory each", nil, false},
	{"tree, a directory each", []string{"-tree"}, false},
	{"flat, one directory", []string{"-one"}, true},
	{"tree, one directory", []string{"-one", "-tree"}, true},
}

// crowds are the sizes of a full run. ksmbd-tools let ksmbd open 65,536 files at most,
// whatever "max open files" says.
var crowds = []int{1, 100, 10000, 60000}

// crowdBudget is how long a step with many watches may take: the sizes that matter
// to the bounds take a server that grows in proportion a tenth of it.
const crowdBudget = 5 * time.Minute

func runWatches(ctx context.Context, b *Bench) error {
	if err := countWatches(ctx, b); err != nil {
		return err
	}
	sizes, budget, memory := []int{1, 50, 250}, 20*time.Second, 2048
	if !b.Quick {
		sizes, budget, memory = crowds, crowdBudget, 6144
	}
	g, err := startLoad(ctx, b, "watches-time", vmrunner.Options{Memory: memory, Kernel: []string{"slab_nomerge"}})
	if err != nil {
		return err
	}
	defer g.stop(ctx)
	return job.From(ctx).Step("bench watches", func(s *job.Step) error {
		over := map[string]int{} // sizes that took too long, by server and layout
		for _, y := range layouts {
			for _, n := range sizes {
				var variants []Variant
				for _, srv := range loadServers {
					what := srv.name + ", " + y.name
					if smaller, ok := over[what]; ok {
						b.Skip(fmt.Sprintf("%s, %d watches", what, n), fmt.Sprintf("%d were too many already", smaller))
						continue
					}
					args := append([]string{"watches", "-n", fmt.Sprint(n), "-events", fmt.Sprint(b.Times(20, 100)), "-budget", budget.String()}, y.args...)
					variants = append(variants, Variant{srv.name, func(ctx context.Context) ([]Reading, error) {
						if _, ok := over[what]; ok {
							return nil, nil
						}
						f, err := g.load(ctx, srv, args...)
						why := f.skipped()
						if err != nil && srv.name == "samba" && ctx.Err() == nil && g.vm.Err() == nil {
							why, err = err.Error(), nil // it is not Samba that is tested
						}
						if why != "" {
							over[what] = n
							b.Skip(fmt.Sprintf("%s, %d watches, in part", what, n), why)
						}
						return watched(f, y.name, float64(n)), err
					}})
				}
				times := 1
				if n <= 1000 {
					times = b.Times(1, 3)
				}
				if err := b.Alternate(ctx, s, 0, times, variants...); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// skipped says what the load could not do in its time, or "".
func (all figures) skipped() string {
	i := slices.IndexFunc(all, func(f figure) bool { return f.Skip != "" })
	if i < 0 {
		return ""
	}
	return all[i].Skip
}

// watched are the readings of n watches: what was measured before it took too long.
func watched(f figures, layout string, n float64) (all []Reading) {
	add := func(metric, unit, name string) { all = append(all, f.median(metric+", "+layout, n, unit, name)...) }
	add("open", Nanoseconds, "open")
	add("arm", Nanoseconds, "arm")
	add("close", Nanoseconds, "close")
	add("CPU time of the server to arm", Nanoseconds, "arm/cpu")
	all = append(all, remembered(f, layout, n)...)
	add("create by a client that concerns none to its own response", Nanoseconds, "none/client")
	add("create to the response of the one watch concerned", Nanoseconds, "concerns-one")
	add("create to the last response", Nanoseconds, "concerns-all")
	return all
}

// remembered are what n watches take of the memory, where there are enough to tell.
func remembered(f figures, layout string, n float64) []Reading {
	return slices.Concat(
		f.median("kernel memory of a handle, "+layout, n, Bytes, "handle/slab"),
		f.median("kernel memory of a watch, "+layout, n, Bytes, "watch/slab"),
		f.median("process memory of a watch, "+layout, n, Bytes, "watch/process"))
}

// median is the reading of a figure, or nothing where that was not measured.
func (all figures) median(metric string, size float64, unit, name string) []Reading {
	v := all.get(name)
	if v == nil {
		return nil
	}
	return []Reading{{metric, size, unit, Median(v)}}
}

// countWatches counts the instructions of changes: on ksmbd alone, since no process
// of Samba's takes part in a change that inotify has no watch for.
func countWatches(ctx context.Context, b *Bench) error {
	sizes, memory := []int{1, 1000}, 2048
	if !b.Quick {
		sizes, memory = crowds, 6144
	}
	g, err := startLoad(ctx, b, "watches-count", vmrunner.Options{Memory: memory, Count: true, Kernel: []string{"slab_nomerge"}})
	if err != nil {
		return err
	}
	defer g.stop(ctx)
	ksmbd := loadServers[0]
	return job.From(ctx).Step("bench watches, instructions", func(s *job.Step) error {
		for _, y := range layouts {
			for _, n := range sizes {
				if y.one && n > 10000 {
					b.Skip(fmt.Sprintf("instructions, %s, %d watches", y.name, n), "each change is told to each watch: the group's times show it")
					continue
				}
				// A file system with more on it costs more.
				args := append([]string{"watches", "-n", fmt.Sprint(n), "-dirs", fmt.Sprint(slices.Max(sizes)), "-events", fmt.Sprint(b.Times(50, 200))}, y.args...)
				times := b.Times(1, 2)
				if n == 1 {
					times = 3 // a client is not like another, and this takes no time
				}
				err := b.Alternate(ctx, s, 0, times, Variant{ksmbd.name, func(ctx context.Context) ([]Reading, error) {
					f, err := g.load(ctx, ksmbd, args...)
					if err != nil {
						return nil, err
					}
					return counted(f, y.name, float64(n)), nil
				}})
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// counted are the readings of n watches under a clock of instructions.
func counted(f figures, layout string, n float64) []Reading {
	all := f.median("concerns none, "+layout, n, Instructions, "none/local")
	all = append(all, f.median("concerns none, before there was a watch, "+layout, n, Instructions, "none/before/local")...)
	if one := f.get("concerns-one"); one != nil {
		all = append(all, Reading{"create to the response of the one watch concerned, " + layout + ", one CPU, p10", n, Instructions, Percentile(one, 10)})
	}
	return append(all, remembered(f, layout, n)...)
}
