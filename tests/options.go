package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/scenario"
	"kbuild-run/tests/torture"
)

// Options of Main.
type Options struct {
	Series    string
	Base      string   // "" is the default, or what fits Dir
	Dir       string   // a git tree of the user's, whose HEAD is the base
	Fragments []string // of the configuration; nil: what kconfigs takes
	Image     rootfs.Options
	Scenarios []string // patterns; nil: all
	Folder    string   // of the scenarios; "": those in the program
	Repeat    int      // run the scenarios so often; 0: once
	List      bool     // list the scenarios, run none
	Debug     []string // see vmrunner.Options
	Trace     []string // see vmrunner.Options
	Pcap      bool     // capture the guests' network, and keep what each scenario left
	Core      bool     // see vmrunner.Options
	Accel     string   // kvm or tcg; "": what works
	Alone     bool     // leave out the base without the series
	Keep      bool     // leave the guests running until the job is interrupted
	Out       string   // folder for results; "": out
	Torture   Torture

	// Mailbox is a file whose patches are the series. Series then says what its
	// scenarios are: those of the series of that name; "": mbox.
	Mailbox string
	given   *patches.Series

	Stress time.Duration // work the guest hard for so long, and run nothing else

	Topologies []string // patterns of arrangements of machines to do something in, and nothing else
}

// notify is the series that most scenarios are about.
const notify = "notify"

// scenarios are those to run: none when only tests of smbtorture or a stress
// are wanted, and nothing about CHANGE_NOTIFY with a series that is about something else.
func (o Options) scenarios() ([]*scenario.Scenario, error) {
	if (o.Stress > 0 || o.Topologies != nil) && o.Scenarios == nil {
		return nil, nil
	}
	if o.Torture.Patterns != nil && o.Scenarios == nil {
		return nil, nil
	}
	all, err := Scenarios(o.Folder, o.Scenarios...)
	return slices.DeleteFunc(all, func(s *scenario.Scenario) bool {
		return s.Series != "" && s.Series != o.Series ||
			o.Series != "" && o.Series != notify && (s.Has("notify") || s.Has("pending") || s.Has("quiet"))
	}), err
}

// mailboxSeries is the name of a series that comes in a mailbox.
const mailboxSeries = "mbox"

// readMailbox reads the series from the mailbox, when there is one.
func (o *Options) readMailbox(ctx context.Context) error {
	if o.Mailbox == "" {
		return nil
	}
	if o.Series == "" {
		o.Series = mailboxSeries
	}
	text, err := os.ReadFile(o.Mailbox)
	if err != nil {
		return job.Usage(fmt.Errorf("read mailbox: %w", err))
	}
	o.given, err = patches.ReadMailbox(ctx, o.Series, text)
	return err
}

// torture are the patterns of the tests of smbtorture to run: some without being
// asked where two kernels are compared.
func (o Options) torture() []string {
	if o.Torture.Patterns == nil && o.Scenarios == nil && !o.Alone && o.Series == notify {
		return quickTorture
	}
	return o.Torture.Patterns
}

// plan prints what is to be done.
func (o Options) plan(j *job.Job, base string, scenarios int) {
	if o.Dir != "" {
		base = o.Dir
	}
	if o.Series != "" && o.Alone {
		base += " with " + o.Series
	}
	if o.Topologies != nil {
		j.Logf("plan: build Linux %s, boot it, work in topologies %s, report", base, strings.Join(o.Topologies, ", "))
		return
	}
	if o.Stress > 0 {
		j.Logf("plan: build Linux %s, boot it, work it hard for %s, report", base, job.Duration(o.Stress))
		return
	}
	if o.Series == "" || o.Alone {
		j.Logf("plan: build Linux %s, boot it, run %d scenarios, report", base, scenarios)
		return
	}
	j.Logf("plan: build Linux %s without %s and with it, boot both, run %d scenarios on each, report", base, o.Series, scenarios)
}

// command is the command line that runs the same again.
func (o Options) command() string {
	words := []string{"kbuild-run", "run"}
	if o.Alone {
		words[1] = "test"
	}
	add := func(flag, value string) {
		if value != "" {
			words = append(words, flag, job.Quote(value))
		}
	}
	if o.Mailbox == "" || o.Series != mailboxSeries {
		add("--series", o.Series)
	}
	add("--mbox", o.Mailbox)
	if o.Alone && o.Series == "" {
		words = append(words, "--series", "''")
	}
	add("--base", o.Base)
	add("--tree", o.Dir)
	add("--config", strings.Join(o.Fragments, ","))
	add("--ksmbd-tools", o.Image.Tools)
	for _, p := range o.Scenarios {
		add("--scenario", p)
	}
	add("--scenarios", o.Folder)
	for _, p := range o.Torture.Patterns {
		add("--torture", p)
	}
	if o.Torture.Newest {
		words = append(words, "--torture-newest")
	}
	if o.Torture.Deadline != torture.Deadline && o.Torture.Deadline != 0 {
		add("--torture-deadline", o.Torture.Deadline.String())
	}
	add("--ksmbd-debug", strings.Join(o.Debug, ","))
	add("--trace", strings.Join(o.Trace, ","))
	if o.Pcap {
		words = append(words, "--pcap")
	}
	if o.Core {
		words = append(words, "--core")
	}
	add("--accel", o.Accel)
	if o.Stress > 0 {
		add("--stress", o.Stress.String())
	}
	for _, p := range o.Topologies {
		add("--topology", p)
	}
	if o.Repeat > 1 {
		add("--repeat", strconv.Itoa(o.Repeat))
	}
	return strings.Join(words, " ")
}

// folder makes the folder of the results, out/TIME-SERIES-BASE.
func (o Options) folder(began time.Time, base string) (string, error) {
	out := o.Out
	if out == "" {
		out = "out"
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", fmt.Errorf("make folder for results: %w", err)
	}
	name := began.Format("20060102-150405") + "-"
	if o.Series != "" {
		name += o.Series + "-"
	}
	for n := 1; ; n++ {
		dir := filepath.Join(out, name+base)
		if n > 1 {
			dir += fmt.Sprintf("-%d", n)
		}
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("make folder for results: %w", err)
		}
	}
}
