package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kbuild-run/patches/job"
	"kbuild-run/tests/compare"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
)

// Compare runs the scenarios on each of the servers, which are named as for Test
// (ksmbd is the guest), and prints how they ended and in which fields the answers
// of the others differ from those of the first. A scenario that fails somewhere is
// a failure, see compare.Report.Unexplained.
func Compare(ctx context.Context, names []string, o Options) error {
	j := job.From(ctx)
	began := time.Now()
	if len(names) < 2 {
		return job.Usage(errors.New("compare: want two servers or more: --compare samba,ksmbd"))
	}
	scenarios, err := o.scenarios()
	if err != nil {
		return job.Usage(err)
	}
	// What is only a mistake is said before anything is built.
	for _, name := range names {
		if strings.HasPrefix(name, "smb://") {
			_, err = AddressServer(name)
		} else if name != "ksmbd" && name != "guest" && name != "samba" {
			err = fmt.Errorf("compare: server %s is unknown; there are ksmbd, samba, smb://USER:PASSWORD@HOST/SHARE", name)
		}
		if err != nil {
			return job.Usage(err)
		}
	}
	out := ""
	if !j.DryRun {
		if out, err = o.folder(began, "compare"); err != nil {
			return err
		}
	}
	var servers []compare.Server
	var failures []error
	for _, name := range names {
		s, err := o.play(ctx, name, scenarios, out)
		if err != nil && job.Code(err) != job.ExitFailed {
			return err
		}
		servers, failures = append(servers, s), append(failures, err)
	}
	if j.DryRun {
		return nil
	}
	r := compare.New(servers)
	if err := compareFiles(r, out); err != nil {
		return err
	}
	if err := r.Markdown(j.Out); err != nil {
		return err
	}
	if bad := r.Unexplained(); len(bad) > 0 {
		failures = append(failures, job.Failed(fmt.Errorf("compare %s: %s fails, and nothing says why it may; the report is in %s", strings.Join(names, " and "), strings.Join(bad, ", "), out)))
	}
	j.Logf("the report is in %s", out)
	return errors.Join(failures...)
}

// play runs the scenarios on one server. That a guest died, or its kernel
// complained, is a job.Failed error, and the results are those up to there.
func (o Options) play(ctx context.Context, name string, scenarios []*scenario.Scenario, out string) (s compare.Server, err error) {
	j := job.From(ctx)
	s = compare.Server{Name: name, Results: make([]*scenario.Result, len(scenarios))}
	if name == "ksmbd" || name == "guest" {
		k := &kernel{role: report.After, series: o.Series}
		o.Scenarios = append([]string{}, o.Scenarios...) // the scenarios alone
		if err := k.build(ctx, o); err != nil || j.DryRun {
			return s, err
		}
		if err := k.run(ctx, o, scenarios, out); err != nil {
			return s, err
		}
		copy(s.Results, k.result)
		switch {
		case k.column.Failure != "":
			err = job.Failed(fmt.Errorf("run %s: %s", k.column.Server, k.column.Failure))
		case len(k.column.Reports) > 0:
			err = job.Failed(fmt.Errorf("run %s: the kernel reports: %s", k.column.Server, k.column.Reports[0].Title))
		}
		return s, err
	}
	var server *scenario.Server
	stop := func() error { return nil }
	if name == "samba" {
		err = j.Step("start samba", func(*job.Step) (err error) {
			server, stop, err = SambaServer(ctx)
			return err
		})
	} else {
		server, err = AddressServer(name)
		s.Name = server.Name // without the password
	}
	if err != nil {
		return s, err
	}
	defer stop()
	if j.DryRun {
		return s, nil
	}
	err = j.Step("scenarios on "+s.Name, func(step *job.Step) error {
		results, err := scenario.RunTimes(ctx, server, scenarios, o.Repeat, func(r *scenario.Result) { step.Progress("%s", r.Scenario.Name) })
		if err == nil {
			err = scenario.Again(ctx, server, results, func(first *scenario.Result) { again(j, first) })
		}
		step.Note("%s", scenario.Count(results))
		copy(s.Results, results)
		return err
	})
	return s, err
}

// again says that a scenario ran again, and why.
func again(j *job.Job, first *scenario.Result) {
	j.Logf("%s ran again, since at first %s", first.Scenario.Name, strings.ReplaceAll(first.Failure.String(), "\n", "; "))
}

// compareFiles writes the report as compare.md and compare.json.
func compareFiles(r *compare.Report, out string) error {
	for name, write := range map[string]func(io.Writer) error{
		"compare.md": r.Markdown,
		"compare.json": func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(compare.Diff(r.Servers))
		},
	} {
		f, err := os.Create(filepath.Join(out, name))
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
