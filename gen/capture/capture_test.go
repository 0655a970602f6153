package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// segment is a TCP packet between the client, port 50000, and the server, port 445.
type segment struct {
	fromServer bool
	seq        int // of its first byte, from 0 behind the SYN
	data       string
	flags      string // S F
	snap       int    // bytes of data that the capture has, 0 all
}

// packets are the writers of both formats.
type packets interface {
	WritePacket(gopacket.CaptureInfo, []byte) error
}

// write returns a capture of the segments, a millisecond apart.
func write(t testing.TB, segments []segment) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	put(t, w, segments)
	return b.Bytes()
}

// writeNg is write for pcapng.
func writeNg(t testing.TB, segments []segment) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	put(t, w, segments)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func put(t testing.TB, w packets, segments []segment) {
	t.Helper()
	for i, s := range segments {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(127, 0, 0, 1), DstIP: net.IPv4(127, 0, 0, 2)}
		tcp := &layers.TCP{SrcPort: 50000, DstPort: 445, Seq: uint32(1001 + s.seq), ACK: true, Window: 1000,
			SYN: strings.Contains(s.flags, "S"), FIN: strings.Contains(s.flags, "F")}
		if tcp.SYN {
			tcp.Seq, tcp.ACK = 1000, s.fromServer
		}
		if s.fromServer {
			ip.SrcIP, ip.DstIP = ip.DstIP, ip.SrcIP
			tcp.SrcPort, tcp.DstPort = tcp.DstPort, tcp.SrcPort
		}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		out := gopacket.NewSerializeBuffer()
		eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
		if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(s.data)); err != nil {
			t.Fatal(err)
		}
		data := out.Bytes()
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(0, int64(i)*1e6).UTC(), Length: len(data)}
		if s.snap > 0 {
			data = data[:len(data)-len(s.data)+s.snap]
		}
		ci.CaptureLength = len(data)
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
}

// framed is a message behind its length.
func framed(kind Kind, rest string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(4+len(rest)))) + string(kind) + rest
}

func TestRead(t *testing.T) {
	a, b, c := framed(SMB2, "-first message"), framed(Encrypted, "-second"), framed(SMB2, "-third")
	all := a + b + c
	syn := segment{flags: "S"}
	for _, tt := range []struct {
		name     string
		segments []segment
		want     string
	}{
		{"whole", []segment{syn, {seq: 0, data: a}, {seq: len(a), data: b}}, "1ms c first message\n2ms c second\n"},
		{"two in one", []segment{syn, {seq: 0, data: a + b}}, "1ms c first message\n1ms c second\n"},
		{"one in pieces", []segment{syn, {seq: 0, data: a[:2]}, {seq: 2, data: a[2:9]}, {seq: 9, data: a[9:]}}, "1ms c first message\n"},
		{"out of order", []segment{syn, {seq: len(a), data: b}, {seq: 0, data: a}}, "2ms c first message\n2ms c second\n"},
		{"sent twice", []segment{syn, {seq: 0, data: a}, {seq: 0, data: a}, {seq: len(a), data: b}}, "1ms c first message\n3ms c second\n"},
		{"both directions", []segment{syn, {flags: "S", fromServer: true}, {seq: 0, data: a}, {seq: 0, data: c, fromServer: true}}, "2ms c first message\n3ms s third\n"},
		{"a hole", []segment{syn, {seq: 0, data: a}, {seq: len(a) + 5, data: all[len(a)+5:]}},
			fmt.Sprintf("1ms c first message\n2ms c third lost %d\n", len(b))},
		{"cut by a snapshot length", []segment{syn, {seq: 0, data: a + b, snap: len(a) + 6}, {seq: len(a + b), data: c}},
			fmt.Sprintf("1ms c first message\n2ms c third lost %d\n", len(b))},
		{"cut in the middle of its first message", []segment{syn, {seq: 0, data: a, snap: 6}, {seq: len(a), data: b}, {seq: len(a + b), data: c}},
			fmt.Sprintf("2ms c second lost %d\n3ms c third\n", len(a))},
		{"begins in a message", []segment{{seq: 7, data: all[7:]}}, fmt.Sprintf("0ms c second lost %d\n0ms c third\n", len(a)-7)},
		{"begins with the server", []segment{{seq: 0, data: a, fromServer: true}}, "0ms s first message\n"},
		{"cut off", []segment{syn, {seq: 0, data: a + b[:6]}}, "1ms c first message\n"},
		{"not SMB", []segment{syn, {seq: 0, data: "GET / HTTP/1.1\r\n\r\n"}}, ""},
		{"closed", []segment{syn, {seq: 0, data: a, flags: "F"}}, "1ms c first message\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for format, file := range map[string][]byte{"pcap": write(t, tt.segments), "pcapng": writeNg(t, tt.segments)} {
				frames, err := Read(bytes.NewReader(file))
				if err != nil {
					t.Fatal(err)
				}
				if got := words(frames); got != tt.want {
					t.Errorf("%s: got\n%swant\n%s", format, got, tt.want)
				}
			}
		})
	}
}

// words is frames as the rows of TestRead have them.
func words(frames []Frame) string {
	var b strings.Builder
	for _, f := range frames {
		side := "s"
		if f.FromClient {
			side = "c"
		}
		_, text, _ := strings.Cut(string(f.Data), "-")
		fmt.Fprintf(&b, "%dms %s %s", f.Time.UnixMilli(), side, text)
		if f.Lost > 0 {
			fmt.Fprintf(&b, " lost %d", f.Lost)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestCutFile reads a capture that ends anywhere: what is whole is read.
func TestCutFile(t *testing.T) {
	file := write(t, []segment{{flags: "S"}, {seq: 0, data: framed(SMB2, "-one")}})
	for n := 24; n < len(file); n++ {
		if _, err := Read(bytes.NewReader(file[:n])); err != nil {
			t.Fatalf("%d of %d bytes: %v", n, len(file), err)
		}
	}
}

// FuzzRead reads anything as a capture.
func FuzzRead(f *testing.F) {
	f.Add(write(f, []segment{{flags: "S"}, {seq: 0, data: framed(SMB2, "-one")}, {seq: 12, data: "rest"}}))
	f.Fuzz(func(t *testing.T, b []byte) { Read(bytes.NewReader(b)) })
}
