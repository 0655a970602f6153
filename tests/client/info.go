package client

import (
	"context"
	"errors"
	"fmt"

	"kbuild-run/gen/smb2"
)

// conn and do save words below.
func (f *File) conn() *Conn { return f.Tree.Session.Conn }

func (f *File) do(ctx context.Context, what string, r *Request, rsp smb2.Message, ok ...smb2.NtStatus) (*Response, error) {
	resp, err := f.conn().Do(ctx, r, ok...)
	if err == nil && rsp != nil && resp.Hdr.Status>>30 != 3 {
		err = resp.Decode(rsp)
	}
	if err != nil {
		return resp, fmt.Errorf("%s %q: %w", what, f.Name, err)
	}
	return resp, nil
}

// ReadRequest returns the request for n bytes at offset.
func (f *File) ReadRequest(offset uint64, n int) *Request {
	req := smb2.NewReadReq()
	req.Length = uint32(n)
	req.Offset = offset
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	req.Buffer = []byte{0} // MS-SMB2 2.2.19: at least one byte
	return &Request{Command: smb2.SMB2_READ, Body: req, Tree: f.Tree, Payload: n}
}

// Read reads up to n bytes at offset; fewer at the end of the file, none at all
// behind it.
func (f *File) Read(ctx context.Context, offset uint64, n int) ([]byte, error) {
	var all []byte
	for len(all) < n {
		var rsp smb2.ReadRsp
		want := min(n-len(all), f.conn().chunk(f.conn().MaxReadSize))
		_, err := f.do(ctx, "read", f.ReadRequest(offset+uint64(len(all)), want), &rsp)
		if errors.Is(err, Status(smb2.STATUS_END_OF_FILE)) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		data, err := rsp.Data()
		if err != nil {
			return all, err
		}
		all = append(all, data...)
		if len(data) < want {
			break
		}
	}
	return all, nil
}

// WriteRequest returns the request that writes data at offset.
func (f *File) WriteRequest(offset uint64, data []byte) *Request {
	req := smb2.NewWriteReq()
	req.Offset = offset
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	req.SetData(data)
	return &Request{Command: smb2.SMB2_WRITE, Body: req, Tree: f.Tree, Payload: len(data)}
}

// Write writes data at offset.
func (f *File) Write(ctx context.Context, offset uint64, data []byte) error {
	for first := true; first || len(data) > 0; first = false {
		var rsp smb2.WriteRsp
		n := min(len(data), f.conn().chunk(f.conn().MaxWriteSize))
		if _, err := f.do(ctx, "write", f.WriteRequest(offset, data[:n]), &rsp); err != nil {
			return err
		}
		if int(rsp.DataLength) != n {
			return fmt.Errorf("write %q: %d of %d bytes were written", f.Name, rsp.DataLength, n)
		}
		offset, data = offset+uint64(n), data[n:]
	}
	return nil
}

// FlushRequest returns the request that makes the server write the file's data to its
// disk.
func (f *File) FlushRequest() *Request {
	req := smb2.NewFlushReq()
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	return &Request{Command: smb2.SMB2_FLUSH, Body: req, Tree: f.Tree}
}

// Flush makes the server write the file's data to its disk.
func (f *File) Flush(ctx context.Context) error {
	_, err := f.do(ctx, "flush", f.FlushRequest(), nil)
	return err
}

// LockRequest returns the LOCK for n bytes at offset, which nobody else may then read
// or write; it fails rather than wait.
func (f *File) LockRequest(offset, n uint64) *Request {
	req := smb2.NewLockReq()
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	req.LockCount = 1
	req.Locks = []smb2.LockElement{{Offset: offset, Length: n, Flags: smb2.SMB2_LOCKFLAG_EXCLUSIVE | smb2.SMB2_LOCKFLAG_FAIL_IMMEDIATELY}}
	return &Request{Command: smb2.SMB2_LOCK, Body: req, Tree: f.Tree}
}

// listSize is how much of a directory a request asks for, as Windows does.
const listSize = 65536

