package patches

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// updateCommand is `series update`: the base is unpacked once, and stays what it
// was then until somebody asks for a newer one.
func updateCommand() *cobra.Command {
	name, dir := "", ""
	c := &cobra.Command{
		Use:   "update",
		Short: "fetch what is newer: a point release of a base, the upstream of a git tree",
		Long: `Update looks for a newer point release of a base, and fetches it.

With --tree it fetches what the branch checked out in a git tree of yours follows,
and puts the branch there, also where that was rebased. A branch with commits of
your own stays as it is, and that is an error.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			if dir != "" {
				return job.From(ctx).Step("update "+dir, func(s *job.Step) error { return pull(ctx, s, dir) })
			}
			base, err := FindBase(name)
			if err != nil {
				return err
			}
			return job.From(ctx).Step("update "+base.Name, func(s *job.Step) error {
				from, to, err := base.update(ctx, s)
				switch {
				case err != nil || job.From(ctx).DryRun: // which looks at nothing
				case from == "":
					s.Note("%s is not here yet", base.Name)
				case from == to:
					s.Note("%s is the newest", from)
				default:
					s.Note("%s, it was %s", to, from)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&name, "base", "", "kernel `BASE` (default the default one)")
	c.Flags().StringVar(&dir, "tree", "", "bring the git tree `DIR` up to its upstream instead")
	return c
}

// pull puts the branch that is checked out in a git tree of the user's where its
// upstream is. Branches that gather patches for the next release are rebased, so
// that this is no fast forward; what the user has committed stays.
func pull(ctx context.Context, s *job.Step, dir string) error {
	if _, err := userHead(ctx, dir); err != nil {
		return err
	}
	was, err := look(ctx, userGit(dir, "rev-parse", "--verify", "@{upstream}"))
	if err != nil {
		return fmt.Errorf("update %s: what is checked out there follows no branch; let it with: git -C %s branch --set-upstream-to=REMOTE/BRANCH: %w", dir, job.Quote(dir), err)
	}
	if _, err := look(ctx, userGit(dir, "merge-base", "--is-ancestor", "HEAD", was)); err != nil {
		return fmt.Errorf("update %s: its branch has commits that are not upstream; see them with: git -C %s log @{upstream}..", dir, job.Quote(dir))
	}
	if err := userGit(dir, "fetch", "--quiet").Run(ctx); err != nil {
		return err
	}
	if err := userGit(dir, "reset", "--quiet", "--keep", "@{upstream}").Run(ctx); err != nil || job.From(ctx).DryRun {
		return err
	}
	is, err := look(ctx, userGit(dir, "rev-parse", "HEAD"))
	if err != nil {
		return err
	}
	if is == was {
		s.Note("%.12s is the newest", is)
		return nil
	}
	n, err := look(ctx, userGit(dir, "rev-list", "--count", was+".."+is))
	s.Note("%.12s, it was %.12s, %s new commits", is, was, n)
	return err
}

// update unpacks the base again when its first source that answers has a newer
// version. It returns the sources in words, before and after; "" before when the
// base is not here.
func (b Base) update(ctx context.Context, s *job.Step) (from, to string, err error) {
	dir, ok := cache.Have("bases", b.Name)
	if !ok {
		return "", "", nil
	}
	meta, err := cache.Meta(dir)
	if err != nil {
		return "", "", err
	}
	from = meta["source"]
	newest, to, err := b.newest(ctx, s)
	if err != nil {
		return from, "", err
	}
	// Another source may have been asked than the base came from: only a newer
	// release counts, not another name of the same.
	if !newer(to, from) {
		return from, from, nil
	}
	if dry(ctx, "rm -rf "+job.Quote(dir)) {
		return from, to, nil
	}
	if err := (cache.Entry{Kind: "bases", Key: b.Name, Dir: dir}).Remove(ctx); err != nil {
		return from, "", fmt.Errorf("update %s to %s: %w", b.Name, to, err)
	}
	b.Sources = []source{newest}
	if _, _, err := b.tree(ctx, s, "", ""); err != nil {
		return from, "", fmt.Errorf("update %s to %s: %w", b.Name, to, err)
	}
	return from, to, nil
}

// newest returns the newest version of the base that its sources have, the first
// one that answers, and its name in words: as unpack returns it.
func (b Base) newest(ctx context.Context, s *job.Step) (src source, words string, err error) {
	var tried []error
	for _, src := range b.Sources {
		if src.Tarball != "" {
			src.Tarball, err = newestTarball(ctx, src.Tarball)
			words = path.Base(src.Tarball)
		} else {
			words, err = src.newestPackage(ctx, s)
		}
		if err == nil || ctx.Err() != nil {
			return src, words, err
		}
		tried = append(tried, err)
	}
	return source{}, "", fmt.Errorf("look for a newer %s: no source answers:\n%w", b.Name, errors.Join(tried...))
}

// pointRelease takes a tarball's name apart: linux-6.12 . 117 .tar.xz
var pointRelease = regexp.MustCompile(`^(linux-\d+\.\d+)(?:\.(\d+))?(\.tar\.\w+)$`)

// newestTarball returns the address of the newest point release that is published
// beside the tarball.
func newestTarball(ctx context.Context, tarball string) (string, error) {
	r, err := get(ctx, sums(tarball))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	var names []string
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 {
			names = append(names, f[1])
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read %s: %w", sums(tarball), err)
	}
	own := path.Base(tarball)
	return strings.TrimSuffix(tarball, own) + latest(own, names), nil
}

// latest returns the newest of the names that is a point release of the same
// version as own.
func latest(own string, names []string) string {
	is := pointRelease.FindStringSubmatch(own)
	if is == nil {
		return own
	}
	best, _ := strconv.Atoi(is[2])
	for _, name := range names {
		m := pointRelease.FindStringSubmatch(name)
		if m == nil || m[1] != is[1] || m[3] != is[3] {
			continue
		}
		if n, _ := strconv.Atoi(m[2]); n > best {
			best, own = n, name
		}
	}
	return own
}

var release = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// newer compares two sources in words: "linux-source-6.12 6.12.117-1" names the
// package before its version.
func newer(a, b string) bool {
	version := func(words string) string {
		all := release.FindAllString(words, -1)
		if all == nil {
			return ""
		}
		return "v" + all[len(all)-1]
	}
	return semver.Compare(version(a), version(b)) > 0
}

// newestPackage returns the package with the version that apt would download.
func (src source) newestPackage(ctx context.Context, s *job.Step) (string, error) {
	if job.From(ctx).DryRun {
		return src.Package, nil
	}
	scratch, err := os.MkdirTemp("", "kbuild-run-update-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	conf, err := PrivateApt(ctx, s, scratch, src.Suite)
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", src.Package, err)
	}
	// 'http://.../linux-source-6.12_6.12.117-1_all.deb' linux-source-6.12_6.12.117-1_all.deb 1234 SHA256:...
	out, err := job.Command("apt-get", "-c", conf, "-q", "-o", "APT::Sandbox::User=", "download", "--print-uris", src.Package).In(scratch).Probe(ctx)
	if err != nil {
		return "", aptError("look for "+src.Package, err)
	}
	for _, f := range strings.Fields(string(out)) {
		if rest, ok := strings.CutPrefix(filepath.Base(f), src.Package+"_"); ok && strings.HasSuffix(rest, ".deb") {
			version, _, _ := strings.Cut(rest, "_")
			return src.Package + " " + strings.ReplaceAll(version, "%3a", ":"), nil
		}
	}
	return "", fmt.Errorf("look for %s: apt-get names no file", src.Package)
}
