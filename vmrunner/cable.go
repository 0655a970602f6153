package vmrunner

import (
	"fmt"
	"path/filepath"
)

// Plug is one end of a cable between two guests, a network of their own that the
// host has no part in. A guest's other network, by which this program reaches it,
// stays as it is: so the cable can be cut while commands run in the guest.
type Plug struct {
	number      int
	local, peer string // datagram sockets of the two QEMUs
}

// Network cards of a guest, for Monitor.SetLink.
const (
	NetCard   = "net"   // of Options.Ports
	CableCard = "cable" // of Options.Plug
)

// NewCable returns the two ends of a cable. remove is for when both guests are gone.
func NewCable() (a, b *Plug, remove func(), err error) {
	dir, remove, err := scratch()
	if err != nil {
		return nil, nil, nil, err
	}
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	return &Plug{1, one, two}, &Plug{2, two, one}, remove, nil
}

// Addr returns the address that a guest has on this end.
func (p *Plug) Addr() string { return fmt.Sprintf("10.9.0.%d", p.number) }

// args returns QEMU's arguments. The two cards must not have one address.
func (p *Plug) args() []string {
	return []string{
		"-netdev", fmt.Sprintf("dgram,id=%s,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", CableCard, escape(p.local), escape(p.peer)),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,romfile=,mac=52:54:00:00:09:%02x", CableCard, p.number),
	}
}

// word is the guest's half on the kernel's command line.
func (p *Plug) word() string { return "kbuild_run.cable=" + p.Addr() + "/24" }
