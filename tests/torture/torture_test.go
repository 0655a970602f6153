package torture

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
	"kbuild-run/tests/servers"
)

func TestChoose(t *testing.T) {
	const list = "base.lock.lock\nsmb2.notify.dir.dir\nsmb2.notify.mask.mask\nsmb2.notify-inotify.inotify-rename.inotify-rename\n" +
		"smb2.connect.connect\nsmb2.charset.Testing wide-a.Testing wide-a\nsmb2.connect.connect\nsmb2.bench.read.read\nsmb2.maxfid.maxfid\n"
	for _, test := range []struct {
		patterns string
		want     []string
	}{
		{"smb2.notify", []string{"smb2.notify.dir", "smb2.notify.mask"}},
		{"smb2.notify,!smb2.notify.mask", []string{"smb2.notify.dir"}},
		{"smb2.notify*", []string{"smb2.notify.dir", "smb2.notify.mask", "smb2.notify-inotify.inotify-rename"}},
		{"smb2.con*,smb2.charset.Testing wide-a", []string{"smb2.connect", "smb2.charset.Testing wide-a"}},
		{"*,!smb2.notify*,!smb2.connect", []string{"smb2.charset.Testing wide-a"}},
		{"smb2.bench,smb2.max*", []string{"smb2.bench.read"}},
		{"lock", nil},
		{"base.lock", nil}, // SMB1
	} {
		got, err := choose(list, strings.Split(test.patterns, ","))
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: got %q, %v, want %q", test.patterns, got, err, test.want)
		}
	}
}

