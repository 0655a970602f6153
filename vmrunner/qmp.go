package vmrunner

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// Monitor talks to QEMU. It guards go-qemu's SocketMonitor, which knows no
// deadline, blocks when events are not read, and dies on an answer over 64 KiB:
// every command has a deadline, events are always read, and nothing is asked that
// answers at length.
type Monitor struct {
	m    *qmp.SocketMonitor
	lost func() // called when a command timed out: the answers are out of step

	mu     sync.Mutex
	dead   error
	events []string // the newest
}

// commandTime is how long QEMU may take for a command. Its main loop answers, not
// the guest, so the accelerator does not matter.
const commandTime = 10 * time.Second

func dialMonitor(ctx context.Context, path string, lost func()) (*Monitor, error) {
	sm, err := qmp.NewSocketMonitor("unix", path, commandTime)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU's monitor: %w", err)
	}
	m := &Monitor{m: sm, lost: lost}
	connected := make(chan error, 1)
	go func() { connected <- sm.Connect() }()
	ctx, stop := context.WithTimeout(ctx, commandTime)
	defer stop()
	select {
	case err = <-connected:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		sm.Disconnect()
		return nil, fmt.Errorf("greet QEMU's monitor: %w", err)
	}
	events, err := sm.Events(context.Background())
	if err != nil {
		sm.Disconnect()
		return nil, err
	}
	go func() {
		for e := range events {
			m.mu.Lock()
			if m.events = append(m.events, e.Event); len(m.events) > 64 {
				m.events = m.events[1:]
			}
			m.mu.Unlock()
		}
	}()
	return m, nil
}

// Command runs one QMP command. args and result may be nil. A command that times
// out ends the monitor, and QEMU with it.
func (m *Monitor) Command(ctx context.Context, name string, args, result any) error {
	return m.command(ctx, commandTime, name, args, result)
}

func (m *Monitor) command(ctx context.Context, limit time.Duration, name string, args, result any) error {
	m.mu.Lock()
	dead := m.dead
	m.mu.Unlock()
	if dead != nil {
		return fmt.Errorf("run QMP %s: monitor is gone: %w", name, dead)
	}
	command, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{name, args})
	if err != nil {
		return err
	}
	type answer struct {
		b   []byte
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		b, err := m.m.Run(command)
		answered <- answer{b, err}
	}()
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	select {
	case a := <-answered:
		if a.err != nil {
			return fmt.Errorf("run QMP %s: %w", name, a.err)
		}
		if result == nil {
			return nil
		}
		var full struct{ Return json.RawMessage }
		if err := json.Unmarshal(a.b, &full); err != nil {
			return fmt.Errorf("run QMP %s: read answer: %w", name, err)
		}
		return json.Unmarshal(full.Return, result)
	case <-ctx.Done():
		err := context.Cause(ctx)
		m.mu.Lock()
		m.dead = err
		m.mu.Unlock()
		m.lost()
		m.close()
		return fmt.Errorf("run QMP %s: %w", name, err)
	}
}

// Status returns QEMU's word for the guest's state: "running", "paused", ...
func (m *Monitor) Status(ctx context.Context) (string, error) {
	var r struct{ Status string }
	err := m.Command(ctx, "query-status", nil, &r)
	return r.Status, err
}

// KVM tells whether QEMU runs the guest by KVM.
func (m *Monitor) KVM(ctx context.Context) (bool, error) {
	var r struct{ Enabled bool }
	err := m.Command(ctx, "query-kvm", nil, &r)
	return r.Enabled, err
}

// Screendump writes a PNG picture of the guest's screen, if it has one.
func (m *Monitor) Screendump(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	return m.Command(ctx, "screendump", map[string]string{"filename": file, "format": "png"}, nil)
}

// SetLink pulls the cable of a network card of the guest, and puts it back.
func (m *Monitor) SetLink(ctx context.Context, card string, up bool) error {
	return m.Command(ctx, "set_link", map[string]any{"name": card, "up": up}, nil)
}

// Events returns the names of the newest events, oldest first.
func (m *Monitor) Events() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.events...)
}

func (m *Monitor) close() { m.m.Disconnect() }