// ListRequest returns the QUERY_DIRECTORY for the names that match pattern.
func (f *File) ListRequest(pattern string, flags smb2.QueryDirectoryFlags) *Request {
	req := smb2.NewQueryDirectoryReq()
	req.FileInformationClass = smb2.FILEID_BOTH_DIRECTORY_INFORMATION
	req.Flags = flags
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	req.SetFileName(smb2.UTF16(pattern))
	req.OutputBufferLength = listSize
	return &Request{Command: smb2.SMB2_QUERY_DIRECTORY, Body: req, Tree: f.Tree, Payload: listSize}
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name string
	Info smb2.FileIdBothDirectoryInfo
}

// List lists the directory from its beginning. Like Windows' dir it sees "." and
// ".."; the caller leaves them out.
func (f *File) List(ctx context.Context, pattern string) ([]DirEntry, error) {
	var all []DirEntry
	flags := smb2.SMB2_RESTART_SCANS
	for {
		var rsp smb2.QueryDirectoryRsp
		r, err := f.do(ctx, "list", f.ListRequest(pattern, flags), &rsp, smb2.STATUS_NO_MORE_FILES, smb2.STATUS_NO_SUCH_FILE)
		if err != nil {
			return nil, err
		}
		if r.Status() != smb2.STATUS_SUCCESS {
			return all, nil
		}
		data, err := rsp.OutputBuffer()
		if err != nil {
			return nil, err
		}
		entries, err := smb2.Chain[smb2.FileIdBothDirectoryInfo](data)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			all = append(all, DirEntry{smb2.FromUTF16(e.FileName), e})
		}
		flags = 0
	}
}

// Query is what a QUERY_INFO asks for.
type Query struct {
	Type       smb2.InfoType
	Class      byte                     // smb2.FileInfoClass or smb2.FsInfoClass
	Additional smb2.SecurityInformation // for SMB2_O_INFO_SECURITY
	Input      []byte
	Size       int // 0: 65536
}

// QueryRequest returns the QUERY_INFO.
func (f *File) QueryRequest(q Query) *Request {
	req := smb2.NewQueryInfoReq()
	req.InfoType, req.FileInfoClass, req.AdditionalInformation = q.Type, q.Class, uint32(q.Additional)
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	if q.Size == 0 {
		q.Size = 65536
	}
	req.OutputBufferLength = uint32(q.Size)
	if len(q.Input) > 0 {
		req.SetInputBuffer(q.Input)
	}
	return &Request{Command: smb2.SMB2_QUERY_INFO, Body: req, Tree: f.Tree, Payload: max(q.Size, len(q.Input))}
}

// Query returns the buffer of a QUERY_INFO.
func (f *File) Query(ctx context.Context, q Query) ([]byte, error) {
	var rsp smb2.QueryInfoRsp
	if _, err := f.do(ctx, "query", f.QueryRequest(q), &rsp); err != nil {
		return nil, err
	}
	return rsp.OutputBuffer()
}

// Info reads an information class of the file into a structure of smb2.
func (f *File) Info(ctx context.Context, class smb2.FileInfoClass, into smb2.Message) error {
	data, err := f.Query(ctx, Query{Type: smb2.SMB2_O_INFO_FILE, Class: byte(class)})
	if err != nil {
		return err
	}
	_, err = into.Decode(data)
	return err
}

// Security returns the self-relative security descriptor (MS-DTYP 2.4.6).
func (f *File) Security(ctx context.Context, what smb2.SecurityInformation) ([]byte, error) {
	return f.Query(ctx, Query{Type: smb2.SMB2_O_INFO_SECURITY, Additional: what})
}

// Set is what a SET_INFO sets.
type Set struct {
	Type       smb2.InfoType
	Class      byte
	Additional smb2.SecurityInformation
	Data       []byte
}

// SetRequest returns the SET_INFO.
func (f *File) SetRequest(s Set) *Request {
	req := smb2.NewSetInfoReq()
	req.InfoType, req.FileInfoClass, req.AdditionalInformation = s.Type, s.Class, uint32(s.Additional)
	req.PersistentFileId, req.VolatileFileId = f.ID.Persistent, f.ID.Volatile
	req.SetInputBuffer(s.Data)
	return &Request{Command: smb2.SMB2_SET_INFO, Body: req, Tree: f.Tree, Payload: len(s.Data)}
}

