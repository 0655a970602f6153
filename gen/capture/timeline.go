package capture

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"

	"kbuild-run/gen/interp"
	"kbuild-run/gen/table"
)

// Message is one SMB2 message: a header and a body.
type Message struct {
	Frame  *Frame
	Header *interp.Message // nil for a frame that could not be opened; Err says why
	Body   *interp.Message // nil when it could not be read
	Raw    []byte          // header and body
	Err    error           // why the body could not be read

	Request  *Message   // of a response
	Answers  []*Message // of a request: interim and final
	Response bool
	Opened   bool  // came out of an encrypted frame
	Verified bool  // its signature was checked
	BadSign  error // and is wrong
}

// Cmd is the number of the command.
func (m *Message) Cmd() int { return int(m.Header.Number("Command")) }

// MessageId is the number that ties responses to requests.
func (m *Message) MessageId() uint64 { return m.Header.Number("MessageId") }

// Status is the NT status of a response.
func (m *Message) Status() uint32 { return uint32(m.Header.Number("Status")) }

// Async says that the header is an asynchronous one.
func (m *Message) Async() bool { return m.Header.Number("Flags")&flagAsync != 0 }

// Interim says that this is the first of two responses.
func (m *Message) Interim() bool {
	return m.Response && m.Async() && m.Status() == statusPending
}

// Numbers of the tables that the reading itself depends on.
const (
	flagResponse  = 0x1
	flagAsync     = 0x2
	flagRelated   = 0x4
	flagSigned    = 0x8
	statusPending = 0x103
	statusMore    = 0xC0000016
	cancel        = 0xC
	changeNotify  = 0xF
	unsolicited   = 1<<64 - 1 // MessageId of an oplock break, 3.3.4.6
)

// Timeline reads messages and ties responses to requests.
type Timeline struct {
	set  *table.Set
	open map[tie]*Message
	All  []*Message
	Keys *Keys // opens what is encrypted and checks what is signed, unless nil
}

type tie struct {
	conn int
	mid  uint64
}

// NewTimeline returns an empty timeline that reads by set.
func NewTimeline(set *table.Set) *Timeline {
	return &Timeline{set: set, open: map[tie]*Message{}}
}

// Add reads the messages of a frame. What cannot be read becomes a Message without
// a header.
func (t *Timeline) Add(f *Frame) {
	if err := t.add(f); err != nil {
		t.All = append(t.All, &Message{Frame: f, Err: err})
	}
}

func (t *Timeline) add(f *Frame) error {
	data, opened := f.Data, false
	if t.Keys != nil {
		if err := t.Keys.See(f); err != nil {
			return err
		}
	}
	switch f.Kind {
	case Encrypted:
		if t.Keys == nil {
			return fmt.Errorf("encrypted, %d bytes", len(data))
		}
		var err error
		if data, err = t.Keys.Open(f); err != nil {
			return fmt.Errorf("encrypted, %d bytes: %w", len(f.Data), err)
		}
		opened = true
	case Compressed:
		return fmt.Errorf("compressed, %d bytes", len(data))
	case SMB1:
		return fmt.Errorf("SMB 1, %d bytes", len(data))
	}
	for at := 0; ; {
		b := data[at:]
		h, _, err := interp.Read(t.set, t.set.Lookup("smb2_hdr"), b)
		if err != nil {
			return err
		}
		if string(b[:4]) != string(SMB2) {
			return fmt.Errorf("message at %d begins with %x, want fe534d42", at, b[:4])
		}
		next := int(h.Number("NextCommand"))
		if next != 0 && (next < h.Decl.Size || next > len(b)) {
			return fmt.Errorf("NextCommand %d, want %d to %d", next, h.Decl.Size, len(b))
		}
		if next != 0 {
			b = b[:next]
		}
		m := &Message{Frame: f, Header: h, Raw: b, Opened: opened, Response: h.Number("Flags")&flagResponse != 0}
		m.Body, m.Err = t.body(m)
		if t.Keys != nil && !opened && h.Number("Flags")&flagSigned != 0 {
			m.Verified, m.BadSign = t.Keys.Verify(m)
		}
		t.tie(m)
		t.All = append(t.All, m)
		if next == 0 {
			return nil
		}
		at += next
	}
}