// The files of testdata are what smbtorture printed.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		file    string
		outcome Outcome
		reason  string
	}{
		{"success", Passed, ""},
		{"failure", Failed, "smb2/notify.c:2582: status was NT_STATUS_SHARING_VIOLATION, expected NT_STATUS_OK: smb2_setinfo_file failed"},
		{"skip", Skipped, "smb2/session.c:1077: smb2.session.expire1 requires -k yes!"},
		{"no-connection", Failed, "smb2/smb2.c:37: Establishing SMB2 connection failed"},
		{"no-end", "", ""},
		{"unknown", "", ""},
	} {
		b, err := os.ReadFile(filepath.Join("testdata", test.file+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		outcome, reason := parse(string(b))
		if outcome != test.outcome || reason != test.reason {
			t.Errorf("%s: got %q %q, want %q %q", test.file, outcome, reason, test.outcome, test.reason)
		}
	}
}

// A test that hangs is ended, with what it had started, and says so; one that
// ends without a result has not passed.
func TestDeadline(t *testing.T) {
	ctx := job.With(context.Background(), &job.Job{})
	for _, test := range []struct {
		name, script string
		limit        time.Duration
		want         Result
	}{
		// The child of the shell would keep the output open for the test's time.
		{"hangs", "echo time: now; sleep 1000 & sleep 1000", 50 * time.Millisecond, Result{Outcome: Failed, Reason: "no end after 50ms"}},
		{"hangs behind a result", "echo success: a; sleep 1000", 50 * time.Millisecond, Result{Outcome: Failed, Reason: "no end after 50ms"}},
		{"passes", "echo success: a", time.Minute, Result{Outcome: Passed}},
		{"dies", "echo test: a; kill -SEGV $$", time.Minute, Result{Outcome: Failed, Reason: "no result: signal: segmentation fault\ntest: a"}},
		{"says nothing", "true", time.Minute, Result{Outcome: Failed, Reason: "no result"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := runOne(ctx, job.Command("sh", "-c", test.script), "a", test.limit)
			if got.Outcome != test.want.Outcome || strings.TrimSpace(got.Reason) != test.want.Reason {
				t.Errorf("got %s %q, want %s %q", got.Outcome, got.Reason, test.want.Outcome, test.want.Reason)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	all, err := parseKnown("ksmbd.txt", "# a comment\n\nIt cannot:\n    smb2.a.b c\n    smb2.d  v6.12 4.17\n    smb2.e  sometimes\n")
	if err != nil {
		t.Fatal(err)
	}
	k := &Known{file: "known/ksmbd.txt", byTest: map[string]known{}}
	for _, e := range all {
		k.byTest[e.test] = e
	}
	for _, test := range []struct {
		r    Result
		want Outcome
		says string
	}{
		{Result{Test: "smb2.a.b c", Outcome: Failed, Reason: "x"}, Skipped, "It cannot\nx"},
		{Result{Test: "smb2.a.b c", Outcome: Passed}, Failed, "it passes, and is listed as failing: It cannot; take it out of tests/torture/known/ksmbd.txt"},
		{Result{Test: "smb2.a.b c", Outcome: Skipped, Reason: "x"}, Skipped, "x"},
		{Result{Test: "smb2.e", Outcome: Passed}, Passed, ""},
		{Result{Test: "smb2.e", Outcome: Failed, Reason: "x"}, Skipped, "It cannot\nx"},
		{Result{Test: "smb2.f", Outcome: Failed, Reason: "x"}, Failed, "x"},
	} {
		if got := k.Judge(test.r); got.Outcome != test.want || got.Reason != test.says {
			t.Errorf("%+v: got %s %q, want %s %q", test.r, got.Outcome, got.Reason, test.want, test.says)
		}
	}
	for test, want := range map[string]bool{"smb2.d": false, "smb2.e": true, "smb2.f": false} {
		if got := k.Sometimes(test); got != want {
			t.Errorf("%s passes sometimes: got %v, want %v", test, got, want)
		}
	}
	for text, want := range map[string]string{
		"    smb2.a\n":              "ksmbd.txt:1: want a reason before the first test",
		"It cannot\n":               "ksmbd.txt:1: want a reason that ends in a colon",
		"It cannot:\n    a  soon\n": `ksmbd.txt:2: want versions or "sometimes" behind a test`,
	} {
		if _, err := parseKnown("ksmbd.txt", text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// Which entries count depends on what runs against what. The lists of the folder
// can be read for all of them.
func TestLoadKnown(t *testing.T) {
	for _, version := range []string{"4.17.12-Debian", "4.25.1-Debian-4.25.1+dfsg-1"} {
		for _, s := range []Server{{Kind: "samba"}, {Kind: "ksmbd", Version: "v6.12"}, {Kind: "ksmbd", Version: "v7.3"}} {
			if _, err := LoadKnown(&Program{Version: version}, s); err != nil {
				t.Errorf("%s against %s %s: %v", version, s.Kind, s.Version, err)
			}
		}
	}
	if k, err := LoadKnown(&Program{Version: "4.17.12"}, Server{Kind: "smb"}); err != nil || len(k.byTest) > 0 {
		t.Errorf("of an address: got %v, %v, want nothing", k, err)
	}
}

// The program itself, against Samba: a test that passes and one that needs a
// server without CHANGE_NOTIFY, where the request would stay pending for ever.
func TestRun(t *testing.T) {
	ctx := job.With(context.Background(), &job.Job{})
	p, err := Installed(ctx)
	if errors.Is(err, ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	samba, err := servers.StartSamba(ctx, servers.SambaOptions{})
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer samba.Stop()
	emptied := 0
	server := Server{
		Addr: samba.Addr, Share: samba.Share, User: client.Credentials{User: samba.User, Password: samba.Password}, Kind: "samba",
		Empty: func(context.Context) error { emptied++; return nil },
	}
	tests, err := p.List(ctx, "smb2.notify.close", "smb2.change_notify_disabled")
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Run(ctx, server, tests, Options{Deadline: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Outcome{"smb2.notify.close": Passed, "smb2.change_notify_disabled.notfiy_disabled": Failed}
	if len(got) != len(want) || emptied != len(want) {
		t.Fatalf("%d results, %d times emptied, want %d", len(got), emptied, len(want))
	}
	for _, r := range got {
		if r.Outcome != want[r.Test] {
			t.Errorf("%s: got %s, want %s\n%s", r.Test, r.Outcome, want[r.Test], r.Output)
		}
	}
}
