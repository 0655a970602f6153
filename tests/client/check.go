package client

import (
	"fmt"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
)

// Rule is what a client asserts on every message.
type Rule struct {
	Name   string // what Violation.Rule says and Allow takes
	Text   string
	Source string
}

// Rules are the rules of this package.
var Rules = []Rule{
	{"header", "the header follows its table", "MS-SMB2 2.2.1"},
	{"response-flag", "a response has SMB2_FLAGS_SERVER_TO_REDIR", "MS-SMB2 2.2.1.2"},
	{"message-id", "a response has the MessageId of a request", "MS-SMB2 3.2.5.1.2"},
	{"second-response", "a request has one final response", "MS-SMB2 3.3.4.1"},
	{"second-interim", "a request has one interim response", "MS-SMB2 3.3.4.2"},
	{"unsolicited", "only oplock and lease breaks come without a request", "MS-SMB2 3.2.5.19"},
	{"breaks", "breaks do not come faster than anybody reads them", "this client"},
	{"command", "a response has the Command of its request", "MS-SMB2 3.3.4.1"},
	{"session-id", "a response has the SessionId of its request", "MS-SMB2 3.3.4.1"},
	{"tree-id", "a synchronous response has the TreeId of its request", "MS-SMB2 3.3.4.1"},
	{"related-flag", "responses behind the first of a related compound have SMB2_FLAGS_RELATED_OPERATIONS", "MS-SMB2 3.3.4.1.3"},
	{"signed", "a response is signed only if its request was", "MS-SMB2 3.3.4.1.1"},
	{"unsigned", "a final response is signed if its request was", "MS-SMB2 3.3.4.1.1"},
	{"signature", "a signature is right", "MS-SMB2 3.2.5.1.3"},
	{"unencrypted", "a response, the interim one too, is encrypted if its request was", "MS-SMB2 3.3.4.1.4"},
	{"credits", "the client is never left without a credit", "MS-SMB2 3.3.1.2"},
	{"error-body", "an interim or error response has an error body, with a byte behind ByteCount", "MS-SMB2 2.2.2"},
	{"interim-flags", "STATUS_PENDING comes with SMB2_FLAGS_ASYNC_COMMAND", "MS-SMB2 3.3.4.2"},
	{"interim-signed", "an interim response is not signed", "MS-SMB2 3.3.4.2"},
	{"interim-credits", "an interim response grants a credit", "MS-SMB2 3.3.4.2"},
	{"interim-compound", "an interim response stands alone", "MS-SMB2 3.3.4.2"},
	{"async-id", "an AsyncId is not 0, not another request's, and the same in both responses", "MS-SMB2 3.3.4.2"},
	{"final-flags", "a final response has SMB2_FLAGS_ASYNC_COMMAND if and only if there was an interim one", "MS-SMB2 3.3.4.3"},
	{"final-credits", "a final response behind an interim one grants nothing", "MS-SMB2 3.3.4.3"},
	{"notify-body", "a CHANGE_NOTIFY response follows its table; without STATUS_SUCCESS it is empty", "MS-SMB2 2.2.36"},
	{"notify-empty", "STATUS_SUCCESS brings a record", "MS-SMB2 3.3.5.19"},
	{"notify-length", "the records are no longer than OutputBufferLength of the request", "MS-SMB2 3.2.5.16"},
	{"notify-list", "the list of records ends inside the buffer", "MS-FSCC 2.7.1"},
	{"notify-record", "a record follows its table", "MS-FSCC 2.7.1"},
	{"notify-action", "an action is one of files: 1 to 8", "MS-FSCC 2.7.1"},
	{"notify-rename", "RENAMED_NEW_NAME follows RENAMED_OLD_NAME at once", "MS-FSCC 2.7.1"},
	{"notify-name", "a name is well-formed, does not begin with a separator and has no quotation mark", "MS-SMB2 3.2.5.16"},
	{"notify-separator", "a name has a separator only with SMB2_WATCH_TREE", "MS-SMB2 3.2.5.16"},
}

// Violation is a rule that a message of the server breaks.
type Violation struct {
	Rule      string // the name Allow takes
	Command   smb2.Command
	MessageID uint64
	Text      string
	Time      time.Time
}

func (v Violation) Error() string {
	return fmt.Sprintf("%s: message id %d: %s", v.Rule, int64(v.MessageID), v.Text)
}

// Violations returns what the server did wrong so far.
func (c *Conn) Violations() []Violation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Violation(nil), c.violations...)
}

// Allow makes the client accept what breaks these rules, for tests that bring a
// server to do so and for servers known to: by name (unsigned), or for one
// command (unsigned/ECHO).
func (c *Conn) Allow(rules ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rules {
		c.allowed[r] = true
	}
}

