package tests

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"kbuild-run/patches/job"
	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/servers"
)

const head = "# It shows something.\n# sections: MS-SMB2 1\n# rules: R-2.25\n"

// A scenario that names a rule nobody knows shows nothing about it.
func TestRules(t *testing.T) {
	known := map[string]bool{}
	for _, r := range Rules() {
		if known[r.ID] || r.Source == "" || !strings.Contains("ABC", r.Priority) {
			t.Errorf("rules.tbl: %+v", r)
		}
		known[r.ID] = true
	}
	all, err := Scenarios("")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		for _, r := range s.Rules {
			if !known[r] {
				t.Errorf("%s names rule %s, which is not in rules.tbl", s.Name, r)
			}
		}
	}
}

// startSamba starts a Samba for the length of the test.
func startSamba(t *testing.T) (context.Context, *scenario.Server) {
	t.Helper()
	ctx := job.With(context.Background(), &job.Job{})
	server, stop, err := SambaServer(ctx)
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop() })
	return ctx, server
}

// What a scenario says when it fails is what a person has to go by.
func TestFailures(t *testing.T) {
	ctx, server := startSamba(t)
	for _, test := range []struct {
		name, text string
		outcome    scenario.Outcome
		failure    scenario.Failure // Last is not looked at
		reason     string
	}{
		{"records", "connect a\nopen a . as dir\nwatch dir\nmakedir a x\nexpect dir added y\n", scenario.Failed, scenario.Failure{Line: 9, Step: "expect dir added y", Want: "added y", Got: "added x"}, ""},
		{"status", "connect a\nopen a . as dir\nwatch dir -size max+1 -charge 1\nexpect dir pending\n", scenario.Failed, scenario.Failure{Line: 8, Step: "expect dir pending", Want: "STATUS_PENDING", Got: "STATUS_INVALID_PARAMETER"}, ""},
		{"not-there", "connect a\nopen a nothing\n", scenario.Failed, scenario.Failure{Line: 6, Step: "open a nothing", Want: "the step to succeed", Got: `CREATE: STATUS_OBJECT_NAME_NOT_FOUND`}, ""},
		{"wanted", "connect a\nopen a nothing -status STATUS_OBJECT_NAME_NOT_FOUND\n", scenario.Passed, scenario.Failure{}, ""},
		{"not-wanted", "connect a\nopen a . as d -status STATUS_ACCESS_DENIED\n", scenario.Failed, scenario.Failure{Line: 6, Step: "open a . as d -status STATUS_ACCESS_DENIED", Want: "STATUS_ACCESS_DENIED", Got: "STATUS_SUCCESS"}, ""},
		{"no-command", "conect a\n", scenario.Failed, scenario.Failure{Line: 5, Step: "conect a", Want: "a script that can be read", Got: `unknown command "conect" (did you mean "connect"?)`}, ""},
		{"no-client", "open a .\n", scenario.Failed, scenario.Failure{Line: 5, Step: "open a .", Want: "the step to succeed", Got: `there is no client "a"; there are: `}, ""},
		{"order", "connect a\nopen a . as x\nopen a . as y\nclose x as first\nclose y as second\norder second first\n", scenario.Failed, scenario.Failure{Line: 10, Step: "order second first", Want: "second before first", Got: "first before second"}, ""},
		{"server", "server false\n", scenario.Failed, scenario.Failure{Line: 5, Step: "server false", Want: "the step to succeed", Got: "exit status 1"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := scenario.Parse(test.name, head+"\n"+test.text)
			if err != nil {
				t.Fatal(err)
			}
			results, err := scenario.Run(ctx, server, []*scenario.Scenario{s}, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Outcome != test.outcome {
				t.Fatalf("outcome: got %s, want %s", r.Outcome, test.outcome)
			}
			if r.Outcome != scenario.Failed {
				return
			}
			got, want := *r.Failure, test.failure
			if got.Line != want.Line || got.Step != want.Step || got.Want != want.Want || !strings.Contains(got.Got, want.Got) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}

	// A scenario that does not end in the same way each time fails.
	s, err := scenario.Parse("flaky", head+"# needs: shell\n\nserver '! test -e ../../once || exit 1; touch ../../once'\n")
	if err != nil {
		t.Fatal(err)
	}
	results, err := scenario.RunTimes(ctx, server, []*scenario.Scenario{s}, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := results[0]; r.Outcome != scenario.Failed || !strings.HasSuffix(r.Failure.Got, "(time 2 of 3 ends in another way than the first)") {
		t.Errorf("flaky: got %s, %+v", r.Outcome, r.Failure)
	}

	// A difference that is no more must be taken out of the head; a server
	// without a shell skips.
	noShell := *server
	noShell.Shell, noShell.Instead = nil, nil
	for _, test := range []struct {
		name, head, text string
		outcome          scenario.Outcome
		reason           string
	}{
		{"differs", "# samba: it does not\n", "connect a\nopen a nothing\n", scenario.Differs, "it does not"},
		{"differs-no-more", "# samba: it does not\n", "connect a\n", scenario.Failed, "it does not"},
		{"ksmbd", "# ksmbd: it does not\n", "connect a\n", scenario.Passed, ""},
		{"shell", "# needs: shell\n", "connect a\n", scenario.Skipped, "samba has no shell for us"},
	} {
		s, err := scenario.Parse(test.name, head+test.head+"\n"+test.text)
		if err != nil {
			t.Fatal(err)
		}
		results, err := scenario.Run(ctx, &noShell, []*scenario.Scenario{s}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r := results[0]; r.Outcome != test.outcome || r.Reason != test.reason {
			t.Errorf("%s: got %s, %q; want %s, %q", test.name, r.Outcome, r.Reason, test.outcome, test.reason)
		}
	}
}

// A server that is known by its address runs all but what needs a shell.
func TestByAddress(t *testing.T) {
	ctx, samba := startSamba(t)
	u := url.URL{Scheme: "smb", User: url.UserPassword(samba.User.User, samba.User.Password), Host: samba.Addr, Path: samba.Share}
	server, err := AddressServer(u.String())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Scenarios("", "close", "explorer")
	if err != nil {
		t.Fatal(err)
	}
	results, err := scenario.Run(ctx, server, all, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := scenario.Count(results), "1 passed, 1 skipped"; got != want {
		t.Errorf("got %s, want %s: %+v", got, want, results[0].Failure)
	}
}

func TestAddressServer(t *testing.T) {
	t.Setenv("PASSWD", "hidden")
	for _, test := range []struct {
		text, addr, share, domain, user, password string
		ok                                        bool
	}{
		{"smb://u:p%20w@host/share", "host:445", "share", "", "u", "p w", true},
		{"smb://d;u:p@host:4450/share/", "host:4450", "share", "d", "u", "p", true},
		{"smb://u@host/share", "host:445", "share", "", "u", "hidden", true},
		{"smb://host/share", "", "", "", "", "", false},
		{"smb://u:p@host", "", "", "", "", "", false},
		{"http://u:p@host/share", "", "", "", "", "", false},
	} {
		s, err := AddressServer(test.text)
		if (err == nil) != test.ok {
			t.Errorf("%s: got %v", test.text, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), ":p@") {
				t.Errorf("%s: the error shows the password: %v", test.text, err)
			}
			continue
		}
		if s.Addr != test.addr || s.Share != test.share || s.User != (client.Credentials{User: test.user, Password: test.password, Domain: test.domain}) {
			t.Errorf("%s: got %+v", test.text, s)
		}
	}
}
