package splat

import (
	"regexp"
	"slices"
	"strings"
)

// maxFrames is how many functions tell one report from another of the same title:
// enough to get past a helper that everybody calls.
const maxFrames = 5

var (
	frameRE = re(`^(?:\[<[0-9a-f]+>\] )?([\w.]+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?$`)
	// What stands before the first stack of a report: every kind that prints one,
	// kmemleak, KCSAN.
	stackRE = re(`^(Call Trace:|backtrace\b.*:|(?:read|write|read-write|assert no \w+)\b.* to 0x[0-9a-f]+ of \d+ bytes by .*:)$`)

	// Functions that report, check or wait on behalf of others.
	genericRE = re(`^(?:` + strings.Join([]string{
		`dump_stack\w*`, `show_stack\w*`, `print_\w+`, `__?warn\w*`, `warn_slowpath\w*`, `report_bug`, `handle_bug`, `panic`, `\w*oops\w*`, `die\w*`, `__die\w*`,
		`exc_\w+`, `asm_\w+`, `do_error_trap`, `do_user_addr_fault`, `no_context`, `bad_area\w*`,
		`_*kasan_\w+`, `_*asan_\w+`, `check_region\w*`, `_*kcsan_\w+`, `_*tsan_\w+`, `_*ubsan_\w+`, `kmemleak_\w+`, `debug_(?:print_)?object\w*`, `__debug_\w+`, `debug_check_no_\w+`,
		`_*lock_(?:acquire|release|sync)\w*`, `lockdep_\w+`, `validate_chain`, `check_\w+`, `mark_lock\w*`, `mark_held_locks`, `register_lock_class`, `assign_lock_key`,
		`_*raw_(?:spin|read|write)_\w+`, `_*mutex_\w+`, `down_\w+`, `up_\w+`, `rwsem_\w+`, `ww_mutex_\w+`, `__?might_\w+`, `do_raw_\w+`,
		`_*schedule\w*`, `io_schedule\w*`, `preempt_\w+`, `bit_wait\w*`, `out_of_line_wait_\w+`, `wait_for_\w+`, `__wait_\w+`, `do_wait_\w+`,
		`refcount_\w+`, `__list_\w+`, `_*kmem_cache_\w+`, `_*kmalloc\w*`, `_*kvmalloc\w*`, `_*kfree\w*`, `_*kvfree\w*`, `___?slab_\w+`, `slab_\w+`, `krealloc\w*`, `kmemdup\w*`, `kstrdup\w*`,
		`mem(?:cpy|set|move|cmp)\w*`, `str\w+`, `nmi_\w+`, `watchdog\w*`, `rcu_\w+`, `__rcu_\w+`, `native_\w+`, `delay_\w+`, `__(?:const_)?[nu]?delay`,
	}, "|") + `)$`)

	// Functions through which everything is called.
	rootRE = re(`^(?:process_one_work|process_scheduled_works|worker_thread|kthread|ret_from_fork\w*|do_syscall_64|x64_sys_call|__x64_sys_\w+|__(?:do|se)_sys_\w+|entry_SYSCALL_\w+|do_one_initcall|do_init_module|load_module)$`)
)

// frames returns the innermost functions of the first stack of a report, without
// those that only report or wait, and without those through which everything is
// called.
func frames(lines []string) []string {
	var all []string
	add := func(name string) {
		name, _, _ = strings.Cut(name, ".") // .isra.0, .constprop.0
		if !genericRE.MatchString(name) && !rootRE.MatchString(name) && !slices.Contains(all, name) && len(all) < maxFrames {
			all = append(all, name)
		}
	}
	in := false
	for _, line := range lines {
		_, text := CutStamp(line)
		text = strings.TrimSpace(text)
		if m := ripRE.FindStringSubmatch(text); m != nil && len(all) == 0 {
			add(m[1])
		}
		switch m := frameRE.FindStringSubmatch(text); {
		case stackRE.MatchString(text):
			if in {
				return all
			}
			in = true
		case in && m != nil:
			add(m[1])
		case in && (text == "</TASK>" || text == "" && len(all) > 0):
			return all
		}
	}
	return all
}

