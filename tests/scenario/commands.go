package scenario

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// command is a word that a scenario line may begin with.
type command struct {
	usage    string
	help     string
	options  string // as readLine takes them; plain: the words are taken as they are
	min, max int    // how many words it takes besides options; max 0: any number
	run      func(st *state, l *line) error
}

// plain is the options of a command that takes every word as it stands.
const plain = "plain"

// vocabulary are the commands of scenarios. NAME is a client, PATH is below the
// scenario's folder (below the share with a / in front), HANDLE is an open, and
// REQUEST a request that was sent; "as" gives the last two a name.
var vocabulary map[string]*command

// In init, since repeat looks the other commands up.
func init() {
	const watched = "-filter F -tree -size N"
	vocabulary = map[string]*command{
		"connect": {"connect NAME [-persona P] [-user other] [-dialect 3.1.1] [-encrypt|-clear] [-unsigned] [-credits N] [-share S] [-on NAME] [-tree NAME] [-replace NAME] [-client NAME] [-bind NAME] [-patient]",
			"connect, log in, connect to the share or another; -clear offers no cipher, -on logs in once more on a connection, -tree connects a session to the share once more, -replace logs in anew in place of a session as the same client, -client as the same client alone, -bind adds a channel to a session, -patient waits for a server that starts",
			"-persona P -user U -dialect D -encrypt -clear -unsigned -credits N -share S -on NAME -tree NAME -replace NAME -client NAME -bind NAME -patient", 1, 1, connect},
		"open": {"open NAME PATH [as HANDLE] [-access RIGHT,...] [-share read,write,delete] [-file] [-delete-on-close] [-lease rwh] [-guid WORD [-replay|-reconnect]]",
			"open what is there; the handle is named after the last part of PATH; -share is what others may do, everything when not given, -file takes no directory, -lease asks for a lease, which must be granted, -guid for a durable handle with a CreateGuid made of WORD, -replay sends that CREATE again, -reconnect asks for the handle of a connection that is gone, until the server has noticed that it is",
			opening, 2, 2, open},
		"create": {"create NAME PATH [as HANDLE] [-overwrite] [-reparse] [-lease rwh]", "create a file, or overwrite one; without a handle's name it is closed at once; -reparse sets FILE_OPEN_REPARSE_POINT",
			"-overwrite -reparse -lease STATE", 2, 2, create},
		"makedir": {"makedir NAME PATH [as HANDLE]", "create a directory; without a handle's name it is closed at once", "", 2, 2, makedir},
		"read":    {"read NAME PATH, or read HANDLE", "read a file's first bytes", "", 1, 2, read},
		"write":   {"write NAME PATH TEXT, or write HANDLE TEXT", "write TEXT at the beginning of a file", "", 2, 3, write},
		"copy":    {"copy NAME PATH PATH", "have the server copy the first 16 bytes of a file into another, by FSCTL_SRV_COPYCHUNK", "", 3, 3, copyBytes},
		"rename":  {"rename NAME PATH PATH [-replace], or rename HANDLE PATH", "rename or move a file or a directory", "-replace", 2, 3, rename},
		"link":    {"link NAME PATH PATH", "give a file a second name", "", 3, 3, link},
		"delete":  {"delete NAME PATH, or delete HANDLE", "delete a file or an empty directory; by handle it goes when the handle does", "", 1, 2, remove},
		"list":    {"list NAME PATH FILE ...", "a directory has exactly these names in it, by QUERY_DIRECTORY", plain, 2, 0, list},
		"set": {"set NAME PATH, or set HANDLE, and hidden|normal|size N|last_write|last_access|creation|change|keep|ea NAME VALUE|security|sparse|zeros|reparse|label",
			"change what is known about a file; change sets ChangeTime alone, keep sets nothing, security sets a DACL that allows everyone everything, zeros overwrites the first 16 bytes by FSCTL_SET_ZERO_DATA, reparse makes it a symbolic link, label names the volume it is on",
			"", 2, 5, set},
		"enter": {"enter NAME PATH [as HANDLE] [-filter F,...] [-tree] [-size N]", "open a directory and watch it, as the client's persona does: Explorer by one compound of CREATE and a related CHANGE_NOTIFY; handle and request have the same name",
			watched, 2, 2, enter},
		"watch": {"watch HANDLE [as REQUEST] [-filter F,...] [-tree] [-size N|max|max+1] [-charge N] [-flags N] [-dfs] [-via NAME] [-wrong session|tree|structure|handle] [-nowait]",
			"send a CHANGE_NOTIFY and wait for its first answer, the interim one or the final; the filter is name, all, names of bits or a number; max is the server's MaxTransactSize; -dfs sets SMB2_FLAGS_DFS_OPERATIONS, -via takes another channel of the session, -wrong names what is: a field, or the FileId, which is all ones; the request is named after the handle",
			watched + " -charge N -flags N -dfs -via NAME -wrong FIELD -nowait", 1, 1, watch},
		"compound": {"compound NAME PART + PART ...", "send several requests at once; a PART is open PATH, create PATH, watch, query, set, list, read, write, flush, lock, control, or close, with their options; all but the first are related, and act on the open of the part before unless they name a HANDLE",
			plain, 2, 0, compound},
		"expect": {"expect REQUEST pending|nothing|final|synchronous|alone|STATUS_X|[any] ACTION FILE ...", "pending: an interim response and no more; nothing: no final response for a while; final: one, whatever it says; synchronous: one without an interim response, which grants credits; alone: one that is not part of a compound; records: a final response with exactly these, in this order or in any; {1..9} in FILE stands for as many records",
			plain, 2, 0, expect},
		"collect": {"collect HANDLE [-filter F,...] [-tree] [-size N] [any|until] ACTION FILE ...", "watch again and again, as programs do, until as many records have come, or until this one has, whatever came before",
			watched, 3, 0, collect},
		"poll": {"poll HANDLE [-filter F,...] [-tree] [-size N] [any|until] ACTION FILE ...", "as collect, but with a CANCEL right behind each request: each has one answer, and no record may get lost",
			watched, 3, 0, poll},
		"cancel":     {"cancel REQUEST [-mid]", "send a CANCEL: by AsyncId when the interim response has come, else or with -mid by MessageId", "-mid", 1, 1, cancel},
		"close":      {"close HANDLE [as REQUEST]", "close a handle", "", 1, 1, closeHandle},
		"lease":      {"lease HANDLE kept|none|r|rh|rw|rwh", "kept: no break of the handle's lease comes for a while; else one to this state comes, and is acknowledged if the server wants that", "", 2, 2, lease},
		"disconnect": {"disconnect NAME [as REQUEST]", "TREE_DISCONNECT", "", 1, 1, disconnect},
		"logoff":     {"logoff NAME [as REQUEST]", "LOGOFF", "", 1, 1, logoff},
		"reauth":     {"reauth NAME [-wrong|-unknown]", "authenticate the session's user anew, -wrong with a wrong password, -unknown as a user whom the server does not know", "-wrong -unknown", 1, 1, reauth},
		"echo":       {"echo NAME [as REQUEST]", "ECHO with the session's id", "", 1, 1, echo},
		"forge":      {"forge NAME", "TREE_CONNECT in a session without keys, encrypted with one of zeros: the server ends the connection", "", 1, 1, forge},
		"drop":       {"drop NAME", "close the TCP connection without a word", "", 1, 1, drop},
		"order":      {"order REQUEST REQUEST ...", "the final responses came in this order", "", 2, 0, order},
		"server":     {"server COMMAND [&]", "run a shell command on the server, in the scenario's folder; with & behind it the scenario goes on meanwhile", plain, 1, 0, serverCommand},
		"repeat":     {"repeat N COMMAND", "run a scenario command N times; {n} in it counts from 1", plain, 2, 0, repeat},
		"allow":      {"allow NAME RULE ...", "accept what breaks these rules of the client", plain, 2, 0, allow},
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

// call runs a command. Every command takes -status STATUS_X: it is to end with
// this status, or with -status any in any way. That of repeat is for each time.
func (c *command) call(st *state, args []string) error {
	i := slices.Index(args, "-status")
	if i < 0 || i+1 >= len(args) || c == vocabulary["repeat"] {
		return c.plainly(st, args)
	}
	status := args[i+1]
	err := c.plainly(st, slices.Delete(slices.Clone(args), i, i+2))
	var s *client.StatusError
	switch {
	case status == "any" && (err == nil || errors.As(err, &s)):
		return nil
	case errors.As(err, &s) && s.Status.String() == status:
		return nil
	case err == nil:
		return &Mismatch{Want: status, Got: "STATUS_SUCCESS"}
	}
	return &Mismatch{Want: status, Got: err.Error()}
}

// plainly reads the arguments of a command and runs it.
func (c *command) plainly(st *state, args []string) (err error) {
	l := &line{words: args}
	if c.options != plain {
		if l, err = readLine(args, c.options); err != nil {
			return err
		}
	}
	l.usage = c.usage
	if len(l.words) < c.min || c.max > 0 && len(l.words) > c.max {
		return l.wrong()
	}
	return c.run(st, l)
}

// step runs a command of the script, and keeps what there is to say when it fails.
func (st *state) step(c *command, step string, args []string) error {
	defer st.lend()()
	for _, p := range st.order {
		p.conn.Note("step: %s", step)
	}
	err := c.call(st, args)
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

func (st *state) file(name string) (*handle, error) { return lookup("handle", st.files, name) }

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

func connect(st *state, l *line) (err error) {
	ctx, cancel := st.answer()
	defer cancel()
	p := &peer{name: l.words[0]}
	if name, ok := l.options["-persona"]; ok {
		if p.persona, err = lookup("persona", personas, name); err != nil {
			return err
		}
	}
	who := st.server.User
	if l.options["-user"] == "other" {
		who = st.server.Other
	}
	setup := client.Setup{Credentials: who}
	old := map[string]*peer{} // by option
	for _, option := range []string{"-tree", "-on", "-replace", "-client", "-bind"} {
		if name, ok := l.options[option]; ok {
			if old[option], err = st.peer(name); err != nil {
				return err
			}
		}
	}
	switch {
	case old["-tree"] != nil:
		p.conn, p.sess = old["-tree"].conn, old["-tree"].sess
	case old["-on"] != nil:
		p.conn = old["-on"].conn
	default:
		o := client.Options{User: who.User, Password: who.Password, Domain: who.Domain, Encrypt: l.has("-encrypt")}
		if l.has("-unsigned") {
			o.Signing = client.SigningEnabled
		}
		if l.has("-clear") {
			o.Ciphers = []smb2.Cipher{}
		}
		if d, ok := l.options["-dialect"]; ok {
			dialect, err := lookup("dialect", dialects, d)
			if err != nil {
				return err
			}
			o.Dialects = []smb2.Dialect{dialect}
		}
		credits, err := l.number("-credits", 0)
		if err != nil {
			return err
		}
		o.Credits = int(credits)
		// The same client comes once more: its ClientGuid says so.
		if p := old["-replace"]; p != nil {
			o.ClientGUID, setup.Previous = p.conn.Options.ClientGUID, p.sess.ID
		}
		if p := old["-client"]; p != nil {
			o.ClientGUID = p.conn.Options.ClientGUID
		}
		if p := old["-bind"]; p != nil {
			o.ClientGUID, setup.Bind = p.conn.Options.ClientGUID, p.sess
		}
		for {
			if p.conn, err = st.server.Dial(ctx, o); err == nil {
				break
			}
			if !l.has("-patient") || ctx.Err() != nil {
				return fmt.Errorf("connect to %s: %w", st.server.Addr, err)
			}
		}
		p.conn.Allow(st.server.Allow...)
		st.order = append(st.order, p)
	}
	if p.sess == nil {
		if p.sess, err = p.conn.SessionSetup(ctx, setup); err != nil {
			return err
		}
	}
	if first := old["-bind"]; first != nil {
		p.tree = first.tree.On(p.sess)
		st.peers[p.name] = p
		return nil
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

func disconnect(st *state, l *line) error {
	return st.ask(l, func(p *peer) *client.Request {
		return &client.Request{Command: smb2.SMB2_TREE_DISCONNECT, Body: smb2.NewTreeDisconnectReq(), Tree: p.tree}
	})
}

func logoff(st *state, l *line) error {
	return st.ask(l, func(p *peer) *client.Request {
		return &client.Request{Command: smb2.SMB2_LOGOFF, Body: smb2.NewLogoffReq(), Session: p.sess}
	})
}

func echo(st *state, l *line) error {
	return st.ask(l, func(p *peer) *client.Request {
		return &client.Request{Command: smb2.SMB2_ECHO, Body: smb2.NewEchoReq(), Session: p.sess}
	})
}

// ask sends a request of a client and waits for its end.
func (st *state) ask(l *line, req func(*peer) *client.Request) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	return st.finish(p.conn, l.as, req(p))
}

func reauth(st *state, l *line) error {
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
	if l.has("-unknown") {
		who.User = "stranger"
	}
	return p.sess.Reauthenticate(ctx, who)
}

func forge(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	ctx, cancel := st.answer()
	defer cancel()
	if err := p.sess.EncryptWith(smb2.SMB2_ENCRYPTION_AES128_CCM, make([]byte, 16)); err != nil {
		return err
	}
	switch _, err := p.sess.TreeConnect(ctx, st.server.Share); {
	case err == nil:
		return &Mismatch{Want: "the end of the connection", Got: "STATUS_SUCCESS", conn: p.conn}
	case p.conn.Err() == nil:
		return &Mismatch{Want: "the end of the connection", Got: err.Error(), conn: p.conn}
	}
	return nil
}

func drop(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	p.conn.Drop()
	return nil
}

func serverCommand(st *state, l *line) error {
	if st.server.Shell == nil {
		return errors.New(st.server.Name + " has no shell for us; the scenario's head must say: # needs: shell")
	}
	command := strings.Join(l.words, " ")
	if rest, ok := strings.CutSuffix(command, " &"); ok {
		st.behind.Go(func() error { return st.server.Shell(st.ctx, st.folder, rest) })
		return nil
	}
	// A slow shell says nothing about the server; the scenario's time is enough.
	return st.server.Shell(st.ctx, st.folder, command)
}

func repeat(st *state, l *line) error {
	n, err := strconv.Atoi(l.words[0])
	if err != nil || n < 1 {
		return fmt.Errorf("repeat %s: want a number", l.words[0])
	}
	c, ok := vocabulary[l.words[1]]
	if !ok || l.words[1] == "repeat" {
		return fmt.Errorf("repeat: %s is no command to repeat", l.words[1])
	}
	for i := range n {
		var words []string
		for _, a := range l.words[2:] {
			words = append(words, strings.ReplaceAll(a, "{n}", strconv.Itoa(i+1)))
		}
		if err := c.call(st, words); err != nil {
			return fmt.Errorf("time %d: %w", i+1, err)
		}
	}
	return nil
}

func allow(st *state, l *line) error {
	p, err := st.peer(l.words[0])
	if err != nil {
		return err
	}
	p.conn.Allow(l.words[1:]...)
	return nil
}
