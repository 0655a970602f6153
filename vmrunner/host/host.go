// Package host says what the road needs from the machine it runs on, and gets
// what is missing.
//
// It only looks at what a step really runs or reads: a tool on the PATH that
// answers, or a file. Packages matter when something is to be installed.
// ksmbd-tools is never installed: Debian's package conflicts with samba, so
// rootfs unpacks it into the guest's image instead.
package host

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"kbuild-run/patches/job"
)

// Need is one thing a step of the road uses: a tool or a file.
type Need struct {
	Name     string   // the tool, or what the file is called
	Step     string   // folder of the step that uses it
	For      string   // what it is used for
	Ask      []string // tool: arguments that make it print its version and succeed
	Files    []string // not a tool: there when one of these files is
	Optional bool     // the main job does without
	Starts   string   // what its package starts on a host that runs systemd

	// Packages of each family. Debian "" means that no package is good
	// enough and From says where to get it.
	Debian, Fedora, SUSE string
	From                 string
}

// Found is what a look for a Need found.
type Found struct {
	Need    *Need
	Path    string // of the tool or the file; "" when it is missing
	Version string // as the tool says it; "" for a file
	Err     string // why a tool that is there does not count
}

// Host is the machine that is looked at. The zero value is this one.
type Host struct {
	Root string   // prefix of all files
	Path []string // folders of tools; nil: the PATH and the sbin folders
	User int      // effective user id, when Root is set
}

// sbin holds tools of ours that Debian keeps off the PATH of a plain user:
// mke2fs, depmod.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// ExtendPath puts the sbin folders behind the PATH of this process, so that
// child processes find what Look finds.
func ExtendPath() {
	os.Setenv("PATH", strings.Join(toolPath(), string(filepath.ListSeparator)))
}

func toolPath() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	have := map[string]bool{}
	for _, d := range dirs {
		have[d] = true
	}
	for _, d := range sbin {
		if !have[d] {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func (h Host) file(path string) string { return filepath.Join(h.Root, path) }

func (h Host) euid() int {
	if h.Root != "" {
		return h.User
	}
	return os.Geteuid()
}

// Look looks for n.
func (h Host) Look(ctx context.Context, n *Need) Found {
	f := Found{Need: n}
	if n.Ask == nil {
		for _, p := range n.Files {
			if _, err := os.Stat(h.file(p)); err == nil {
				f.Path = p
				break
			}
		}
		return f
	}
	dirs := h.Path
	if dirs == nil {
		dirs = toolPath()
	}
	path := find(dirs, n.Name)
	if path == "" {
		return f
	}
	text, err := ask(ctx, path, n.Ask)
	if err != nil {
		f.Err = reason(err, text)
		return f
	}
	f.Path, f.Version = path, version(text)
	return f
}

func find(dirs []string, name string) string {
	for _, d := range dirs {
		p := filepath.Join(d, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// askTime bounds a tool that only has to say its version. The slowest are
// Python programs on a cold disk.
const askTime = 30 * time.Second

// ask runs the tool and returns what it prints: mke2fs says its version on
// standard error.
func ask(ctx context.Context, path string, args []string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	// A job of its own: what a version look-up prints is no progress.
	c := job.Command(path, args...)
	var errText strings.Builder
	c.Line = func(l string) { errText.WriteString(l + "\n") }
	out, err := c.Probe(job.With(ctx, &job.Job{}))
	return string(out) + errText.String(), err
}

// reason says in one line why a tool did not answer: its last words, if any.
func reason(err error, text string) string {
	if text = strings.TrimSpace(text); text == "" {
		return strings.ReplaceAll(err.Error(), "\n", " ")
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}

var (
	dotted = regexp.MustCompile(`\d+(\.\d+)+[\w.+-]*`)
	plain  = regexp.MustCompile(`version (\d+)`) // kmod version 30
)

// version returns the first thing in text that looks like a version.
func version(text string) string {
	if v := dotted.FindString(text); v != "" {
		return strings.TrimRight(v, ".-+")
	}
	if m := plain.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// LookAll looks for everything in the table that want wants.
func (h Host) LookAll(ctx context.Context, want func(*Need) bool) []Found {
	var all []Found
	for i := range Needs {
		if n := &Needs[i]; want(n) {
			all = append(all, h.Look(ctx, n))
		}
	}
	return all
}
