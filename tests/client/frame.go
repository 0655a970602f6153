package client

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A message on TCP stands behind four bytes: a zero and its length in three
// bytes, big-endian (MS-SMB2 2.1).
const frameHead = 4

const maxFrame = 1<<24 - 1

func readFrame(r io.Reader) ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("read frame: it begins with %#02x, want 0", head[0])
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read frame of %d bytes: %w", n, err)
	}
	return b, nil
}

func writeFrame(w io.Writer, b []byte) error {
	if len(b) > maxFrame {
		return fmt.Errorf("write frame: %d bytes are more than %d", len(b), maxFrame)
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}
