package scenario

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// The words of scenario lines.

// line is a command of a scenario: words, options, and the name behind "as".
type line struct {
	words   []string
	options map[string]string
	as      string
	usage   string // of the command
}

// readLine splits the arguments of a command. spec lists its options: "-tree"
// stands alone, "-size N" has a value.
func readLine(args []string, spec string) (*line, error) {
	takes := map[string]bool{} // option: has a value
	fields := strings.Fields(spec)
	for i, f := range fields {
		if strings.HasPrefix(f, "-") {
			takes[f] = i+1 < len(fields) && !strings.HasPrefix(fields[i+1], "-")
		}
	}
	l := &line{options: map[string]string{}}
	for i := 0; i < len(args); i++ {
		value, known := takes[args[i]]
		switch {
		case known && value && i+1 == len(args):
			return nil, fmt.Errorf("%s wants a value", args[i])
		case known && value:
			l.options[args[i]] = args[i+1]
			i++
		case known:
			l.options[args[i]] = "yes"
		case args[i] == "as" && i+1 < len(args):
			l.as = args[i+1]
			i++
		case strings.HasPrefix(args[i], "-"):
			return nil, fmt.Errorf("unknown option %s; there are: %s", args[i], strings.Join(slices.Sorted(maps.Keys(takes)), " "))
		default:
			l.words = append(l.words, args[i])
		}
	}
	return l, nil
}

// wrong is the error of a line that its command cannot take.
func (l *line) wrong() error { return fmt.Errorf("usage: %s", l.usage) }

func (l *line) has(option string) bool { return l.options[option] != "" }

func (l *line) number(option string, otherwise uint64) (uint64, error) {
	v, ok := l.options[option]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%s %s: want a number", option, v)
	}
	return n, nil
}

var filters = map[string]smb2.CompletionFilter{
	"name":         nameFilter,
	"all":          0xfff,
	"file_name":    smb2.FILE_NOTIFY_CHANGE_FILE_NAME,
	"dir_name":     smb2.FILE_NOTIFY_CHANGE_DIR_NAME,
	"attributes":   smb2.FILE_NOTIFY_CHANGE_ATTRIBUTES,
	"size":         smb2.FILE_NOTIFY_CHANGE_SIZE,
	"last_write":   smb2.FILE_NOTIFY_CHANGE_LAST_WRITE,
	"last_access":  smb2.FILE_NOTIFY_CHANGE_LAST_ACCESS,
	"creation":     smb2.FILE_NOTIFY_CHANGE_CREATION,
	"ea":           smb2.FILE_NOTIFY_CHANGE_EA,
	"security":     smb2.FILE_NOTIFY_CHANGE_SECURITY,
	"stream_name":  smb2.FILE_NOTIFY_CHANGE_STREAM_NAME,
	"stream_size":  smb2.FILE_NOTIFY_CHANGE_STREAM_SIZE,
	"stream_write": smb2.FILE_NOTIFY_CHANGE_STREAM_WRITE,
}

var shares = map[string]smb2.ShareAccess{
	"read":   smb2.FILE_SHARE_READ,
	"write":  smb2.FILE_SHARE_WRITE,
	"delete": smb2.FILE_SHARE_DELETE,
}

var rights = map[string]smb2.AccessMask{
	"list":             smb2.FILE_READ_DATA,
	"read_data":        smb2.FILE_READ_DATA,
	"write_data":       smb2.FILE_WRITE_DATA,
	"append_data":      smb2.FILE_APPEND_DATA,
	"read_ea":          smb2.FILE_READ_EA,
	"write_ea":         smb2.FILE_WRITE_EA,
	"execute":          smb2.FILE_EXECUTE,
	"delete_child":     smb2.FILE_DELETE_CHILD,
	"read_attributes":  smb2.FILE_READ_ATTRIBUTES,
	"write_attributes": smb2.FILE_WRITE_ATTRIBUTES,
	"delete":           smb2.DELETE,
	"read_control":     smb2.READ_CONTROL,
	"write_dac":        smb2.WRITE_DAC,
	"write_owner":      smb2.WRITE_OWNER,
	"synchronize":      smb2.SYNCHRONIZE,
	"maximum_allowed":  smb2.MAXIMUM_ALLOWED,
	"generic_all":      smb2.GENERIC_ALL,
	"generic_execute":  smb2.GENERIC_EXECUTE,
	"generic_write":    smb2.GENERIC_WRITE,
	"generic_read":     smb2.GENERIC_READ,
}

var dialects = map[string]smb2.Dialect{
	"2.0.2": smb2.SMB20_PROT_ID,
	"2.1":   smb2.SMB21_PROT_ID,
	"3.0":   smb2.SMB30_PROT_ID,
	"3.0.2": smb2.SMB302_PROT_ID,
	"3.1.1": smb2.SMB311_PROT_ID,
}

var leases = map[string]smb2.LeaseState{
	"none": 0,
	"r":    smb2.SMB2_LEASE_READ_CACHING,
	"rw":   smb2.SMB2_LEASE_READ_CACHING | smb2.SMB2_LEASE_WRITE_CACHING,
	"rh":   smb2.SMB2_LEASE_READ_CACHING | smb2.SMB2_LEASE_HANDLE_CACHING,
	"rwh":  smb2.SMB2_LEASE_READ_CACHING | smb2.SMB2_LEASE_WRITE_CACHING | smb2.SMB2_LEASE_HANDLE_CACHING,
}

