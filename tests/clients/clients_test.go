package clients

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"kbuild-run/patches/job"
	"kbuild-run/tests/servers"
)

// Each client sees on Samba what it has to see on ksmbd.
func TestRun(t *testing.T) {
	ctx := job.With(t.Context(), &job.Job{})
	samba, err := servers.StartSamba(ctx, servers.SambaOptions{})
	if errors.Is(err, servers.ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer samba.Stop()
	local := func(ctx context.Context, command string) error {
		_, err := job.Command("sh", "-ec", command).In(samba.Dir).Probe(ctx)
		return err
	}
	results, err := Run(ctx, &Server{Addr: samba.Addr, Share: samba.Share, User: samba.User, Password: samba.Password, Local: local})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Run(r.Client, func(t *testing.T) {
			var missing *Missing
			if errors.As(r.Err, &missing) {
				t.Skip(missing)
			}
			if r.Err != nil || !strings.HasPrefix(r.Saw, "added new-") {
				t.Errorf("saw %q, %v; want added new-N", r.Saw, r.Err)
			}
		})
	}
}

// A client that is told nothing fails, and says what it said itself.
func TestTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	local := func(context.Context, string) error { return nil }
	results, err := Run(t.Context(), &Server{Addr: l.Addr().String(), Share: "share", User: "u", Password: "p", Local: local})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		var missing *Missing
		if r.Err == nil {
			t.Errorf("%s: saw %q of a server that is not there", r.Client, r.Saw)
		} else if !errors.As(r.Err, &missing) && !strings.Contains(r.Err.Error(), "; it said: ") {
			t.Errorf("%s: got %v, want why", r.Client, r.Err)
		}
	}
}
