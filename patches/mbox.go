package patches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"kbuild-run/patches/job"
)

// ReadMailbox reads the patches in a mailbox, or in one mail. Answers and cover
// letters are left out; of several versions of a series the last one counts. A
// mailbox without a patch, or with one missing, is a job.Usage error.
func ReadMailbox(ctx context.Context, name string, text []byte) (*Series, error) {
	tmp, err := os.MkdirTemp("", "kbuild-run-mailbox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	split := git("", "mailsplit", "-b", "-o"+tmp)
	split.Stdin = bytes.NewReader(text)
	if _, err := split.Probe(ctx); err != nil {
		return nil, job.Usage(fmt.Errorf("read mailbox %s: %w", name, err))
	}
	files, err := filepath.Glob(filepath.Join(tmp, "[0-9]*"))
	if err != nil {
		return nil, err
	}
	var all []numbered
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		n, ok := number(raw)
		if !ok {
			continue
		}
		if n.mail.Text, err = plainMail(ctx, raw, tmp); err != nil {
			return nil, fmt.Errorf("read mailbox %s: %w", name, err)
		}
		if n.mail.Text != nil {
			all = append(all, n)
		}
	}
	mails, err := lastVersion(all)
	if err != nil {
		return nil, job.Usage(fmt.Errorf("read mailbox %s: %w", name, err))
	}
	s := &Series{Name: name}
	for i, m := range mails {
		m.mail.Name = fmt.Sprintf("%04d-%s.patch", i+1, fileWords(m.mail.Subject()))
		s.Mails = append(s.Mails, m.mail)
	}
	return s, nil
}

// numbered is a mail with what its subject says: [PATCH v2 3/9].
type numbered struct {
	mail           Mail
	version, n, of int
}

var (
	subjectTag = regexp.MustCompile(`^\s*\[[^\]]*\bPATCH\b([^\]]*)\]`)
	versionTag = regexp.MustCompile(`\bv(\d+)\b`)
	numberTag  = regexp.MustCompile(`\b(\d+)/(\d+)\b`)
)

// number reads the subject of a mail. It is false for a cover letter, an answer
// and whatever else lies in a mailbox.
func number(raw []byte) (n numbered, ok bool) {
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return n, false
	}
	subject := m.Header.Get("Subject")
	if plain, err := new(mime.WordDecoder).DecodeHeader(subject); err == nil {
		subject = plain
	}
	tag := subjectTag.FindStringSubmatch(subject)
	if tag == nil {
		return n, false
	}
	n.version, n.n, n.of = 1, 1, 1
	if v := versionTag.FindStringSubmatch(tag[1]); v != nil {
		n.version, _ = strconv.Atoi(v[1])
	}
	if v := numberTag.FindStringSubmatch(tag[1]); v != nil {
		n.n, _ = strconv.Atoi(v[1])
		n.of, _ = strconv.Atoi(v[2])
	}
	return n, n.n > 0
}

// lastVersion returns the patches of the last version in their order.
func lastVersion(all []numbered) ([]numbered, error) {
	if len(all) == 0 {
		return nil, errors.New("there is no patch in it")
	}
	last := slices.MaxFunc(all, func(a, b numbered) int { return a.version - b.version }).version
	all = slices.DeleteFunc(all, func(n numbered) bool { return n.version != last })
	slices.SortStableFunc(all, func(a, b numbered) int { return a.n - b.n })
	all = slices.CompactFunc(all, func(a, b numbered) bool { return a.n == b.n })
	if len(all) == 1 {
		return all, nil // one mail of a series, as a reviewer's tool hands it over
	}
	for i, n := range all {
		if n.n != i+1 {
			return nil, fmt.Errorf("patch %d/%d is missing", i+1, n.of)
		}
	}
	if n := all[0].of; len(all) != n {
		return nil, fmt.Errorf("patch %d/%d is missing", len(all)+1, n)
	}
	return all, nil
}

// plainMail returns the mail without its transfer encoding and without the
// headers of its journey, or nil when there is no patch in it.
func plainMail(ctx context.Context, raw []byte, tmp string) ([]byte, error) {
	msg, patch := filepath.Join(tmp, "message"), filepath.Join(tmp, "patch")
	info := git("", "mailinfo", "-b", "--encoding=UTF-8", msg, patch)
	info.Stdin = bytes.NewReader(raw)
	head, err := info.Probe(ctx)
	if err != nil {
		return nil, err
	}
	words := map[string]string{}
	for l := range strings.Lines(string(head)) {
		key, value, _ := strings.Cut(strings.TrimSpace(l), ": ")
		words[key] = value
	}
	message, err := os.ReadFile(msg)
	if err != nil {
		return nil, err
	}
	diff, err := os.ReadFile(patch)
	if err != nil || !bytes.Contains(diff, []byte("diff --git ")) {
		return nil, err
	}
	subject := strings.TrimSpace(subjectTag.ReplaceAllString(words["Subject"], ""))
	var b bytes.Buffer
	fmt.Fprintf(&b, "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n")
	fmt.Fprintf(&b, "From: %s <%s>\nDate: %s\nSubject: [PATCH] %s\n", words["Author"], words["Email"], words["Date"], subject)
	fmt.Fprintf(&b, "MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\n\n")
	b.Write(message)
	if !bytes.HasPrefix(diff, []byte("---\n")) {
		b.WriteString("---\n")
	}
	b.Write(diff)
	return b.Bytes(), nil
}

// fileWords is a subject as part of a file's name.
func fileWords(subject string) string {
	words := strings.Trim(notWord.ReplaceAllString(subject, "-"), "-.")
	return words[:min(52, len(words))]
}

var notWord = regexp.MustCompile(`[^A-Za-z0-9._]+`)