// body reads what is behind the header: the structure of the command with the right
// StructureSize, or the error response.
func (t *Timeline) body(m *Message) (*interp.Message, error) {
	b := m.Raw[m.Header.Decl.Size:]
	if len(b) < 2 {
		return nil, fmt.Errorf("no body")
	}
	size := fmt.Sprint(int(b[0]) | int(b[1])<<8)
	var names []string
	for _, v := range t.set.Lookup("smb2_command").Values {
		if int(v.Number) == m.Cmd() {
			for i, h := range v.Holds {
				if (i == 1) == m.Response {
					names = strings.Split(h, "|")
				}
			}
		}
	}
	if m.Response {
		// Where both have the size 9, an error has no data of the command's own; but
		// the steps of a login have the command's body and an error's status (2.2.2).
		failed := (m.Status()>>30 == 3 || m.Status() == statusPending) && m.Status() != statusMore
		if e := "smb2_err_rsp"; failed {
			names = append([]string{e}, names...)
		} else {
			names = append(names, e)
		}
	}
	for _, name := range names {
		d := t.set.Lookup(name)
		if d == nil || d.Field("StructureSize") == nil || d.Field("StructureSize").Want != size {
			continue
		}
		body, _, err := interp.Read(t.set, d, b)
		return body, err
	}
	return nil, fmt.Errorf("StructureSize %s is of no body of the command", size)
}

// tie finds the request of a response.
func (t *Timeline) tie(m *Message) {
	k := tie{m.Frame.Conn, m.MessageId()}
	switch {
	case m.MessageId() == unsolicited:
	case !m.Response:
		if m.Cmd() != cancel { // it has the MessageId of what it cancels, and no response
			t.open[k] = m
		}
	case t.open[k] != nil && t.open[k].Cmd() == m.Cmd():
		m.Request = t.open[k]
		m.Request.Answers = append(m.Request.Answers, m)
		if !m.Interim() {
			delete(t.open, k)
		}
	}
}

