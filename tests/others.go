package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/clients"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
)

// othersPatience is how long another client may take to hear of a change, on a
// fast guest. Without the series it hears of nothing.
const (
	othersPatience = 5 * time.Second
	beforePatience = time.Second
)

// others runs the SMB clients that others wrote. They are part of the whole job,
// not of one that was asked for some scenarios only.
func (k *kernel) others(ctx context.Context, o Options, server *scenario.Server) error {
	if o.Series != notify || o.Scenarios != nil || o.Torture.Patterns != nil || o.Stress > 0 || o.Topologies != nil {
		return nil
	}
	patience := othersPatience
	if k.role == report.Before {
		patience = beforePatience
	}
	user := rootfs.Users[0]
	s := &clients.Server{
		Addr: server.Addr, Share: server.Share, User: user.Name, Password: user.Password,
		Local: func(ctx context.Context, command string) error { return server.Shell(ctx, "", command) },
		Guest: func(ctx context.Context, command string, stdout, stderr io.Writer) (int, error) {
			return k.vm.Exec(ctx, command, nil, stdout, stderr)
		},
		Patience: k.vm.Deadline(patience),
	}
	return job.From(ctx).Step(k.step("clients"), func(step *job.Step) (err error) {
		if k.clients, err = clients.Run(ctx, s); err != nil {
			return err
		}
		var words []string
		for _, r := range k.clients {
			words = append(words, fmt.Sprintf("%s %s", r.Client, clientResult(r).Status))
		}
		step.Note("%s", strings.Join(words, ", "))
		return nil
	})
}

// clientResult is the result as a cell of the report.
func clientResult(r clients.Result) report.Result {
	c := report.Result{Status: report.Passed, Time: r.Time, Reason: r.Saw}
	var missing *clients.Missing
	switch {
	case errors.As(r.Err, &missing):
		c.Status, c.Reason = report.Skipped, missing.Reason
	case r.Err != nil:
		c.Status, c.Reason = report.Failed, r.Err.Error()
		if r.Saw != "" {
			c.Reason = r.Saw + "; then: " + c.Reason
		}
	}
	return c
}

// clientRows are the rows of the other clients.
func clientRows(kernels []*kernel) (rows []report.Scenario) {
	for _, k := range kernels {
		for i, r := range k.clients {
			if i == len(rows) {
				rows = append(rows, report.Scenario{
					Name: "client " + r.Client, Shows: r.Did, Client: true, NeedsSeries: true,
					Results: make([]report.Result, len(kernels)),
				})
			}
		}
	}
	for n, k := range kernels {
		for i, r := range k.clients {
			rows[i].Results[n] = clientResult(r)
		}
	}
	return rows
}
