package tests

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"kbuild-run/patches/job"
	"kbuild-run/tests/scenario"
)

// failLimit is more failures than a run makes; what is left of it says how many.
const failLimit = 1_000_000

// fail lets one in a thousand allocations by ksmbd fail: more, and hardly a client gets
// past its login. ksmbd works in kworkers, which are everybody's, so the filter of
// tasks does not find it (Documentation/fault-injection/fault-injection.rst): an
// allocation fails when a function of the module is among those that called.
var fail = fmt.Sprintf(`
set -- $(grep ' [tT] .*\[ksmbd\]' /proc/kallsyms | sort | head -n 1)
first=$1
set -- $(grep ' [tT] .*\[ksmbd\]' /proc/kallsyms | sort | tail -n 1)
last=$1
cd /sys/kernel/debug
echo 0 > fail_page_alloc/min-order
for f in failslab fail_page_alloc; do
	echo 0x$first > $f/require-start
	echo 0x$last > $f/require-end
	echo 32 > $f/stacktrace-depth
	echo N > $f/ignore-gfp-wait
	echo 0 > $f/verbose
	echo 10 > $f/interval
	echo %d > $f/times
	echo 1 > $f/probability
done
`, failLimit)

// failed lets no more allocations fail, and prints how many more could have.
const failed = `
cd /sys/kernel/debug
echo 0 > failslab/probability
echo 0 > fail_page_alloc/probability
cat failslab/times fail_page_alloc/times
`

// injects says whether the kernel can let allocations fail.
func (k *kernel) injects() bool {
	options, err := os.ReadFile(k.built.Config)
	return err == nil && strings.Contains(string(options), "\nCONFIG_FAILSLAB=y\n")
}

// failing runs the scenarios while allocations of the server fail. Which of them then
// fail is left to chance and shows nothing; what counts is that the kernel reports
// nothing, that the server answers afterwards, and that it holds and has lost nothing.
func (k *kernel) failing(ctx context.Context, server *scenario.Server, run func() error) error {
	guest := &inside{vm: k.vm}
	var once sync.Once
	var started error
	server.Holds = nil // nobody knows who leaves it: it is looked for at the end
	begin := server.Begin
	server.Begin = func(name string) (end func()) {
		// Not before: the folders of the scenarios are made by the server, too.
		once.Do(func() { _, started = guest.run(ctx, fail) })
		return begin(name)
	}
	err := run()
	if err != nil || k.vm.Err() != nil || k.hang != nil {
		return err
	}
	return job.From(ctx).Step(k.step("failed allocations"), func(s *job.Step) error {
		if started != nil {
			return fmt.Errorf("let allocations fail: %w", started)
		}
		out, err := guest.run(ctx, failed)
		if err != nil {
			return err
		}
		n := 0
		for _, left := range strings.Fields(out) {
			l, err := strconv.Atoi(left)
			if err != nil {
				return fmt.Errorf("count failed allocations: %w", err)
			}
			n += failLimit - l
		}
		s.Note("%d", n)
		if n == 0 {
			return job.Failed(fmt.Errorf("no allocation has failed"))
		}
		for _, r := range k.result {
			if r != nil && r.Outcome == scenario.Failed {
				r.Outcome, r.Reason = scenario.Skipped, "some allocations failed, so this may"
			}
		}
		return k.vm.WaitSMB(ctx)
	})
}