// SetInfo sets an information class of the file.
func (f *File) SetInfo(ctx context.Context, class smb2.FileInfoClass, info smb2.Message) error {
	s := Set{Type: smb2.SMB2_O_INFO_FILE, Class: byte(class), Data: info.Append(nil)}
	_, err := f.do(ctx, "set "+class.String()+" of", f.SetRequest(s), nil)
	return err
}

// Rename gives the file another name, a path below the share.
func (f *File) Rename(ctx context.Context, name string, replace bool) error {
	info := &smb2.FileRenameInfo{ReplaceIfExists: bit(replace), FileName: smb2.UTF16(name)}
	info.FileNameLength = uint32(len(info.FileName))
	if len(info.FileName) < 4 {
		// The structure is never shorter than 24 bytes (MS-FSCC 2.4.42.2).
		info.FileName = append(info.FileName, make([]byte, 4-len(info.FileName))...)
	}
	return f.SetInfo(ctx, smb2.FILE_RENAME_INFORMATION, info)
}

// Link gives the file one more name.
func (f *File) Link(ctx context.Context, name string, replace bool) error {
	info := &smb2.FileLinkInfo{ReplaceIfExists: bit(replace), FileName: smb2.UTF16(name)}
	info.FileNameLength = uint32(len(info.FileName))
	return f.SetInfo(ctx, smb2.FILE_LINK_INFORMATION, info)
}

// Delete marks the file for deletion at its last close, or takes the mark away.
func (f *File) Delete(ctx context.Context, pending bool) error {
	return f.SetInfo(ctx, smb2.FILE_DISPOSITION_INFORMATION, &smb2.FileDispositionInfo{DeletePending: bit(pending)})
}

// SetEnd sets the size of the file.
func (f *File) SetEnd(ctx context.Context, size uint64) error {
	return f.SetInfo(ctx, smb2.FILE_END_OF_FILE_INFORMATION, &smb2.FileEofInfo{EndOfFile: size})
}

// SetBasic sets times and attributes; a field of 0 stays as it is.
func (f *File) SetBasic(ctx context.Context, info smb2.FileBasicInfo) error {
	return f.SetInfo(ctx, smb2.FILE_BASIC_INFORMATION, &info)
}

// SetEA sets an extended attribute; an empty value removes it.
func (f *File) SetEA(ctx context.Context, name string, value []byte) error {
	return f.SetInfo(ctx, smb2.FILE_FULL_EA_INFORMATION, &smb2.FullEaInformation{
		EaNameLength:  byte(len(name)),
		EaValueLength: uint16(len(value)),
		EaName:        []byte(name),
		EaValue:       append([]byte{0}, value...),
	})
}

// SetSecurity sets parts of the security descriptor.
func (f *File) SetSecurity(ctx context.Context, what smb2.SecurityInformation, descriptor []byte) error {
	_, err := f.do(ctx, "set security of", f.SetRequest(Set{Type: smb2.SMB2_O_INFO_SECURITY, Additional: what, Data: descriptor}), nil)
	return err
}

// Control is what an IOCTL asks for.
type Control struct {
	Code  smb2.FsctlCode
	Input []byte
	Size  int // of the output; 0: 65536
}

// ControlRequest returns the IOCTL for an open; RelatedID stands for the server.
func (t *Tree) ControlRequest(id FileID, o Control) *Request {
	if o.Size == 0 {
		o.Size = 65536
	}
	req := smb2.NewIoctlReq()
	req.CtlCode = o.Code
	req.PersistentFileId, req.VolatileFileId = id.Persistent, id.Volatile
	req.MaxOutputResponse = uint32(o.Size)
	req.Flags = smb2.SMB2_0_IOCTL_IS_FSCTL
	req.SetInput(o.Input)
	return &Request{Command: smb2.SMB2_IOCTL, Body: req, Tree: t, Payload: max(o.Size, len(o.Input))}
}

