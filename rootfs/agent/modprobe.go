package main

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

// modprobe loads or removes (-r) modules. The kernel calls it as
// `modprobe -q -- NAME`, often with an alias: "crypto-cmac(aes)", "fs-ext4".
func modprobe(args []string) int {
	var quiet, remove bool
	var names []string
	for _, a := range args {
		switch {
		case a == "-q" || a == "-qs":
			quiet = true
		case a == "-r":
			remove = true
		case strings.HasPrefix(a, "-"):
		default:
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		fmt.Fprintln(os.Stderr, "usage: modprobe [-q] [-r] NAME [PARAMETER=VALUE...]")
		return 2
	}
	var err error
	if remove {
		for _, n := range names {
			if err = kmodule.Delete(strings.ReplaceAll(n, "-", "_"), unix.O_NONBLOCK); err != nil {
				err = fmt.Errorf("remove module %s: %w", n, err)
				break
			}
		}
	} else {
		err = load(names[0], strings.Join(names[1:], " "))
	}
	if err != nil {
		if !quiet {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
		}
		return 1
	}
	return 0
}

// load loads the module, or every module that has name as an alias.
func load(name, params string) error {
	err := kmodule.Probe(name, params)
	if err == nil {
		return nil
	}
	found, aerr := aliases(name)
	if aerr != nil {
		return aerr
	}
	if len(found) == 0 {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	for _, m := range found {
		if err := kmodule.Probe(m, params); err != nil {
			return fmt.Errorf("load module %s for %s: %w", m, name, err)
		}
	}
	return nil
}

// aliases returns the modules whose alias patterns match name, by depmod's
// modules.alias: "alias PATTERN MODULE". As in kmod, - and _ are the same.
func aliases(name string) ([]string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	f, err := os.Open("/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.alias")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	same := strings.NewReplacer("-", "_")
	name = same.Replace(name)
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) != 3 || w[0] != "alias" {
			continue
		}
		if ok, err := path.Match(same.Replace(w[1]), name); err == nil && ok {
			all = append(all, w[2])
		}
	}
	return all, nil
}
