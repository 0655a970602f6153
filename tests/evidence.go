package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/tests/pcap"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
)

// cell is the result as a cell of the report. Unless it had to fail, a failure
// leaves a folder below out with its evidence.
func cell(r *scenario.Result, mustFail bool, out, column string) (report.Result, error) {
	c := report.Result{Time: r.Time, Reason: r.Reason}
	switch r.Outcome {
	case scenario.Passed:
		c.Status = report.Passed
	case scenario.Skipped:
		c.Status = report.Skipped
	case scenario.Differs:
		c.Status = report.Skipped
		if mustFail {
			c.Status = report.Failed
		}
	case scenario.Failed:
		c.Status = report.Failed
	}
	if r.Failure == nil {
		return c, nil
	}
	if c.Reason != "" {
		c.Reason += "\n"
	}
	c.Reason += r.Failure.String()
	if mustFail {
		return c, nil
	}
	if r.Outcome == scenario.Failed && len(r.Failure.Last) > 0 {
		c.Reason += "\nlast messages:\n" + strings.Join(r.Failure.Last, "\n")
	}
	c.Folder = filepath.Join(column, r.Scenario.Name)
	return c, evidence(r, filepath.Join(out, c.Folder))
}

// keysFile has the keys of all sessions of the scenarios, for capture.pcap: see
// kbuild-run decode --keys.
const keysFile = "capture.keys"

// keep writes what the scenarios left to folders below dir, and the keys of their
// sessions beside the capture of the guest's network.
func (k *kernel) keep(dir string) error {
	var keys strings.Builder
	for _, r := range k.result {
		if r == nil || r.Messages == nil {
			continue
		}
		for _, line := range r.Keys {
			fmt.Fprintln(&keys, line)
		}
		if err := evidence(r, filepath.Join(dir, r.Scenario.Name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, keysFile), []byte(keys.String()), 0o600)
}

// evidence writes what there is about a scenario.
func evidence(r *scenario.Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"scenario.txt":   r.Scenario.Text,
		"transcript.txt": r.Transcript,
		"timeline.txt":   timeline(r),
	}
	if r.Failure != nil {
		files["failure.txt"] = r.Failure.String() + "\n\n" + strings.Join(r.Failure.Last, "\n") + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write evidence of %s: %w", r.Scenario.Name, err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "messages.pcap"))
	if err != nil {
		return err
	}
	return errors.Join(pcap.Write(f, r.Messages...), f.Close())
}
