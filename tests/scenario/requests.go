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
