package rootfs

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// Samba returns an initramfs archive with Debian's smbd, which serves the shares of
// ksmbd.conf to the same users when /etc/rc is told a port in SAMBA_PORT. It comes
// behind that of an image: vmrunner.Options.Samba does so.
func Samba(ctx context.Context, s *job.Step) (string, error) {
	unpacked, packagesKey, err := packages(ctx, s, "samba", "samba-vfs-modules")
	if err != nil {
		return "", err
	}
	a := &Archive{}
	conf, err := files.ReadFile("files/smb.conf")
	if err != nil {
		return "", err
	}
	a.File("etc/samba/smb.conf", conf, 0o644)
	a.File("etc/samba/smbpasswd", []byte(smbpasswd()), 0o600)
	for _, d := range []string{"var/lib/samba/private", "var/cache/samba", "var/log/samba"} {
		a.Dir(d, 0o755)
	}
	var own strings.Builder
	if _, err := a.WriteTo(&own); err != nil {
		return "", err
	}
	const name = "samba.cpio"
	dir, _, err := cache.Once(ctx, "rootfs", cache.Key("samba", packagesKey, own.String()), map[string]string{"what": "Samba for the guest"},
		func(dir string) error {
			s.Progress("pack samba")
			if job.From(ctx).DryRun {
				return nil
			}
			if err := addSamba(a, unpacked); err != nil {
				return fmt.Errorf("pack samba: %w", err)
			}
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = a.WriteTo(f)
			return err
		})
	return filepath.Join(dir, name), err
}

// addSamba puts smbd, the programs that it starts for named pipes, smbcontrol, and
// what they load into a.
func addSamba(a *Archive, dir string) error {
	const libexec, vfs = "usr/libexec/samba/", "usr/" + libDir + "/samba/vfs/"
	programs := []string{"usr/sbin/smbd", "usr/bin/smbcontrol", vfs + "streams_xattr.so", vfs + "acl_xattr.so"}
	for _, p := range []string{"samba-dcerpcd", "rpcd_classic", "rpcd_epmapper", "rpcd_lsad", "rpcd_winreg"} {
		programs = append(programs, libexec+p)
	}
	seen := map[string]bool{}
	for _, p := range programs {
		file := filepath.Join(dir, p)
		if err := a.Copy(p, file, 0o755); err != nil {
			return err
		}
		if err := addLibraries(a, dir, file, seen); err != nil {
			return err
		}
	}
	return nil
}

// smbpasswd is the file of that name, smbpasswd(5): pdbedit need not run at each
// boot. The LM hash is none.
func smbpasswd() string {
	var b strings.Builder
	for _, u := range Users {
		fmt.Fprintf(&b, "%s:%d:%s:%s:[U          ]:LCT-00000001:\n", u.Name, u.UID, strings.Repeat("X", 32),
			strings.ToUpper(hex.EncodeToString(ntHash(u.Password))))
	}
	return b.String()
}
