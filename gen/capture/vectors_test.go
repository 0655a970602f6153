package capture_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"kbuild-run/gen/capture"
	"kbuild-run/gen/interp"
	"kbuild-run/gen/smb2"
	"kbuild-run/gen/table"
)

var update = flag.Bool("update", false, "rewrite the timelines beside the captures")

func tables(t testing.TB) *table.Set {
	t.Helper()
	set, err := table.Load(os.DirFS("../tables"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// vectors returns the captures.
func vectors(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../vectors/*.pcap*")
	if err != nil || len(files) == 0 {
		t.Fatalf("captures %v: %v", files, err)
	}
	return files
}

func timeline(t testing.TB, set *table.Set, file string) *capture.Timeline {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	frames, err := capture.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	line := capture.NewTimeline(set)
	if k, err := os.Open(keysOf(file)); err == nil {
		defer k.Close()
		if line.Keys, err = capture.ReadKeys(k); err != nil {
			t.Fatal(err)
		}
	}
	for i := range frames {
		line.Add(&frames[i])
	}
	return line
}

// keysOf is the file of a capture's session keys, if it has any.
func keysOf(file string) string { return strings.TrimSuffix(file, filepath.Ext(file)) + ".keys" }

// TestTimelines prints every capture.
func TestTimelines(t *testing.T) {
	set := tables(t)
	for _, file := range vectors(t) {
		var got bytes.Buffer
		if err := timeline(t, set, file).Print(&got, -1, false); err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".txt"
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s", diff.Diff(golden, want, "decoded", got.Bytes()))
		}
	}
}

// TestVectors reads every message of other programs with the codec, writes it back,
// and holds it against the rules.
func TestVectors(t *testing.T) {
	set := tables(t)
	seen := map[string]int{}
	for _, file := range vectors(t) {
		for i, m := range timeline(t, set, file).All {
			where := fmt.Sprintf("%s, message %d", filepath.Base(file), i+1)
			if m.Header == nil || m.Body == nil {
				t.Errorf("%s: %v", where, m.Err)
				continue
			}
			var hdr smb2.Hdr
			rest, err := hdr.Decode(m.Raw)
			if err != nil {
				t.Errorf("%s: %v", where, err)
				continue
			}
			name := m.Body.Decl.Name
			seen[name]++
			body := smb2.New(name)
			left, err := body.Decode(rest)
			if err != nil {
				t.Errorf("%s: %v", where, err)
				continue
			}
			if got := body.Append(hdr.Append(nil)); !bytes.Equal(got, m.Raw[:len(m.Raw)-len(left)]) {
				t.Errorf("%s: %s written back\ngot  %x\nwant %x", where, name, got, m.Raw)
			}
			if strings.HasPrefix(filepath.Base(file), "torture") && !m.Response {
				continue // breaks rules on purpose
			}
			for _, x := range []smb2.Message{&hdr, body} {
				if err := x.Check(); err != nil {
					t.Errorf("%s: %v", where, err)
				}
			}
			inside(t, where, set, seen, m, body)
		}
	}
	// A structure that no capture holds is not proven by any.
	var missing []string
	for _, v := range set.Lookup("smb2_command").Values {
		for _, h := range v.Holds {
			if name := strings.Split(h, "|")[0]; name != "-" && seen[name] == 0 {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("no capture has %v", missing)
	}
	t.Logf("%d structures: %v", len(seen), seen)
}

// inside reads the lists that a body carries.
func inside(t *testing.T, where string, set *table.Set, seen map[string]int, m *capture.Message, body smb2.Message) {
	t.Helper()
	switch body := body.(type) {
	case *smb2.ChangeNotifyRsp:
		b, _ := body.OutputBuffer()
		list, err := smb2.Chain[smb2.FileNotifyInformation](b)
		rules(t, where, list, err)
		seen["file_notify_information"] += len(list)
	case *smb2.QueryDirectoryRsp:
		b, _ := body.OutputBuffer()
		switch class := smb2.FileInfoClass(m.Request.Body.Number("FileInformationClass")); class {
		case smb2.FILEID_BOTH_DIRECTORY_INFORMATION:
			list, err := smb2.Chain[smb2.FileIdBothDirectoryInfo](b)
			rules(t, where, list, err)
			seen["file_id_both_directory_info"] += len(list)
		case smb2.FILEID_FULL_DIRECTORY_INFORMATION:
			list, err := smb2.Chain[smb2.FileIdFullDirInfo](b)
			rules(t, where, list, err)
			seen["FILE_ID_FULL_DIR_INFO"] += len(list)
		case smb2.FILE_NAMES_INFORMATION:
			list, err := smb2.Chain[smb2.FileNamesInfo](b)
			rules(t, where, list, err)
			seen["file_names_info"] += len(list)
		default:
			t.Errorf("%s: %v, and no reader for it here", where, class)
		}
	case *smb2.QueryInfoRsp:
		b, _ := body.OutputBuffer()
		class(t, where, set, seen, m.Request.Body, b)
	case *smb2.SetInfoReq:
		b, _ := body.InputBuffer()
		class(t, where, set, seen, m.Body, b)
	case *smb2.NegotiateReq:
		b, _ := body.NegotiateContexts()
		list, err := smb2.NegContexts(b, int(body.NegotiateContextCount))
		rules(t, where, list, err)
		seen["smb2_neg_context"] += len(list)
	case *smb2.NegotiateRsp:
		if body.DialectRevision == smb2.SMB311_PROT_ID {
			b, _ := body.NegotiateContexts()
			list, err := smb2.NegContexts(b, int(body.NegotiateContextCount))
			rules(t, where, list, err)
		}
	case *smb2.CreateReq:
		b, _ := body.CreateContexts()
		list, err := smb2.Chain[smb2.CreateContext](b)
		rules(t, where, list, err)
		seen["create_context"] += len(list)
	case *smb2.CreateRsp:
		b, _ := body.CreateContexts()
		list, err := smb2.Chain[smb2.CreateContext](b)
		rules(t, where, list, err)
		seen["create_context"] += len(list)
		for _, c := range list {
			name, _ := c.Name()
			data, _ := c.Data()
			for _, v := range set.Lookup("create_context_name").Values {
				if v.Text == `"`+string(name)+`"` && len(v.Holds) > 1 && v.Holds[1] != "-" {
					for _, h := range strings.Split(v.Holds[1], "|") {
						if set.Lookup(h).Size == len(data) {
							record(t, where, seen, h, data)
						}
					}
				}
			}
		}
	}
}

// class reads the buffer of an information class.
func class(t *testing.T, where string, set *table.Set, seen map[string]int, request *interp.Message, b []byte) {
	t.Helper()
	classes := map[uint64]string{uint64(smb2.SMB2_O_INFO_FILE): "file_info_class", uint64(smb2.SMB2_O_INFO_FILESYSTEM): "fs_info_class"}
	for _, v := range set.Lookup(classes[request.Number("InfoType")]).Values {
		if v.Number == request.Number("FileInfoClass") {
			if len(v.Holds) > 0 {
				record(t, where, seen, v.Holds[0], b)
			}
			return
		}
	}
	t.Errorf("%s: the tables have no %s class %d", where, request.Word("InfoType"), request.Number("FileInfoClass"))
}

// record reads a structure, holds it against its rules and writes it back.
func record(t *testing.T, where string, seen map[string]int, name string, b []byte) {
	t.Helper()
	m := smb2.New(name)
	rest, err := m.Decode(b)
	if err == nil {
		err = m.Check()
	}
	if got := m.Append(nil); err != nil || !bytes.Equal(got, b[:len(b)-len(rest)]) {
		t.Errorf("%s: %s\ngot  %x\nwant %x\n%v", where, name, got, b, err)
	}
	seen[name]++
}

func rules[T any, P interface {
	*T
	smb2.Message
}](t *testing.T, where string, list []T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", where, err)
	}
	for i := range list {
		if err := P(&list[i]).Check(); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// TestTshark compares commands, message ids and statuses with what tshark reads.
func TestTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("no tshark to compare with")
	}
	set := tables(t)
	for _, file := range vectors(t) {
		all := timeline(t, set, file).All
		_, port, _ := strings.Cut(all[0].Frame.To, ":") // the client speaks first
		args := []string{"-r", file, "-d", "tcp.port==" + port + ",nbss", "-Y", "smb2.cmd", "-T", "fields", "-E", "separator=;", "-E", "aggregator=,",
			"-e", "smb2.flags.response", "-e", "smb2.cmd", "-e", "smb2.msg_id", "-e", "smb2.nt_status"}
		if keys, err := os.ReadFile(keysOf(file)); err == nil {
			for _, line := range strings.Split(string(keys), "\n") {
				if id, key, ok := strings.Cut(line, ","); ok {
					args = append(args, "-o", fmt.Sprintf(`uat:smb2_seskey_list:%s,%s,"",""`, id, key))
				}
			}
		}
		out, err := exec.Command(tshark, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			cell := strings.Split(line, ";")
			responses, commands, mids := strings.Split(cell[0], ","), strings.Split(cell[1], ","), strings.Split(cell[2], ",")
			statuses := strings.Split(cell[3], ",")
			for i := range commands {
				status := ""
				if strings.EqualFold(responses[i], "1") || strings.EqualFold(responses[i], "true") {
					status, statuses = statuses[0], statuses[1:]
				}
				want = append(want, fmt.Sprint(commands[i], " ", mids[i], " ", status))
			}
		}
		var got []string
		for _, m := range all {
			status := ""
			if m.Response {
				status = fmt.Sprintf("0x%08x", m.Status())
			}
			got = append(got, fmt.Sprint(m.Cmd(), " ", m.MessageId(), " ", status))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s\n%s", file, diff.Diff("tshark", []byte(strings.Join(want, "\n")), "decode", []byte(strings.Join(got, "\n"))))
		}
		t.Logf("%s: %d messages", filepath.Base(file), len(got))
	}
}

// TestKeys opens with a wrong key, with none, and checks a message that was changed.
func TestKeys(t *testing.T) {
	set := tables(t)
	read := func(file, keys string, spoil func([]capture.Frame)) string {
		t.Helper()
		f, err := os.Open("../vectors/" + file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		frames, err := capture.Read(f)
		if err != nil {
			t.Fatal(err)
		}
		spoil(frames)
		line := capture.NewTimeline(set)
		if line.Keys, err = capture.ReadKeys(strings.NewReader(keys)); err != nil {
			t.Fatal(err)
		}
		for i := range frames {
			line.Add(&frames[i])
		}
		var out strings.Builder
		if err := line.Print(&out, -1, false); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	keys := func(file string) string {
		b, err := os.ReadFile("../vectors/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	nothing := func([]capture.Frame) {}
	encrypted, signed := keys("smbclient-encrypted.keys"), keys("smbclient-signed.keys")
	for _, tt := range []struct {
		name, file, keys string
		spoil            func([]capture.Frame)
		want             string
	}{
		{"no key", "smbclient-encrypted.pcap", "", nothing, "no key of session 0x1d594a70, or its login is not in the capture"},
		{"wrong key", "smbclient-encrypted.pcap", strings.ReplaceAll(encrypted, "9E66", "9E67"), nothing, "message authentication failed"},
		{"wrong signing key", "smbclient-signed.pcap", strings.ReplaceAll(signed, "4039", "4038"), nothing, "signed WRONG: signature"},
		{"wrong key of SMB 2.1", "smbclient-signed.pcap", strings.ReplaceAll(signed, "16519E", "16519F"), nothing, "#2 TREE_CONNECT    Request  mid 3 signed WRONG: signature"},
		{"changed message", "smbclient-signed.pcap", signed, func(f []capture.Frame) {
			for i := range f {
				if f[i].Data[12] == byte(smb2.SMB2_CHANGE_NOTIFY) {
					f[i].Data[70] ^= 1
					return
				}
			}
		}, "CHANGE_NOTIFY   Request  mid 8 signed WRONG: signature"},
		{"login missing", "smbclient-encrypted.pcap", encrypted, func(f []capture.Frame) { f[2].Data = f[2].Data[:64] }, "message authentication failed"},
	} {
		if got := read(tt.file, tt.keys, tt.spoil); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got\n%s\nwant %s", tt.name, got, tt.want)
		}
	}
	for _, bad := range []string{"0102,00112233445566778899aabbccddeeff", "0102030405060708", "0102030405060708,0011", "0102030405060708,xyz"} {
		if _, err := capture.ReadKeys(strings.NewReader("# two\n" + bad)); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q: %v, want an error with the line", bad, err)
		}
	}
}

// FuzzTimeline reads anything as a frame and prints what became of it.
func FuzzTimeline(f *testing.F) {
	set := tables(f)
	seeds := map[string]bool{} // one of each kind
	for _, file := range vectors(f) {
		for _, m := range timeline(f, set, file).All {
			if kind := fmt.Sprint(m.Cmd(), m.Response, m.Status()); !seeds[kind] {
				seeds[kind] = true
				f.Add(m.Raw)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		line := capture.NewTimeline(set)
		line.Keys, _ = capture.ReadKeys(strings.NewReader("0000000000000000,00112233445566778899aabbccddeeff"))
		line.Add(&capture.Frame{Kind: capture.SMB2, Data: b})
		line.Add(&capture.Frame{Kind: capture.Encrypted, Data: b})
		var out bytes.Buffer
		if err := line.Print(&out, -1, true); err != nil {
			t.Fatal(err)
		}
		if len(line.All) == 0 || out.Len() == 0 {
			t.Error("a frame left no trace")
		}
	})
}