// violate records a violation. c.mu is held.
func (c *Conn) violate(rule string, h smb2.Hdr, format string, args ...any) {
	v := Violation{Rule: rule, Command: h.Command, MessageID: h.MessageId, Text: fmt.Sprintf(format, args...), Time: now()}
	if c.allowed[rule] || c.allowed[rule+"/"+strings.TrimPrefix(h.Command.String(), "SMB2_")] {
		c.noteLocked("allowed: %v", v)
		return
	}
	c.noteLocked("VIOLATION: %v", v)
	c.violations = append(c.violations, v)
	if c.Options.Strict {
		c.failLocked(v)
	}
}

// check holds a response against its request. c.mu is held.
func (c *Conn) check(p *Pending, r *Response, first bool) {
	h := r.Hdr
	if h.Command != p.Hdr.Command {
		c.violate("command", h, "%v answers %v", h.Command, p.Hdr.Command)
		return
	}
	if h.SessionId != p.Hdr.SessionId && h.Command != smb2.SMB2_SESSION_SETUP {
		c.violate("session-id", h, "%v: session %#x, request had %#x", h.Command, h.SessionId, p.Hdr.SessionId)
	}
	async := h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND != 0
	if !async && p.interim == nil && h.Status != smb2.STATUS_PENDING && h.TreeId != p.Hdr.TreeId && h.Command != smb2.SMB2_TREE_CONNECT {
		c.violate("tree-id", h, "%v %v: tree %d, request had %d", h.Command, h.Status, h.TreeId, p.Hdr.TreeId)
	}
	if !first && p.Request.Related && h.Flags&smb2.SMB2_FLAGS_RELATED_OPERATIONS == 0 {
		c.violate("related-flag", h, "%v %v: SMB2_FLAGS_RELATED_OPERATIONS is not set", h.Command, h.Status)
	}
	interim := h.Status == smb2.STATUS_PENDING && async
	switch {
	case interim:
		c.checkInterim(p, r, first)
	case p.interim != nil:
		c.checkAsyncFinal(p, r)
	case async:
		c.violate("final-flags", h, "%v %v: ASYNC without an interim response", h.Command, h.Status)
	case h.Status == smb2.STATUS_PENDING:
		c.violate("interim-flags", h, "%v STATUS_PENDING without ASYNC (MS-SMB2 3.3.4.2)", h.Command)
	}
	if !p.deferred && !interim {
		c.checkSecurity(p, r)
	}
	if p.encrypted && !r.Encrypted {
		c.violate("unencrypted", h, "%v %v answers an encrypted request (MS-SMB2 3.3.4.1.4)", h.Command, h.Status)
	}
	if interim || h.Status>>30 == 3 && h.Status != smb2.STATUS_MORE_PROCESSING_REQUIRED {
		var e smb2.ErrRsp
		if _, err := e.Decode(r.Body); err != nil {
			c.violate("error-body", h, "%v %v: %v", h.Command, h.Status, err)
		} else if err := e.Check(); err != nil {
			c.violate("error-body", h, "%v %v: %v", h.Command, h.Status, err)
		} else if len(r.Body) == smb2.ErrRspSize {
			c.violate("error-body", h, "%v %v: no byte behind ByteCount (MS-SMB2 2.2.2)", h.Command, h.Status)
		}
	}
	if req, ok := p.Request.Body.(*smb2.ChangeNotifyReq); ok && !interim && h.Status>>30 != 3 {
		c.checkNotify(req, r)
	}
}

// checkInterim: MS-SMB2 3.3.4.2.
func (c *Conn) checkInterim(p *Pending, r *Response, first bool) {
	h := r.Hdr
	if h.Flags&smb2.SMB2_FLAGS_SIGNED != 0 {
		c.violate("interim-signed", h, "%v: the interim response is signed", h.Command)
	}
	if h.AsyncId() == 0 {
		c.violate("async-id", h, "%v: AsyncId is 0", h.Command)
	}
	if o := c.async[h.AsyncId()]; o != nil && o != p {
		c.violate("async-id", h, "%v: AsyncId %d is that of message id %d, which is pending", h.Command, h.AsyncId(), o.Hdr.MessageId)
	}
	if h.CreditRequest == 0 {
		c.violate("interim-credits", h, "%v: the interim response grants no credit", h.Command)
	}
	if h.NextCommand != 0 || !first {
		c.violate("interim-compound", h, "%v: the interim response is part of a compound", h.Command)
	}
}

// checkAsyncFinal: MS-SMB2 3.3.4.3 and 3.3.4.4.
func (c *Conn) checkAsyncFinal(p *Pending, r *Response) {
	h := r.Hdr
	if h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND == 0 {
		c.violate("final-flags", h, "%v %v: no ASYNC after an interim response", h.Command, h.Status)
	} else if got, want := h.AsyncId(), p.interim.Hdr.AsyncId(); got != want {
		c.violate("async-id", h, "%v %v: AsyncId %d, the interim response had %d", h.Command, h.Status, got, want)
	}
	if h.CreditRequest != 0 {
		c.violate("final-credits", h, "%v %v: grants %d credits, the interim response did that", h.Command, h.Status, h.CreditRequest)
	}
}

