package client

import (
	"fmt"
	"strings"

	"kbuild-run/gen/smb2"
)

// Change is a record of a CHANGE_NOTIFY response.
type Change struct {
	Action smb2.FileAction
	Name   string // from the watched directory, separator \
}

func (c Change) String() string {
	return fmt.Sprintf("%s %q", strings.TrimPrefix(c.Action.String(), "FILE_ACTION_"), c.Name)
}

// ParseChanges reads a list of FILE_NOTIFY_INFORMATION. It follows
// NextEntryOffset and returns what it read before an error.
func ParseChanges(data []byte) ([]Change, error) {
	records, err := smb2.Chain[smb2.FileNotifyInformation](data)
	var all []Change
	for _, r := range records {
		all = append(all, Change{r.Action, smb2.FromUTF16(r.FileName)})
	}
	return all, err
}

// changes are the records of a successful response; what is wrong with them is a
// violation of its own.
func changes(r *Response) []Change {
	var n smb2.ChangeNotifyRsp
	if _, err := n.Decode(r.Body); err != nil {
		return nil
	}
	data, err := n.OutputBuffer()
	if err != nil {
		return nil
	}
	all, _ := ParseChanges(data)
	return all
}
