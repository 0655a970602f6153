package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/patches/job"
)

// Settle returns when a watch that smbd has answered with STATUS_PENDING is
// armed, and a change that a client was answered is sent to those who watch. Another
// process, notifyd, keeps the watches and adds those of inotify, and smbd does not
// wait for it: what changes meanwhile is lost. notifyd takes its messages in order,
// so it answers a ping after that.
func (s *Samba) Settle(ctx context.Context) error {
	smbcontrol := program("smbcontrol")
	if smbcontrol == "" {
		return errors.New("smbcontrol is not installed; install it with: apt-get install samba-common-bin")
	}
	pid, err := s.notifyd()
	if err != nil {
		return err
	}
	_, err = job.Command(smbcontrol, "-t", "60", "-s", s.conf(), pid, "ping").Probe(ctx)
	return err
}

// notifyd returns the process id of smbd's notifyd.
func (s *Samba) notifyd() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notifydPID != "" {
		return s.notifydPID, nil
	}
	b, err := os.ReadFile(filepath.Join(s.root, "run", "smbd.pid"))
	if err != nil {
		return "", err
	}
	parent := strings.TrimSpace(string(b))
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return "", err
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (comm) state ppid ..., proc_pid_stat(5)
		var pid, comm, state, ppid string
		if n, _ := fmt.Sscan(string(b), &pid, &comm, &state, &ppid); n == 4 && comm == "(smbd-notifyd)" && ppid == parent {
			s.notifydPID = pid
			return pid, nil
		}
	}
	return "", fmt.Errorf("smbd, process %s, has no notifyd", parent)
}
