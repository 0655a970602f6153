package patches

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/patches/job"
)

func logCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log [NAME]",
		Short: "show the versions that were sent, and what each brought",
		Long: `Log shows the versions of a series, the last one first: the tags
sent/NAME/BASE/vN and the sections of patches/NAME/BASE/changes.md:

    ## v2
    Link: https://lore.kernel.org/r/MESSAGE-ID
    - what changed since v1`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			list, err := List()
			if err != nil {
				return err
			}
			names := sorted(list)
			if len(args) == 1 {
				if names = args; list[args[0]] == nil {
					_, err := FindSeries(args[0], "")
					return err
				}
			}
			for _, name := range names {
				for _, base := range list[name] {
					s, err := FindSeries(name, base)
					if err != nil {
						return err
					}
					if err := s.log(ctx, job.From(ctx).Out); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}

// log prints the versions of s.
func (s *Series) log(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "%s %s\n", s.Name, s.Base)
	sent := map[int]string{}
	prefix := strings.TrimSuffix(sentTag(s.Name, s.Base, 0), "0")
	tags, err := look(ctx, userGit("", "for-each-ref", "--format=%(refname:strip=2) %(creatordate:short)", "refs/tags/"+strings.TrimSuffix(prefix, "v")))
	if err != nil && tags != "" {
		return err
	}
	for l := range strings.Lines(tags) {
		tag, date, _ := strings.Cut(strings.TrimSpace(l), " ")
		version := 0
		if _, err := fmt.Sscan(strings.TrimPrefix(tag, prefix), &version); err == nil {
			sent[version] = date
		}
	}
	log := s.changelog()
	var versions []int
	for v := range sent {
		versions = append(versions, v)
	}
	for v := range log {
		if sent[v] == "" {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	for _, v := range slices.Backward(versions) {
		state := "not tagged"
		if date := sent[v]; date != "" {
			was, err := sentSeries(ctx, s.Name, s.Base, v)
			if err != nil {
				return err
			}
			state = fmt.Sprintf("sent %s, %d patches", date, len(was.Mails))
		}
		fmt.Fprintf(w, "  v%d  %s\n", v, state)
		link := log[v].link
		if link == "" {
			link = fmt.Sprintf("to be filled in patches/%s/%s/changes.md", s.Name, s.Base)
		}
		fmt.Fprintf(w, "      Link: %s\n", link)
		if text := log[v].text; text != "" {
			fmt.Fprintf(w, "      %s\n", strings.ReplaceAll(text, "\n", "\n      "))
		}
	}
	if len(versions) == 0 {
		fmt.Fprintf(w, "  never sent; make a version with: kbuild-run series format %s --base %s -v 1\n", s.Name, s.Base)
	}
	return nil
}