// Control sends an IOCTL and returns its output.
func (t *Tree) Control(ctx context.Context, id FileID, o Control) ([]byte, error) {
	resp, err := t.Session.Conn.Do(ctx, t.ControlRequest(id, o))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", o.Code, err)
	}
	var rsp smb2.IoctlRsp
	if err := resp.Decode(&rsp); err != nil {
		return nil, err
	}
	return rsp.Output()
}

// SetSparse makes the file sparse.
func (f *File) SetSparse(ctx context.Context) error {
	_, err := f.Tree.Control(ctx, f.ID, Control{Code: smb2.FSCTL_SET_SPARSE})
	return err
}

// Zero fills the bytes from offset up to end with zeros.
func (f *File) Zero(ctx context.Context, offset, end uint64) error {
	z := smb2.ZeroDataInformation{FileOffset: offset, BeyondFinalZero: end}
	_, err := f.Tree.Control(ctx, f.ID, Control{Code: smb2.FSCTL_SET_ZERO_DATA, Input: z.Append(nil)})
	return err
}

// CopyFrom has the server copy n bytes from one file into another, which must be
// open for reading too.
func (f *File) CopyFrom(ctx context.Context, from *File, source, target uint64, n uint32) error {
	out, err := from.Tree.Control(ctx, from.ID, Control{Code: smb2.FSCTL_SRV_REQUEST_RESUME_KEY, Size: 32})
	if err != nil {
		return err
	}
	var key smb2.SrvRequestResumeKeyRsp
	if _, err := key.Decode(out); err != nil {
		return err
	}
	c := smb2.SrvCopychunkCopy{
		SourceKey:  key.ResumeKey,
		ChunkCount: 1,
		Chunks:     []smb2.SrvCopychunk{{SourceOffset: source, TargetOffset: target, Length: n}},
	}
	out, err = f.Tree.Control(ctx, f.ID, Control{Code: smb2.FSCTL_SRV_COPYCHUNK, Input: c.Append(nil), Size: smb2.CopychunkIoctlRspSize})
	if err != nil {
		return err
	}
	var done smb2.CopychunkIoctlRsp
	if _, err := done.Decode(out); err != nil {
		return err
	}
	if done.TotalBytesWritten != n {
		return fmt.Errorf("copy to %q: %d of %d bytes", f.Name, done.TotalBytesWritten, n)
	}
	return nil
}

// ValidateNegotiate asks over the signed session whether NEGOTIATE was tampered
// with, as clients of 3.0 and 3.0.2 must (MS-SMB2 3.2.5.5).
func (t *Tree) ValidateNegotiate(ctx context.Context) error {
	c := t.Session.Conn
	sent, err := c.negotiateRequest()
	if err != nil {
		return err
	}
	req := &smb2.ValidateNegotiateRequest{
		Capabilities: sent.Capabilities,
		Guid:         sent.ClientGUID,
		SecurityMode: sent.SecurityMode,
		DialectCount: sent.DialectCount,
		Dialects:     sent.Dialects,
	}
	out, err := t.Control(ctx, RelatedID, Control{Code: smb2.FSCTL_VALIDATE_NEGOTIATE_INFO, Input: req.Append(nil), Size: smb2.ValidateNegotiateInfoRspSize})
	if err != nil {
		return err
	}
	var got smb2.ValidateNegotiateInfoRsp
	if _, err := got.Decode(out); err != nil {
		return err
	}
	want := smb2.ValidateNegotiateInfoRsp{Capabilities: c.Capabilities, Guid: c.ServerGUID, SecurityMode: c.SecurityMode, Dialect: c.Dialect}
	if got != want {
		return fmt.Errorf("validate negotiation: the server says %+v, NEGOTIATE said %+v", got, want)
	}
	return nil
}

// Echo asks the server for a sign of life, without a session, as Windows does.
func (c *Conn) Echo(ctx context.Context) error {
	_, err := c.Do(ctx, &Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq()})
	return err
}

// Echo is Conn.Echo with the session's id, signed or encrypted.
func (s *Session) Echo(ctx context.Context) error {
	_, err := s.Conn.Do(ctx, &Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq(), Session: s})
	return err
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
