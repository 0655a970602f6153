package torture

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed known/*.txt
var lists embed.FS

// known are the tests that are known to fail on a kind of server, in the file of
// its name. A reason stands at the margin and ends in a colon; the tests it is
// the reason of follow, indented:
//
//	There is no CHANGE_NOTIFY without the series:
//	    smb2.notify.dir
//	    smb2.notify.rec  v6.12 4.17
//	    smb2.notify.tcp  sometimes
//
// Behind a test may stand the versions of the server and of smbtorture that it
// fails with (none: all), and "sometimes" for one that also passes.
type known struct {
	reason    string
	test      string
	servers   []string // v6.12; nil: all
	programs  []string // 4.17; nil: all
	sometimes bool
}

// parseKnown reads a list.
func parseKnown(name, text string) (all []known, err error) {
	reason := ""
	for n, line := range strings.Split(text, "\n") {
		bad := func(want string) ([]known, error) { return nil, fmt.Errorf("%s:%d: want %s", name, n+1, want) }
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] != ' ':
			var ok bool
			if reason, ok = strings.CutSuffix(line, ":"); !ok {
				return bad("a reason that ends in a colon")
			}
		case reason == "":
			return bad("a reason before the first test")
		default:
			// Names have single spaces in them.
			test, words, _ := strings.Cut(strings.TrimSpace(line), "  ")
			k := known{reason: reason, test: test}
			for _, w := range strings.Fields(words) {
				switch {
				case w == "sometimes":
					k.sometimes = true
				case w[0] == 'v':
					k.servers = append(k.servers, w)
				case w[0] >= '0' && w[0] <= '9':
					k.programs = append(k.programs, w)
				default:
					return bad("versions or \"sometimes\" behind a test")
				}
			}
			all = append(all, k)
		}
	}
	return all, nil
}

// Known are the known failures of a program on a server.
type Known struct {
	file   string
	byTest map[string]known
}

// LoadKnown returns what is known to fail when p runs against server. Nothing is
// known of a server that is only an address.
func LoadKnown(p *Program, server Server) (*Known, error) {
	k := &Known{file: "known/" + server.Kind + ".txt", byTest: map[string]known{}}
	text, err := lists.ReadFile(k.file)
	if err != nil {
		return k, nil
	}
	all, err := parseKnown(k.file, string(text))
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.servers != nil && !slices.Contains(e.servers, server.Version) {
			continue
		}
		if e.programs != nil && !slices.ContainsFunc(e.programs, func(v string) bool { return strings.HasPrefix(p.Version, v+".") }) {
			continue
		}
		if _, twice := k.byTest[e.test]; twice {
			return nil, fmt.Errorf("%s: %s stands there twice", k.file, e.test)
		}
		k.byTest[e.test] = e
	}
	return k, nil
}

// Sometimes says that a test is known to fail at times, and to pass at others.
func (k *Known) Sometimes(test string) bool { return k.byTest[test].sometimes }

// Judge turns a failure that is known into a skip with its reason, and a success
// of a test that is said to fail into a failure.
func (k *Known) Judge(r Result) Result {
	e, ok := k.byTest[r.Test]
	switch {
	case !ok:
	case r.Outcome == Failed:
		r.Outcome, r.Reason = Skipped, e.reason+"\n"+r.Reason
	case r.Outcome == Passed && !e.sometimes:
		r.Outcome = Failed
		r.Reason = fmt.Sprintf("it passes, and is listed as failing: %s; take it out of tests/torture/%s", e.reason, k.file)
	}
	return r
}
