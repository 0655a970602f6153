package rootfs

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"kbuild-run/kconfigs"
	"kbuild-run/patches"
	"kbuild-run/patches/job"
)

// Road is what names an image on a command line: the way up to it.
type Road struct {
	Tree      patches.Options
	Fragments []string
	Options   Options
}

// Flags adds the flags that fill r to c.
func (r *Road) Flags(c *cobra.Command) {
	c.Flags().StringVar(&r.Tree.Series, "series", "", "apply the series `NAME` (default none)")
	c.Flags().StringVar(&r.Tree.Base, "base", "", "kernel `BASE` (default v6.12, or what fits --tree)")
	c.Flags().StringVar(&r.Tree.Dir, "tree", "", "take the commit checked out in the git tree `DIR` as the base")
	c.Flags().StringSliceVar(&r.Fragments, "config", kconfigs.Default, "`FRAGMENTS` of the kernel's config, names or files")
	r.Options.Flags(c)
}

// Flags adds the flags that fill o to c.
func (o *Options) Flags(c *cobra.Command) {
	c.Flags().StringVar(&o.Tools, "ksmbd-tools", "", "put `FILE`, the ksmbd.tools of a build of ksmbd-tools, into the guest in place of Debian's")
}

// Image goes the road: tree, kernel, image, each a step of the job.
func (r *Road) Image(ctx context.Context) (i *Image, err error) {
	j := job.From(ctx)
	var t *patches.Tree
	err = j.Step("tree", func(s *job.Step) (err error) {
		t, err = patches.Prepare(ctx, s, r.Tree)
		return err
	})
	if err != nil {
		return nil, err
	}
	var k *kconfigs.Kernel
	err = j.Step("kernel", func(s *job.Step) (err error) {
		k, err = kconfigs.Build(ctx, s, t, kconfigs.Options{Fragments: r.Fragments})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = j.Step("image", func(s *job.Step) (err error) {
		i, err = Build(ctx, s, k, r.Options)
		return err
	})
	return i, err
}

// Command returns `kbuild-run rootfs`.
func Command() *cobra.Command {
	var r Road
	c := &cobra.Command{
		Use:   "rootfs",
		Short: "build the guest's initramfs and print its path",
		Long: `Rootfs packs what the guest runs: u-root's commands, ksmbd-tools with their
libraries, the agent that answers the host, and the modules of a kernel, which is
built first. Every part is kept by content.

ksmbd-tools is downloaded by apt-get, once, and unpacked, never installed: on the
host it conflicts with samba. It is that of Debian 13, or where the host has no
mirror of that, the one of the host's own sources. A small library beside it makes
"change notify" of ksmbd.conf known, which Debian's does not know. --ksmbd-tools takes
one that you built instead; the patch that adds "change notify" to it lies in
patches/notify/ksmbd-tools.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := r.Image(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(job.From(cmd.Context()).Out, i.Path)
			return nil
		},
	}
	r.Flags(c)
	return c
}
