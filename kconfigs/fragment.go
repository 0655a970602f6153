package kconfigs

import (
	"bufio"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/patches/job"
)

//go:embed *.config
var embedded embed.FS

// line is one option that a fragment asks for.
type line struct {
	file  string // "ksmbd.config"
	no    int
	name  string // "SMB_SERVER"
	value string // as in .config: y, m, n, 64, "text"
	maybe bool   // a tree that does not know the option does without
}

func (l line) at() string { return fmt.Sprintf("%s:%d", l.file, l.no) }

// String returns the line as .config has it.
func (l line) String() string {
	if l.value == "n" {
		return "# CONFIG_" + l.name + " is not set"
	}
	return "CONFIG_" + l.name + "=" + l.value
}

// Fragments returns the names of the fragments built in.
func Fragments() []string {
	var names []string
	files, _ := fs.Glob(embedded, "*.config")
	for _, f := range files {
		if name := strings.TrimSuffix(f, ".config"); !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	return names
}

// load reads the fragments for a base, and before each the ones it names in a
// comment "# needs: NAME ...". A name with a slash or the ending ".config" is a
// file of the user's. Options that only some bases have lie in NAME.BASE.config,
// which is read after NAME.config. It returns the names of all that it read.
func load(names []string, base string) (read []string, all []line, err error) {
	var one func(name string) error
	one = func(name string) error {
		if slices.Contains(read, name) {
			return nil
		}
		var files [][2]string // name, text
		if strings.Contains(name, "/") || strings.HasSuffix(name, ".config") {
			text, err := os.ReadFile(name)
			if err != nil {
				return job.Usage(fmt.Errorf("read fragment: %w", err))
			}
			files = append(files, [2]string{name, string(text)})
			special := strings.TrimSuffix(name, ".config") + "." + base + ".config"
			if text, err := os.ReadFile(special); err == nil {
				files = append(files, [2]string{special, string(text)})
			}
		} else {
			text, err := fs.ReadFile(embedded, name+".config")
			if err != nil || strings.Contains(name, ".") {
				return job.Usage(fmt.Errorf("find fragment %s: there is %s", name, strings.Join(Fragments(), ", ")))
			}
			files = append(files, [2]string{name + ".config", string(text)})
			special := path.Base(name) + "." + base + ".config"
			if text, err := fs.ReadFile(embedded, special); err == nil {
				files = append(files, [2]string{special, string(text)})
			}
		}
		if m := needsLine.FindStringSubmatch(files[0][1]); m != nil {
			for _, n := range strings.Fields(m[1]) {
				if err := one(n); err != nil {
					return err
				}
			}
		}
		read = append(read, name)
		for _, f := range files {
			lines, err := parse(f[0], []byte(f[1]))
			if err != nil {
				return err
			}
			all = append(all, lines...)
		}
		return nil
	}
	for _, name := range names {
		if err := one(name); err != nil {
			return nil, nil, err
		}
	}
	return read, all, nil
}

var (
	needsLine = regexp.MustCompile(`(?m)^# needs: (.*)$`)
	setLine   = regexp.MustCompile(`^CONFIG_([A-Za-z0-9_]+)=(y|m|n|-?[0-9]+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*")( # if known)?$`)
	unsetLine = regexp.MustCompile(`^# CONFIG_([A-Za-z0-9_]+) is not set$`)
)

// parse reads a fragment, a text in the form of .config. Behind an option that
// not every tree has, a series' own for example, stands "# if known".
func parse(file string, text []byte) (lines []line, err error) {
	in := bufio.NewScanner(bytes.NewReader(text))
	for no := 1; in.Scan(); no++ {
		l := strings.TrimSpace(in.Text())
		if m := setLine.FindStringSubmatch(l); m != nil {
			lines = append(lines, line{file, no, m[1], m[2], m[3] != ""})
		} else if m := unsetLine.FindStringSubmatch(l); m != nil {
			lines = append(lines, line{file: file, no: no, name: m[1], value: "n"})
		} else if l != "" && l[0] != '#' {
			return nil, fmt.Errorf("read %s:%d: %q is no option; write CONFIG_NAME=value or # CONFIG_NAME is not set", file, no, l)
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return lines, nil
}

// merge drops lines that repeat an earlier one. Lines that contradict each other
// are an error: which of them wins would depend on an order that nobody sees.
func merge(lines []line) ([]line, error) {
	first := map[string]line{}
	var merged []line
	var errs []error
	for _, l := range lines {
		before, ok := first[l.name]
		switch {
		case !ok:
			first[l.name] = l
			merged = append(merged, l)
		case before.value != l.value:
			errs = append(errs, fmt.Errorf("merge fragments: %s: %s contradicts %s: %s", l.at(), l, before.at(), before))
		}
	}
	return merged, errors.Join(errs...)
}

// config is a whole .config: values by name; what is off has none.
type config map[string]string

// readConfig reads the .config of a build folder.
func readConfig(dir string) (config, error) {
	file := filepath.Join(dir, ".config")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	c := config{}
	for _, l := range lines {
		if l.value != "n" {
			c[l.name] = l.value
		}
	}
	return c, nil
}

// get returns the value of an option, "n" when it is off.
func (c config) get(name string) string {
	if v, ok := c[name]; ok {
		return v
	}
	return "n"
}

// lost returns the lines whose option has another value in c.
func (c config) lost(lines []line) (lost []line) {
	for _, l := range lines {
		if c.get(l.name) != l.value {
			lost = append(lost, l)
		}
	}
	return lost
}

// lostError says of each lost option why Kconfig changed it. It is nil when all
// of them may be lost.
func lostError(tree string, c config, lost []line) error {
	k, err := readKconfig(os.DirFS(tree), "x86")
	var errs []error
	for _, l := range lost {
		if err == nil && l.maybe && !k.knows(l.name) {
			continue
		}
		text := fmt.Sprintf("%s: %s is lost: it is %s", l.at(), l, c.get(l.name))
		if err == nil {
			for _, why := range k.why(l, c) {
				text += "\n    " + why
			}
		}
		errs = append(errs, errors.New(text))
	}
	if err != nil && len(lost) > 0 {
		errs = append(errs, fmt.Errorf("read Kconfig: %w", err))
	}
	return errors.Join(errs...)
}
