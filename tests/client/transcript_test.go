package client

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"kbuild-run/gen/crypt"
	"kbuild-run/gen/smb2"
)

func TestTranscript(t *testing.T) {
	b := newBench(t, Watch{Size: 2048, Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME, Tree: true})
	b.c.mu.Lock()
	b.c.recordLocked(Out, b.p.Hdr, append(b.p.Hdr.Append(nil), b.p.Request.Body.Append(nil)...), false, "")
	b.c.mu.Unlock()
	b.c.Note("a step")
	must(t, b.send(b.interim(), b.final(smb2.STATUS_SUCCESS, oldName, newName), b.final(smb2.STATUS_CANCELLED)))
	var got []string
	for _, l := range b.c.Lines() {
		got = append(got, l[12:]) // without the time
	}
	want := []string{
		`C>  CHANGE_NOTIFY mid=7 sid=0x5 tid=3 cc=1 cr=0 SIGNED | fid=1.2 2048 bytes, filter 0x1 FILE_NAME, tree`,
		`--  a step`,
		`<S  CHANGE_NOTIFY STATUS_PENDING mid=7 sid=0x5 aid=9 cc=1 cr=1 ASYNC`,
		`<S  CHANGE_NOTIFY STATUS_SUCCESS mid=7 sid=0x5 aid=9 cc=1 cr=0 ASYNC|SIGNED | 30 bytes, RENAMED_OLD_NAME "a", RENAMED_NEW_NAME "b"`,
		`<S  CHANGE_NOTIFY STATUS_CANCELLED mid=7 sid=0x5 aid=9 cc=1 cr=0 ASYNC|SIGNED`,
		`--  VIOLATION: second-response: message id 7: SMB2_CHANGE_NOTIFY STATUS_CANCELLED: the request was answered, or never sent`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("transcript\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWireshark(t *testing.T) {
	s := &Session{ID: 0x0102030405060708, Keys: crypt.Keys{Session: []byte{0xaa, 0xbb}}}
	if got, want := s.Wireshark(), `0807060504030201,aabb,"",""`; got != want {
		t.Errorf("line %s, want %s", got, want)
	}
}

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	long := bytes.Repeat([]byte{1}, 70000)
	must(t, writeFrame(&wire, long))
	must(t, writeFrame(&wire, nil))
	if got, want := wire.Bytes()[:4], []byte{0, 1, 0x11, 0x70}; !bytes.Equal(got, want) {
		t.Errorf("head % x, want % x", got, want)
	}
	for _, want := range [][]byte{long, {}} {
		if got, err := readFrame(&wire); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
		}
	}
	if _, err := readFrame(strings.NewReader("HTTP/1.1 400")); err == nil || !strings.Contains(err.Error(), "begins with 0x48") {
		t.Errorf("no frame: %v, want its first byte", err)
	}
	if _, err := readFrame(bytes.NewReader([]byte{0, 0, 0, 9, 1})); err == nil || !strings.Contains(err.Error(), "frame of 9 bytes") {
		t.Errorf("half a frame: %v, want its length", err)
	}
}
