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
		count, found, err := stress.Run(ctx, stress.Server{
			Addr: server.Addr, Share: server.Share, User: server.User, Shell: k.shell, Deadline: k.vm.Deadline,
			Restart: func(ctx context.Context) error {
				_, err := k.shell(ctx, unload+"\n. /etc/rc")
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
