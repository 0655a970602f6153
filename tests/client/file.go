package client

import (
	"context"
	"fmt"

	"kbuild-run/gen/smb2"
)

// Rights that programs open directories and files with.
const (
	// AccessExplorer is what Windows Explorer opens a directory with to watch it.
	AccessExplorer = smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.SYNCHRONIZE

	ShareAll = smb2.FILE_SHARE_READ | smb2.FILE_SHARE_WRITE | smb2.FILE_SHARE_DELETE
)

// Create is how a file is opened. The zero value opens what is there with
// AccessExplorer and shares everything.
type Create struct {
	Access      smb2.AccessMask // 0: AccessExplorer
	Attributes  smb2.FileAttributes
	Share       *smb2.ShareAccess       // nil: ShareAll
	Disposition *smb2.CreateDisposition // nil: FILE_OPEN
	Options     smb2.CreateOptions
	Oplock      smb2.OplockLevel
	Contexts    []smb2.CreateContext
}

// FileID is the id of an open.
type FileID struct{ Persistent, Volatile uint64 }

// RelatedID stands for the open of the request before, in a related compound.
var RelatedID = FileID{^uint64(0), ^uint64(0)}

func (f FileID) String() string { return fid(f.Persistent, f.Volatile) }

// File is an open.
type File struct {
	Tree    *Tree
	ID      FileID
	Name    string
	Created smb2.CreateRsp // the response
}

// CreateRequest returns the request that opens name, a path below the share with
// the separator \; "" is the share's root.
func (t *Tree) CreateRequest(name string, o Create) *Request {
	req := smb2.NewCreateReq()
	req.RequestedOplockLevel = o.Oplock
	req.ImpersonationLevel = smb2.IL_IMPERSONATION
	req.DesiredAccess = o.Access
	if o.Access == 0 {
		req.DesiredAccess = AccessExplorer
	}
	req.FileAttributes = o.Attributes
	req.ShareAccess = ShareAll
	if o.Share != nil {
		req.ShareAccess = *o.Share
	}
	req.CreateDisposition = smb2.FILE_OPEN
	if o.Disposition != nil {
		req.CreateDisposition = *o.Disposition
	}
	req.CreateOptions = o.Options
	req.SetName(smb2.UTF16(name))
	if len(o.Contexts) > 0 {
		req.SetCreateContexts(smb2.AppendChain(nil, o.Contexts...))
	}
	if len(req.Buffer) == 0 {
		req.Buffer = []byte{0} // MS-SMB2 2.2.13: at least one byte
	}
	return &Request{Command: smb2.SMB2_CREATE, Body: req, Tree: t}
}

// Opened makes the File of a CREATE response.
func (t *Tree) Opened(name string, resp *Response) (*File, error) {
	if err := resp.Err(); err != nil {
		return nil, fmt.Errorf("open %q: %w", name, err)
	}
	f := &File{Tree: t, Name: name}
	if err := resp.Decode(&f.Created); err != nil {
		return nil, fmt.Errorf("open %q: %w", name, err)
	}
	f.ID = FileID{f.Created.PersistentFileId, f.Created.VolatileFileId}
	return f, nil
}

// Create opens or creates a file or a directory.
func (t *Tree) Create(ctx context.Context, name string, o Create) (*File, error) {
	p, err := t.Session.Conn.Send(ctx, t.CreateRequest(name, o))
	if err != nil {
		return nil, err
	}
	resp, err := p[0].Final(ctx)
	if err != nil {
		return nil, err
	}
	return t.Opened(name, resp)
}

// Context returns the data of a context of the CREATE response, nil if it is absent.
func (f *File) Context(name string) ([]byte, error) {
	data, err := f.Created.CreateContexts()
	if err != nil {
		return nil, err
	}
	all, err := smb2.Chain[smb2.CreateContext](data)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if n, err := c.Name(); err == nil && string(n) == name {
			return c.Data()
		}
	}
	return nil, nil
}

// On returns the same open for requests on another channel of the session.
func (f *File) On(s *Session) *File {
	other := *f
	other.Tree = f.Tree.On(s)
	return &other
}

// CloseRequest returns the request that closes the file.
func (f *File) CloseRequest() *Request {
	req := smb2.NewCloseReq()
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	return &Request{Command: smb2.SMB2_CLOSE, Body: req, Tree: f.Tree}
}

// Close closes the file.
func (f *File) Close(ctx context.Context) error {
	_, err := f.Tree.Session.Conn.Do(ctx, f.CloseRequest())
	return err
}

// Watch is what a CHANGE_NOTIFY asks for.
type Watch struct {
	Filter smb2.CompletionFilter
	Tree   bool // the whole subtree
	Size   uint32
}

// NotifyRequest returns the CHANGE_NOTIFY for the directory id.
func (t *Tree) NotifyRequest(id FileID, w Watch) *Request {
	req := smb2.NewChangeNotifyReq()
	if w.Tree {
		req.Flags = smb2.SMB2_WATCH_TREE
	}
	req.OutputBufferLength = w.Size
	req.PersistentFileId, req.VolatileFileId = id.Persistent, id.Volatile
	req.CompletionFilter = w.Filter
	return &Request{Command: smb2.SMB2_CHANGE_NOTIFY, Body: req, Tree: t, Payload: int(w.Size)}
}

// Notify sends a CHANGE_NOTIFY for the directory.
func (f *File) Notify(ctx context.Context, w Watch) (*Pending, error) {
	p, err := f.Tree.Session.Conn.Send(ctx, f.Tree.NotifyRequest(f.ID, w))
	if err != nil {
		return nil, err
	}
	return p[0], nil
}

// CreateNotify opens a directory and watches it in one compound, as Windows
// Explorer does when it enters a folder: CREATE, and a related CHANGE_NOTIFY
// whose FileId is all ones.
func (t *Tree) CreateNotify(ctx context.Context, name string, o Create, w Watch) (*File, *Pending, error) {
	notify := t.NotifyRequest(RelatedID, w)
	notify.Related = true
	p, err := t.Session.Conn.Send(ctx, t.CreateRequest(name, o), notify)
	if err != nil {
		return nil, nil, err
	}
	resp, err := p[0].Final(ctx)
	if err != nil {
		return nil, p[1], err
	}
	f, err := t.Opened(name, resp)
	return f, p[1], err
}
