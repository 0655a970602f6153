package scenario

// Commands that send requests and look at what comes back.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// armed waits until the first watch of a handle is armed, on a server that
// answers before it is.
func (st *state) armed(f *handle, p *client.Pending) error {
	if st.server.Settle == nil || f.settled || p.AsyncID() == 0 {
		return nil
	}
	f.settled = true
	return st.server.Settle(st.ctx)
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

// plainWatch is what a client without a persona asks for.
var plainWatch = client.Watch{Filter: nameFilter, Size: 4096}

// asks is what the next request on a handle asks for, before the options of its
// line.
func (f *handle) asks() client.Watch {
	switch {
	case f.persona == nil:
		return plainWatch
	case f.watched:
		return f.persona.Again
	}
	return f.persona.First
}

func enter(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	o, err := l.create(st, p, client.Create{})
	if err != nil {
		return err
	}
	as := l.name()
	if p.persona == nil || !p.persona.Compound {
		if err := st.opened(p, l, o); err != nil {
			return err
		}
		l.words, l.as = []string{as}, as
		return watch(st, l)
	}
	w, err := l.watch(p.conn, p.persona.First)
	if err != nil {
		return err
	}
	ctx, cancel := st.answer()
	defer cancel()
	f, pending, err := p.tree.CreateNotify(ctx, st.path(l.words[1]), o, w)
	if err != nil {
		return err
	}
	h := &handle{File: f, persona: p.persona, watched: true}
	st.files[as] = h
	if err := st.sent(p.conn, true, []string{as}, []*client.Pending{pending}); err != nil {
		return err
	}
	return st.armed(h, pending)
}

func watch(st *state, l *line) error {
	var f *handle
	var err error
	if l.options["-wrong"] == "handle" {
		p, err := st.peer(l.words[0])
		if err != nil {
			return err
		}
		f = &handle{File: &client.File{Tree: p.tree, ID: client.RelatedID}, persona: p.persona}
	} else if f, err = st.file(l.words[0]); err != nil {
		return err
	}
	on := f.File
	if l.has("-via") {
		p, err := st.peer(l.options["-via"])
		if err != nil {
			return err
		}
		on = f.On(p.sess)
	}
	c := on.Tree.Session.Conn
	w, err := l.watch(c, f.asks())
	if err != nil {
		return err
	}
	f.watched = true
	as := l.as
	if as == "" {
		as = l.words[0]
	}
	req := on.Tree.NotifyRequest(on.ID, w)
	body := req.Body.(*smb2.ChangeNotifyReq)
	if l.has("-charge") {
		n, err := l.number("-charge", 1)
		if err != nil {
			return err
		}
		req.Payload = int(n) * 65536
	}
	flags, err := l.number("-flags", 0)
	if err != nil {
		return err
	}
	body.Flags |= smb2.NotifyFlags(flags)
	var edit func(h *smb2.Hdr)
	switch field := l.options["-wrong"]; field {
	case "", "handle":
	case "session":
		edit = func(h *smb2.Hdr) { h.SessionId += 0x1000 }
	case "tree":
		edit = func(h *smb2.Hdr) { h.TreeId += 0x1000 }
	case "structure":
		body.StructureSize++
	default:
		return fmt.Errorf("-wrong %s: there are session, tree, structure, handle", field)
	}
	req.Edit = func(h *smb2.Hdr) {
		if edit != nil {
			edit(h)
		}
		if l.has("-dfs") {
			h.Flags |= smb2.SMB2_FLAGS_DFS_OPERATIONS
		}
	}
	ctx, cancel := st.answer()
	defer cancel()
	sent, err := c.Send(ctx, req)
	if err != nil {
		return err
	}
	if err := st.sent(c, !l.has("-nowait"), []string{as}, sent); err != nil {
		return err
	}
	return st.armed(f, sent[0])
}

func compound(st *state, words *line) error {
	p, err := st.peer(words.words[0])
	if err != nil {
		return err
	}
	var reqs []*client.Request
	var names, paths []string
	for i, part := range split(words.words[1:], "+") {
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
			st.files[names[i]] = &handle{File: f}
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
		o, err := l.create(st, p, client.Create{})
		if err != nil {
			return nil, "", err
		}
		path = st.path(l.words[0])
		return p.tree.CreateRequest(path, o), path, nil
	case name == "create" && len(l.words) == 1:
		path = st.path(l.words[0])
		return p.tree.CreateRequest(path, client.Create{Access: accessFile, Disposition: &disposition}), path, nil
	case name == "watch":
		w, err := l.watch(p.conn, plainWatch)
		return p.tree.NotifyRequest(id, w), "", err
	case name == "query":
		return f.QueryRequest(client.Query{Type: smb2.SMB2_O_INFO_FILE, Class: byte(smb2.FILE_STANDARD_INFORMATION), Size: 1024}), "", nil
	case name == "set":
		var size smb2.FileEofInfo
		return f.SetRequest(client.Set{Type: smb2.SMB2_O_INFO_FILE, Class: byte(smb2.FILE_END_OF_FILE_INFORMATION), Data: size.Append(nil)}), "", nil
	case name == "list":
		return f.ListRequest("*", 0), "", nil
	case name == "read":
		return f.ReadRequest(0, 16), "", nil
	case name == "write":
		return f.WriteRequest(0, []byte("text")), "", nil
	case name == "flush":
		return f.FlushRequest(), "", nil
	case name == "lock":
		return f.LockRequest(0, 16), "", nil
	case name == "control":
		return p.tree.ControlRequest(id, client.Control{Code: smb2.FSCTL_SRV_REQUEST_RESUME_KEY, Size: 32}), "", nil
	case name == "close":
		return f.CloseRequest(), "", nil
	}
	return nil, "", fmt.Errorf("%s is no part; there are: open create watch query set list read write flush lock control close", name)
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

func expect(st *state, l *line) error {
	args := l.words
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
	case len(args) == 2 && (what == "final" || what == "synchronous"):
		resp, err := r.Final(ctx)
		if err != nil {
			return mismatch("a final response", err.Error())
		}
		if what == "synchronous" && r.AsyncID() != 0 {
			return mismatch("a final response without an interim one", fmt.Sprintf("an interim one with AsyncId %d, then %s", r.AsyncID(), answerInWords(resp)))
		}
		if what == "synchronous" && resp.Hdr.CreditRequest == 0 {
			return mismatch("credits", "none")
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
		return mismatch(short(want), answerInWords(resp)+less(resp.Changes, want))
	}
	return nil
}

// answerInWords is a final response as scripts write it.
func answerInWords(r *client.Response) string {
	if r.Status() == smb2.STATUS_SUCCESS && r.Hdr.Command == smb2.SMB2_CHANGE_NOTIFY {
		return short(r.Changes)
	}
	return r.Status().String()
}

func collect(st *state, l *line) error { return st.gather(l, false) }

func poll(st *state, l *line) error { return st.gather(l, true) }

// gather watches a handle until the records of the line have come, and with
// cancel ends each request right behind it.
func (st *state) gather(l *line, cancel bool) error {
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	c := f.Tree.Session.Conn
	words := l.words[1:]
	anyOrder, until := words[0] == "any", words[0] == "until"
	if anyOrder || until {
		words = words[1:]
	}
	want, err := records(words)
	if err != nil {
		return err
	}
	var got []client.Change
	enough := func() bool {
		if until {
			return slices.Contains(got, want[0])
		}
		return len(got) >= len(want)
	}
	mismatch := func(words string) error {
		return &Mismatch{Want: short(want), Got: strings.TrimSpace(short(got)+" "+words) + less(got, want), conn: c}
	}
	if st.server.Settle != nil {
		// What was changed is to be there as a whole. A request that comes between
		// the two names of a rename would be answered with the first.
		if err := st.server.Settle(st.ctx); err != nil {
			return err
		}
	}
	// Each answer has its own time to come.
	next := func() error {
		ctx, stop := st.answer()
		defer stop()
		w, err := l.watch(c, f.asks())
		if err != nil {
			return err
		}
		f.watched = true
		p, err := f.Notify(ctx, w)
		if err != nil {
			return err
		}
		if cancel {
			if err := p.CancelMessage(); err != nil {
				return err
			}
		}
		resp, err := p.Final(ctx)
		switch {
		case err != nil:
			return mismatch(err.Error())
		case resp.Status() == smb2.STATUS_SUCCESS:
			got = append(got, resp.Changes...)
		case !cancel || resp.Status() != smb2.STATUS_CANCELLED:
			return mismatch(resp.Status().String())
		}
		return nil
	}
	for !enough() {
		if err := st.ctx.Err(); err != nil {
			return mismatch(context.Cause(st.ctx).Error())
		}
		if err := next(); err != nil {
			return err
		}
	}
	if !until && !same(got, want, anyOrder) {
		return mismatch("")
	}
	return nil
}

func cancel(st *state, l *line) error {
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

func closeHandle(st *state, l *line) error {
	f, err := st.file(l.words[0])
	if err != nil {
		return err
	}
	return st.finish(f.Tree.Session.Conn, l.as, f.CloseRequest())
}

func order(st *state, l *line) error {
	ctx, cancel := st.answer()
	defer cancel()
	type answer struct {
		name string
		seq  int
	}
	var all []answer
	var conn *client.Conn
	for _, name := range l.words {
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
		return &Mismatch{Want: strings.Join(l.words, " before "), Got: strings.Join(got, " before "), conn: conn}
	}
	return nil
}
