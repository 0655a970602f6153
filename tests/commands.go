package tests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// command is a word that a scenario line may begin with.
type command struct {
	usage string
	help  string
	run   func(st *state, args []string) error
}

// vocabulary are the commands of scenarios. NAME is a client, PATH is below the
// scenario's folder (below the share with a / in front), HANDLE is an open, and
// REQUEST a request that was sent; "as" gives the last two a name.
var vocabulary map[string]command

// In init, since repeat looks the other commands up.
func init() {
	vocabulary = map[string]command{
		"connect":    {"connect NAME [-user other] [-dialect 3.1.1] [-encrypt] [-unsigned] [-credits N] [-share S] [-on NAME] [-tree NAME] [-replace NAME]", "connect, log in, connect to the share or another; -on logs in once more on a connection, -tree connects a session to the share once more, -replace logs in anew in place of a session", connect},
		"open":       {"open NAME PATH [as HANDLE] [-access RIGHT,...] [-delete-on-close]", "open what is there; the handle is named after the last part of PATH", open},
		"create":     {"create NAME PATH [as HANDLE] [-overwrite]", "create a file, or overwrite one; without a handle's name it is closed at once", create},
		"makedir":    {"makedir NAME PATH [as HANDLE]", "create a directory; without a handle's name it is closed at once", makedir},
		"read":       {"read NAME PATH, or read HANDLE", "read a file's first bytes", read},
		"write":      {"write NAME PATH TEXT, or write HANDLE TEXT", "write TEXT at the beginning of a file", write},
		"rename":     {"rename NAME PATH PATH [-replace], or rename HANDLE PATH", "rename or move a file or a directory", rename},
		"link":       {"link NAME PATH PATH", "give a file a second name", link},
		"delete":     {"delete NAME PATH, or delete HANDLE", "delete a file or an empty directory; by handle it goes when the handle does", remove},
		"set":        {"set NAME PATH hidden|normal|size N|last_write|last_access|creation|change|keep|ea NAME VALUE|security|sparse|zeros", "change what is known about a file; change sets ChangeTime alone, keep sets nothing, security sets a DACL that allows everyone everything, zeros overwrites the first 16 bytes by FSCTL_SET_ZERO_DATA", set},
		"explorer":   {"explorer NAME PATH [as HANDLE] [-filter F]", "enter a folder as Windows Explorer does: one compound of CREATE and a related CHANGE_NOTIFY of 2048 bytes with filter 0x15; handle and request have the same name", explorer},
		"watch":      {"watch HANDLE [as REQUEST] [-filter F,...] [-tree] [-size N|max|max+1] [-charge N] [-wrong session|tree|structure] [-nowait]", "send a CHANGE_NOTIFY and wait for its first answer, the interim one or the final; the filter is name, all, names of bits or a number; max is the server's MaxTransactSize; wrong names a field of the request that is; the request is named after the handle", watch},
		"compound":   {"compound NAME PART + PART ...", "send several requests at once; a PART is open PATH, create PATH, watch, query, or close, with their options; all but the first are related, and act on the open of the part before unless they name a HANDLE", compound},
		"expect":     {"expect REQUEST pending|nothing|alone|STATUS_X|[any] ACTION FILE ...", "pending: an interim response and no more; nothing: no final response for a while; alone: a final response that is not part of a compound; records: a final response with exactly these, in this order or in any", expect},
		"collect":    {"collect HANDLE [-filter F,...] [-tree] [-size N] [any|until] ACTION FILE ...", "watch again and again, as programs do, until as many records have come, or until this one has, whatever came before", collect},
		"cancel":     {"cancel REQUEST [-mid]", "send a CANCEL: by AsyncId when the interim response has come, else or with -mid by MessageId", cancel},
		"close":      {"close HANDLE [as REQUEST]", "close a handle", closeHandle},
		"disconnect": {"disconnect NAME [as REQUEST]", "TREE_DISCONNECT", disconnect},
		"logoff":     {"logoff NAME [as REQUEST]", "LOGOFF", logoff},
		"reauth":     {"reauth NAME [-wrong]", "authenticate the session's user anew, with a wrong password", reauth},
		"drop":       {"drop NAME", "close the TCP connection without a word", drop},
		"order":      {"order REQUEST REQUEST ...", "the final responses came in this order", order},
		"server":     {"server COMMAND", "run a shell command on the server, in the scenario's folder", serverCommand},
		"repeat":     {"repeat N COMMAND", "run a scenario command N times; {n} in it counts from 1", repeat},
		"allow":      {"allow NAME RULE ...", "accept what breaks these rules of the client", allow},
	}
}

