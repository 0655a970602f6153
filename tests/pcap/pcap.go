// Package pcap writes what clients said and heard as a capture: transcripts go
// in, a file that Wireshark and kbuild-run decode read comes out.
//
// The messages are those of the SMB2 layer, decrypted, so that a capture of an
// encrypted session can be read too; Ethernet, IP and TCP around them are made up.
package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"kbuild-run/tests/client"
)

const (
	snapLen    = 1 << 18
	serverPort = 445
	firstPort  = 50001 // of the client, for its first connection
	segment    = 1400  // bytes of a message in one packet
)

var (
	clientAddr = net.IPv4(192, 0, 2, 1) // RFC 5737: for documentation
	serverAddr = net.IPv4(192, 0, 2, 2)
)

// Write writes the connections, each on a client port of its own.
func Write(w io.Writer, connections ...[]client.Entry) error {
	file := pcapgo.NewWriterNanos(w)
	if err := file.WriteFileHeader(snapLen, layers.LinkTypeEthernet); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	var streams []*stream
	for i, entries := range connections {
		streams = append(streams, &stream{file: file, port: layers.TCPPort(firstPort + i), entries: entries})
	}
	for {
		// The oldest frame of all connections goes first.
		var next *stream
		for _, s := range streams {
			if s.skip(); len(s.entries) > 0 && (next == nil || s.entries[0].Time.Before(next.entries[0].Time)) {
				next = s
			}
		}
		if next == nil {
			return nil
		}
		if err := next.frame(); err != nil {
			return fmt.Errorf("write capture: %w", err)
		}
	}
}

// stream is one TCP connection.
type stream struct {
	file    *pcapgo.Writer
	port    layers.TCPPort
	entries []client.Entry // not yet written
	open    bool
	seq     [2]uint32 // next sequence number of client and server
}

// skip drops what is no message.
func (s *stream) skip() {
	for len(s.entries) > 0 && s.entries[0].Direction == client.Note {
		s.entries = s.entries[1:]
	}
}

// frame writes the next frame: one message, or a chain of them.
func (s *stream) frame() error {
	first := s.entries[0]
	if !s.open {
		s.open = true
		for i, flags := range []layers.TCP{{SYN: true}, {SYN: true, ACK: true}, {ACK: true}} {
			if err := s.packet(first, i%2, flags, nil); err != nil {
				return err
			}
		}
	}
	var messages []byte
	for more := true; more && len(s.entries) > 0; s.skip() {
		e := s.entries[0]
		more = e.Hdr.NextCommand != 0
		messages = append(messages, e.Message...)
		s.entries = s.entries[1:]
	}
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(messages))), messages...)
	from := 0
	if first.Direction == client.In {
		from = 1
	}
	for len(b) > 0 {
		n := min(len(b), segment)
		if err := s.packet(first, from, layers.TCP{ACK: true, PSH: n == len(b)}, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// packet writes one packet, from the client (0) or the server (1).
func (s *stream) packet(e client.Entry, from int, tcp layers.TCP, payload []byte) error {
	ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: clientAddr, DstIP: serverAddr}
	tcp.SrcPort, tcp.DstPort = s.port, serverPort
	mac := []net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	if from == 1 {
		ip.SrcIP, ip.DstIP = ip.DstIP, ip.SrcIP
		tcp.SrcPort, tcp.DstPort = tcp.DstPort, tcp.SrcPort
	}
	tcp.Seq, tcp.Ack, tcp.Window = s.seq[from], s.seq[1-from], 65535
	s.seq[from] += uint32(len(payload))
	if tcp.SYN {
		s.seq[from]++
	}
	if err := tcp.SetNetworkLayerForChecksum(&ip); err != nil {
		return err
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: mac[from], DstMAC: mac[1-from], EthernetType: layers.EthernetTypeIPv4},
		&ip, &tcp, gopacket.Payload(payload))
	if err != nil {
		return err
	}
	return s.file.WritePacket(gopacket.CaptureInfo{Timestamp: e.Time, CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes())
}
