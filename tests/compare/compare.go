// Package compare holds servers against each other: the results of the same
// scenarios on several servers go in, the fields in which their answers differ
// come out.
//
// A scenario sends the same requests in the same steps to each server. So the
// answers to the nth request of a command in a step belong together, whenever
// they come.
package compare

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
)

// Server is one of those compared.
type Server struct {
	Name    string
	Results []*scenario.Result // in the same order for each server; nil: did not run
}

// Difference is a field that two servers fill in another way.
type Difference struct {
	Scenario string    `json:"scenario"`
	Step     string    `json:"step"`    // the line of the scenario that sent the request
	Message  string    `json:"message"` // "CHANGE_NOTIFY interim"
	Field    string    `json:"field"`
	Servers  [2]string `json:"servers"` // the first, and one that differs from it
	Values   [2]string `json:"values"`  // theirs
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: %s: %s", d.Step, d.Message, d.Field, d.values())
}

func (d Difference) values() string {
	return fmt.Sprintf("%s %s, %s %s", d.Servers[0], d.Values[0], d.Servers[1], d.Values[1])
}

// same says what d and others have in common that differ in one way.
func (d Difference) same() string {
	return strings.Join([]string{d.Message, d.Field, d.Servers[1], d.Values[0], d.Values[1]}, "; ")
}

// said says that both servers said something, in which they differ: not that one of
// them was silent, or had fewer records.
func (d Difference) said() bool {
	return !slices.Contains([]string{"request", "final response", "records", "OutputBufferLength"}, d.Field)
}

// Diff compares the answers of each server with those of the first.
func Diff(servers []Server) []Difference {
	var all []Difference
	for i := range servers[0].Results {
		for _, other := range servers[1:] {
			a, b := servers[0].Results[i], other.Results[i]
			if a == nil || b == nil {
				continue
			}
			for _, d := range diff(a, b) {
				d.Scenario, d.Servers = a.Scenario.Name, [2]string{servers[0].Name, other.Name}
				all = append(all, d)
			}
		}
	}
	return all
}

// key names a request: those of two servers with the same key are the same.
type key struct {
	conn, step int
	command    smb2.Command
	n          int // of the command in the step, from 1
}

// request is a request with its answers.
type request struct {
	key
	text    string // the step
	interim *client.Entry
	final   *client.Entry
}

// play is what one server answered in a scenario.
type play struct {
	requests []*request
	byKey    map[key]*request
	steps    []int      // on each connection, before the scenario ended
	finals   [][]string // on each connection, the final answers in their order
	ended    bool       // before its last step
}

const stepMark = "--  step: "

func read(r *scenario.Result) *play {
	p := &play{byKey: map[key]*request{}, ended: r.Outcome == scenario.Failed || r.Outcome == scenario.Differs || r.Outcome == scenario.Skipped}
	for conn, entries := range r.Messages {
		step, text := 0, "connect"
		count := map[smb2.Command]int{}
		byID := map[uint64]*request{}
		var finals []string
		for i := range entries {
			e := &entries[i]
			switch e.Direction {
			case client.Note:
				if t, ok := strings.CutPrefix(e.Text, stepMark); ok {
					step, text = step+1, t
					clear(count)
				}
			case client.Out:
				if e.Hdr.Command == smb2.SMB2_CANCEL {
					continue // has no answer, and the MessageId of another request
				}
				count[e.Hdr.Command]++
				q := &request{key: key{conn, step, e.Hdr.Command, count[e.Hdr.Command]}, text: text}
				byID[e.Hdr.MessageId] = q
				p.byKey[q.key] = q
				p.requests = append(p.requests, q)
			case client.In:
				q := byID[e.Hdr.MessageId]
				switch {
				case q == nil:
				case e.Hdr.Status == smb2.STATUS_PENDING:
					q.interim = e
				default:
					q.final = e
					finals = append(finals, fmt.Sprintf("%s of %q", name(q.command), q.text))
				}
			}
		}
		p.steps, p.finals = append(p.steps, step), append(p.finals, finals)
	}
	return p
}

// beyond says that the play ended before the step of the request.
func (p *play) beyond(q *request) bool {
	return q.conn >= len(p.steps) || p.ended && q.step >= p.steps[q.conn]
}

