// Package capture reads SMB messages out of packet captures: a pcap or pcapng file
// in, messages in the order of their packets out.
//
// Packets are read and TCP is put together by gopacket. What is done here is the
// framing on top: four bytes of length ([MS-SMB2] 2.1), compounds cut at NextCommand.
package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/gopacket/gopacket/reassembly"
)

// Kind is what a frame holds.
type Kind string

// The frames of SMB, by their first four bytes.
const (
	SMB1       Kind = "\xffSMB"
	SMB2       Kind = "\xfeSMB"
	Encrypted  Kind = "\xfdSMB"
	Compressed Kind = "\xfcSMB"
)

// Frame is what follows a length on a connection.
type Frame struct {
	Time       time.Time // of the packet with its first byte, or of what had to come before it
	Conn       int       // connections are counted from 1
	From, To   string    // address:port
	FromClient bool      // from the side that opened the connection
	Kind       Kind
	Data       []byte
	Lost       int // bytes that the capture lacks before it
}

// Read returns the frames of SMB in a capture, from any port, in the order of their
// first bytes.
func Read(r io.Reader) ([]Frame, error) {
	src, err := open(r)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	p := &pool{}
	assembler := reassembly.NewAssembler(reassembly.NewStreamPool(p))
	for {
		data, ci, err := src.ReadPacketData()
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break // a capture that was cut off is read as far as it goes
		}
		if err != nil {
			return nil, fmt.Errorf("read capture: %w", err)
		}
		packet := gopacket.NewPacket(data, src.LinkType(), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || packet.NetworkLayer() == nil {
			continue
		}
		assembler.AssembleWithContext(packet.NetworkLayer().NetworkFlow(), tcp, (*packetInfo)(&ci))
	}
	assembler.FlushAll()
	var frames []Frame
	n := 0
	for _, c := range p.conns {
		if len(c.frames) == 0 {
			continue
		}
		n++
		for _, f := range c.frames {
			f.Conn = n
			frames = append(frames, f)
		}
	}
	slices.SortStableFunc(frames, func(a, b Frame) int { return a.Time.Compare(b.Time) })
	return frames, nil
}

// source is a reader of either format.
type source interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
}

func open(r io.Reader) (source, error) {
	b := bufio.NewReader(r)
	magic, err := b.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w in its first four bytes", io.ErrUnexpectedEOF)
	}
	if bytes.Equal(magic, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		return pcapgo.NewNgReader(b, pcapgo.DefaultNgReaderOptions)
	}
	return pcapgo.NewReader(b)
}

type packetInfo gopacket.CaptureInfo

func (p *packetInfo) GetCaptureInfo() gopacket.CaptureInfo { return gopacket.CaptureInfo(*p) }

// pool makes a connection for each pair of addresses and ports.
type pool struct{ conns []*conn }

func (p *pool) New(net, tcp gopacket.Flow, first *layers.TCP, _ reassembly.AssemblerContext) reassembly.Stream {
	c := &conn{
		left:  fmt.Sprintf("%s:%s", net.Src(), tcp.Src()),
		right: fmt.Sprintf("%s:%s", net.Dst(), tcp.Dst()),
	}
	// Whoever sends the first SYN is the client. Of a connection that was there
	// before the capture, the side with the smaller port is the server.
	c.opened = first.SYN && !first.ACK || !first.SYN && first.SrcPort > first.DstPort
	p.conns = append(p.conns, c)
	return c
}

// conn puts the frames of both directions together.
type conn struct {
	left, right string // the side of the first packet, the other
	opened      bool   // left is the client
	half        [2]half
	frames      []Frame
}

// half is one direction: bytes that are no whole frame yet, and when their first
// came.
type half struct {
	buf  []byte
	time time.Time
	lost int
}

// Accept takes every packet, also of a connection whose beginning is not in the
// capture.
func (c *conn) Accept(_ *layers.TCP, _ gopacket.CaptureInfo, _ reassembly.TCPFlowDirection, _ reassembly.Sequence, start *bool, _ reassembly.AssemblerContext) bool {
	*start = true
	return true
}

func (c *conn) ReassembledSG(sg reassembly.ScatterGather, _ reassembly.AssemblerContext) {
	dir, _, _, skip := sg.Info()
	i := 0
	if dir == reassembly.TCPDirServerToClient {
		i = 1
	}
	h := &c.half[i]
	if skip > 0 {
		// What came before the gap cannot be finished.
		h.lost += skip + len(h.buf)
		h.buf = nil
	}
	n, _ := sg.Lengths()
	at := -len(h.buf) // of the first byte of buf, counted from the new ones
	h.buf = append(h.buf, sg.Fetch(n)...)
	for {
		if at >= 0 && at < n {
			// Packets can overtake each other, messages of one side cannot.
			if t := sg.CaptureInfo(at).Timestamp; t.After(h.time) {
				h.time = t
			}
		}
		size := c.cut(h, i == 0)
		if size == 0 {
			return
		}
		h.buf = h.buf[size:]
		at += size
	}
}

func (c *conn) ReassemblyComplete(reassembly.AssemblerContext) bool { return true }

// cut takes the frame at the front of h, or what cannot be one. It returns the bytes
// that are done with, 0 if there are too few to tell.
func (c *conn) cut(h *half, fromLeft bool) int {
	if len(h.buf) < 8 {
		return 0
	}
	size := 4 + int(binary.BigEndian.Uint32(h.buf)&0xFFFFFF)
	kind := Kind(h.buf[4:8])
	if h.buf[0] != 0 || kind != SMB1 && kind != SMB2 && kind != Encrypted && kind != Compressed {
		size = junk(h.buf)
		h.lost += size
		return size
	}
	if len(h.buf) < size {
		return 0
	}
	f := Frame{Time: h.time, From: c.left, To: c.right, FromClient: c.opened,
		Kind: kind, Data: bytes.Clone(h.buf[4:size]), Lost: h.lost}
	if !fromLeft {
		f.From, f.To, f.FromClient = c.right, c.left, !c.opened
	}
	c.frames = append(c.frames, f)
	h.lost = 0
	return size
}

// junk returns how many bytes stand before what can be a frame: a capture can begin,
// or go on behind a gap, in the middle of one.
func junk(b []byte) int {
	first := len(b) - 7 // a frame can begin in the last bytes
	for _, kind := range []Kind{SMB2, Encrypted} {
		if i := bytes.Index(b[5:], []byte(kind)); i >= 0 {
			first = min(first, i+1)
		}
	}
	return first
}
