package tests

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/tests/report"
)

//go:embed faults
var faultFiles embed.FS

// Fault is one that is planted in ksmbd to see whether a run finds it.
type Fault struct {
	Name     string // of NAME.mbox
	Config   string // fragments of the kernel that notices it
	Title    string // of the kernel's report
	Stack    string // a function whose line the report names
	Left     string // what the scenario is said to leave behind
	Scenario string // the one during which it comes; "": the guest does not come up
}

// Faults returns the base of faults.toml and its faults that match one of the
// patterns; without a pattern all.
func Faults(patterns ...string) (base string, all []Fault, err error) {
	text, err := faultFiles.ReadFile("faults/faults.toml")
	if err != nil {
		return "", nil, err
	}
	var file struct {
		Base  string
		Fault []Fault
	}
	meta, err := toml.Decode(string(text), &file)
	if err != nil {
		return "", nil, fmt.Errorf("read faults.toml: %w", err)
	}
	if more := meta.Undecoded(); len(more) > 0 {
		return "", nil, fmt.Errorf("read faults.toml: unknown key %s", more[0])
	}
	var names []string
	for _, f := range file.Fault {
		names = append(names, f.Name)
		if len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, f.Name); return ok }) {
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		return "", nil, job.Usage(fmt.Errorf("no fault matches %s; there is %s", strings.Join(patterns, " "), strings.Join(names, ", ")))
	}
	return file.Base, all, nil
}

// faultLimit is how long the run of a fault may take once its kernel is built: a
// debug kernel boots for two minutes at most, and a guest that hangs is questioned.
const faultLimit = 15 * time.Minute

// Plant builds a kernel with each fault, one at a time, and does the main job on it:
// the run has to fail, and to say why. It prints a table.
func Plant(ctx context.Context, o Options) error {
	j := job.From(ctx)
	began := time.Now()
	base, all, err := Faults(o.Scenarios...)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "kbuild-run-faults-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.CopyFS(tmp, faultFiles); err != nil {
		return err
	}
	out, err := (Options{Out: o.Out}).folder(began, base+"-faults")
	if err != nil {
		return err
	}
	var b strings.Builder
	missed := 0
	for _, f := range all {
		said, took, err := f.run(ctx, Options{
			Base: base, Alone: true, Accel: o.Accel, Fragments: strings.Split(f.Config, ","),
			Folder: filepath.Join(tmp, "faults", "scenarios"), Scenarios: []string{"*"}, Out: filepath.Join(out, f.Name),
		})
		if err != nil {
			return err
		}
		if j.DryRun {
			continue
		}
		how := "found"
		if said != "" {
			how = "MISSED: " + said
			missed++
		}
		fmt.Fprintf(&b, "%-16s %8s  %s: %s\n", f.Name, job.Duration(took), cmp.Or(f.Title, f.Left), how)
	}
	fmt.Fprint(j.Out, b.String())
	if err := os.WriteFile(filepath.Join(out, "faults.txt"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	if missed > 0 {
		return job.Failed(fmt.Errorf("plant faults: %d of %d are missed; the reports are in %s", missed, len(all), out))
	}
	return nil
}

// run does the main job on the kernel with f. said is what its report lacks.
func (f *Fault) run(ctx context.Context, o Options) (said string, took time.Duration, err error) {
	text, err := fs.ReadFile(faultFiles, "faults/"+f.Name+".mbox")
	if err != nil {
		return "", 0, err
	}
	o.Series = "planted-" + f.Name
	if o.given, err = patches.ReadMailbox(ctx, o.Series, text); err != nil {
		return "", 0, err
	}
	if err := (&kernel{role: report.After, series: o.Series}).build(ctx, o); err != nil {
		return "", 0, err
	}
	began := time.Now()
	limited, stop := context.WithTimeoutCause(ctx, faultLimit, fmt.Errorf("the run takes more than %v", faultLimit))
	defer stop()
	r, _, err := mainReport(limited, o)
	took = time.Since(began)
	switch {
	case limited.Err() != nil && ctx.Err() == nil:
		return context.Cause(limited).Error(), took, nil
	case err != nil || r == nil:
		return "", took, err
	}
	if err := f.judge(r); err != nil {
		return err.Error(), took, nil
	}
	return "", took, nil
}

// judge says what is wrong with the report of a run with the fault; nil: nothing.
func (f *Fault) judge(r *report.Report) error {
	if r.OK() {
		return errors.New("the run passes")
	}
	for _, s := range r.Scenarios {
		got, want := s.Results[0].Status, report.Passed
		switch {
		case f.Scenario == "": // nothing ran
			want = report.NotRun
		case f.Left != "" && s.Name == f.Scenario:
			want = report.Failed
		case s.Name == f.Scenario:
			continue // some faults are in the way of the answer, others are not
		}
		if got != want {
			return fmt.Errorf("%s: %q, want %q", s.Name, got, want)
		}
		if want == report.Failed && !strings.Contains(s.Results[0].Reason, f.Left) {
			return fmt.Errorf("%s fails, but does not say that it leaves %s: %s", s.Name, f.Left, s.Results[0].Reason)
		}
	}
	if f.Title == "" {
		return nil
	}
	var titles []string
	for _, k := range r.Columns[0].Reports {
		if titles = append(titles, k.Head()); k.Title != f.Title {
			continue
		}
		if f.Scenario != "" && !slices.Contains(k.During, f.Scenario) {
			return fmt.Errorf("%s: want it during %s", k.Head(), f.Scenario)
		}
		// planted (fs/smb/server/smb2pdu.c:8431 ...) ksmbd
		line := regexp.MustCompile(`\b` + f.Stack + `\b.*\(.*\b\w+\.c:\d+`)
		if !line.MatchString(k.Body()) {
			return fmt.Errorf("%s: no line of the source stands with %s in its stack", k.Title, f.Stack)
		}
		return nil
	}
	return fmt.Errorf("the reports are: %s", cmp.Or(strings.Join(titles, "; "), "none"))
}