// Vocabulary describes the commands for people.
func Vocabulary() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vocabulary)) {
		c := vocabulary[name]
		b.WriteString(fold(c.usage, "    ", "        ") + fold(c.help, "        ", "        "))
	}
	return b.String()
}

// fold breaks text into lines of 80 columns.
func fold(text, first, next string) string {
	var b strings.Builder
	line := first
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > 79 && strings.TrimSpace(line) != "" {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = next
		}
		line += word + " "
	}
	return b.String() + strings.TrimRight(line, " ") + "\n"
}

// commands are the vocabulary for the script engine.
func (st *state) commands() map[string]func(*testscript.TestScript, bool, []string) {
	all := map[string]func(*testscript.TestScript, bool, []string){}
	for name, c := range vocabulary {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("! is not for %s; say what is expected with -status STATUS_X", name)
			}
			step := name + " " + strings.Join(args, " ")
			if err := st.step(c, step, args); err != nil {
				ts.Fatalf("%v", err)
			}
		}
	}
	return all
}

// step runs a command. Every command takes -status STATUS_X: it is to end with
// this status.
func (st *state) step(c command, step string, args []string) error {
	for _, p := range st.order {
		p.conn.Note("step: %s", step)
	}
	status := ""
	if i := slices.Index(args, "-status"); i >= 0 && i+1 < len(args) {
		status = args[i+1]
		args = slices.Delete(slices.Clone(args), i, i+2)
	}
	err := c.run(st, args)
	var s *client.StatusError
	switch {
	case status == "":
	case errors.As(err, &s) && s.Status.String() == status:
		err = nil
	case err == nil:
		err = &Mismatch{Want: status, Got: "STATUS_SUCCESS"}
	default:
		err = &Mismatch{Want: status, Got: err.Error()}
	}
	if err == nil {
		return nil
	}
	st.failed = &Failure{Step: step, Want: "the step to succeed", Got: err.Error()}
	var m *Mismatch
	if errors.As(err, &m) {
		st.failed.Want, st.failed.Got = m.Want, m.Got
	}
	for _, p := range st.order {
		if m == nil || m.conn == nil || p.conn == m.conn {
			lines := p.conn.Lines()
			st.failed.Last = append(st.failed.Last, p.name+":")
			st.failed.Last = append(st.failed.Last, lines[max(0, len(lines)-12):]...)
		}
	}
	return err
}

// peer, file and request look up what a script names.

func (st *state) peer(name string) (*peer, error) { return lookup("client", st.peers, name) }

func (st *state) file(name string) (*client.File, error) { return lookup("handle", st.files, name) }

func (st *state) request(name string) (*request, error) {
	return lookup("request", st.requests, name)
}

func lookup[T any](what string, all map[string]T, name string) (T, error) {
	v, ok := all[name]
	if !ok {
		return v, fmt.Errorf("there is no %s %q; there are: %s", what, name, strings.Join(slices.Sorted(maps.Keys(all)), " "))
	}
	return v, nil
}

