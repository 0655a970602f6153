package client

import (
	"fmt"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
)

// Direction is where a message of the transcript goes.
type Direction int

const (
	Note Direction = iota // not a message: the connection itself, a violation
	Out                   // from the client
	In                    // from the server
)

// Entry is a message that crossed the wire.
type Entry struct {
	Time      time.Time
	Direction Direction
	Hdr       smb2.Hdr // zero for a Note
	Message   []byte   // header and body, decrypted, cut after 64 KiB
	Encrypted bool
	Text      string // the line without its time
}

// Transcript returns what crossed the wire so far, in order.
func (c *Conn) Transcript() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Entry(nil), c.transcript...)
}

// Lines returns the transcript as text, each line with the seconds since the
// first.
func (c *Conn) Lines() []string {
	var lines []string
	entries := c.Transcript()
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%11.6f %s", e.Time.Sub(entries[0].Time).Seconds(), e.Text))
	}
	return lines
}

// Note writes a line of the caller's own into the transcript: a step of a test.
func (c *Conn) Note(format string, args ...any) { c.note(format, args...) }

func (c *Conn) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteLocked(format, args...)
}

func (c *Conn) noteLocked(format string, args ...any) {
	c.transcript = append(c.transcript, Entry{Time: now(), Text: "--  " + fmt.Sprintf(format, args...)})
}

// recordLocked adds a message. c.mu is held.
func (c *Conn) recordLocked(d Direction, h smb2.Hdr, message []byte, encrypted bool, detail string) {
	if detail == "" && len(message) >= smb2.HdrSize {
		detail = describe(h, message[smb2.HdrSize:])
	}
	message = message[:min(len(message), 65536)]
	c.transcript = append(c.transcript, Entry{
		Time: now(), Direction: d, Hdr: h, Message: message, Encrypted: encrypted,
		Text: line(d, h, encrypted, detail),
	})
}

// line is a message in words:
//
//	C>  CHANGE_NOTIFY mid=5 sid=0x1 tid=1 cc=1 cr=64 SIGNED | 2048 bytes, FILE_NAME
//	<S  CHANGE_NOTIFY STATUS_PENDING mid=5 sid=0x1 aid=5 cc=1 cr=1 ASYNC
func line(d Direction, h smb2.Hdr, encrypted bool, detail string) string {
	var b strings.Builder
	if d == Out {
		b.WriteString("C>  ")
	} else {
		b.WriteString("<S  ")
	}
	b.WriteString(strings.TrimPrefix(h.Command.String(), "SMB2_"))
	if d == In {
		fmt.Fprintf(&b, " %v", h.Status)
	}
	fmt.Fprintf(&b, " mid=%d sid=%#x", int64(h.MessageId), h.SessionId)
	if h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND != 0 {
		fmt.Fprintf(&b, " aid=%d", h.AsyncId())
	} else {
		fmt.Fprintf(&b, " tid=%d", h.TreeId)
	}
	fmt.Fprintf(&b, " cc=%d cr=%d", h.CreditCharge, h.CreditRequest)
	if h.NextCommand != 0 {
		fmt.Fprintf(&b, " next=%d", h.NextCommand)
	}
	if f := h.Flags &^ smb2.SMB2_FLAGS_SERVER_TO_REDIR; f != 0 {
		fmt.Fprintf(&b, " %s", strings.NewReplacer("SMB2_FLAGS_", "", "_COMMAND", "", "_OPERATIONS", "").Replace(f.String()))
	}
	if encrypted {
		b.WriteString(" ENCRYPTED")
	}
	if detail != "" {
		b.WriteString(" | ")
		b.WriteString(detail)
	}
	return b.String()
}

