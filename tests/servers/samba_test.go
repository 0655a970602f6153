package servers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kbuild-run/patches/job"
)

func start(t *testing.T, o SambaOptions) *Samba {
	t.Helper()
	s, err := StartSamba(t.Context(), o)
	if errors.Is(err, ErrNoSamba) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSamba runs two servers at a time and asks them with Samba's own client.
func TestSamba(t *testing.T) {
	if _, err := exec.LookPath("smbclient"); err != nil {
		t.Skip("smbclient is not installed; install it with: apt-get install smbclient")
	}
	a, b := start(t, SambaOptions{}), start(t, SambaOptions{Share: []string{"read only = yes"}})
	defer a.Stop()
	defer b.Stop()
	if a.Addr == b.Addr || a.Dir == b.Dir {
		t.Fatalf("two servers share %s or %s", a.Addr, a.Dir)
	}
	put := func(s *Samba) error {
		_, port, err := net.SplitHostPort(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		return job.Command("smbclient", "//127.0.0.1/"+s.Share, "-p", port, "-U", s.User+"%"+s.Password, "-c", "put samba.go copy").Run(context.Background())
	}
	if err := put(a); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(a.Dir, "copy")); err != nil || len(got) == 0 {
		t.Errorf("file on the server: %d bytes, %v, want a copy of samba.go", len(got), err)
	}
	if err := put(b); err == nil || !strings.Contains(err.Error(), "NT_STATUS_ACCESS_DENIED") {
		t.Errorf("put on a read-only share: %v, want NT_STATUS_ACCESS_DENIED", err)
	}
}

func TestSambaStops(t *testing.T) {
	s := start(t, SambaOptions{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", s.Addr); err == nil {
		c.Close()
		t.Errorf("%s answers after Stop", s.Addr)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is there after Stop: %v", s.Dir, err)
	}
}

func TestSambaRefusesConfiguration(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := StartSamba(t.Context(), SambaOptions{Global: []string{"interfaces = 203.0.113.1"}})
	if errors.Is(err, ErrNoSamba) {
		t.Skip(err)
	}
	if err == nil {
		s.Stop()
		t.Fatal("smbd starts on an interface that is not there")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "kbuild-run-samba-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSambaPortTaken: smbd that could not have its port is not taken for another
// server that listens there.
func TestSambaPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := start(t, SambaOptions{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(t.Context(), SambaOptions{}, l.Addr().(*net.TCPAddr).Port); !errors.Is(err, errPortTaken) {
		t.Errorf("start: %v, want %v", err, errPortTaken)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", s.Dir, err)
	}
}

// A dry run prints how smbd is started, and does not wait for it.
func TestSambaDryRun(t *testing.T) {
	if program("smbd") == "" || program("pdbedit") == "" {
		t.Skip(ErrNoSamba)
	}
	var out strings.Builder
	s, err := StartSamba(job.With(t.Context(), &job.Job{Out: &out, DryRun: true}), SambaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if got, want := out.String(), "smbd --foreground"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}
