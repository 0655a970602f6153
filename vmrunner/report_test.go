package vmrunner

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// Each file under testdata is a console log with the titles wanted from it on
// top: "TITLE: text" lines, one a report, then an empty line, then the log.
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
			var want []string
			log := string(b)
			for strings.HasPrefix(log, "TITLE: ") {
				var line string
				line, log, _ = strings.Cut(log, "\n")
				want = append(want, strings.TrimPrefix(line, "TITLE: "))
			}
			reports, err := Scan(strings.NewReader(log))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			lines := strings.Split(log, "\n")
			for _, r := range reports {
				got = append(got, r.Title)
				if r.Line < 1 || r.Line > len(lines) || !strings.Contains(r.Text, lines[r.Line-1]+"\n") {
					t.Errorf("%s: line %d is not in its text", r.Title, r.Line)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got titles\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
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

func TestConsoleScanError(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	c.file.Close() // as on a full disk: what is written gets lost
	if n, err := c.Write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("write: got %d, %v; want 5, nil: the guest must not stall", n, err)
	}
	if _, err := c.scan(); err == nil {
		t.Error("scan of a log that is not whole: got no error")
	}
}
