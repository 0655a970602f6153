package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches"
	"kbuild-run/patches/job"
)

// Command returns `kbuild-run series check`. Booting is a later step of the road's.
func Command(boot Boot) *cobra.Command {
	var o Options
	var boots bool
	var mbox, out string
	var asJSON bool
	var columns strings.Builder
	for _, c := range Columns {
		fmt.Fprintf(&columns, "    %-11s %s\n", c, about[c])
	}
	c := &cobra.Command{
		Use:   "check [NAME]",
		Short: "check each patch of a series as the maintainers' robots do",
		Long: `Check looks at each patch of a series, in order, and prints a matrix:

` + columns.String() + `
"-" is a check that has nothing to look at in the patch. A check whose program is
not installed is skipped, and said so. What is found and accepted with a reason
stands in the file accepted beside the series, lines of: CHECK REGEXP # REASON.

An unchanged patch on unchanged ones is not checked again: see kbuild-run cache.

With --mbox the patches are those of a mailbox. With --json one mail comes on
standard input, a patch or a cover letter, and what is found goes out as the JSON
that b4 review takes from an external check:

    [b4]
        review-perpatch-check-cmd = kbuild-run series check --json --tree .

The patches before that one come from --mbox, up to it.

Exit code 0: no check found anything.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if boots {
				o.Boot = boot
			}
			if len(args) == 1 {
				o.Series = args[0]
			}
			if asJSON {
				return o.protocol(ctx, cmd.InOrStdin(), mbox)
			}
			if mbox != "" {
				text, err := os.ReadFile(mbox)
				if err != nil {
					return job.Usage(fmt.Errorf("read mailbox: %w", err))
				}
				if o.Given, err = patches.ReadMailbox(ctx, "mbox", text); err != nil {
					return err
				}
				o.Signed = true
			} else if o.Series == "" {
				return job.Usage(fmt.Errorf("check series: no series; name one, or a mailbox with: --mbox FILE"))
			}
			m, err := Run(ctx, o)
			if err != nil || job.From(ctx).DryRun {
				return err
			}
			m.Print(job.From(ctx).Out)
			if out != "" {
				if err := m.write(out); err != nil {
					return err
				}
			}
			return m.Err()
		},
	}
	f := c.Flags()
	f.StringVar(&o.Series, "series", "", "the series `NAME`")
	f.StringVar(&o.Base, "base", "", "kernel `BASE` the series is kept for (default v6.12, or what fits --tree)")
	f.StringVar(&o.Dir, "tree", "", "take the commit checked out in the git tree `DIR` as the base")
	f.StringVar(&mbox, "mbox", "", "check the patches in the mailbox `FILE`")
	f.StringVar(&out, "out", "", "write what is found into check.json in `DIR`, too")
	f.BoolVar(&asJSON, "json", false, "check the mail on standard input, for b4 review")
	f.BoolVar(&boots, "boot", false, "build, boot and test the kernel of each patch: minutes each")
	f.BoolVar(&o.NoBuild, "no-build", false, "leave out what has to compile")
	return c
}

// Found is one check of one patch, as check.json has it.
type Found struct {
	Patch  string   `json:"patch"` // its subject
	Check  string   `json:"check"`
	Status Status   `json:"status"`
	Found  []string `json:"found,omitempty"`
}

// FoundFile is the file in which a program finds what was found.
const FoundFile = "check.json"

// write writes the matrix for a program.
func (m *Matrix) write(dir string) error {
	all := []Found{}
	for _, row := range m.Rows {
		for _, column := range Columns {
			switch c := row.Cells[column]; c.Status {
			case Nothing:
			case Skipped:
				all = append(all, Found{row.Mail.Subject(), column, c.Status, []string{m.Skips[column]}})
			default:
				all = append(all, Found{row.Mail.Subject(), column, c.Status, c.Found})
			}
		}
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, FoundFile), append(b, '\n'), 0o644)
}

// Result is a check in the words of b4 (docs/maintainer/review.rst of b4, "Writing
// an external check script").
type Result struct {
	Tool    string `json:"tool"`
	Status  string `json:"status"` // pass, warn, fail
	Summary string `json:"summary"`
	Details string `json:"details,omitempty"`
}

// protocol checks the one mail that comes in, behind the ones in the mailbox that
// come before it.
func (o Options) protocol(ctx context.Context, in io.Reader, mbox string) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	results := []Result{}
	m, err := o.mail(ctx, text, mbox)
	if err != nil {
		return err
	}
	if m != nil {
		results = m.results()
	}
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(job.From(ctx).Out, "%s\n", b)
	if m == nil {
		return nil
	}
	return m.Err()
}

// mail returns the matrix of one mail, or nil for one that is no patch.
func (o Options) mail(ctx context.Context, text []byte, mbox string) (*Matrix, error) {
	head := text
	if bytes.HasPrefix(text, []byte("From ")) { // a mailbox of one
		_, head, _ = bytes.Cut(text, []byte("\n"))
	}
	if m, err := mail.ReadMessage(bytes.NewReader(head)); err != nil || m.Header.Get("Subject") == "" {
		return nil, job.Usage(errors.New("read mail from standard input: it has no subject; a mail is wanted"))
	}
	one, err := patches.ReadMailbox(ctx, "mail", text)
	if err != nil {
		return nil, nil // a cover letter, say
	}
	o.Signed, o.Given = true, one
	if mbox != "" {
		b, err := os.ReadFile(mbox)
		if err != nil {
			return nil, job.Usage(fmt.Errorf("read mailbox: %w", err))
		}
		all, err := patches.ReadMailbox(ctx, "mail", b)
		if err != nil {
			return nil, err
		}
		for i, m := range all.Mails {
			if m.Subject() == one.Mails[0].Subject() {
				one.Mails = append(all.Mails[:i:i], one.Mails[0])
				break
			}
		}
	}
	m, err := Run(ctx, o)
	if err == nil && len(m.Rows) > 0 {
		m.Rows = m.Rows[len(m.Rows)-1:]
	}
	return m, err
}

// results is the last row in b4's words.
func (m *Matrix) results() []Result {
	results := []Result{}
	row := m.Rows[len(m.Rows)-1]
	for _, column := range Columns {
		c := row.Cells[column]
		r := Result{Tool: "kbuild-run " + column, Status: string(c.Status), Summary: about[column], Details: strings.Join(c.Found, "\n")}
		switch {
		case c.Status == Nothing:
			continue
		case c.Status == Skipped:
			r.Status, r.Summary = string(Warn), "not run: "+m.Skips[column]
		case len(c.Found) > 0:
			r.Summary, _, _ = strings.Cut(c.Found[0], "\n")
		}
		results = append(results, r)
	}
	return results
}
