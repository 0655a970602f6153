package tests

import (
	"context"
	"fmt"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/report"
	"kbuild-run/tests/stress"
)

// stress works the guest hard for o.Stress and notes the row of the report.
func (k *kernel) stress(ctx context.Context, o Options) error {
	began := time.Now()
	var problems []string
	err := job.From(ctx).Step(k.step("stress"), func(s *job.Step) (err error) {
		server := GuestServer(k.column.Server, k.tree.Base, k.vm)
		shell := func(ctx context.Context, command string) (string, error) {
			r, err := k.vm.Run(ctx, "cd "+guestShare+"\n"+command)
			if err != nil {
				return "", err
			}
			if r.Code != 0 {
				return "", fmt.Errorf("run %s in the guest: exit status %d: %s", command, r.Code, strings.TrimSpace(string(r.Stderr)))
			}
			return string(r.Stdout), nil
		}
		count, found, err := stress.Run(ctx, stress.Server{
			Addr: server.Addr, Share: server.Share, User: server.User, Shell: shell, Deadline: k.vm.Deadline,
			Restart: func(ctx context.Context) error {
				_, err := shell(ctx, unload+"\n. /etc/rc")
				return err
			},
		}, o.Stress, func(c *stress.Count) { s.Progress("%s", c) })
		problems = found
		s.Note("%s", count)
		if err == nil && len(problems) > 0 {
			return job.Failed(fmt.Errorf("%d problems, the first: %s", len(problems), problems[0]))
		}
		return err
	})
	result := report.Result{Status: report.Passed, Time: time.Since(began)}
	if len(problems) > 0 {
		result.Status, result.Reason = report.Failed, strings.Join(problems, "\n")
		err = nil
	}
	k.hard = &result
	return err
}
