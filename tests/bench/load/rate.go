package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
)

// rate looks for the highest rate of local changes that a client with a buffer of
// 64 KiB can follow for as long as window: every change is told, none is answered
// by STATUS_NOTIFY_ENUM_DIR. It doubles the rate, and then halves the step.
func (l *load) rate(ctx context.Context, window time.Duration) error {
	w, err := l.one(ctx, "bench/rate", 65536)
	if err != nil {
		return err
	}
	defer w.drop()
	const first, fine = 250, 4
	good, note, steps := step{}, "", 0
	for rate, bad, more := float64(first), 0.0, 0; more < fine; {
		steps++
		s, err := l.keep(w, fmt.Sprintf("end%d-", steps), rate, window)
		if err != nil {
			return err
		}
		switch {
		case s.overflows > 0 || s.told < s.made:
			bad = rate
			note = fmt.Sprintf("at %.0f/s %d of %d told, %d times STATUS_NOTIFY_ENUM_DIR", s.rate, s.told, s.made, s.overflows)
		case s.rate < 0.9*rate:
			good = s
			note, more = "a local process makes no more", fine
		default:
			good = s
		}
		if bad == 0 {
			rate *= 2
			continue
		}
		more++
		rate = (good.rate + bad) / 2
	}
	l.figure(Figure{Name: "rate/sustained", Unit: "1/s", Values: []float64{good.rate}, Note: note})
	if good.made > 0 {
		l.value("rate/cpu", "ns", float64(good.cpu)/float64(good.made))
		l.value("rate/responses", "1", float64(good.responses)/float64(good.made))
	}
	return nil
}

// step is what came of changes at one rate.
type step struct {
	rate       float64 // that was reached
	made, told int     // events
	responses  int
	overflows  int
	cpu        time.Duration
}

// keep makes events at a rate for a while and reads what is told. The names of
// files that say that it is over begin with end.
func (l *load) keep(w *watch, end string, rate float64, window time.Duration) (s step, err error) {
	before := l.cpu()
	over := make(chan error, 1)
	go func() { over <- s.follow(w, end) }()

	began := time.Now()
	path := func(i int) string { return filepath.Join(l.root, w.dir, fmt.Sprintf("file%06d", i)) }
	made := 0
	for ; time.Since(began) < window; made += 2 {
		if ahead := time.Duration(float64(made)/rate*1e9) - time.Since(began); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
		if _, err := create(path(made)); err != nil {
			return s, err
		}
		if err := os.Remove(path(made)); err != nil {
			return s, err
		}
	}
	took := time.Since(began)
	// The first may be lost in an overflow.
	for i := 0; ; i++ {
		name := filepath.Join(l.root, w.dir, fmt.Sprintf("%s%d", end, i))
		if _, err := create(name); err != nil {
			return s, err
		}
		os.Remove(name)
		select {
		case err := <-over:
			s.made, s.rate, s.cpu = made, float64(made)/took.Seconds(), l.since(before)
			return s, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// follow reads events until the end is told.
func (s *step) follow(w *watch, end string) error {
	m, err := w.final(w.mid)
	for last := false; ; {
		if err != nil {
			return err
		}
		s.responses++
		if m.Status == smb2.STATUS_NOTIFY_ENUM_DIR {
			s.overflows++
		} else {
			all, err := records(m)
			if err != nil {
				return err
			}
			for _, c := range all {
				switch {
				case strings.HasPrefix(c.Name, end):
					last = true
				case strings.HasPrefix(c.Name, "file"):
					s.told++
				}
			}
		}
		if m, err = w.notify(); err != nil || m.Status != smb2.STATUS_PENDING {
			continue
		}
		if last {
			return nil // armed, for the next step
		}
		m, err = w.final(w.mid)
	}
}