func diff(first, second *scenario.Result) (all []Difference) {
	a, b := read(first), read(second)
	add := func(q *request, message, field, x, y string) {
		if x != y {
			all = append(all, Difference{Step: q.text, Message: message, Field: field, Values: [2]string{x, y}})
		}
	}
	for _, q := range a.requests {
		other := b.byKey[q.key]
		if other == nil {
			if !b.beyond(q) {
				add(q, name(q.command), "request", "sent", "not sent")
			}
			continue
		}
		what := name(q.command)
		add(q, what, "interim response", isThere(q.interim), isThere(other.interim))
		add(q, what, "final response", isThere(q.final), isThere(other.final))
		for _, pair := range []struct {
			kind string
			x, y *client.Entry
		}{{"interim", q.interim, other.interim}, {"final", q.final, other.final}} {
			if pair.x == nil || pair.y == nil {
				continue
			}
			what := what + " " + pair.kind
			if x, y := pair.x.Hdr.Status, pair.y.Hdr.Status; x != y {
				// All else follows from it.
				add(q, what, "Status", x.String(), y.String())
				continue
			}
			if q.command != smb2.SMB2_CHANGE_NOTIFY {
				continue // what the scenario does, not what it is about
			}
			x, y := fields(pair.x), fields(pair.y)
			for i := range x {
				add(q, what, x[i].name, x[i].value, y[i].value)
			}
			m, n := outputBufferLength(pair.x), outputBufferLength(pair.y)
			switch {
			case slices.Equal(changes(pair.x), changes(pair.y)) && m != n && (m+3)&^3 == n:
				add(q, what, "last record", "not padded", "padded to 4 bytes")
			case slices.Equal(changes(pair.x), changes(pair.y)) && m != n && m == (n+3)&^3:
				add(q, what, "last record", "padded to 4 bytes", "not padded")
			default:
				add(q, what, "OutputBufferLength", fmt.Sprint(m), fmt.Sprint(n))
			}
			for _, f := range records(pair.x, pair.y) {
				add(q, what, f.name, f.values[0], f.values[1])
			}
		}
	}
	for _, q := range b.requests {
		if a.byKey[q.key] == nil && !a.beyond(q) {
			add(q, name(q.command), "request", "not sent", "sent")
		}
	}
	for conn := range min(len(a.finals), len(b.finals)) {
		x, y := common(a.finals[conn], b.finals[conn])
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				all = append(all, Difference{Step: fmt.Sprintf("connection %d", conn+1), Message: "final responses", Field: "order", Values: [2]string{"first " + x[i], "first " + y[i]}})
				break
			}
		}
	}
	return all
}

// common are the finals that both have, each in its own order.
func common(a, b []string) (x, y []string) {
	for _, f := range a {
		if slices.Contains(b, f) {
			x = append(x, f)
		}
	}
	for _, f := range b {
		if slices.Contains(a, f) {
			y = append(y, f)
		}
	}
	return x, y
}

type field struct{ name, value string }

// fields are what is compared of two answers to a CHANGE_NOTIFY that have one
// status, but for the records.
func fields(e *client.Entry) []field {
	h := e.Hdr
	next := "0"
	if h.NextCommand != 0 {
		next = "not 0"
	}
	async := "none"
	if h.Flags&smb2.SMB2_FLAGS_ASYNC_COMMAND != 0 {
		if async = "not 0"; h.AsyncId() == 0 {
			async = "0"
		}
	}
	var r smb2.ChangeNotifyRsp
	body := e.Message[min(len(e.Message), smb2.HdrSize):]
	r.Decode(body) // what is too short for it is so in "length of the body"
	length := fmt.Sprint(len(body))
	if r.OutputBufferLength > 0 && len(body) == smb2.ChangeNotifyRspSize+int(r.OutputBufferLength) {
		length = "8 + OutputBufferLength"
	}
	return []field{
		{"Flags", strings.ReplaceAll((h.Flags &^ smb2.SMB2_FLAGS_SERVER_TO_REDIR).String(), "SMB2_FLAGS_", "")},
		{"CreditCharge", fmt.Sprint(h.CreditCharge)},
		{"CreditResponse", fmt.Sprint(h.CreditRequest)},
		{"NextCommand", next},
		{"AsyncId", async},
		{"encrypted", fmt.Sprint(e.Encrypted)},
		{"length of the body", length},
		{"OutputBufferOffset", fmt.Sprint(r.OutputBufferOffset)},
	}
}

func outputBufferLength(e *client.Entry) uint32 {
	var r smb2.ChangeNotifyRsp
	r.Decode(e.Message[min(len(e.Message), smb2.HdrSize):])
	return r.OutputBufferLength
}

// pair is a field of two messages.
type pair struct {
	name   string
	values [2]string
}

// records are the differences of two lists of records: field by field if they are
// as long, else as a whole.
func records(a, b *client.Entry) (all []pair) {
	x, y := changes(a), changes(b)
	if len(x) != len(y) || slices.Equal(slices.Sorted(slices.Values(words(x))), slices.Sorted(slices.Values(words(y)))) {
		return []pair{{"records", [2]string{list(x), list(y)}}}
	}
	for i := range x {
		n := fmt.Sprintf("record %d ", i+1)
		all = append(all, pair{n + "Action", [2]string{x[i].Action.String(), y[i].Action.String()}}, pair{n + "FileName", [2]string{x[i].Name, y[i].Name}})
	}
	return all
}

// folder is the name of a run's folder, in which servers do not differ.
var folder = regexp.MustCompile(`kbuild-run-\d+-[0-9a-f]+`)

func changes(e *client.Entry) []client.Change {
	var r smb2.ChangeNotifyRsp
	if e.Hdr.Status != smb2.STATUS_SUCCESS || len(e.Message) < smb2.HdrSize {
		return nil
	}
	if _, err := r.Decode(e.Message[smb2.HdrSize:]); err != nil {
		return nil
	}
	data, err := r.OutputBuffer()
	if err != nil {
		return nil
	}
	all, _ := client.ParseChanges(data)
	for i := range all {
		all[i].Name = folder.ReplaceAllString(all[i].Name, "FOLDER")
	}
	return all
}

func words(changes []client.Change) (all []string) {
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}

// list is records in a line; of many the first.
func list(changes []client.Change) string {
	const most = 6
	w := words(changes)
	switch {
	case len(w) == 0:
		return "none"
	case len(w) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(w[:most], " "), len(w)-most)
	}
	return strings.Join(w, " ")
}

func isThere(e *client.Entry) string {
	if e == nil {
		return "none"
	}
	return "one"
}

func name(c smb2.Command) string { return strings.TrimPrefix(c.String(), "SMB2_") }
