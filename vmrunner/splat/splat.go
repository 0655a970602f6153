// Package splat finds what a kernel complains about: console log -> reports.
//
// A report is cut out of the log with a title that is the same each time, the
// functions it is about, and what ran when it was printed. Reports that are alike
// are one. The allow list holds what is known and not ours.
package splat

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Report is one complaint of the kernel, cut out of a console log.
type Report struct {
	Kind   string   `json:"kind"`             // BUG, WARNING, KASAN, lockdep, ...
	Title  string   `json:"title"`            // without what differs from run to run: addresses, offsets, pids, times
	Line   int      `json:"line"`             // of the log, from 1; 0: it was not in the log
	Text   string   `json:"text"`             // the lines as printed
	Frames []string `json:"frames,omitempty"` // its first own functions, innermost first, see frames
	During []string `json:"during,omitempty"` // what ran when it was printed, see Begin
	Count  int      `json:"count,omitempty"`  // how many alike there were, see Merge

	// Decoded is the text with files and lines, see Decode; "" without debug
	// information.
	Decoded string `json:"decoded,omitempty"`
}

// Lines that a host writes between the lines of the guest. A report belongs to
// everything that has begun and not ended.
const (
	begins = "kbuild-run: begins "
	ends   = "kbuild-run: ends "
)

// Between these lines the kernel answers questions: nothing there is a complaint.
const (
	Asks  = "kbuild-run: asks the kernel"
	Asked = "kbuild-run: has asked the kernel"
)

// Begin and End return the lines that say what runs from here on.
func Begin(what string) string { return begins + what }
func End(what string) string   { return ends + what }

// rule recognises the first line of a report, without its time stamp.
type rule struct {
	kind  string
	re    *regexp.Regexp
	title string // with $1; "{fn}" is the function of the next "RIP:" line
	end   ending
}

// ending says how a kind of report ends, besides by its size and by a pause.
type ending int

const (
	endTrace ending = iota // "---[ end trace", oops and warnings
	endRule                // a line of "=", sanitizers
	endTask                // "</TASK>", splats that print one stack
	endLine                // the line itself
	endPause               // nothing marks it
)

