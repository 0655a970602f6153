package tests

import (
	"context"
	"fmt"
	"os"

	"kbuild-run/patches"
	"kbuild-run/tests/report"
	"kbuild-run/tests/scenario"
)

// Boot builds a tree, boots it and runs the scenarios of a series, or the named ones. It
// returns those that pass, and what is wrong with the kernel, or "": it does not come up,
// or complains.
func Boot(ctx context.Context, t *patches.Tree, series string, names ...string) (passed []string, fault string, err error) {
	if names == nil {
		names = []string{"*"} // not none: without smbtorture and other clients
	}
	o := Options{Base: t.Base, Series: series, Alone: true, Scenarios: names}
	scenarios, err := o.scenarios()
	if err != nil {
		return nil, "", err
	}
	k := &kernel{role: report.After, tree: t}
	if err := k.build(ctx, o); err != nil {
		return nil, "", err
	}
	out, err := os.MkdirTemp("", "kbuild-run-boot-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(out)
	if err := k.run(ctx, o, scenarios, out); err != nil {
		return nil, "", err
	}
	for _, r := range k.result {
		if r != nil && r.Outcome == scenario.Passed {
			passed = append(passed, r.Scenario.Name)
		}
	}
	switch {
	case k.column.Failure != "":
		fault = k.column.Failure
	case len(k.column.Reports) > 0:
		fault = fmt.Sprintf("the kernel complains: %s", k.column.Reports[0].Title)
	}
	return passed, fault, ctx.Err()
}