// describe tells the body of a message in words, "" when there is nothing to say.
func describe(h smb2.Hdr, body []byte) string {
	out := h.Flags&smb2.SMB2_FLAGS_SERVER_TO_REDIR == 0
	switch {
	case out && h.Command == smb2.SMB2_CHANGE_NOTIFY:
		var r smb2.ChangeNotifyReq
		if _, err := r.Decode(body); err == nil {
			tree := ""
			if r.Flags&smb2.SMB2_WATCH_TREE != 0 {
				tree = ", tree"
			}
			return fmt.Sprintf("%s %d bytes, filter %#x %s%s", fid(r.PersistentFileId, r.VolatileFileId), r.OutputBufferLength, uint32(r.CompletionFilter),
				strings.ReplaceAll(r.CompletionFilter.String(), "FILE_NOTIFY_CHANGE_", ""), tree)
		}
	case h.Command == smb2.SMB2_CHANGE_NOTIFY && h.Status == smb2.STATUS_SUCCESS:
		var r smb2.ChangeNotifyRsp
		if _, err := r.Decode(body); err == nil {
			data, _ := r.OutputBuffer()
			changes, err := ParseChanges(data)
			words := []string{fmt.Sprintf("%d bytes", r.OutputBufferLength)}
			for _, c := range changes {
				words = append(words, c.String())
			}
			if err != nil {
				words = append(words, err.Error())
			}
			return strings.Join(words, ", ")
		}
	case out && h.Command == smb2.SMB2_CREATE:
		var r smb2.CreateReq
		if _, err := r.Decode(body); err == nil {
			name, _ := r.Name()
			return fmt.Sprintf("%q access %#x share %#x %v options %#x", smb2.FromUTF16(name), uint32(r.DesiredAccess), uint32(r.ShareAccess), r.CreateDisposition, uint32(r.CreateOptions))
		}
	case h.Command == smb2.SMB2_CREATE && h.Status == smb2.STATUS_SUCCESS:
		var r smb2.CreateRsp
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %v", fid(r.PersistentFileId, r.VolatileFileId), r.CreateAction)
		}
	case out && h.Command == smb2.SMB2_CLOSE:
		var r smb2.CloseReq
		if _, err := r.Decode(body); err == nil {
			return fid(r.PersistentFileId, r.VolatileFileId)
		}
	case out && h.Command == smb2.SMB2_TREE_CONNECT:
		var r smb2.TreeConnectReq
		if _, err := r.Decode(body); err == nil {
			path, _ := r.PathName()
			return smb2.FromUTF16(path)
		}
	case out && h.Command == smb2.SMB2_READ:
		var r smb2.ReadReq
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %d bytes at %d", fid(r.PersistentFileId, r.VolatileFileId), r.Length, r.Offset)
		}
	case out && h.Command == smb2.SMB2_WRITE:
		var r smb2.WriteReq
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %d bytes at %d", fid(r.PersistentFileId, r.VolatileFileId), r.Length, r.Offset)
		}
	case out && h.Command == smb2.SMB2_QUERY_DIRECTORY:
		var r smb2.QueryDirectoryReq
		if _, err := r.Decode(body); err == nil {
			name, _ := r.FileName()
			return fmt.Sprintf("%s %q %v", fid(r.PersistentFileId, r.VolatileFileId), smb2.FromUTF16(name), r.FileInformationClass)
		}
	case out && h.Command == smb2.SMB2_QUERY_INFO:
		var r smb2.QueryInfoReq
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %s", fid(r.PersistentFileId, r.VolatileFileId), class(r.InfoType, r.FileInfoClass, r.AdditionalInformation))
		}
	case out && h.Command == smb2.SMB2_SET_INFO:
		var r smb2.SetInfoReq
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %s", fid(r.PersistentFileId, r.VolatileFileId), class(r.InfoType, r.FileInfoClass, r.AdditionalInformation)) + setting(r)
		}
	case out && h.Command == smb2.SMB2_IOCTL:
		var r smb2.IoctlReq
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%s %v", fid(r.PersistentFileId, r.VolatileFileId), r.CtlCode)
		}
	case out && h.Command == smb2.SMB2_SESSION_SETUP:
		var r smb2.SessSetupReq
		if _, err := r.Decode(body); err == nil && (r.Flags != 0 || r.PreviousSessionId != 0) {
			return fmt.Sprintf("%v previous session %#x", r.Flags, r.PreviousSessionId)
		}
	case !out && h.Command == smb2.SMB2_OPLOCK_BREAK && h.MessageId == unsolicited:
		var o smb2.OplockBreak
		if _, err := o.Decode(body); err == nil && o.Check() == nil {
			return fmt.Sprintf("%s to %v", fid(o.PersistentFid, o.VolatileFid), o.OplockLevel)
		}
		var l smb2.LeaseBreak
		if _, err := l.Decode(body); err == nil {
			return fmt.Sprintf("lease %x from %v to %v, %v", l.LeaseKey, l.CurrentLeaseState, l.NewLeaseState, l.Flags)
		}
	case !out && h.Command == smb2.SMB2_NEGOTIATE && h.Status == smb2.STATUS_SUCCESS:
		var r smb2.NegotiateRsp
		if _, err := r.Decode(body); err == nil {
			return fmt.Sprintf("%v %v %v", r.DialectRevision, r.SecurityMode, r.Capabilities)
		}
	}
	return ""
}

// class names what a QUERY_INFO or SET_INFO is about.
func class(t smb2.InfoType, c byte, additional uint32) string {
	switch t {
	case smb2.SMB2_O_INFO_FILE:
		return smb2.FileInfoClass(c).String()
	case smb2.SMB2_O_INFO_FILESYSTEM:
		return smb2.FsInfoClass(c).String()
	case smb2.SMB2_O_INFO_SECURITY:
		return smb2.SecurityInformation(additional).String()
	}
	return fmt.Sprintf("%v class %d", t, c)
}

// setting tells what a SET_INFO sets, for the classes that change names.
func setting(r smb2.SetInfoReq) string {
	data, err := r.InputBuffer()
	if err != nil || r.InfoType != smb2.SMB2_O_INFO_FILE {
		return ""
	}
	switch smb2.FileInfoClass(r.FileInfoClass) {
	case smb2.FILE_RENAME_INFORMATION, smb2.FILE_LINK_INFORMATION:
		var n smb2.FileRenameInfo // a link's is the same
		if _, err := n.Decode(data); err == nil {
			return fmt.Sprintf(" %q replace %d", smb2.FromUTF16(n.FileName), n.ReplaceIfExists)
		}
	case smb2.FILE_DISPOSITION_INFORMATION:
		var d smb2.FileDispositionInfo
		if _, err := d.Decode(data); err == nil {
			return fmt.Sprintf(" delete %d", d.DeletePending)
		}
	case smb2.FILE_END_OF_FILE_INFORMATION:
		var e smb2.FileEofInfo
		if _, err := e.Decode(data); err == nil {
			return fmt.Sprintf(" %d", e.EndOfFile)
		}
	}
	return ""
}

func fid(persistent, volatile uint64) string {
	if persistent == ^uint64(0) && volatile == ^uint64(0) {
		return "fid=related"
	}
	return fmt.Sprintf("fid=%x.%x", persistent, volatile)
}
