package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// names are what all watches ask for: then one change is one event, on every server.
const names = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME

// watch is an open directory and the CHANGE_NOTIFY on it.
type watch struct {
	*wire
	dir  string // from the share's root, separator /
	id   client.FileID
	tree bool
	size uint32

	mid uint64 // of the request that waits
}

func createRequest(name string, access smb2.AccessMask, disposition smb2.CreateDisposition, options smb2.CreateOptions) *smb2.CreateReq {
	r := smb2.NewCreateReq()
	r.ImpersonationLevel = smb2.IL_IMPERSONATION
	r.DesiredAccess, r.ShareAccess = access, client.ShareAll
	r.CreateDisposition, r.CreateOptions = disposition, options
	r.SetName(smb2.UTF16(strings.ReplaceAll(name, "/", `\`)))
	return r
}

func openRequest(dir string) *smb2.CreateReq {
	return createRequest(dir, client.AccessExplorer, smb2.FILE_OPEN, smb2.FILE_DIRECTORY_FILE)
}

// opened reads the response to a CREATE.
func opened(m message) (client.FileID, error) {
	var r smb2.CreateRsp
	if m.Status != smb2.STATUS_SUCCESS {
		return client.FileID{}, fmt.Errorf("open: %v", m.Status)
	}
	if _, err := r.Decode(m.body); err != nil {
		return client.FileID{}, err
	}
	return client.FileID{Persistent: r.PersistentFileId, Volatile: r.VolatileFileId}, nil
}

func closeRequest(id client.FileID) *smb2.CloseReq {
	r := smb2.NewCloseReq()
	r.PersistentFileId, r.VolatileFileId = id.Persistent, id.Volatile
	return r
}

func (w *watch) request() *smb2.ChangeNotifyReq {
	r := smb2.NewChangeNotifyReq()
	if w.tree {
		r.Flags = smb2.SMB2_WATCH_TREE
	}
	r.OutputBufferLength, r.CompletionFilter = w.size, names
	r.PersistentFileId, r.VolatileFileId = w.id.Persistent, w.id.Volatile
	return r
}

// open opens the directory and arms the watch.
func (w *watch) open() error {
	m, err := w.do(smb2.SMB2_CREATE, openRequest(w.dir))
	if err != nil {
		return fmt.Errorf("%s: %w", w.dir, err)
	}
	if w.id, err = opened(m); err != nil {
		return err
	}
	return w.arm()
}

// arm sends a CHANGE_NOTIFY and returns when it waits.
func (w *watch) arm() error {
	m, err := w.notify()
	if err == nil && m.Status != smb2.STATUS_PENDING {
		return fmt.Errorf("CHANGE_NOTIFY on %s: %v at once", w.dir, m.Status)
	}
	return err
}

// notify sends a CHANGE_NOTIFY and returns the first response.
func (w *watch) notify() (message, error) {
	w.mid = w.put(smb2.SMB2_CHANGE_NOTIFY, w.request())
	if err := w.flush(); err != nil {
		return message{}, err
	}
	return w.answer(w.mid)
}

// records returns the records of a final response.
func records(m message) ([]client.Change, error) {
	if m.Status != smb2.STATUS_SUCCESS {
		return nil, fmt.Errorf("CHANGE_NOTIFY: %v", m.Status)
	}
	var r smb2.ChangeNotifyRsp
	if _, err := r.Decode(m.body); err != nil {
		return nil, err
	}
	data, err := r.OutputBuffer()
	if err != nil {
		return nil, err
	}
	return client.ParseChanges(data)
}

// hears waits until the watch tells the change and returns when the response that
// told it came in. No request waits then. That there was too much to tell counts
// as told with loose.
func (w *watch) hears(want client.Change, loose bool) (time.Time, error) {
	m, err := w.final(w.mid)
	for err == nil {
		if loose && m.Status == smb2.STATUS_NOTIFY_ENUM_DIR {
			return m.at, nil
		}
		var all []client.Change
		if all, err = records(m); err != nil {
			break
		}
		if slices.Contains(all, want) {
			return m.at, nil
		}
		if m, err = w.notify(); err == nil && m.Status == smb2.STATUS_PENDING {
			m, err = w.final(w.mid)
		}
	}
	return time.Time{}, fmt.Errorf("wait for %v in %s: %w", want, w.dir, err)
}

// told is hears, and arms the watch again.
func (w *watch) told(want client.Change) (time.Time, error) {
	at, err := w.hears(want, false)
	if err == nil {
		err = w.again()
	}
	return at, err
}

// again arms the watch and reads away what came in the meantime.
func (w *watch) again() error {
	for {
		m, err := w.notify()
		if err != nil || m.Status == smb2.STATUS_PENDING {
			return err
		}
		if _, err := records(m); err != nil && m.Status != smb2.STATUS_NOTIFY_ENUM_DIR {
			return err
		}
	}
}

// settle returns when a local change in the directory is told. Some servers answer
// a CHANGE_NOTIFY before anything watches: it is tried until something is told.
func (l *load) settle(w *watch) error {
	tell := func() {
		name := filepath.Join(l.root, w.dir, "settle")
		os.WriteFile(name, nil, 0o666)
		os.Remove(name)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		// Seldom, and ever more so: each time may be work for all watches.
		for pause := 250 * time.Millisecond; ; pause *= 4 {
			tell()
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
		}
	}()
	_, err := w.final(w.mid)
	close(stop)
	<-done
	if err != nil {
		return fmt.Errorf("wait for the first event of %s: %w", w.dir, err)
	}
	// What was told late must not be taken for the answer to something else.
	if err := w.again(); err != nil {
		return err
	}
	name := filepath.Join(l.root, w.dir, "settled")
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		return err
	}
	if _, err := w.told(client.Change{Action: smb2.FILE_ACTION_ADDED, Name: "settled"}); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	_, err = w.told(settled)
	return err
}

// settled is the last change of settle.
var settled = client.Change{Action: smb2.FILE_ACTION_REMOVED, Name: "settled"}

// folder makes an empty folder that everybody may write to.
func (l *load) folder(dir string) error {
	path := filepath.Join(l.root, dir)
	return errors.Join(os.MkdirAll(path, 0o777), os.Chmod(path, 0o777))
}

// create makes and closes an empty file and returns when it began.
func create(name string) (time.Time, error) {
	began := time.Now()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return began, err
	}
	return began, f.Close()
}

// one connects and arms a watch of dir that reports.
func (l *load) one(ctx context.Context, dir string, size uint32) (*watch, error) {
	if err := l.folder(dir); err != nil {
		return nil, err
	}
	c, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	w := &watch{wire: c, dir: dir, size: size}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, l.settle(w)
}