// Two forms of WARNING are in use: up to Linux 6.18 "WARNING: CPU: 0 PID: 1 at
// f.c:1 fn+0x1/0x2", since then "WARNING: [cond] f.c:1 at fn+0x1/0x2, CPU#0:
// comm/1". The first rule that matches counts.
var rules = []rule{
	{"KASAN", re(`^BUG: KASAN: (.+?) in ([\w.]+)`), "KASAN: $1 in $2", endRule},
	{"KASAN", re(`^BUG: KASAN: (.+)`), "KASAN: $1", endRule},
	{"KCSAN", re(`^BUG: KCSAN: (.+?) in ([\w.]+)(?: \[\w+\])?( / [\w.]+)?`), "KCSAN: $1 in $2$3", endRule},
	{"KCSAN", re(`^BUG: KCSAN: (.+)`), "KCSAN: $1", endRule},
	{"KFENCE", re(`^BUG: KFENCE: (.+?) in ([\w.]+)`), "KFENCE: $1 in $2", endRule},
	{"KMSAN", re(`^BUG: KMSAN: (.+?) in ([\w.]+)`), "KMSAN: $1 in $2", endRule},
	{"UBSAN", re(`^UBSAN: (\S+) in (\S+?):\d+:\d+`), "UBSAN: $1 in $2", endRule},
	{"UBSAN", re(`^UBSAN: (.+)`), "UBSAN: $1", endRule},

	{"soft lockup", re(`^(?:watchdog: )?BUG: soft lockup - CPU#\d+ stuck for \d+s! \[(.+?):\d+\]`), "soft lockup in $1", endPause},
	{"hard lockup", re(`^(?:NMI watchdog: |watchdog: )?(?:Watchdog detected hard LOCKUP|CPU\d+: Watchdog detected hard LOCKUP)`), "hard lockup", endPause},
	{"hung task", re(`^INFO: task (\S+?):\d+ blocked (?:in I/O wait )?for more than \d+ seconds`), "hung task: $1", endTask},
	{"RCU stall", re(`^(?:rcu: )?INFO: (rcu\w*) (?:self-)?detected (?:expedited )?stalls? on`), "$1 stall", endPause},
	{"workqueue lockup", re(`^BUG: workqueue lockup`), "workqueue lockup", endPause},

	{"lockdep", re(`^WARNING: (possible (?:circular|recursive|irq lock inversion).*?|inconsistent lock state|bad unlock balance|bad contention|held lock freed|lock held (?:when|at).*?|suspicious RCU usage|Nested lock was not taken|.*-safe -> .*-unsafe lock order|nested lock|invalid wait context)(?: detected)?!?$`), "lockdep: $1", endTask},
	{"lockdep", re(`^\[ BUG: (Invalid wait context) \]`), "lockdep: $1", endTask},
	{"lockdep", re(`^BUG: (MAX_LOCK\w+ too low|MAX_STACK\w+ too low|.*lock held.*?|invalid wait context)!?$`), "lockdep: $1", endTask},
	{"lockdep", re(`^WARNING: \S+/\d+ still has locks held!`), "lockdep: locks still held", endTask},
	{"lockdep", re(`^INFO: (trying to register non-static key|lockdep is turned off)`), "lockdep: $1", endTask},
	{"lockdep", re(`^DEBUG_LOCKS_WARN_ON\((.+)\)`), "lockdep: DEBUG_LOCKS_WARN_ON($1)", endTrace},

	{"list corruption", re(`^(list_add|list_del|hlist_\w+|plist\w*) corruption\b`), "$1 corruption", endTrace},
	{"refcount", re(`^refcount_t: (.+?)\.?$`), "refcount_t: $1", endTrace},
	{"ODEBUG", re(`^ODEBUG: (.+?) \(active state \d+\).* object type: (\S+)`), "ODEBUG: $1 $2", endTrace},
	{"BUG", re(`^BUG: scheduling while atomic: (.+?)/\d+/0x`), "scheduling while atomic: $1", endTask},
	{"BUG", re(`^BUG: sleeping function called from invalid context at (\S+?):\d+`), "sleeping function called from invalid context at $1", endTask},
	{"BUG", re(`^BUG: kernel NULL pointer dereference`), "NULL pointer dereference in {fn}", endTrace},
	{"BUG", re(`^BUG: unable to handle (?:kernel )?(NULL pointer dereference|page fault|paging request)`), "$1 in {fn}", endTrace},
	{"BUG", re(`^BUG: Bad (page state|rss-counter state|page map)`), "Bad $1", endTask},
	{"BUG", re(`^BUG (\S+) \(.*\): (.+)`), "slab $1: $2", endTask},
	{"BUG", re(`^kernel BUG at (\S+?):\d+!`), "kernel BUG at $1 in {fn}", endTrace},
	{"BUG", re(`^BUG: (.+)`), "BUG: $1", endTask},
	{"general protection", re(`^(?:Oops: )?general protection fault\b`), "general protection fault in {fn}", endTrace},
	{"Oops", re(`^Oops: ([a-z][a-z -]*?): [0-9a-f]{4} \[#\d+\]`), "$1 in {fn}", endTrace},
	{"Oops", re(`^Oops: [0-9a-fA-F]+ \[#\d+\]`), "Oops in {fn}", endTrace},
	{"Oops", re(`^(divide error|invalid opcode|stack segment|double fault|int3|alignment check|bounds|traps: PANIC)(?:: [0-9a-f]{4} \[#\d+\]|:)`), "$1 in {fn}", endTrace},
	{"WARNING", re(`^WARNING: CPU: \d+ PID: \d+ at \S+:\d+ ([\w.]+)\+0x`), "WARNING in $1", endTrace},
	{"WARNING", re(`^WARNING: (?:\[.*\] )?(?:\S+:\d+ )?at ([\w.]+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\S+\])?, CPU#\d+: `), "WARNING in $1", endTrace},
	{"WARNING", re(`^WARNING: CPU: \d+ PID: \d+ at (\S+):\d+`), "WARNING at $1", endTrace},
	{"WARNING", re(`^WARNING: (.+)`), "WARNING: $1", endTask},
	{"kmemleak", re(`^kmemleak: \d+ new suspected memory leaks?`), "kmemleak: new suspected memory leaks", endLine},
	{"kmemleak", re(`^BUG: memory leak`), "memory leak", endPause},
	{"kmemleak", re(`^unreferenced object 0x[0-9a-f]+ \(size (\d+)\)`), "unreferenced object of $1 bytes", endPause},
	{"OOM", re(`^(\S+) invoked oom-killer:`), "out of memory: $1 invoked oom-killer", endPause},
	// A log with a hole may hide anything: kernel/printk/printk.c.
	{"lost", re(`^\*\* \d+ printk messages dropped \*\*`), "printk messages dropped", endLine},
	{"panic", re(`^Kernel panic - not syncing: (.+)`), "panic: $1", endTask},
}

