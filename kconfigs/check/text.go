package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/patches"
	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// recipe is part of every key. Raise it when a check finds other things in the
// same patch than before.
const recipe = "2"

// texts runs the checks that need no compiler.
func (r *runner) texts(ctx context.Context) error {
	defer func() {
		if r.tools != "" {
			os.RemoveAll(r.tools)
		}
	}()
	for i := range r.steps[1:] {
		mail, before, after := r.m.Rows[i].Mail, r.steps[i], r.steps[i+1]
		r.s.Progress("patch %d: texts", i+1)
		id, err := patchID(ctx, mail)
		if err != nil {
			return err
		}
		for _, c := range []struct {
			column, tool string
			key          []string
			run          func() (Cell, error)
		}{
			{"checkpatch", "perl", []string{id, r.steps[0].Commit, checkpatchIgnore, fmt.Sprint(r.Signed)}, func() (Cell, error) { return r.checkpatch(ctx, mail) }},
			{"kernel-doc", "python3", []string{before.Key, after.Key}, func() (Cell, error) { return r.kernelDoc(ctx, mail, before, after) }},
			{"codespell", "codespell", []string{id, spelledSo}, func() (Cell, error) { return codespell(ctx, mail) }},
			{"fixes", "git", []string{id, before.Commit, r.series.Beside("known-commits")}, func() (Cell, error) { return r.fixes(ctx, mail, before) }},
		} {
			if !r.have(c.column, c.tool) {
				r.m.Rows[i].Cells[c.column] = Cell{Status: Skipped}
				continue
			}
			cell, cached, err := remember(ctx, c.column, c.key, c.run)
			if err != nil {
				return err
			}
			r.set(i, c.column, cell, !cached)
		}
	}
	return nil
}

// remember returns what an earlier run found, or runs the check.
func remember(ctx context.Context, column string, key []string, run func() (Cell, error)) (c Cell, cached bool, err error) {
	dir, cached, err := cache.Once(ctx, "checks", cache.Key(append([]string{column, recipe}, key...)...), map[string]string{"what": column}, func(dir string) error {
		c, err := run()
		if err != nil || job.From(ctx).DryRun {
			return err
		}
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "cell.json"), b, 0o644)
	})
	if err != nil || job.From(ctx).DryRun {
		return c, false, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "cell.json"))
	if err != nil {
		return c, cached, err
	}
	return c, cached, json.Unmarshal(b, &c)
}

// patchID is git's id of the diff, with the key of the message.
func patchID(ctx context.Context, m patches.Mail) (string, error) {
	c := job.Command("git", "patch-id", "--stable")
	c.Stdin = bytes.NewReader(m.Text)
	out, err := c.Probe(ctx)
	id, _, _ := strings.Cut(string(out), " ")
	return id + " " + cache.Key(message(m)), err
}

// message is the text of a mail above its diff, with its subject.
func message(m patches.Mail) string {
	_, text, _ := strings.Cut(string(m.Text), "\n\n")
	text, _, _ = strings.Cut(text, "\n---\n")
	return m.Subject() + "\n\n" + text
}

// script returns the path of a script of the base's, with what it needs around
// it. A series that changes a checker is not checked by its own one.
func (r *runner) script(ctx context.Context, name string) (string, error) {
	if r.tools == "" {
		dir, err := os.MkdirTemp("", "kbuild-run-check-")
		if err != nil {
			return "", err
		}
		r.tools = dir
		base := r.steps[0]
		want := []string{"scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch",
			"scripts/kernel-doc", "scripts/kernel-doc.pl", "scripts/kernel-doc.py", "scripts/lib", "tools/docs/kernel-doc", "tools/lib/python"}
		have, err := base.Look(ctx, append([]string{"ls-tree", "--name-only", base.Commit, "--"}, want...)...)
		if err != nil {
			return "", err
		}
		tar, err := base.Look(ctx, append([]string{"archive", base.Commit, "--"}, strings.Fields(string(have))...)...)
		if err != nil {
			return "", err
		}
		unpack := job.Command("tar", "-x", "-C", dir)
		unpack.Stdin = bytes.NewReader(tar)
		if _, err := unpack.Probe(ctx); err != nil {
			return "", err
		}
	}
	return filepath.Join(r.tools, name), nil
}

var (
	// checkpatchLine is one finding of checkpatch.pl --terse --showfile
	// --show-types. One in the message has no file, and a line of no meaning.
	checkpatchLine = regexp.MustCompile(`^\S*:\d+: (ERROR|WARNING|CHECK):`)
	noFile         = regexp.MustCompile(`^:\d+: `)
	// CamelCase are the specification's own names of fields. Whether MAINTAINERS
	// lists a new file is seen in whom get_maintainer.pl names. The check fixes
	// looks up commits.
	checkpatchIgnore = "CAMELCASE,FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID"
)

// checkpatch runs the tree's checkpatch.pl. A series that is kept here carries no
// Signed-off-by, since only its sender can certify it.
func (r *runner) checkpatch(ctx context.Context, m patches.Mail) (Cell, error) {
	script, err := r.script(ctx, "scripts/checkpatch.pl")
	if err != nil {
		return Cell{}, err
	}
	ignore := checkpatchIgnore
	if !r.Signed {
		ignore += ",MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF"
	}
	c := job.Command(script, "--strict", "--terse", "--showfile", "--show-types", "--no-summary", "--no-tree", "--ignore", ignore, "-").In(r.tools)
	c.Stdin = bytes.NewReader(m.Text)
	out, err := c.Probe(ctx)
	cell := Cell{Status: Pass}
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSpace(l)
		if f := checkpatchLine.FindStringSubmatch(l); f != nil {
			cell.Status = Warn
			cell.Found = append(cell.Found, noFile.ReplaceAllString(l, ""))
		}
	}
	var ce *job.CmdError
	if err != nil && (!errors.As(err, &ce) || len(cell.Found) == 0) {
		return cell, err
	}
	if slices.ContainsFunc(cell.Found, func(f string) bool { return strings.Contains(f, "ERROR:") }) {
		cell.Status = Fail
	}
	return cell, nil
}