// leaseInWords is a lease as scripts write it.
func leaseInWords(s smb2.LeaseState) string {
	for word, l := range leases {
		if l == s {
			return word
		}
	}
	return s.String()
}

var actions = map[string]smb2.FileAction{
	"added":           smb2.FILE_ACTION_ADDED,
	"removed":         smb2.FILE_ACTION_REMOVED,
	"modified":        smb2.FILE_ACTION_MODIFIED,
	"old":             smb2.FILE_ACTION_RENAMED_OLD_NAME,
	"new":             smb2.FILE_ACTION_RENAMED_NEW_NAME,
	"added_stream":    smb2.FILE_ACTION_ADDED_STREAM,
	"removed_stream":  smb2.FILE_ACTION_REMOVED_STREAM,
	"modified_stream": smb2.FILE_ACTION_MODIFIED_STREAM,
}

// bits reads names joined by commas, or a number.
func bits[T ~uint32](what string, names map[string]T, text string) (T, error) {
	if n, err := strconv.ParseUint(text, 0, 32); err == nil {
		return T(n), nil
	}
	var all T
	for name := range strings.SplitSeq(text, ",") {
		v, err := lookup(what, names, name)
		if err != nil {
			return 0, err
		}
		all |= v
	}
	return all, nil
}

// watch reads the options of a CHANGE_NOTIFY on a connection; what they do not
// say is as in w.
func (l *line) watch(c *client.Conn, w client.Watch) (_ client.Watch, err error) {
	w.Tree = w.Tree || l.has("-tree")
	if f, ok := l.options["-filter"]; ok {
		if w.Filter, err = bits("filter", filters, f); err != nil {
			return w, err
		}
	}
	switch l.options["-size"] {
	case "max":
		w.Size = c.MaxTransactSize
		return w, nil
	case "max+1":
		w.Size = c.MaxTransactSize + 1
		return w, nil
	}
	n, err := l.number("-size", uint64(w.Size))
	w.Size = uint32(n)
	return w, err
}

// series is a part of a name that stands for several: {1..9}.
var series = regexp.MustCompile(`\{(\d+)\.\.(\d+)\}`)

// records reads pairs of an action and a name. A series in a name makes as many
// pairs.
func records(words []string) ([]client.Change, error) {
	if len(words)%2 != 0 {
		return nil, fmt.Errorf("%q: want pairs of an action and a name", words)
	}
	var all []client.Change
	for pair := range slices.Chunk(words, 2) {
		a, err := lookup("action", actions, pair[0])
		if err != nil {
			return nil, err
		}
		part := series.FindStringSubmatch(pair[1])
		if part == nil {
			all = append(all, client.Change{Action: a, Name: pair[1]})
			continue
		}
		first, err1 := strconv.Atoi(part[1])
		last, err2 := strconv.Atoi(part[2])
		if err1 != nil || err2 != nil || last < first || last-first > 10000 {
			return nil, fmt.Errorf("%s: want two numbers in order", part[0])
		}
		for n := first; n <= last; n++ {
			all = append(all, client.Change{Action: a, Name: strings.Replace(pair[1], part[0], strconv.Itoa(n), 1)})
		}
	}
	return all, nil
}

// inWordsWatch is what a CHANGE_NOTIFY asks for.
func inWordsWatch(w client.Watch) string {
	text := fmt.Sprintf("Filter %#x, %d bytes", uint32(w.Filter), w.Size)
	if w.Tree {
		text += ", SMB2_WATCH_TREE"
	}
	return text
}

// inWords are records as scripts write them.
func inWords(changes []client.Change) string {
	var words []string
	for _, c := range changes {
		word := c.Action.String()
		for name, a := range actions {
			if a == c.Action {
				word = name
			}
		}
		name := c.Name
		if name == "" || strings.ContainsAny(name, " '#") {
			name = "'" + strings.ReplaceAll(name, "'", "''") + "'"
		}
		words = append(words, word+" "+name)
	}
	return strings.Join(words, " ")
}

// many is how many records a message shows.
const many = 12

// short is inWords without those beyond many.
func short(changes []client.Change) string {
	if len(changes) <= many {
		return inWords(changes)
	}
	return fmt.Sprintf("%s ... (%d records)", inWords(changes[:many]), len(changes))
}

// less says which records are not in both of two long lists.
func less(got, want []client.Change) string {
	if len(got) <= many && len(want) <= many {
		return ""
	}
	n := map[client.Change]int{}
	for _, c := range want {
		n[c]++
	}
	for _, c := range got {
		n[c]--
	}
	var missing, extra []client.Change
	for _, c := range want {
		if n[c] > 0 {
			missing = append(missing, c)
		}
	}
	for _, c := range got {
		if n[c] < 0 {
			extra = append(extra, c)
			n[c]++
		}
	}
	text := ""
	if len(missing) > 0 {
		text += "\nmissing: " + short(missing)
	}
	if len(extra) > 0 {
		text += "\ntoo much: " + short(extra)
	}
	return text
}

// same says whether two lists of records are the same, in this order or in any.
func same(got, want []client.Change, anyOrder bool) bool {
	if anyOrder {
		less := func(a, b client.Change) int {
			if a.Action != b.Action {
				return int(a.Action) - int(b.Action)
			}
			return strings.Compare(a.Name, b.Name)
		}
		got, want = slices.SortedFunc(slices.Values(got), less), slices.SortedFunc(slices.Values(want), less)
	}
	return slices.Equal(got, want)
}