func re(s string) *regexp.Regexp { return regexp.MustCompile(s) }

const (
	maxLines   = 400 // of one report
	pause      = 2.0 // seconds of kernel time that end a report
	panicLines = 40  // between an oops and the panic that it causes
)

var (
	stampRE  = re(`^(?:<\d+>)?\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? ?`)
	ripRE    = re(`^RIP: [0-9a-f]{4}:([\w.]+)\+0x`)
	workerRE = re(`\bkworker/[\w:+-]+`)
	vagueRE  = re(`\.(?:constprop|isra|part|cold)\b(?:\.\d+)?|\+0x[0-9a-f]+(/0x[0-9a-f]+)?|\b0x[0-9a-f]+\b|\b[0-9a-f]{16}\b|\[[0-9a-f]{8}\]|/\d+\b`)
)

// CutStamp splits a line into the kernel's time stamp, "" if there is none, and
// the rest. The caller that CONFIG_PRINTK_CALLER adds is cut off too.
func CutStamp(line string) (stamp, text string) {
	m := stampRE.FindStringSubmatchIndex(line)
	if m == nil {
		return "", line
	}
	return line[m[2]:m[3]], line[m[1]:]
}

// Scan returns what the kernel complained about in a console log, in the order it
// was printed, alike ones too. An error means that the log was not read to its end.
func Scan(r io.Reader) ([]Report, error) {
	var s scanner
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			s.feed(strings.TrimRight(line, "\r\n"))
		}
		if err == io.EOF {
			s.finish()
			return s.reports, nil
		}
		if err != nil {
			return s.reports, fmt.Errorf("scan console: %w", err)
		}
	}
}

type scanner struct {
	reports []Report
	n       int // lines read

	open  bool
	rule  rule
	title string
	start int
	lines []string
	time  float64 // of the newest line with a stamp

	before []string // lines just before that may belong to the next report

	asking  bool     // see Asks
	running []string // see Begin
	during  []string // of the open report
}

// mark takes a line of the host.
func (s *scanner) mark(line string) bool {
	if line == Asks || line == Asked {
		s.finish()
		s.asking = line == Asks
		return true
	}
	if what, ok := strings.CutPrefix(line, begins); ok {
		s.running = append(slices.Clone(s.running), what)
		return true
	}
	if what, ok := strings.CutPrefix(line, ends); ok {
		if i := slices.Index(s.running, what); i >= 0 {
			s.running = slices.Delete(slices.Clone(s.running), i, i+1)
		}
		return true
	}
	return false
}

func (s *scanner) feed(line string) {
	s.n++
	if s.mark(line) || s.asking {
		return
	}
	stamp, text := CutStamp(line)
	if stamp == "" && !s.open && !strings.HasPrefix(text, "unreferenced object") && !strings.HasPrefix(text, "** ") {
		// Not printed by the kernel: a program's output is no complaint.
		return
	}
	if t, err := strconv.ParseFloat(stamp, 64); err == nil {
		if s.open && t-s.time > pause {
			s.finish()
		}
		s.time = t
	}
	text = strings.TrimSpace(text)
	if s.open && s.within(line, text) {
		return
	}
	for _, r := range rules {
		m := r.re.FindStringSubmatchIndex(text)
		if m == nil {
			continue
		}
		s.finish()
		if r.kind == "panic" && s.follows() {
			last := &s.reports[len(s.reports)-1]
			last.Text += line + "\n"
			return
		}
		title := string(r.re.ExpandString(nil, r.title, text, m))
		s.open, s.rule, s.title = true, r, tidy(title)
		s.start, s.during = s.n, s.running
		s.lines = append(s.before, line)
		s.before = nil
		if r.end == endLine {
			s.finish()
		}
		return
	}
	// What comes before the first line of a report: "cut here" and the text
	// of a WARN(), the rule above a splat of lockdep.
	switch {
	case text == "------------[ cut here ]------------" || isRule(text):
		s.before = []string{line}
	case 0 < len(s.before) && len(s.before) < 8:
		s.before = append(s.before, line)
	default:
		s.before = nil
	}
}

