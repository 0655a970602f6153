package nightly

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/patches/job"
)

// Unit is what systemd needs to run the nights.
type Unit struct {
	At     string // systemd.time(7): 02:00
	Dir    string // to run in
	Cache  string // of kbuild-run
	Args   []string
	Folder string // of the units
}

// unitName is the name of the service and the timer.
const unitName = "kbuild-run-nightly"

// Files returns the units by name. What the service prints goes to the journal,
// which rotates it.
func (u *Unit) Files() map[string]string {
	var command []string
	for _, a := range u.Args {
		command = append(command, unitQuote(a))
	}
	return map[string]string{
		unitName + ".service": fmt.Sprintf(`# SPDX-License-Identifier: Apache-2.0
[Unit]
Description=Nightly test of ksmbd patches
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory=%s
Environment=%s
ExecStart=%s
# 1: something fails that did not. The night itself went well.
SuccessExitStatus=1
# A night that hangs altogether ends before the next one.
TimeoutStartSec=22h
KillMode=mixed
Nice=10
IOSchedulingClass=idle
`, unitEscape(u.Dir), unitQuote("XDG_CACHE_HOME="+u.Cache), strings.Join(command, " ")),
		unitName + ".timer": fmt.Sprintf(`# SPDX-License-Identifier: Apache-2.0
[Unit]
Description=Nightly test of ksmbd patches

[Timer]
OnCalendar=%s
Persistent=true
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
`, u.At),
	}
}

// unitEscape keeps systemd from taking % for a specifier (systemd.unit(5)).
func unitEscape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// unitQuote quotes a word of a command line (systemd.syntax(7)). A $ is a variable
// unless it is doubled.
func unitQuote(s string) string {
	s = strings.ReplaceAll(unitEscape(s), "$", "$$")
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Install writes the units and starts the timer; printed, it only prints them.
func (u *Unit) Install(ctx context.Context, printed bool) error {
	j := job.From(ctx)
	files := u.Files()
	for _, name := range []string{unitName + ".service", unitName + ".timer"} {
		path := filepath.Join(u.Folder, name)
		if printed || j.DryRun {
			fmt.Fprintf(j.Out, "cat > %s <<'EOF'\n%sEOF\n", job.Quote(path), files[name])
			continue
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			return fmt.Errorf("install %s: %w; see it with: kbuild-run nightly install --print", name, err)
		}
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--now", unitName + ".timer"}} {
		c := job.Command("systemctl", args...)
		if printed {
			fmt.Fprintln(j.Out, c)
		} else if err := c.Run(ctx); err != nil {
			return err
		}
	}
	return nil
}