// Print writes a line a message, the whole of it under the line if full is set. With
// cmd it writes the messages of that command, and the cancels of them; -1 is all.
// Times are of day, UTC.
func (t *Timeline) Print(w io.Writer, cmd int, full bool) error {
	multi := false
	for _, m := range t.All {
		multi = multi || m.Frame.Conn > 1
	}
	for _, m := range t.All {
		if m.Header == nil {
			if _, err := fmt.Fprintf(w, "%s #%d %s: %v\n", clock(m.Frame.Time), m.Frame.Conn, m.Frame.From, m.Err); err != nil {
				return err
			}
			continue
		}
		if cmd >= 0 && m.Cmd() != cmd && !(m.Cmd() == cancel && t.cancels(m, cmd)) {
			continue
		}
		conn := ""
		if multi {
			conn = fmt.Sprintf("#%d ", m.Frame.Conn)
		}
		if _, err := fmt.Fprintf(w, "%s %s%s\n", clock(m.Frame.Time), conn, t.line(m)); err != nil {
			return err
		}
		if full {
			text := m.Header.String()
			if m.Body != nil {
				text += m.Body.String()
			}
			fmt.Fprint(w, "    "+strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ")+"\n")
		}
	}
	return nil
}

// cancels says that m cancels a request of that command.
func (t *Timeline) cancels(m *Message, cmd int) bool {
	for _, r := range t.All {
		if r.Header == nil || r.Response || r.Frame.Conn != m.Frame.Conn || r.Cmd() != cmd {
			continue
		}
		if m.MessageId() == r.MessageId() {
			return true
		}
		for _, a := range r.Answers {
			if m.Async() && a.Async() && a.Header.Number("AsyncId") == m.Header.Number("AsyncId") {
				return true
			}
		}
	}
	return false
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// line says in words what a message is.
func (t *Timeline) line(m *Message) string {
	command := strings.TrimPrefix(m.Header.Word("Command"), "SMB2_")
	var b strings.Builder
	kind := "Request "
	switch {
	case m.Interim():
		kind = "Interim "
	case m.Response && m.MessageId() == unsolicited:
		kind = "Notice  "
	case m.Response:
		kind = "Response"
	}
	fmt.Fprintf(&b, "%-15s %s", command, kind)
	if m.MessageId() != unsolicited {
		fmt.Fprintf(&b, " mid %d", m.MessageId())
	}
	if m.Async() {
		fmt.Fprintf(&b, " async %#x", m.Header.Number("AsyncId"))
	}
	if m.Header.Number("NextCommand") != 0 {
		b.WriteString(" compound")
	}
	if m.Header.Number("Flags")&flagRelated != 0 {
		b.WriteString(" related")
	}
	switch {
	case m.Opened:
		b.WriteString(" encrypted")
	case m.BadSign != nil:
		fmt.Fprintf(&b, " signed WRONG: %v;", m.BadSign)
	case m.Verified:
		b.WriteString(" signed ok")
	case m.Header.Number("Flags")&flagSigned != 0:
		b.WriteString(" signed")
	}
	if m.Response {
		b.WriteString("  " + t.status(m))
	}
	if m.Err != nil {
		fmt.Fprintf(&b, "  malformed: %v", m.Err)
	} else if s := t.summary(m); s != "" {
		b.WriteString("  " + s)
	}
	switch {
	case m.Response && m.MessageId() != unsolicited && m.Request == nil:
		b.WriteString("  (request not in the capture)")
	case m.Response || m.Cmd() == cancel:
	case len(m.Answers) == 0:
		b.WriteString("  → no answer")
	}
	if !m.Response {
		for _, a := range m.Answers {
			if a.Interim() {
				fmt.Fprintf(&b, "  → interim async %#x %s", a.Header.Number("AsyncId"), clock(a.Frame.Time))
			} else {
				fmt.Fprintf(&b, "  → %s %s", t.status(a), clock(a.Frame.Time))
			}
		}
		if n := len(m.Answers); n > 0 && m.Answers[n-1].Interim() {
			b.WriteString("  → pending at the end")
		}
	}
	if m.Frame.Lost > 0 {
		fmt.Fprintf(&b, "  (%d bytes before it not in the capture)", m.Frame.Lost)
	}
	return b.String()
}

func (t *Timeline) status(m *Message) string {
	if name := interp.Name(t.set, "nt_status", uint64(m.Status())); name != "" {
		return name
	}
	return fmt.Sprintf("%#08x", m.Status())
}

// summary is what the body says that a reader of a timeline asks first.
func (t *Timeline) summary(m *Message) string {
	body := m.Raw[m.Header.Decl.Size:]
	if m.Body.Decl.Name == "smb2_err_rsp" {
		return ""
	}
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	data := func(name string) []byte {
		b, err := m.Body.Data(name, body)
		if err != nil {
			add("malformed: %v", err)
		}
		return b
	}
	id := func(persistent, volatile string) {
		if m.Body.Decl.Field(volatile) != nil {
			add("fid %x.%x", m.Body.Number(persistent), m.Body.Number(volatile))
		}
	}
	switch name := m.Body.Decl.Name; name {
	case "smb2_negotiate_req":
		var d []string
		for i := range m.Body.Values {
			if m.Body.Values[i].Field.Name() == "Dialects" {
				for _, n := range m.Body.Values[i].List {
					d = append(d, fmt.Sprintf("%#04x", n))
				}
			}
		}
		add("dialects %s", strings.Join(d, " "))
	case "smb2_negotiate_rsp":
		add("dialect %#04x", m.Body.Number("DialectRevision"))
	case "smb2_sess_setup_req", "smb2_sess_setup_rsp":
		add("session %#x", m.Header.Number("SessionId"))
	case "smb2_tree_connect_req":
		add("%q", text(data("PathName")))
	case "smb2_tree_connect_rsp":
		add("tree %#x", m.Header.Number("TreeId"))
	case "smb2_create_req":
		add("%q %s", text(data("Name")), m.Body.Word("CreateDisposition"))
		if contexts := t.contexts(data("CreateContexts")); contexts != "" {
			add("%s", contexts)
		}
	case "smb2_create_rsp":
		id("PersistentFileId", "VolatileFileId")
		add("%s", m.Body.Word("CreateAction"))
	case "smb2_change_notify_req":
		id("PersistentFileId", "VolatileFileId")
		add("%s length %d filter %#x", m.Body.Word("Flags"), m.Body.Number("OutputBufferLength"), m.Body.Number("CompletionFilter"))
	case "smb2_change_notify_rsp":
		add("%s", t.records(data("OutputBuffer")))
	case "smb2_query_directory_req":
		id("PersistentFileId", "VolatileFileId")
		add("%s %q", m.Body.Word("FileInformationClass"), text(data("FileName")))
	case "smb2_query_info_req", "smb2_set_info_req":
		id("PersistentFileId", "VolatileFileId")
		add("%s class %d", m.Body.Word("InfoType"), m.Body.Number("FileInfoClass"))
	case "smb2_read_req", "smb2_write_req":
		id("PersistentFileId", "VolatileFileId")
		add("%d bytes at %d", m.Body.Number("Length"), m.Body.Number("Offset"))
	case "smb2_ioctl_req":
		add("%s", m.Body.Word("CtlCode"))
	case "smb2_oplock_break":
		id("PersistentFid", "VolatileFid")
		add("%s", m.Body.Word("OplockLevel"))
	case "smb2_lease_break":
		add("%s to %s", m.Body.Word("CurrentLeaseState"), m.Body.Word("NewLeaseState"))
	default:
		id("PersistentFileId", "VolatileFileId")
	}
	return strings.Join(words, " ")
}

// chain reads records linked by their first field, and stops at the first that is
// broken.
func (t *Timeline) chain(name string, b []byte, each func(*interp.Message, []byte)) error {
	d := t.set.Lookup(name)
	for len(b) > 0 {
		m, _, err := interp.Read(t.set, d, b)
		if err != nil {
			return err
		}
		next := int(m.Values[0].Number)
		if next > len(b) {
			return fmt.Errorf("%s %d, want at most %d", m.Values[0].Field.Name(), next, len(b))
		}
		each(m, b)
		if next == 0 {
			return nil
		}
		b = b[next:]
	}
	return nil
}

// records are the entries of a notification: ADDED "a" RENAMED_OLD_NAME "b".
func (t *Timeline) records(b []byte) string {
	var words []string
	err := t.chain("file_notify_information", b, func(m *interp.Message, _ []byte) {
		words = append(words, fmt.Sprintf("%s %q", strings.TrimPrefix(m.Word("Action"), "FILE_ACTION_"), text(m.Bytes("FileName"))))
	})
	if err != nil {
		words = append(words, fmt.Sprintf("malformed: %v", err))
	}
	if len(words) == 0 {
		return "no records"
	}
	return strings.Join(words, ", ")
}

// contexts are the names of create contexts.
func (t *Timeline) contexts(b []byte) string {
	var words []string
	err := t.chain("create_context", b, func(m *interp.Message, whole []byte) {
		name, err := m.Data("Name", whole)
		if err != nil {
			words = append(words, "malformed")
			return
		}
		for _, c := range name {
			if c < ' ' || c > '~' {
				words = append(words, fmt.Sprintf("%x", name))
				return
			}
		}
		words = append(words, string(name))
	})
	if err != nil {
		words = append(words, fmt.Sprintf("malformed: %v", err))
	}
	return strings.Join(words, " ")
}

// text reads UTF-16.
func text(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
	}
	return string(utf16.Decode(u))
}
