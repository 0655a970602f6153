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
}

// write returns a capture of the segments, a millisecond apart.
func write(t testing.TB, segments []segment) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
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
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(0, int64(i)*1e6).UTC(), CaptureLength: len(out.Bytes()), Length: len(out.Bytes())}
		if err := w.WritePacket(ci, out.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
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
		{"begins in a message", []segment{{seq: 7, data: all[7:]}}, fmt.Sprintf("0ms c second lost %d\n0ms c third\n", len(a)-7)},
		{"begins with the server", []segment{{seq: 0, data: a, fromServer: true}}, "0ms s first message\n"},
		{"cut off", []segment{syn, {seq: 0, data: a + b[:6]}}, "1ms c first message\n"},
		{"not SMB", []segment{syn, {seq: 0, data: "GET / HTTP/1.1\r\n\r\n"}}, ""},
		{"closed", []segment{syn, {seq: 0, data: a, flags: "F"}}, "1ms c first message\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frames, err := Read(bytes.NewReader(write(t, tt.segments)))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, f := range frames {
				side := "s"
				if f.FromClient {
					side = "c"
				}
				_, text, _ := strings.Cut(string(f.Data), "-")
				line := fmt.Sprintf("%dms %s %s", f.Time.UnixMilli(), side, text)
				if f.Lost > 0 {
					line += fmt.Sprintf(" lost %d", f.Lost)
				}
				got += line + "\n"
			}
			if got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
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
