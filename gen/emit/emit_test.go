package emit

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"kbuild-run/gen/table"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden prints one small table in every form.
func TestGolden(t *testing.T) {
	set, err := table.Load(os.DirFS("testdata"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := Go(set)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"small.go.golden": files["small.go"],
		"types.go.golden": files["types.go"],
		"small.h.golden":  CHeader(set),
		"small.md.golden": Markdown(set),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s", diff.Diff(path, want, "printed", got))
		}
	}
}

func TestGoType(t *testing.T) {
	for _, tt := range []struct{ cname, want string }{
		{"smb2_change_notify_req", "ChangeNotifyReq"},
		{"smb3_hdr_req", "HdrReq"},
		{"file_notify_information", "FileNotifyInformation"},
		{"FILE_BOTH_DIRECTORY_INFO", "FileBothDirectoryInfo"},
		{"nt_status", "NtStatus"},
	} {
		if got := GoType(tt.cname); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.cname, got, tt.want)
		}
	}
}