var (
	docLine   = regexp.MustCompile(`(?i)\b(warning|error): `)
	docNumber = regexp.MustCompile(`:\d+\b`)
)

// kernelDoc compares what kernel-doc says about the files before and after.
func (r *runner) kernelDoc(ctx context.Context, m patches.Mail, before, after *patches.Tree) (Cell, error) {
	var files []string
	for _, f := range m.Files() {
		if strings.HasSuffix(f, ".c") || strings.HasSuffix(f, ".h") {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return Cell{}, nil
	}
	script, err := r.script(ctx, "scripts/kernel-doc")
	if err != nil {
		return Cell{}, err
	}
	was, err := sayDoc(ctx, script, before, files)
	if err != nil {
		return Cell{}, err
	}
	is, err := sayDoc(ctx, script, after, files)
	if err != nil {
		return Cell{}, err
	}
	c := Cell{Status: Pass}
	for _, l := range is {
		same := func(o string) bool { return docNumber.ReplaceAllString(o, "") == docNumber.ReplaceAllString(l, "") }
		if i := slices.IndexFunc(was, same); i >= 0 {
			was = slices.Delete(was, i, i+1)
		} else {
			c.Status = Warn
			c.Found = append(c.Found, l)
		}
	}
	return c, nil
}

// sayDoc returns the lines of kernel-doc about some files of a tree.
func sayDoc(ctx context.Context, script string, t *patches.Tree, files []string) (lines []string, err error) {
	dir, err := os.MkdirTemp("", "kbuild-run-doc-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var there []string
	for _, f := range files {
		text, err := t.Look(ctx, "show", t.Commit+":"+f)
		if err != nil {
			continue // new in the patch, or removed by it
		}
		to := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return nil, err
		}
		there = append(there, f)
	}
	if len(there) == 0 {
		return nil, nil
	}
	c := job.Command(script, append([]string{"-none"}, there...)...).In(dir).With("PYTHONDONTWRITEBYTECODE=1")
	c.Line = func(l string) {
		if docLine.MatchString(l) {
			lines = append(lines, l)
		}
	}
	_, err = c.Probe(ctx)
	var ce *job.CmdError
	if errors.As(err, &ce) && len(lines) > 0 {
		err = nil // with findings it may end with a code
	}
	return lines, err
}

// spelledSo are words of the kernel that codespell takes for others.
const spelledSo = "filp,inout,iput,nd,te,fo,ser"

// codespell looks at the message and at what the patch adds.
func codespell(ctx context.Context, m patches.Mail) (Cell, error) {
	text := message(m) + "\n"
	_, diff, _ := strings.Cut(string(m.Text), "\ndiff --git ")
	for l := range strings.Lines(diff) {
		if strings.HasPrefix(l, "+") && !strings.HasPrefix(l, "+++ ") {
			text += l[1:]
		}
	}
	c := job.Command("codespell", "--ignore-words-list", spelledSo, "-")
	c.Stdin = strings.NewReader(text)
	out, err := c.Probe(ctx)
	cell := Cell{Status: Pass}
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "==>") {
			cell.Status = Warn
			cell.Found = append(cell.Found, strings.TrimSpace(l))
		}
	}
	var ce *job.CmdError
	if errors.As(err, &ce) && len(cell.Found) > 0 {
		err = nil // its code says how many it found
	}
	return cell, err
}

var fixesLine = regexp.MustCompile(`(?m)^Fixes:[ \t]*(.*)$`)
var fixesForm = regexp.MustCompile(`^([0-9a-f]{12,40}) \("(.+)"\)$`)

// fixes looks up what the Fixes: tags name.
func (r *runner) fixes(ctx context.Context, m patches.Mail, t *patches.Tree) (Cell, error) {
	tags := fixesLine.FindAllStringSubmatch(message(m), -1)
	if len(tags) == 0 {
		return Cell{}, nil
	}
	cell := Cell{Status: Pass}
	wrong := func(format string, args ...any) {
		cell.Status = Fail
		cell.Found = append(cell.Found, fmt.Sprintf(format, args...))
	}
	for _, tag := range tags {
		f := fixesForm.FindStringSubmatch(strings.TrimSpace(tag[1]))
		if f == nil {
			wrong(`Fixes: %s: want 12 digits of the commit and ("its subject")`, tag[1])
			continue
		}
		subject, known := r.known(f[1])
		if !known {
			out, err := t.Look(ctx, "log", "-1", "--format=%s", f[1]+"^{commit}", "--")
			if err != nil {
				wrong("Fixes: %s names no commit of %s, nor one of known-commits", f[1], t.Source)
				continue
			}
			subject = strings.TrimSpace(string(out))
		}
		if subject != f[2] {
			wrong("Fixes: %s is %q, not %q", f[1], subject, f[2])
		}
	}
	return cell, nil
}

// known looks a commit up in known-commits, whose lines are a hash and a subject.
func (r *runner) known(hash string) (subject string, ok bool) {
	if r.Given != nil {
		return "", false
	}
	for l := range strings.Lines(r.series.Beside("known-commits")) {
		h, subject, _ := strings.Cut(strings.TrimSpace(l), " ")
		if len(h) >= 12 && (strings.HasPrefix(h, hash) || strings.HasPrefix(hash, h)) {
			return subject, true
		}
	}
	return "", false
}
