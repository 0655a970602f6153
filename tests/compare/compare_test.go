package compare

import (
	"strings"
	"testing"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
	"kbuild-run/tests/scenario"
)

// wire makes the transcript of a connection.
type wire struct {
	entries []client.Entry
	id      uint64
}

func (w *wire) step(text string) {
	w.entries = append(w.entries, client.Entry{Text: stepMark + text})
}

func (w *wire) send(c smb2.Command) uint64 {
	w.id++
	w.entries = append(w.entries, client.Entry{Direction: client.Out, Hdr: smb2.Hdr{Command: c, MessageId: w.id}})
	return w.id
}

func (w *wire) answer(id uint64, c smb2.Command, status smb2.NtStatus, credits uint16, buffer ...byte) {
	h := smb2.Hdr{Command: c, MessageId: id, Status: status, CreditRequest: credits, Flags: smb2.SMB2_FLAGS_SERVER_TO_REDIR}
	if status == smb2.STATUS_PENDING {
		h.Flags |= smb2.SMB2_FLAGS_ASYNC_COMMAND
		h.SetAsyncId(1)
	}
	r := smb2.NewChangeNotifyRsp()
	if buffer != nil {
		r.SetOutputBuffer(buffer)
	}
	w.entries = append(w.entries, client.Entry{Direction: client.In, Hdr: h, Message: append(h.Append(nil), r.Append(nil)...)})
}

// record is a FILE_NOTIFY_INFORMATION of a name of one letter.
func record(action byte, name byte, padding ...byte) []byte {
	return append([]byte{0, 0, 0, 0, action, 0, 0, 0, 2, 0, 0, 0, name, 0}, padding...)
}

func result(o scenario.Outcome, w *wire) *scenario.Result {
	return &scenario.Result{Scenario: &scenario.Scenario{Name: "s"}, Server: &scenario.Server{Kind: scenario.ByAddress}, Outcome: o, Messages: [][]client.Entry{w.entries}}
}

