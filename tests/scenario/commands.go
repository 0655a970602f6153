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