// checkSecurity: a final response is signed if and only if the request was
// (MS-SMB2 3.3.4.1.1), and the signature is right.
func (c *Conn) checkSecurity(p *Pending, r *Response) {
	h := r.Hdr
	s := p.Request.session()
	signed := h.Flags&smb2.SMB2_FLAGS_SIGNED != 0
	switch {
	case p.Request.Plain || p.encrypted || r.Encrypted:
	case h.Status == smb2.STATUS_USER_SESSION_DELETED:
		// The server has no key left to sign with; what stands in the
		// signature field means nothing.
		return
	case p.Hdr.Flags&smb2.SMB2_FLAGS_SIGNED != 0 && !signed:
		c.violate("unsigned", h, "%v %v answers a signed request", h.Command, h.Status)
	case p.Hdr.Flags&smb2.SMB2_FLAGS_SIGNED == 0 && signed:
		c.violate("signed", h, "%v %v answers a request that is not signed", h.Command, h.Status)
	}
	if signed && !r.Encrypted && s != nil && s.signer != nil {
		if err := verify(s, r); err != nil {
			c.violate("signature", h, "%v %v: %v", h.Command, h.Status, err)
		}
	}
}

// checkNotify: the body of a final CHANGE_NOTIFY response that is not an error
// (MS-SMB2 2.2.36, and what a client checks: 3.2.5.16).
func (c *Conn) checkNotify(req *smb2.ChangeNotifyReq, r *Response) {
	h := r.Hdr
	var n smb2.ChangeNotifyRsp
	if _, err := n.Decode(r.Body); err != nil {
		c.violate("notify-body", h, "%v: %v", h.Status, err)
		return
	}
	if err := n.Check(); err != nil {
		c.violate("notify-body", h, "%v: %v", h.Status, err)
		return
	}
	if h.Status != smb2.STATUS_SUCCESS {
		if n.OutputBufferLength != 0 {
			c.violate("notify-body", h, "%v: with %d bytes of records", h.Status, n.OutputBufferLength)
		}
		return
	}
	if want := uint16(smb2.HdrSize + smb2.ChangeNotifyRspSize); n.OutputBufferOffset != want {
		c.violate("notify-body", h, "OutputBufferOffset %d, want %d", n.OutputBufferOffset, want)
	}
	if n.OutputBufferLength == 0 {
		c.violate("notify-empty", h, "STATUS_SUCCESS without a record")
		return
	}
	if n.OutputBufferLength > req.OutputBufferLength {
		c.violate("notify-length", h, "%d bytes of records, %d were asked for", n.OutputBufferLength, req.OutputBufferLength)
	}
	data, err := n.OutputBuffer()
	if err != nil {
		return // Check found it
	}
	for _, problem := range ProblemsOf(data, req.Flags&smb2.SMB2_WATCH_TREE != 0) {
		c.violate(problem.Rule, h, "%s", problem.Text)
	}
}

// ProblemsOf holds a list of FILE_NOTIFY_INFORMATION against MS-FSCC 2.7.1 and
// against what Windows clients check before they believe it (MS-SMB2 3.2.5.16):
// no name is malformed, begins with a separator, contains a quotation mark, or
// contains a separator when only the directory itself is watched. One such name
// and they drop the whole response.
func ProblemsOf(data []byte, tree bool) []Violation {
	var all []Violation
	add := func(rule, format string, args ...any) {
		all = append(all, Violation{Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	records, err := smb2.Chain[smb2.FileNotifyInformation](data)
	if err != nil {
		add("notify-list", "record %d: %v", len(records), err)
	}
	old := false // the record before was RENAMED_OLD_NAME
	for i, r := range records {
		name := smb2.FromUTF16(r.FileName)
		if err := r.Check(); err != nil {
			add("notify-record", "record %d: %v", i, err)
		}
		if r.Action < smb2.FILE_ACTION_ADDED || r.Action > smb2.FILE_ACTION_MODIFIED_STREAM {
			add("notify-action", "record %d: %v", i, r.Action)
		}
		if is := r.Action == smb2.FILE_ACTION_RENAMED_NEW_NAME; old != is {
			add("notify-rename", "record %d: %v %q, OLD and NEW stand together", i, r.Action, name)
		}
		old = r.Action == smb2.FILE_ACTION_RENAMED_OLD_NAME
		switch {
		case name == "":
			add("notify-name", "record %d: the name is empty", i)
		case strings.ContainsRune(name, '�') || strings.ContainsRune(name, 0):
			add("notify-name", "record %d: %q is malformed", i, name)
		case name[0] == '\\' || name[0] == '/':
			add("notify-name", "record %d: %q begins with a separator", i, name)
		case strings.Contains(name, `"`):
			add("notify-name", "record %d: %q contains a quotation mark", i, name)
		case !tree && strings.ContainsAny(name, `\/`):
			add("notify-separator", "record %d: %q contains a separator and SMB2_WATCH_TREE was not asked for", i, name)
		}
	}
	if old {
		add("notify-rename", "the last record is %v, OLD and NEW stand together", smb2.FILE_ACTION_RENAMED_OLD_NAME)
	}
	return all
}