// Merge returns the reports without those that are like an earlier one, which
// counts them and takes over what ran.
func Merge(reports []Report) []Report {
	var all []Report
	first := map[string]int{}
	for _, r := range reports {
		key := strings.Join(append([]string{r.Kind, r.Title}, r.Frames...), "\n")
		i, ok := first[key]
		if !ok {
			first[key] = len(all)
			all = append(all, r)
			continue
		}
		all[i].Count += r.Count
		for _, what := range r.During {
			if !slices.Contains(all[i].During, what) {
				all[i].During = append(slices.Clone(all[i].During), what)
			}
		}
	}
	return all
}

var (
	taskRE = re(`^task:(\S+) .*\bpid:(\d+)`)
	cpuRE  = re(`^NMI backtrace for cpu \d`)
	// ksmbd's scavenger sleeps, not to be interrupted, until a durable handle times out.
	sleepRE = re(`^ksmbd_durable_scavenger$`)
	idleRE  = re(`^(?:pv_native_safe_halt|default_idle\w*|acpi_idle\w*|cpuidle_\w+|do_idle)$`)
)

// Task is a task that waits, and cannot be interrupted.
type Task struct {
	Name   string // "sh:3795", with its process id
	Frames []string
}

// Where says what the task waits for.
func (t Task) Where() string { return "blocked in " + t.Frames[0] }

// Blocked returns the tasks of an answer to SysRq w, but for those that sleep until
// a time of their own.
func Blocked(answer string) (all []Task) {
	for _, part := range sections(answer, taskRE) {
		_, head := CutStamp(strings.TrimRight(part[0], "\n"))
		if f := frames(part); len(f) > 0 && !sleepRE.MatchString(f[0]) {
			all = append(all, Task{strings.Join(taskRE.FindStringSubmatch(head)[1:], ":"), f})
		}
	}
	return all
}

// Stay returns the tasks of an earlier answer that wait in a later one for the same.
func Stay(earlier, later []Task) []Task {
	return slices.DeleteFunc(slices.Clone(earlier), func(t Task) bool {
		return !slices.ContainsFunc(later, func(o Task) bool { return o.Name == t.Name && slices.Equal(o.Frames, t.Frames) })
	})
}

// Stuck says where a kernel hangs by its answers to SysRq w, the blocked tasks,
// and to SysRq l, the stacks of the CPUs: in words, with the answer it takes this
// from and the frames. where is "" if neither shows it.
func Stuck(blocked, cpus string) (where, text string, stack []string) {
	if tasks := Blocked(blocked); len(tasks) > 0 {
		return tasks[0].Where(), blocked, tasks[0].Frames
	}
	for _, part := range sections(cpus, cpuRE) {
		// The CPU that answers does so in an interrupt of what it was at.
		if slices.ContainsFunc(part, func(l string) bool { return strings.Contains(l, "__handle_sysrq") }) {
			if i := slices.IndexFunc(part, func(l string) bool { return strings.Contains(l, "<TASK>") }); i >= 0 {
				part = append([]string{"Call Trace:"}, part[i:]...)
			}
		}
		if f := frames(part); len(f) > 0 && !slices.ContainsFunc(f, idleRE.MatchString) {
			return "busy in " + f[0], cpus, f
		}
	}
	return "", "", nil
}

// sections cuts the text at lines that head says begin one.
func sections(text string, head *regexp.Regexp) (all [][]string) {
	for line := range strings.Lines(text) {
		_, t := CutStamp(strings.TrimRight(line, "\n"))
		switch n := len(all); {
		case head.MatchString(t):
			all = append(all, []string{line})
		case n > 0:
			all[n-1] = append(all[n-1], line)
		}
	}
	return all
}
