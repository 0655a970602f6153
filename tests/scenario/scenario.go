// Package scenario runs scenarios: a script and a server go in, what came out of
// it goes out.
//
// A script is a text of commands, one a line, that people who know SMB read and
// write; see Vocabulary. It is run by testscript with commands of ours.
package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Scenario is a script and what its head says.
//
//	# A file that is created on the server appears in Explorer's window.
//	#
//	# sections: MS-SMB2 3.3.5.19, 3.3.4.2; MS-FSCC 2.7.1
//	# rules: 
//	# needs: notify shell
//	# series: NAME [BASE], which it shows something of, but for notify; then no rules
//	# samba: what Samba does instead, and why it may
type Scenario struct {
	Name     string
	Shows    string   // one sentence
	Sections string   // what it rests on
	Rules    []string // ids of tests/rules.tbl
	Needs    []string // see Needs
	Series   string   // the series it is kept for; "": any
	Base     string   // the base that fails without Series; "": every base
	Text     string

	// Differs says, by kind of server ("samba", "ksmbd") or by kind and version
	// ("ksmbd v6.12"), what that server is known to do instead: there the
	// scenario must fail.
	Differs map[string]string
}

// differs says what server is known to do instead of what the scenario wants.
func (s *Scenario) differs(server *Server) string {
	if d := s.Differs[server.Kind+" "+server.Version]; d != "" {
		return d
	}
	return s.Differs[server.Kind]
}

// Needs are what a scenario may need, with their meanings.
var Needs = map[string]string{
	"notify":  "CHANGE_NOTIFY that reports changes",
	"pending": "CHANGE_NOTIFY that stays pending until CANCEL or CLOSE",
	"shell":   "a shell on the server",
	"other":   "a second user of the server",
	"encrypt": "encryption",
	"streams": "named streams",
	"quiet":   "a share quiet that is not to notify",
	"waiting": "a share waiting whose watches only wait",
	"tools":   "the programs setfattr, exch and rename on the server",
	"mount":   "a shell on the server that may mount",
	"alone":   "that no other scenario runs: it does so behind all others",
	"restart": "a server that may be stopped and started",
}

// Has says that the scenario needs what.
func (s *Scenario) Has(what string) bool { return slices.Contains(s.Needs, what) }

// reported is the scenario of the report that the notify series answers.
const reported = "explorer"

// Load returns the scenarios of a folder whose name matches one of the patterns
// (path.Match), sorted by name but for the reported one; without a pattern all.
func Load(fsys fs.FS, patterns ...string) ([]*Scenario, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var all []*Scenario
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".txt")
		if !ok {
			continue
		}
		if !matches(name, patterns) {
			continue
		}
		text, err := fs.ReadFile(fsys, e.Name())
		if err != nil {
			return nil, err
		}
		s, err := Parse(name, string(text))
		if err != nil {
			return nil, fmt.Errorf("read scenario %s: %w", e.Name(), err)
		}
		all = append(all, s)
	}
	// What a user reported comes first; it is what all the others are about.
	slices.SortStableFunc(all, func(a, b *Scenario) int {
		switch {
		case a.Name == reported && b.Name != reported:
			return -1
		case b.Name == reported && a.Name != reported:
			return 1
		}
		return 0
	})
	if len(all) == 0 {
		return nil, fmt.Errorf("no scenario matches %s; list them with: kbuild-run test --list", strings.Join(patterns, " "))
	}
	return all, nil
}

func matches(name string, patterns []string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return len(patterns) == 0
}

// known are the servers that a head may name, for all versions or for one.
var known = regexp.MustCompile(`^(samba|ksmbd)( v[0-9.]+)?$`)

// Parse reads a scenario. Its head are the comment lines it begins with.
func Parse(name, text string) (*Scenario, error) {
	s := &Scenario{Name: name, Text: text, Differs: map[string]string{}}
	var words []string
	last := "" // the key that an indented line continues
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "#")
		if !ok {
			break
		}
		indented := strings.HasPrefix(line, "   ")
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case indented && last == "sections":
			s.Sections += " " + line
		case indented && last != "":
			s.Differs[last] += " " + line
		case ok && key == "sections":
			s.Sections, last = value, key
		case ok && known.MatchString(key):
			s.Differs[key], last = value, key
		case ok && key == "rules":
			s.Rules, last = strings.Fields(value), ""
		case ok && key == "series":
			s.Series, s.Base, _ = strings.Cut(value, " ")
			last = ""
		case ok && key == "needs":
			s.Needs, last = strings.Fields(value), ""
		case line != "":
			words = append(words, line)
		}
	}
	s.Shows = strings.Join(words, " ")
	switch {
	case s.Shows == "":
		return nil, errors.New("line 1: want a comment that says what it shows")
	case s.Sections == "":
		return nil, errors.New("want a comment line: # sections: MS-SMB2 ...")
	case len(s.Rules) == 0 && s.Series == "":
		return nil, errors.New("want a comment line: # rules: R-2.xx ...")
	}
	for _, n := range s.Needs {
		if _, ok := Needs[n]; !ok {
			return nil, fmt.Errorf("needs: %s is unknown; known are %s", n, strings.Join(slices.Sorted(maps.Keys(Needs)), ", "))
		}
	}
	return s, nil
}
