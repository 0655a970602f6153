package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// farLink is a client's machine far away: a network namespace whose only link loses
// and delays packets in both directions. What connects to the port of the guest
// continues from in there to ksmbd, so that ksmbd sees a client behind that link.
// It runs until it is killed; the namespace goes with it.
func farLink(args []string) error {
	f := flag.NewFlagSet("farlink", flag.ContinueOnError)
	port := f.Int("port", 0, "`PORT` of the guest that leads there")
	delay := f.Duration("delay", 0, "`TIME` that a packet takes, each way")
	loss := f.Float64("loss", 0, "packets that are lost each way, in `PERCENT`")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 || *port == 0 {
		return errors.New("usage: farlink -port PORT [-delay TIME] [-loss PERCENT] NUMBER")
	}
	far, server, err := makeLink(f.Arg(0), *delay, float32(*loss))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprint(":", *port))
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			to, err := dialFrom(far, server)
			if err != nil {
				fmt.Fprintln(os.Stderr, "farlink:", err)
				return
			}
			defer to.Close()
			go func() {
				io.Copy(to, c)
				to.Close()
			}()
			io.Copy(c, to)
		}()
	}
}

// makeLink makes the namespace with a link to this one and returns it, and the
// address at which ksmbd is reached from it.
func makeLink(number string, delay time.Duration, loss float32) (far netns.NsHandle, server string, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return 0, "", err
	}
	defer here.Close()
	if far, err = netns.New(); err != nil {
		return 0, "", fmt.Errorf("make network namespace: %w", err)
	}
	if err := netns.Set(here); err != nil {
		return 0, "", err
	}
	name := "far" + number
	veth := netlink.NewLinkAttrs()
	veth.Name = name
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: veth, PeerName: "eth0", PeerNamespace: netlink.NsFd(far)})
	if err != nil {
		return 0, "", fmt.Errorf("make link %s: %w", name, err)
	}
	near, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, "", err
	}
	other, err := netlink.NewHandleAt(far, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, "", err
	}
	for _, end := range []struct {
		h    *netlink.Handle
		name string
		ip   string
	}{{near, name, "10.1." + number + ".1"}, {other, "eth0", "10.1." + number + ".2"}} {
		if err := setEnd(end.h, end.name, end.ip+"/24", delay, loss); err != nil {
			return 0, "", err
		}
	}
	return far, "10.1." + number + ".1:445", nil
}

// setEnd gives one end of a link its address and makes it lose and delay what it sends.
func setEnd(h *netlink.Handle, name, address string, delay time.Duration, loss float32) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := addAddress(h, link, address); err != nil {
		return err
	}
	if delay == 0 && loss == 0 {
		return nil
	}
	err = h.QdiscAdd(netlink.NewNetem(
		netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		netlink.NetemQdiscAttrs{Latency: uint32(delay.Microseconds()), Loss: loss, Limit: 10000}))
	if err != nil {
		return fmt.Errorf("let %s lose and delay packets: %w; the kernel needs the fragment links", name, err)
	}
	return nil
}

// dialFrom connects from within a namespace. Its thread is in there until it ends.
func dialFrom(far netns.NsHandle, addr string) (net.Conn, error) {
	type dialed struct {
		c   net.Conn
		err error
	}
	done := make(chan dialed, 1)
	go func() {
		runtime.LockOSThread() // without an unlock the thread ends with the goroutine
		err := netns.Set(far)
		var c net.Conn
		if err == nil {
			c, err = net.Dial("tcp", addr)
		}
		done <- dialed{c, err}
	}()
	d := <-done
	return d.c, d.err
}