func TestDiff(t *testing.T) {
	// base is what the first server answers; change is the other's.
	play := func(change string) *wire {
		w := &wire{}
		is := func(s string) bool { return s == change }
		if is("one more request before") {
			w.answer(w.send(smb2.SMB2_NEGOTIATE), smb2.SMB2_NEGOTIATE, 0, 1)
		}
		w.step("watch dir")
		id := w.send(smb2.SMB2_CHANGE_NOTIFY)
		credits := uint16(1)
		if is("credits") {
			credits = 10
		}
		if !is("interim") {
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, smb2.STATUS_PENDING, credits)
		}
		w.step("close dir")
		c := w.send(smb2.SMB2_CLOSE)
		if !is("order") {
			w.answer(c, smb2.SMB2_CLOSE, 0, 1)
		}
		switch {
		case is("nothing"):
		case is("status"):
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, smb2.STATUS_CANCELLED, 0)
		case is("action"):
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, 0, 0, record(2, 'a')...)
		case is("name"):
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, 0, 0, record(1, 'b')...)
		case is("padding"):
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, 0, 0, record(1, 'a', 0, 0)...)
		case is("two"):
			first := record(1, 'a', 0, 0)
			first[0] = byte(len(first))
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, 0, 0, append(first, record(2, 'a')...)...)
		default:
			w.answer(id, smb2.SMB2_CHANGE_NOTIFY, 0, 0, record(1, 'a')...)
		}
		if is("order") {
			w.answer(c, smb2.SMB2_CLOSE, 0, 1)
		}
		return w
	}
	for change, want := range map[string]string{
		"":                        "",
		"one more request before": "connect: NEGOTIATE: request: x not sent, y sent",
		"credits":                 "watch dir: CHANGE_NOTIFY interim: CreditResponse: x 1, y 10",
		"interim":                 "watch dir: CHANGE_NOTIFY: interim response: x one, y none",
		"status":                  "watch dir: CHANGE_NOTIFY final: Status: x STATUS_SUCCESS, y STATUS_CANCELLED",
		"action":                  "watch dir: CHANGE_NOTIFY final: record 1 Action: x FILE_ACTION_ADDED, y FILE_ACTION_REMOVED",
		"name":                    "watch dir: CHANGE_NOTIFY final: record 1 FileName: x a, y b",
		"padding":                 "watch dir: CHANGE_NOTIFY final: last record: x not padded, y padded to 4 bytes",
		"two":                     `watch dir: CHANGE_NOTIFY final: OutputBufferLength: x 14, y 30; watch dir: CHANGE_NOTIFY final: records: x ADDED "a", y ADDED "a" REMOVED "a"`,
		"nothing":                 "watch dir: CHANGE_NOTIFY: final response: x one, y none",
		"order":                   `connection 1: final responses: order: x first CLOSE of "close dir", y first CHANGE_NOTIFY of "watch dir"`,
	} {
		var got []string
		for _, d := range Diff([]Server{
			{"x", []*scenario.Result{result(scenario.Passed, play(""))}},
			{"y", []*scenario.Result{result(scenario.Passed, play(change))}},
		}) {
			got = append(got, d.String())
		}
		if got := strings.Join(got, "; "); got != want {
			t.Errorf("%s: got %s, want %s", change, got, want)
		}
	}

	// What comes behind the step at which a scenario failed is no difference.
	short := &wire{}
	short.step("watch dir")
	short.answer(short.send(smb2.SMB2_CHANGE_NOTIFY), smb2.SMB2_CHANGE_NOTIFY, smb2.STATUS_NOT_IMPLEMENTED, 1)
	servers := []Server{{"x", []*scenario.Result{result(scenario.Passed, play(""))}}, {"y", []*scenario.Result{result(scenario.Failed, short)}}}
	r := New(servers)
	if got, want := len(r.In["s"]), 2; got != want {
		t.Errorf("got %d differences, want %d: %v", got, want, r.In["s"])
	}
	if got := r.Unexplained(); got != nil {
		t.Errorf("unexplained: got %v, want none", got)
	}
	servers[1].Results[0].Server.Kind = "ksmbd"
	if got := r.Unexplained(); len(got) != 1 {
		t.Errorf("unexplained of ksmbd: got %v, want the scenario", got)
	}

	// What never came explains nothing: it may be a lost event.
	for _, change := range []string{"nothing", "two"} {
		servers := []Server{{"x", []*scenario.Result{result(scenario.Passed, play(""))}}, {"y", []*scenario.Result{result(scenario.Failed, play(change))}}}
		if change == "two" {
			servers[0].Results, servers[1].Results = servers[1].Results, servers[0].Results
		}
		if got := New(servers).Unexplained(); len(got) != 1 {
			t.Errorf("%s: unexplained: got %v, want the scenario", change, got)
		}
	}
}

// A scenario that fails where all servers answer the same explains nothing, and
// what differs everywhere is told once.
func TestReport(t *testing.T) {
	play := func(credits uint16) *wire {
		w := &wire{}
		w.step("watch dir")
		w.answer(w.send(smb2.SMB2_CHANGE_NOTIFY), smb2.SMB2_CHANGE_NOTIFY, smb2.STATUS_PENDING, credits)
		return w
	}
	servers := []Server{{Name: "x"}, {Name: "y"}}
	for i := range usual {
		for n := range servers {
			s := result(scenario.Passed, play(uint16(n)))
			s.Scenario.Name = string(rune('a' + i))
			if i == 0 && n == 1 {
				s.Outcome, s.Failure = scenario.Failed, &scenario.Failure{Line: 3, Step: "expect", Want: "this", Got: "that"}
			}
			servers[n].Results = append(servers[n].Results, s)
		}
	}
	r := New(servers)
	if got := strings.Join(r.Unexplained(), " "); got != "a" {
		t.Errorf("unexplained: got %q, want a", got)
	}
	var b strings.Builder
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| a | passed | failed | 0 |\n", "| b | passed | passed | 0 |\n",
		"| CHANGE_NOTIFY interim | CreditResponse | x 0, y 1 | 5 |\n",
		"\na:\n\n- y fails: line 3: expect; want: this; got: that\n",
	} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("want %q once in\n%s", want, b.String())
		}
	}
}