// baseName is the last part of a path.
func baseName(path string) string { return path[strings.LastIndexAny(path, `/\`)+1:] }

func connect(st *state, args []string) error {
	l, err := readLine(args, "-user U -dialect D -encrypt -unsigned -credits N -share S -on NAME -tree NAME -replace NAME")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary["connect"].usage); err != nil {
		return err
	}
	ctx, cancel := st.answer()
	defer cancel()
	p := &peer{name: l.words[0]}
	who := st.server.User
	if l.options["-user"] == "other" {
		who = st.server.Other
	}
	setup := client.Setup{Credentials: who}
	if name, ok := l.options["-replace"]; ok {
		old, err := st.peer(name)
		if err != nil {
			return err
		}
		setup.Previous = old.sess.ID
	}
	switch {
	case l.has("-tree"):
		other, err := st.peer(l.options["-tree"])
		if err != nil {
			return err
		}
		p.conn, p.sess = other.conn, other.sess
	case l.has("-on"):
		other, err := st.peer(l.options["-on"])
		if err != nil {
			return err
		}
		p.conn = other.conn
	default:
		o := client.Options{User: who.User, Password: who.Password, Domain: who.Domain, Encrypt: l.has("-encrypt")}
		if l.has("-unsigned") {
			o.Signing = client.SigningEnabled
		}
		if d, ok := l.options["-dialect"]; ok {
			dialect, ok := dialects[d]
			if !ok {
				return fmt.Errorf("dialect %s is unknown; there are: %s", d, strings.Join(slices.Sorted(maps.Keys(dialects)), " "))
			}
			o.Dialects = []smb2.Dialect{dialect}
		}
		credits, err := l.number("-credits", 0)
		if err != nil {
			return err
		}
		o.Credits = int(credits)
		if p.conn, err = client.Dial(ctx, st.server.Addr, o); err != nil {
			return fmt.Errorf("connect to %s: %w", st.server.Addr, err)
		}
		st.order = append(st.order, p)
	}
	if p.sess == nil {
		if p.sess, err = p.conn.SessionSetup(ctx, setup); err != nil {
			return err
		}
	}
	share := st.server.Share
	if l.has("-share") {
		share = l.options["-share"]
	}
	if p.tree, err = p.sess.TreeConnect(ctx, share); err != nil {
		return err
	}
	st.peers[p.name] = p
	return nil
}

// accessOpen is what a handle is opened with that is to be watched, renamed and
// deleted.
const accessOpen = client.AccessExplorer

func open(st *state, args []string) error {
	l, err := readLine(args, "-access A -delete-on-close")
	if err != nil {
		return err
	}
	if err := l.need(2, 2, vocabulary["open"].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	o, err := l.create()
	if err != nil {
		return err
	}
	return st.opened(p, l.words[1], l.as, o)
}

// create reads the options of an open.
func (l *line) create() (o client.Create, err error) {
	if a, ok := l.options["-access"]; ok {
		if o.Access, err = bits("right", rights, a); err != nil {
			return o, err
		}
	}
	if l.has("-delete-on-close") {
		o.Access |= accessOpen | smb2.DELETE
		o.Options |= smb2.FILE_DELETE_ON_CLOSE
	}
	return o, nil
}

// opened opens path and keeps the handle under a name.
func (st *state) opened(p *peer, path, as string, o client.Create) error {
	ctx, cancel := st.answer()
	defer cancel()
	f, err := p.tree.Create(ctx, st.path(path), o)
	if err != nil {
		return err
	}
	if as == "" {
		as = baseName(path)
	}
	st.files[as] = f
	return nil
}

const accessFile = smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_DATA | smb2.FILE_APPEND_DATA |
	smb2.FILE_WRITE_ATTRIBUTES | smb2.DELETE | smb2.SYNCHRONIZE

var disposition, overwrite = smb2.FILE_CREATE, smb2.FILE_OVERWRITE

func create(st *state, args []string) error {
	return st.make("create", args, client.Create{Access: accessFile, Disposition: &disposition, Options: smb2.FILE_NON_DIRECTORY_FILE})
}

func makedir(st *state, args []string) error {
	return st.make("makedir", args, client.Create{Access: accessOpen | smb2.DELETE, Disposition: &disposition, Options: smb2.FILE_DIRECTORY_FILE})
}

func (st *state) make(name string, args []string, o client.Create) error {
	l, err := readLine(args, "-overwrite")
	if err != nil {
		return err
	}
	if err := l.need(2, 2, vocabulary[name].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	if l.has("-overwrite") {
		o.Disposition = &overwrite
	}
	if l.as != "" {
		return st.opened(p, l.words[1], l.as, o)
	}
	return st.with(p, l.words[1], o, func(context.Context, *client.File) error { return nil })
}

// with opens path, calls do and closes it.
func (st *state) with(p *peer, path string, o client.Create, do func(context.Context, *client.File) error) error {
	ctx, cancel := st.answer()
	defer cancel()
	f, err := p.tree.Create(ctx, st.path(path), o)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, f), f.Close(ctx))
}

// on runs do on a handle of the script when the line has n words, or on a path
// opened for it when it has n+1. do gets the words behind.
func (st *state) on(name string, l *line, n int, access smb2.AccessMask, do func(context.Context, *client.File, []string) error) error {
	if len(l.words) == n {
		f, err := st.file(l.words[0])
		if err != nil {
			return err
		}
		ctx, cancel := st.answer()
		defer cancel()
		return do(ctx, f, l.words[1:])
	}
	if len(l.words) != n+1 {
		return fmt.Errorf("usage: %s", vocabulary[name].usage)
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.with(p, l.words[1], client.Create{Access: access}, func(ctx context.Context, f *client.File) error {
		return do(ctx, f, l.words[2:])
	})
}

func write(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("write", l, 2, accessFile, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Write(ctx, 0, []byte(rest[0]))
	})
}

func read(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("read", l, 1, smb2.FILE_READ_DATA|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, _ []string) error {
		_, err := f.Read(ctx, 0, 64)
		return err
	})
}

func rename(st *state, args []string) error {
	l, err := readLine(args, "-replace")
	if err != nil {
		return err
	}
	return st.on("rename", l, 2, smb2.DELETE|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Rename(ctx, st.path(rest[0]), l.has("-replace"))
	})
}

func link(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("link", l, 2, smb2.FILE_WRITE_ATTRIBUTES|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, rest []string) error {
		return f.Link(ctx, st.path(rest[0]), false)
	})
}

func remove(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	return st.on("delete", l, 1, smb2.DELETE|smb2.FILE_READ_ATTRIBUTES|smb2.SYNCHRONIZE, func(ctx context.Context, f *client.File, _ []string) error {
		return f.Delete(ctx, true)
	})
}

// aDay is a FILETIME of long ago: 2001-09-09, in 100 ns since 1601.
const aDay = 126_444_000_000_000_000

// everyone is a self-relative security descriptor (MS-DTYP 2.4.6) with one
// access-allowed entry: everybody, S-1-1-0, may do everything.
var everyone = []byte{
	1, 0, 4, 0x80, // revision, SE_DACL_PRESENT | SE_SELF_RELATIVE
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // no owner, group, SACL
	20, 0, 0, 0, // DACL
	2, 0, 28, 0, 1, 0, 0, 0, // revision, size, one entry
	0, 0, 20, 0, 0xff, 0x01, 0x1f, 0x00, // ACCESS_ALLOWED_ACE, size, mask
	1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // S-1-1-0
}

func set(st *state, args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: %s", vocabulary["set"].usage)
	}
	p, err := st.peer(args[0])
	if err != nil {
		return err
	}
	access := smb2.FILE_READ_ATTRIBUTES | smb2.FILE_WRITE_ATTRIBUTES | smb2.SYNCHRONIZE
	var do func(context.Context, *client.File) error
	basic := func(info smb2.FileBasicInfo) {
		do = func(ctx context.Context, f *client.File) error { return f.SetBasic(ctx, info) }
	}
	switch what, rest := args[2], args[3:]; {
	case what == "hidden":
		basic(smb2.FileBasicInfo{Attributes: smb2.FILE_ATTRIBUTE_HIDDEN})
	case what == "normal":
		basic(smb2.FileBasicInfo{Attributes: smb2.FILE_ATTRIBUTE_NORMAL})
	case what == "last_write":
		basic(smb2.FileBasicInfo{LastWriteTime: aDay})
	case what == "last_access":
		basic(smb2.FileBasicInfo{LastAccessTime: aDay})
	case what == "creation":
		basic(smb2.FileBasicInfo{CreationTime: aDay})
	case what == "change":
		basic(smb2.FileBasicInfo{ChangeTime: aDay})
	case what == "keep":
		// 0 and -1 leave a time as it is (MS-FSCC 2.4.7).
		basic(smb2.FileBasicInfo{LastWriteTime: ^uint64(0), LastAccessTime: ^uint64(0)})
	case what == "security":
		access |= smb2.WRITE_DAC
		do = func(ctx context.Context, f *client.File) error {
			return f.SetSecurity(ctx, smb2.DACL_SECINFO, everyone)
		}
	case what == "sparse":
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error {
			_, err := f.Tree.Control(ctx, f.ID, client.Control{Code: smb2.FSCTL_SET_SPARSE, Size: 0x10})
			return err
		}
	case what == "zeros":
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error {
			// FileOffset 0 and BeyondFinalZero 16 (MS-FSCC 2.3.71).
			_, err := f.Tree.Control(ctx, f.ID, client.Control{Code: smb2.FSCTL_SET_ZERO_DATA, Input: []byte{8: 16, 15: 0}, Size: 16})
			return err
		}
	case what == "size" && len(rest) == 1:
		n, err := strconv.ParseUint(rest[0], 0, 64)
		if err != nil {
			return fmt.Errorf("size %s: want a number", rest[0])
		}
		access |= smb2.FILE_WRITE_DATA
		do = func(ctx context.Context, f *client.File) error { return f.SetEnd(ctx, n) }
	case what == "ea" && len(rest) == 2:
		access |= smb2.FILE_WRITE_EA
		do = func(ctx context.Context, f *client.File) error { return f.SetEA(ctx, rest[0], []byte(rest[1])) }
	default:
		return fmt.Errorf("usage: %s", vocabulary["set"].usage)
	}
	return st.with(p, args[1], client.Create{Access: access}, do)
}

// armed waits until the first watch of a handle is armed, on a server that
// answers before it is.
func (st *state) armed(f *client.File, p *client.Pending) error {
	if st.server.Settle == nil || st.settled[f] || p.AsyncID() == 0 {
		return nil
	}
	st.settled[f] = true
	ctx, cancel := st.answer()
	defer cancel()
	return st.server.Settle(ctx)
}

// sent keeps requests under their names and waits until each was answered in
// some way.
func (st *state) sent(c *client.Conn, wait bool, names []string, sent []*client.Pending) error {
	for i, p := range sent {
		if names[i] != "" {
			st.requests[names[i]] = &request{Pending: p, conn: c}
		}
	}
	if !wait {
		return nil
	}
	ctx, cancel := st.answer()
	defer cancel()
	for _, p := range sent {
		var none *client.NoInterimError
		if _, err := p.Interim(ctx); err != nil && !errors.As(err, &none) {
			return &Mismatch{Want: "an interim or a final response", Got: err.Error(), conn: c}
		}
	}
	return nil
}

const (
	explorerFilter = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_ATTRIBUTES | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE // 0x15
	explorerSize   = 2048
)

func explorer(st *state, args []string) error {
	l, err := readLine(args, "-filter F")
	if err != nil {
		return err
	}
	if err := l.need(2, 2, vocabulary["explorer"].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	w, err := l.watch(p.conn, explorerFilter, explorerSize)
	if err != nil {
		return err
	}
	as := l.as
	if as == "" {
		as = baseName(l.words[1])
	}
	ctx, cancel := st.answer()
	defer cancel()
	f, pending, err := p.tree.CreateNotify(ctx, st.path(l.words[1]), client.Create{Contexts: []smb2.CreateContext{client.MaximalAccess()}}, w)
	if err != nil {
		return err
	}
	st.files[as] = f
	if err := st.sent(p.conn, true, []string{as}, []*client.Pending{pending}); err != nil {
		return err
	}
	return st.armed(f, pending)
}

const watchSize = 4096

func watch(st *state, args []string) error {
	l, err := readLine(args, "-filter F -tree -size N -charge N -wrong FIELD -nowait")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary["watch"].usage); err != nil {
		return err
	}
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	w, err := l.watch(f.Tree.Session.Conn, filters["name"], watchSize)
	if err != nil {
		return err
	}
	as := l.as
	if as == "" {
		as = l.words[0]
	}
	ctx, cancel := st.answer()
	defer cancel()
	req := f.Tree.NotifyRequest(f.ID, w)
	if l.has("-charge") {
		n, err := l.number("-charge", 1)
		if err != nil {
			return err
		}
		req.Payload = int(n) * 65536
	}
	switch field := l.options["-wrong"]; field {
	case "":
	case "session":
		req.Edit = func(h *smb2.Hdr) { h.SessionId += 0x1000 }
	case "tree":
		req.Edit = func(h *smb2.Hdr) { h.TreeId += 0x1000 }
	case "structure":
		req.Body.(*smb2.ChangeNotifyReq).StructureSize++
	default:
		return fmt.Errorf("-wrong %s: there are session, tree, structure", field)
	}
	c := f.Tree.Session.Conn
	sent, err := c.Send(ctx, req)
	if err != nil {
		return err
	}
	if err := st.sent(c, !l.has("-nowait"), []string{as}, sent); err != nil {
		return err
	}
	return st.armed(f, sent[0])
}

func compound(st *state, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: %s", vocabulary["compound"].usage)
	}
	p, err := st.peer(args[0])
	if err != nil {
		return err
	}
	var reqs []*client.Request
	var names, paths []string
	for i, part := range split(args[1:], "+") {
		if len(part) == 0 {
			return fmt.Errorf("part %d is empty", i+1)
		}
		l, err := readLine(part[1:], "-access A -filter F -tree -size N -related")
		if err != nil {
			return err
		}
		req, path, err := st.part(p, part[0], l)
		if err != nil {
			return fmt.Errorf("part %d: %w", i+1, err)
		}
		req.Related = i > 0
		if l.has("-related") && i == 0 {
			req.Edit = func(h *smb2.Hdr) { h.Flags |= smb2.SMB2_FLAGS_RELATED_OPERATIONS }
		}
		reqs, names, paths = append(reqs, req), append(names, l.as), append(paths, path)
	}
	ctx, cancel := st.answer()
	defer cancel()
	sent, err := p.conn.Send(ctx, reqs...)
	if err != nil {
		return err
	}
	if err := st.sent(p.conn, true, names, sent); err != nil {
		return err
	}
	for i, path := range paths {
		if path == "" || names[i] == "" {
			continue
		}
		if resp, err := sent[i].Final(ctx); err != nil {
			return err
		} else if f, err := p.tree.Opened(path, resp); err == nil {
			st.files[names[i]] = f
		}
	}
	return nil
}

// part is a request of a compound; path is what it opens.
func (st *state) part(p *peer, name string, l *line) (req *client.Request, path string, err error) {
	id := client.RelatedID
	if name != "open" && name != "create" && len(l.words) > 0 {
		f, err := st.file(l.words[0])
		if err != nil {
			return nil, "", err
		}
		id = f.ID
	}
	f := &client.File{Tree: p.tree, ID: id}
	switch {
	case name == "open" && len(l.words) == 1:
		o, err := l.create()
		if err != nil {
			return nil, "", err
		}
		path = st.path(l.words[0])
		return p.tree.CreateRequest(path, o), path, nil
	case name == "create" && len(l.words) == 1:
		path = st.path(l.words[0])
		return p.tree.CreateRequest(path, client.Create{Access: accessFile, Disposition: &disposition}), path, nil
	case name == "watch":
		w, err := l.watch(p.conn, filters["name"], watchSize)
		return p.tree.NotifyRequest(id, w), "", err
	case name == "query":
		return f.QueryRequest(client.Query{Type: smb2.SMB2_O_INFO_FILE, Class: byte(smb2.FILE_STANDARD_INFORMATION), Size: 1024}), "", nil
	case name == "close":
		return f.CloseRequest(), "", nil
	}
	return nil, "", fmt.Errorf("%s is no part; there are: open create watch query close", name)
}

func split(words []string, sep string) [][]string {
	all := [][]string{nil}
	for _, w := range words {
		if w == sep {
			all = append(all, nil)
			continue
		}
		all[len(all)-1] = append(all[len(all)-1], w)
	}
	return all
}

func expect(st *state, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: %s", vocabulary["expect"].usage)
	}
	r, err := st.request(args[0])
	if err != nil {
		return err
	}
	mismatch := func(want, got string) error { return &Mismatch{Want: want, Got: got, conn: r.conn} }
	ctx, cancel := st.answer()
	defer cancel()
	switch what := args[1]; {
	case len(args) == 2 && what == "pending":
		if _, err := r.Interim(ctx); err != nil {
			var none *client.NoInterimError
			if errors.As(err, &none) {
				return mismatch("STATUS_PENDING", answerInWords(none.Final))
			}
			return mismatch("STATUS_PENDING", err.Error())
		}
		select {
		case <-r.Finished():
			resp, err := r.Final(ctx)
			if err != nil {
				return err
			}
			return mismatch("STATUS_PENDING and no more", answerInWords(resp))
		default:
			return nil
		}
	case len(args) == 2 && what == "nothing":
		d := st.server.deadline(quietWait)
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-r.Finished():
			resp, err := r.Final(ctx)
			if err != nil {
				return err
			}
			return mismatch(fmt.Sprintf("nothing for %v", d), answerInWords(resp))
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case len(args) == 2 && what == "alone":
		resp, err := r.Final(ctx)
		if err != nil {
			return mismatch("a final response", err.Error())
		}
		if resp.Hdr.NextCommand != 0 {
			return mismatch("a response alone", fmt.Sprintf("NextCommand %d", resp.Hdr.NextCommand))
		}
		for name, other := range st.requests {
			select {
			case <-other.Finished():
				o, err := other.Final(ctx)
				if err == nil && other != r && other.conn == r.conn && o.Frame == resp.Frame {
					return mismatch("a response alone", "a compound with the response to "+name)
				}
			default:
			}
		}
		return nil
	case len(args) == 2 && strings.HasPrefix(what, "STATUS_"):
		resp, err := r.Final(ctx)
		if err != nil {
			return mismatch(what, err.Error())
		}
		if resp.Status().String() != what {
			return mismatch(what, answerInWords(resp))
		}
		return nil
	}
	words := args[1:]
	anyOrder := words[0] == "any"
	if anyOrder {
		words = words[1:]
	}
	want, err := records(words)
	if err != nil {
		return err
	}
	resp, err := r.Final(ctx)
	if err != nil {
		return mismatch(inWords(want), err.Error())
	}
	if resp.Status() != smb2.STATUS_SUCCESS || !same(resp.Changes, want, anyOrder) {
		return mismatch(inWords(want), answerInWords(resp))
	}
	return nil
}

// answerInWords is a final response as scripts write it.
func answerInWords(r *client.Response) string {
	if r.Status() == smb2.STATUS_SUCCESS && r.Hdr.Command == smb2.SMB2_CHANGE_NOTIFY {
		return inWords(r.Changes)
	}
	return r.Status().String()
}

func collect(st *state, args []string) error {
	l, err := readLine(args, "-filter F -tree -size N")
	if err != nil {
		return err
	}
	if len(l.words) < 3 {
		return fmt.Errorf("usage: %s", vocabulary["collect"].usage)
	}
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	w, err := l.watch(f.Tree.Session.Conn, filters["name"], watchSize)
	if err != nil {
		return err
	}
	words := l.words[1:]
	anyOrder, until := words[0] == "any", words[0] == "until"
	if anyOrder || until {
		words = words[1:]
	}
	want, err := records(words)
	if err != nil {
		return err
	}
	ctx, cancel := st.answer()
	defer cancel()
	var got []client.Change
	enough := func() bool {
		if until {
			return slices.Contains(got, want[0])
		}
		return len(got) >= len(want)
	}
	mismatch := func(words string) error {
		return &Mismatch{Want: inWords(want), Got: strings.TrimSpace(inWords(got) + " " + words), conn: f.Tree.Session.Conn}
	}
	for !enough() {
		p, err := f.Notify(ctx, w)
		if err != nil {
			return err
		}
		resp, err := p.Final(ctx)
		if err != nil {
			return mismatch(err.Error())
		}
		if resp.Status() != smb2.STATUS_SUCCESS {
			return mismatch(resp.Status().String())
		}
		got = append(got, resp.Changes...)
	}
	if !until && !same(got, want, anyOrder) {
		return mismatch("")
	}
	return nil
}

func cancel(st *state, args []string) error {
	l, err := readLine(args, "-mid")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary["cancel"].usage); err != nil {
		return err
	}
	r, err := st.request(l.words[0])
	if err != nil {
		return err
	}
	if l.has("-mid") {
		return r.CancelMessage()
	}
	return r.Cancel()
}

// finish sends a request, keeps it under a name, and wants success.
func (st *state) finish(c *client.Conn, as string, req *client.Request) error {
	ctx, cancel := st.answer()
	defer cancel()
	sent, err := c.Send(ctx, req)
	if err != nil {
		return err
	}
	if err := st.sent(c, false, []string{as}, sent); err != nil {
		return err
	}
	resp, err := sent[0].Final(ctx)
	if err != nil {
		return &Mismatch{Want: "STATUS_SUCCESS", Got: err.Error(), conn: c}
	}
	return resp.Err()
}

func closeHandle(st *state, args []string) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary["close"].usage); err != nil {
		return err
	}
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	return st.finish(f.Tree.Session.Conn, l.as, f.CloseRequest())
}

func disconnect(st *state, args []string) error {
	return st.leave("disconnect", args, func(p *peer) *client.Request {
		return &client.Request{Command: smb2.SMB2_TREE_DISCONNECT, Body: smb2.NewTreeDisconnectReq(), Tree: p.tree}
	})
}

func logoff(st *state, args []string) error {
	return st.leave("logoff", args, func(p *peer) *client.Request {
		return &client.Request{Command: smb2.SMB2_LOGOFF, Body: smb2.NewLogoffReq(), Session: p.sess}
	})
}

func (st *state) leave(name string, args []string, req func(*peer) *client.Request) error {
	l, err := readLine(args, "")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary[name].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.finish(p.conn, l.as, req(p))
}

func reauth(st *state, args []string) error {
	l, err := readLine(args, "-wrong")
	if err != nil {
		return err
	}
	if err := l.need(1, 1, vocabulary["reauth"].usage); err != nil {
		return err
	}
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	ctx, cancel := st.answer()
	defer cancel()
	who := st.server.User
	if l.has("-wrong") {
		who.Password += " "
	}
	return p.sess.Reauthenticate(ctx, who)
}

func drop(st *state, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: %s", vocabulary["drop"].usage)
	}
	p, err := st.peer(args[0])
	if err != nil {
		return err
	}
	p.conn.Drop()
	return nil
}

func order(st *state, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: %s", vocabulary["order"].usage)
	}
	ctx, cancel := st.answer()
	defer cancel()
	type answer struct {
		name string
		seq  int
	}
	var all []answer
	var conn *client.Conn
	for _, name := range args {
		r, err := st.request(name)
		if err != nil {
			return err
		}
		if conn != nil && conn != r.conn {
			return errors.New("the requests are on different connections")
		}
		conn = r.conn
		resp, err := r.Final(ctx)
		if err != nil {
			return &Mismatch{Want: "a final response to " + name, Got: err.Error(), conn: conn}
		}
		all = append(all, answer{name, resp.Seq})
	}
	came := slices.SortedFunc(slices.Values(all), func(a, b answer) int { return a.seq - b.seq })
	if !slices.Equal(came, all) {
		var got []string
		for _, a := range came {
			got = append(got, a.name)
		}
		return &Mismatch{Want: strings.Join(args, " before "), Got: strings.Join(got, " before "), conn: conn}
	}
	return nil
}

func serverCommand(st *state, args []string) error {
	if st.server.Shell == nil {
		return errors.New(st.server.Name + " has no shell for us; the scenario's head must say: # needs: shell")
	}
	ctx, cancel := st.answer()
	defer cancel()
	return st.server.Shell(ctx, st.folder, strings.Join(args, " "))
}

func repeat(st *state, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: %s", vocabulary["repeat"].usage)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return fmt.Errorf("repeat %s: want a number", args[0])
	}
	c, ok := vocabulary[args[1]]
	if !ok || args[1] == "repeat" {
		return fmt.Errorf("repeat: %s is no command to repeat", args[1])
	}
	for i := range n {
		var words []string
		for _, a := range args[2:] {
			words = append(words, strings.ReplaceAll(a, "{n}", strconv.Itoa(i+1)))
		}
		if err := c.run(st, words); err != nil {
			return fmt.Errorf("time %d: %w", i+1, err)
		}
	}
	return nil
}

func allow(st *state, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: %s", vocabulary["allow"].usage)
	}
	p, err := st.peer(args[0])
	if err != nil {
		return err
	}
	p.conn.Allow(args[1:]...)
	return nil
}
