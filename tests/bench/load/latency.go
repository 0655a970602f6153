package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// latency makes n files as a local process and n as another client, each when the
// one before has been told, and measures from the call, or the request, to the
// response of the client that watches.
func (l *load) latency(ctx context.Context, n int) error {
	const dir = "bench/latency"
	w, err := l.one(ctx, dir, 4096)
	if err != nil {
		return err
	}
	defer w.drop()
	other, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer other.drop()

	for _, kind := range []struct {
		name   string
		change func(name string) (time.Time, func() error, error)
	}{
		{"local", l.localFile(dir)},
		{"client", other.file(dir)},
	} {
		var all, calls []time.Duration
		warm := n/10 + 5
		var before map[string]time.Duration
		for i := range n + warm {
			if i == warm {
				before = l.cpu()
			}
			name := fmt.Sprintf("%s%06d", kind.name, i)
			began, remove, err := kind.change(name)
			called := time.Since(began)
			if err != nil {
				return err
			}
			at, err := w.told(client.Change{Action: smb2.FILE_ACTION_ADDED, Name: name})
			if err != nil {
				return err
			}
			if i >= warm {
				all, calls = append(all, at.Sub(began)), append(calls, called)
			}
			if err := remove(); err != nil {
				return err
			}
			if _, err := w.told(client.Change{Action: smb2.FILE_ACTION_REMOVED, Name: name}); err != nil {
				return err
			}
		}
		// A file makes two events: it comes, and it goes.
		l.times("latency/"+kind.name, all)
		l.times("call/"+kind.name, calls)
		l.value("cpu/"+kind.name, "ns", float64(l.since(before))/float64(2*n))
	}
	return nil
}

// localFile makes a file in dir, and removes it.
func (l *load) localFile(dir string) func(string) (time.Time, func() error, error) {
	return func(name string) (time.Time, func() error, error) {
		path := filepath.Join(l.root, dir, name)
		began, err := create(path)
		return began, func() error { return os.Remove(path) }, err
	}
}

// file makes a file in dir as a client does, which is removed when it is closed.
// The response is read then: the one that is measured is another client's.
func (w *wire) file(dir string) func(string) (time.Time, func() error, error) {
	return func(name string) (time.Time, func() error, error) {
		mid := w.put(smb2.SMB2_CREATE, createRequest(dir+"/"+name, smb2.FILE_WRITE_DATA|smb2.DELETE, smb2.FILE_CREATE, smb2.FILE_DELETE_ON_CLOSE))
		began := time.Now()
		return began, func() error {
			m, err := w.final(mid)
			if err != nil {
				return err
			}
			id, err := opened(m)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			_, err = w.do(smb2.SMB2_CLOSE, closeRequest(id))
			return err
		}, w.flush()
	}
}
