package pcap

import (
	"bytes"
	"testing"
	"time"

	"kbuild-run/gen/capture"
	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

func message(command smb2.Command, id uint64, next, body int) ([]byte, smb2.Hdr) {
	h := *smb2.NewHdr()
	h.Command, h.MessageId, h.NextCommand = command, id, uint32(next)
	return append(h.Append(nil), bytes.Repeat([]byte{byte(id)}, body)...), h
}

// What is written is read back by the reader of captures: frames in the order of
// time, compounds whole, long messages in several packets.
func TestWrite(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, int64(ms)*1e6) }
	entry := func(ms int, d client.Direction, id uint64, next, body int) client.Entry {
		b, h := message(smb2.SMB2_ECHO, id, next, body)
		return client.Entry{Time: at(ms), Direction: d, Hdr: h, Message: b}
	}
	note := client.Entry{Time: at(0), Direction: client.Note, Text: "-- step"}
	first := []client.Entry{note, entry(1, client.Out, 1, 72, 8), note, entry(1, client.Out, 2, 0, 4), note, entry(30, client.In, 1, 0, 4000)}
	second := []client.Entry{entry(20, client.Out, 3, 0, 4)}
	var b bytes.Buffer
	if err := Write(&b, first, second, nil); err != nil {
		t.Fatal(err)
	}
	frames, err := capture.Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		ms         int
		conn       int
		fromClient bool
		data       []byte
	}{
		{1, 1, true, append(bytes.Clone(first[1].Message), first[3].Message...)},
		{20, 2, true, second[0].Message},
		{30, 1, false, first[5].Message},
	}
	if len(frames) != len(want) {
		t.Fatalf("got %d frames, want %d: %+v", len(frames), len(want), frames)
	}
	for i, w := range want {
		f := frames[i]
		if !f.Time.Equal(at(w.ms)) || f.Conn != w.conn || f.FromClient != w.fromClient || !bytes.Equal(f.Data, w.data) || f.Lost != 0 {
			t.Errorf("frame %d: got %v, connection %d, from client %v, %d bytes, %d lost; want %v, %d, %v, %d bytes", i,
				f.Time, f.Conn, f.FromClient, len(f.Data), f.Lost, at(w.ms), w.conn, w.fromClient, len(w.data))
		}
	}
}
