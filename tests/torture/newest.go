package torture

import (
	"context"
	"path/filepath"

	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Where Debian has the newest Samba, and the package of smbtorture.
const (
	newestSuite = "sid"
	testsuite   = "samba-testsuite"
)

// Newest returns the smbtorture of Debian's newest Samba. The host's may be years
// older, and lack tests. The package is unpacked into the cache with everything
// it depends on, the C library too, and run by the loader among them: nothing is
// installed. It is downloaded once; kbuild-run cache prune lets it be downloaded
// again.
func Newest(ctx context.Context, s *job.Step) (*Program, error) {
	meta := map[string]string{"what": testsuite + " of " + newestSuite + " with libraries"}
	dir, cached, err := cache.Once(ctx, "packages", cache.Key(testsuite, newestSuite), meta, func(dir string) error {
		_, err := patches.Unpack(ctx, s, dir, newestSuite, testsuite)
		return err
	})
	if err != nil || job.From(ctx).DryRun {
		return nil, err
	}
	if cached {
		s.Cached()
	}
	lib := filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
	return program(ctx, filepath.Join(dir, "usr/lib64/ld-linux-x86-64.so.2"), "--inhibit-cache",
		"--library-path", lib+":"+filepath.Join(lib, "samba"), filepath.Join(dir, "usr/bin/smbtorture"))
}
