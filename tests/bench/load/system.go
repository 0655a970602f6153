package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/PID/stat, USER_HZ of every architecture here.
const tick = 10 * time.Millisecond

// stat returns the comm of a process and the fields behind it (proc(5)).
func stat(pid string) (comm string, fields []string, ok bool) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return "", nil, false // it has ended
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return "", nil, false
	}
	return string(b[open+1 : end]), strings.Fields(string(b[end+1:])), true
}

// server calls f for each process of the server.
func (l *load) server(f func(pid string, fields []string)) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		pid := filepath.Base(dir)
		comm, fields, ok := stat(pid)
		if ok && slices.ContainsFunc(l.tasks, func(name string) bool { return strings.HasPrefix(comm, name) }) {
			f(pid, fields)
		}
	}
}

// cpu returns how long each process of the server has run, user and kernel. The
// kernel counts in nanoseconds and shows hundredths of a second.
func (l *load) cpu() map[string]time.Duration {
	used := map[string]time.Duration{}
	l.server(func(pid string, fields []string) {
		const utime, stime = 11, 12 // fields 14 and 15, counted from 1 and with pid and comm
		if len(fields) <= stime {
			return
		}
		u, _ := strconv.ParseInt(fields[utime], 10, 64)
		s, _ := strconv.ParseInt(fields[stime], 10, 64)
		used[pid] = time.Duration(u+s) * tick
	})
	return used
}

// since returns what the server has used since cpu returned before.
func (l *load) since(before map[string]time.Duration) (d time.Duration) {
	for pid, now := range l.cpu() {
		d += now - before[pid]
	}
	return d
}

// memory is what the guest's memory is used for.
type memory struct {
	available int64            // MemAvailable
	slab      int64            // pages of all slabs
	private   int64            // PSS of the server's processes
	caches    map[string]int64 // bytes of live objects by slab
}

// memory reads it.
func (l *load) memory() (m memory, err error) {
	m.caches = map[string]int64{}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	m.available, m.slab = kib(b, "MemAvailable:"), kib(b, "Slab:")
	l.server(func(pid string, _ []string) {
		b, _ := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup")) // empty for a kernel thread
		m.private += kib(b, "Pss:")
	})
	// Objects on the lists of a CPU count as used until the cache is shrunk.
	shrink, _ := filepath.Glob("/sys/kernel/slab/*/shrink")
	for _, f := range shrink {
		os.WriteFile(f, []byte("1"), 0)
	}
	b, err = os.ReadFile("/proc/slabinfo")
	if err != nil {
		return m, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		// name <active_objs> <num_objs> <objsize> ...
		w := strings.Fields(s.Text())
		if len(w) < 4 {
			continue
		}
		objects, err := strconv.ParseInt(w[1], 10, 64)
		size, err2 := strconv.ParseInt(w[3], 10, 64)
		if err == nil && err2 == nil {
			m.caches[w[0]] += objects * size
		}
	}
	return m, nil
}

// kib returns the value of a line "NAME  N kB" in bytes, 0 without it.
func kib(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if w := bytes.Fields(line); len(w) >= 2 && string(w[0]) == name {
			n, _ := strconv.ParseInt(string(w[1]), 10, 64)
			return n * 1024
		}
	}
	return 0
}

// grown prints how much memory each of n things has taken between two looks.
func (l *load) grown(name string, n int, before, after memory) {
	objects := map[string]int64{}
	for cache, bytes := range after.caches {
		if d := bytes - before.caches[cache]; d != 0 {
			objects[cache] = d
		}
	}
	caches := slices.SortedFunc(maps.Keys(objects), func(a, b string) int { return int(objects[b] - objects[a]) })
	total := int64(0)
	var words []string
	for i, c := range caches {
		total += objects[c]
		if i < 6 && objects[c] > int64(n) {
			words = append(words, fmt.Sprintf("%s %d", c, objects[c]/int64(n)))
		}
	}
	per := func(v int64) float64 { return float64(v) / float64(n) }
	l.figure(Figure{Name: name + "/slab", Unit: "B", Values: []float64{per(total)}, Note: strings.Join(words, ", ")})
	l.value(name+"/process", "B", per(after.private-before.private))
	l.value(name+"/available", "B", per(before.available-after.available))
}