// within adds a line to the open report and tells whether it belongs there.
func (s *scanner) within(line, text string) bool {
	if strings.HasPrefix(text, "kbuild-run: ") || len(s.lines) >= maxLines {
		s.finish()
		return false
	}
	if strings.HasPrefix(text, "Kernel panic - not syncing: ") {
		// The end of an oops: the same event.
		s.lines = append(s.lines, line)
		s.finish()
		return true
	}
	// "refcount_t: ..." and "list_del corruption" come before the WARNING or
	// BUG that they cause; "BUG: unable" before its Oops. Another first line
	// of a report that ends by itself is a new one.
	if s.rule.end != endTrace || !inOops(text) {
		for _, r := range rules {
			if r.re.MatchString(text) {
				s.finish()
				return false
			}
		}
	}
	s.lines = append(s.lines, line)
	if m := ripRE.FindStringSubmatch(text); m != nil {
		s.title = strings.Replace(s.title, "{fn}", m[1], 1)
	}
	switch s.rule.end {
	case endTrace:
		if strings.HasPrefix(text, "---[ end trace") {
			s.finish()
		}
	case endRule:
		if isRule(text) && len(s.lines) > 3 {
			s.finish()
		}
	case endTask:
		if text == "</TASK>" {
			s.finish()
		}
	}
	return true
}

// inOops tells lines that open a report of their own elsewhere, and inside a
// report that ends with "end trace" go on with it.
func inOops(text string) bool {
	for _, p := range []string{"Oops: ", "WARNING: CPU: ", "kernel BUG at ", "invalid opcode: ", "general protection fault"} {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return strings.HasPrefix(text, "WARNING: ") && strings.Contains(text, ", CPU#")
}

func isRule(text string) bool { return len(text) >= 20 && strings.Trim(text, "=") == "" }

// follows tells whether the newest report ended just before.
func (s *scanner) follows() bool {
	if len(s.reports) == 0 {
		return false
	}
	last := s.reports[len(s.reports)-1]
	return s.n-(last.Line+strings.Count(last.Text, "\n")) < panicLines && last.Kind != "kmemleak"
}

func (s *scanner) finish() {
	if !s.open {
		return
	}
	s.open = false
	s.reports = append(s.reports, Report{
		Kind:   s.rule.kind,
		Title:  strings.Replace(s.title, " in {fn}", "", 1),
		Line:   s.start,
		Text:   strings.Join(s.lines, "\n") + "\n",
		Frames: frames(s.lines),
		During: s.during,
		Count:  1,
	})
	s.lines = nil
}

// tidy removes addresses, offsets, pids and the numbers of workers.
func tidy(title string) string {
	title = workerRE.ReplaceAllString(title, "kworker")
	return strings.Join(strings.Fields(vagueRE.ReplaceAllString(title, "")), " ")
}

// Head is the title with how often and during what the report came.
func (r *Report) Head() string {
	head := r.Title
	if r.Count > 1 {
		head += fmt.Sprintf(" (%d times)", r.Count)
	}
	if n := len(r.During); n > 0 {
		head += ", during " + strings.Join(r.During[:min(n, maxDuring)], ", ")
		if n > maxDuring {
			head += fmt.Sprintf(" and %d more", n-maxDuring)
		}
	}
	return head
}

// maxDuring is how many names Head spells out.
const maxDuring = 8

// Body is the text, decoded if it could be.
func (r *Report) Body() string {
	if r.Decoded != "" {
		return r.Decoded
	}
	return r.Text
}
