package splat

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

var update = flag.Bool("update", false, "rewrite the heads of the logs")

// Each file under testdata is a console log of a real kernel, made to fail on
// purpose, with what is to be found in it on top, an empty line between.
func TestScan(t *testing.T) {
	files, err := filepath.Glob("testdata/*.log")
	if err != nil || len(files) == 0 {
		t.Fatalf("no logs: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, log, ok := strings.Cut(string(b), "\n\n")
			if want += "\n"; !ok || !strings.HasPrefix(want, "TITLE: ") {
				want, log = "", strings.TrimPrefix(string(b), "\n") // a clean one
			}
			reports, err := Scan(strings.NewReader(log))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(log, "\n")
			for _, r := range reports {
				if r.Line < 1 || r.Line > len(lines) || !strings.Contains(r.Text, lines[r.Line-1]+"\n") {
					t.Errorf("%s: line %d is not in its text", r.Title, r.Line)
				}
			}
			got := head(Merge(reports))
			if *update {
				if err := os.WriteFile(file, []byte(got+"\n"+log), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// head is what stands on top of a log.
func head(reports []Report) string {
	var b strings.Builder
	for _, r := range reports {
		fmt.Fprintf(&b, "TITLE: %s\n", r.Title)
		if r.Count > 1 {
			fmt.Fprintf(&b, "COUNT: %d\n", r.Count)
		}
		if len(r.Frames) > 0 {
			fmt.Fprintf(&b, "FRAMES: %s\n", strings.Join(r.Frames, " "))
		}
		if len(r.During) > 0 {
			fmt.Fprintf(&b, "DURING: %s\n", strings.Join(r.During, ", "))
		}
	}
	return b.String()
}

// Forms of which no log is at hand, by the kernel's source.
func TestScanTitles(t *testing.T) {
	for _, c := range []struct{ line, title string }{
		// kernel/panic.c of Linux 7.3
		{"[    1.000000] WARNING: fs/smb/server/vfs.c:10 at ksmbd_vfs_link+0x1a/0x20 [ksmbd], CPU#1: kworker/1:2/45", "WARNING in ksmbd_vfs_link"},
		{"[    1.000000] WARNING: [x != NULL] fs/namei.c:10 at do_open+0x1a/0x20, CPU#0: sh/1", "WARNING in do_open"},
		{"[    1.000000] WARNING: at do_open+0x1a/0x20, CPU#0: sh/1", "WARNING in do_open"},
		// CONFIG_PRINTK_CALLER
		{"[    1.000000][  T123] WARNING: CPU: 0 PID: 123 at fs/namei.c:10 do_open+0x1a/0x20", "WARNING in do_open"},
		{"[    1.000000][    C1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [ksmbd:r445:77]", "soft lockup in ksmbd:r445"},
		// kernel/kcsan/report.c, lib/ubsan.c
		{"[    1.000000] BUG: KCSAN: data-race in ksmbd_conn_free / ksmbd_conn_alive", "KCSAN: data-race in ksmbd_conn_free / ksmbd_conn_alive"},
		{"[    1.000000] BUG: KCSAN: data-race in ksmbd_conn_free [ksmbd]", "KCSAN: data-race in ksmbd_conn_free"},
		{"[    1.000000] BUG: KCSAN: assert: race in dequeue_entities / ttwu_do_activate", "KCSAN: assert: race in dequeue_entities / ttwu_do_activate"},
		{"[    1.000000] UBSAN: shift-out-of-bounds in fs/smb/server/smb2pdu.c:100:12", "UBSAN: shift-out-of-bounds in fs/smb/server/smb2pdu.c"},
		// kernel/locking/lockdep.c
		{"[    1.000000] WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", "lockdep: HARDIRQ-safe -> HARDIRQ-unsafe lock order"},
		{"[    1.000000] WARNING: inconsistent lock state", "lockdep: inconsistent lock state"},
		{"[    1.000000] WARNING: kworker/0:1/12 still has locks held!", "lockdep: locks still held"},
		{"[    1.000000] [ BUG: Invalid wait context ]", "lockdep: Invalid wait context"},
		{"[    1.000000] BUG: MAX_LOCKDEP_CHAINS too low!", "lockdep: MAX_LOCKDEP_CHAINS too low"},
		// kernel/rcu/tree_stall.h, tree_exp.h
		{"[    1.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu_preempt stall"},
		{"[    1.000000] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-.... }", "rcu_preempt stall"},
		{"[    1.000000] INFO: task kworker/0:1:12 blocked in I/O wait for more than 120 seconds.", "hung task: kworker"},
		// lib/smp_processor_id.c, mm
		{"[    1.000000] BUG: using smp_processor_id() in preemptible [00000000] code: sh/12", "BUG: using smp_processor_id() in preemptible code: sh"},
		{"[    1.000000] BUG: Bad page state in process sh  pfn:12345", "Bad page state"},
		{"[    1.000000] BUG kmalloc-64 (Tainted: G  W ): Right Redzone overwritten", "slab kmalloc-64: Right Redzone overwritten"},
		{"[    1.000000] sh invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0", "out of memory: sh invoked oom-killer"},
		{"unreferenced object 0xffff888009c10220 (size 96):", "unreferenced object of 96 bytes"},
		{"** 17 printk messages dropped **", "printk messages dropped"},

		// What is no complaint.
		{"WARNING: a program's own", ""},
		{"[    1.000000] Spectre V2 : WARNING: Unprivileged eBPF is enabled", ""},
		{"[    1.000000] kbuild-run: rc: BUG: of a script", ""},
		{"[    1.000000] ksmbd: running", ""},
		{"[    1.000000] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.", ""},
		{"[    1.000000] rcu: INFO: Expedited stall ended before state dump start", ""},
	} {
		reports, err := Scan(strings.NewReader(c.line + "\n"))
		var got []string
		for _, r := range reports {
			got = append(got, r.Title)
		}
		if strings.Join(got, "; ") != c.title || err != nil {
			t.Errorf("%s\ngot %q, %v\nwant %q", c.line, got, err, c.title)
		}
	}
}

// A log that cannot be read to its end is no clean log.
func TestScanError(t *testing.T) {
	broken := errors.New("broken")
	_, err := Scan(io.MultiReader(strings.NewReader("[    0.000000] Linux version 6.12\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// What ran when a report came is known by the host's lines around it; alike
// reports are one.
func TestDuring(t *testing.T) {
	warn := func(at, fn, caller string) string {
		return "[" + at + "] WARNING: CPU: 0 PID: 1 at f.c:1 " + fn + "+0x1/0x2\n" +
			"[" + at + "] RIP: 0010:" + fn + "+0x1/0x2\n[" + at + "] Call Trace:\n[" + at + "]  <TASK>\n" +
			"[" + at + "]  " + caller + "+0x1/0x2\n[" + at + "]  </TASK>\n[" + at + "] ---[ end trace 0000000000000000 ]---\n"
	}
	log := warn("    1.000000", "early", "boot") +
		Begin("a") + "\n" + Begin("b") + "\n" + warn("    2.000000", "bad", "one") +
		End("a") + "\n" + warn("    3.000000", "bad", "two") + warn("    4.000000", "bad", "one") +
		Begin("c") + "\n" + warn("    5.000000", "bad", "one")
	reports, err := Scan(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	want := `TITLE: WARNING in early
FRAMES: early boot
TITLE: WARNING in bad
COUNT: 3
FRAMES: bad one
DURING: a, b, c
TITLE: WARNING in bad
FRAMES: bad two
DURING: b
`
	if got := head(Merge(reports)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAllow(t *testing.T) {
	day := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	const entry = "[[allow]]\ntitle = \"WARNING in bad\"\nreason = \"known\"\nuntil = \"2026-11-21\"\n"
	reports := []Report{{Title: "WARNING in bad", Frames: []string{"bad", "one"}}, {Title: "WARNING in bad", Frames: []string{"bad", "two"}}, {Title: "panic: x"}}
	for _, c := range []struct {
		name, text string
		now        time.Time
		left       int
		err        string
	}{
		{"empty", "", day, 3, ""},
		{"any frame", entry, day, 1, ""},
		{"one frame", entry + "frame = \"two\"\n", day, 2, ""},
		{"this base", entry + "bare = \"v7.3\"\n", day, 1, ""},
		{"another base, or a series", entry + "bare = \"v6.12\"\n", day, 3, ""},
		{"over", entry, day.AddDate(0, 0, 1), 0, "was allowed until 2026-11-21"},
		{"no reason", "[[allow]]\ntitle = \"x\"\nuntil = \"2026-11-21\"\n", day, 0, "lacks its title or reason"},
		{"no end", "[[allow]]\ntitle = \"x\"\nreason = \"y\"\n", day, 0, "last day"},
		{"misspelt", entry + "utnil = \"2027-01-01\"\n", day, 0, "unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			allowed, err := readAllow(c.text, c.now)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q in it", err, c.err)
				}
				return
			}
			if got := len(Without(reports, allowed, "v7.3")); err != nil || got != c.left {
				t.Errorf("got %d left, %v; want %d", got, err, c.left)
			}
		})
	}
	// The one in the repository can be read.
	if _, err := Allow(time.Time{}); err != nil {
		t.Error(err)
	}
}

// The folders under testdata/stuck hold what real kernels answered to SysRq w and
// l while they hung.
func TestStuck(t *testing.T) {
	for _, c := range []struct{ dir, where, frames string }{
		{"disk", "blocked in jbd2_write_superblock", "jbd2_write_superblock jbd2_journal_update_sb_log_tail jbd2_journal_commit_transaction kjournald2"},
		{"deadlock", "blocked in crash_init", "crash_init"},
		{"spin", "busy in crash_spin", "crash_spin crash_init"},
		{"idle", "", ""},
	} {
		var answer [2]string
		for i, name := range []string{"blocked.txt", "cpus.txt"} {
			b, err := os.ReadFile(filepath.Join("testdata/stuck", c.dir, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			answer[i] = string(b)
		}
		where, text, stack := Stuck(answer[0], answer[1])
		if where != c.where || strings.Join(stack, " ") != c.frames || (text == "") != (c.where == "") {
			t.Errorf("%s: got %q, %q; want %q, %q", c.dir, where, stack, c.where, c.frames)
		}
	}
}

// A task that waits stays if it is the same one, and at the same place.
func TestStay(t *testing.T) {
	answer := func(tasks ...string) string {
		text := "sysrq: Show Blocked State\n"
		for _, task := range tasks {
			name, where, _ := strings.Cut(task, " ")
			comm, pid, _ := strings.Cut(name, "/")
			text += "task:" + comm + "   state:D stack:0     pid:" + pid + "    tgid:1   ppid:2      flags:0x00004000\nCall Trace:\n <TASK>\n schedule+0x1b/0x90\n " + where + "+0x1/0x2\n kthread+0x81/0xd0\n </TASK>\n"
		}
		return text
	}
	for _, c := range []struct{ first, second, want string }{
		{answer("sh/1 kernel_clone"), answer("sh/1 kernel_clone"), "sh:1 blocked in kernel_clone"},
		{answer("sh/1 kernel_clone"), answer("sh/2 kernel_clone"), ""},
		{answer("sh/1 kernel_clone"), answer("sh/1 do_exit"), ""},
		{answer("sh/1 kernel_clone", "ksmbd:445/2 wait"), answer("ksmbd:445/2 wait"), "ksmbd:445:2 blocked in wait"},
		{answer("sh/1 kernel_clone"), answer(), ""},
		{answer("ksmbd-durable-s/3 ksmbd_durable_scavenger"), answer("ksmbd-durable-s/3 ksmbd_durable_scavenger"), ""},
	} {
		got := ""
		for _, task := range Stay(Blocked(c.first), Blocked(c.second)) {
			got += task.Name + " " + task.Where()
		}
		if got != c.want {
			t.Errorf("%s%s: got %q, want %q", c.first, c.second, got, c.want)
		}
	}
}
