package tests

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"kbuild-run/tests/scenario"
	"kbuild-run/vmrunner"
	"kbuild-run/vmrunner/splat"
)

// patient is how long a scenario that failed must have taken to raise the
// suspicion that the guest hangs, on a server that is not slowed down.
const patient = 4 * time.Second

// hangs looks whether a guest hangs when scenarios fail by waiting.
type hangs struct {
	vm    *vmrunner.VM
	dir   string // for the evidence
	found func() // called when it does

	wg     sync.WaitGroup
	mu     sync.Mutex
	last   time.Time // of the newest look
	report *splat.Report
	err    error // of the evidence
}

// suspect looks at the guest if r may have failed since it hangs.
func (h *hangs) suspect(ctx context.Context, r *scenario.Result) {
	limit := h.vm.Deadline(patient)
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Outcome != scenario.Failed || r.Time < limit || time.Since(h.last) < limit || h.report != nil {
		return
	}
	h.last = time.Now()
	h.wg.Go(func() {
		if why := h.vm.Responds(ctx); why != nil {
			h.hang(ctx, why)
		}
	})
}

// hang takes the evidence, unless the guest is dead or we are to end.
func (h *hangs) hang(ctx context.Context, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil || h.vm.Err() != nil || h.report != nil {
		return
	}
	report, err := h.vm.Hang(ctx, filepath.Join(h.dir, "hang"), why)
	h.report, h.err = &report, err
	h.found()
}

// end waits for what suspect began, looks for tasks that stay blocked when a
// scenario failed, and returns the hang, if there is one.
func (h *hangs) end(ctx context.Context, results []*scenario.Result) (*splat.Report, error) {
	h.wg.Wait()
	var waited []string // scenarios that may have come upon it
	for _, r := range results {
		if r != nil && r.Outcome == scenario.Failed && r.Time >= h.vm.Deadline(patient) {
			waited = append(waited, r.Scenario.Name)
		}
	}
	if len(waited) > 0 {
		if why := h.vm.Blocked(ctx); why != nil {
			h.hang(ctx, why)
		}
	}
	if h.report != nil && len(h.report.During) == 0 {
		h.report.During = waited // they have ended by now
	}
	return h.report, h.err
}
