package tests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"kbuild-run/kconfigs"
	"kbuild-run/patches/job"
	"kbuild-run/rootfs"
	"kbuild-run/tests/clients"
	"kbuild-run/tests/report"
	"kbuild-run/tests/stress"
	"kbuild-run/vmrunner"
)

// topology is an arrangement of machines other than one guest and clients on this
// host, with what is done in it.
type topology struct {
	name, shows string
	run         func(ctx context.Context, s *job.Step, k *kernel, o Options) error
}

var topologies = []topology{
	{"links", "Clients behind links that lose and delay packets are told of every event, or that some are lost.", links},
	{"guests", "The kernel's client in another guest is told what happens.", guests},
	{"cut", "A watch that is pending while the cable is cut is answered when it is back.", cut},
}

// topologyNames lists them for a help text.
func topologyNames() string {
	var names []string
	for _, t := range topologies {
		names = append(names, t.name)
	}
	return strings.Join(names, ", ")
}

// matching returns those that match one of the patterns.
func matching(patterns []string) (all []topology, err error) {
	for _, p := range patterns {
		n := len(all)
		for _, t := range topologies {
			if ok, _ := path.Match(p, t.name); ok {
				all = append(all, t)
			}
		}
		if len(all) == n {
			return nil, job.Usage(fmt.Errorf("no topology matches %s; there is %s", p, topologyNames()))
		}
	}
	return all, nil
}

// fragments are those of the kernel, with what the options need.
func (o Options) fragments() []string {
	all := o.Fragments
	if all == nil {
		all = kconfigs.Default
	}
	if some, err := matching(o.Topologies); err == nil && slices.ContainsFunc(some, func(t topology) bool { return t.name == "links" }) {
		all = kconfigs.With(all, "links")
	}
	if o.Trace != nil {
		all = kconfigs.With(all, "tracing")
	}
	return all
}

// A far link is another machine for the server: nothing but the client's address
// and the way of the packets matters to it. What a bad radio link does.
const (
	farLinks = 4
	farDelay = 20 * time.Millisecond // each way
	farLoss  = 2                     // percent, each way
)

func farPort(n int) int { return 10000 + n }

// wire adds to the options of the guest what the topologies need, and returns the
// other end of its cable.
func (o Options) wire(v *vmrunner.Options) (other *vmrunner.Plug, remove func(), err error) {
	if o.Topologies == nil {
		return nil, func() {}, nil
	}
	for n := range farLinks {
		v.Ports = append(v.Ports, farPort(n))
	}
	v.Plug, other, remove, err = vmrunner.NewCable()
	return other, remove, err
}

// topologies runs those that were asked for and notes their rows of the report.
func (k *kernel) topologies(ctx context.Context, o Options) error {
	all, err := matching(o.Topologies)
	if err != nil {
		return err
	}
	for _, t := range all {
		began := time.Now()
		result := report.Result{Status: report.Passed}
		err := job.From(ctx).Step(k.step("topology "+t.name), func(s *job.Step) error {
			end := k.vm.Begin("topology " + t.name)
			defer end()
			err := t.run(ctx, s, k, o)
			if err != nil {
				result.Status, result.Reason = report.Failed, err.Error()
				err = job.Failed(err)
			}
			return err
		})
		if err != nil && (ctx.Err() != nil || k.vm.Err() != nil) {
			return err
		}
		result.Time = time.Since(began)
		k.arranged = append(k.arranged, report.Scenario{Name: "topology " + t.name, Shows: t.shows, Results: []report.Result{result}})
	}
	return nil
}

// links works the server hard from behind far links.
func links(ctx context.Context, s *job.Step, k *kernel, o Options) error {
	far, stop := context.WithCancel(ctx)
	defer stop()
	var addrs []string
	for n := range farLinks {
		r, w := io.Pipe()
		var stderr strings.Builder
		go func() {
			command := fmt.Sprintf("farlink -port %d -delay %s -loss %d %d", farPort(n), farDelay, farLoss, n+1)
			_, err := k.vm.Exec(far, command, nil, w, &stderr)
			w.CloseWithError(errors.Join(err, errors.New(strings.TrimSpace(stderr.String()))))
		}()
		if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "listening\n" {
			return fmt.Errorf("make far link %d: got %q, %w", n, line, err)
		}
		addrs = append(addrs, k.vm.Addr(farPort(n)))
	}
	server := GuestServer(k.column.Server, k.tree.Base, k.vm)
	limit := time.Minute
	if o.Stress > 0 {
		limit = o.Stress
	}
	count, problems, err := stress.Run(ctx, stress.Server{
		Addr: server.Addr, Addrs: addrs, Share: server.Share, User: server.User, Shell: k.shell, Deadline: k.vm.Deadline,
	}, limit, func(c *stress.Count) { s.Progress("%s", c) })
	s.Note("%s", count)
	if err != nil {
		return err
	}
	dropped, err := k.shell(ctx, `for i in 1 2 3 4; do cat /sys/class/net/far$i/statistics/rx_packets; done
n=0
while grep -q ksmbd: /proc/[0-9]*/comm && [ $n -lt 200 ]; do
	sleep 0.1
	n=$((n + 1))
done 2>/dev/null`)
	if err != nil {
		return err
	}
	if packets := strings.Fields(dropped); len(packets) != farLinks || slices.Contains(packets, "0") {
		return fmt.Errorf("packets of the far links: got %q, want some of each", packets)
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

// shell runs a command in the folder of the share and returns what it prints.
func (k *kernel) shell(ctx context.Context, command string) (string, error) {
	r, err := k.vm.Run(ctx, "cd "+guestShare+"\n"+command)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return "", fmt.Errorf("run %s in the guest: exit status %d: %s", command, r.Code, strings.TrimSpace(string(r.Stderr)))
	}
	return string(r.Stdout), nil
}

// second boots a guest at the other end of the cable.
func (k *kernel) second(ctx context.Context, s *job.Step, o Options) (*vmrunner.VM, error) {
	vm, err := vmrunner.Start(ctx, s, k.image, vmrunner.Options{Accel: o.Accel, Memory: 512, Plug: k.other})
	if err != nil {
		return nil, fmt.Errorf("second guest: %w", err)
	}
	return vm, nil
}

// serverAddr is the address of the guest under test on the cable.
const serverAddr = "10.9.0.1"

// guests has cifs.ko of a second guest watch by its ioctls.
func guests(ctx context.Context, s *job.Step, k *kernel, o Options) error {
	vm, err := k.second(ctx, s, o)
	if err != nil {
		return err
	}
	defer vm.Stop(context.WithoutCancel(ctx))
	server, user := GuestServer(k.column.Server, k.tree.Base, k.vm), rootfs.Users[0]
	results, err := clients.Run(ctx, &clients.Server{
		Share: server.Share, User: user.Name, Password: user.Password, GuestAddr: serverAddr, Patience: k.vm.Deadline(othersPatience),
		Local: func(ctx context.Context, command string) error { return server.Shell(ctx, "", command) },
		Guest: func(ctx context.Context, command string, stdout, stderr io.Writer) (int, error) {
			return vm.Exec(ctx, command, nil, stdout, stderr)
		},
	}, "cifs.ko")
	if err != nil {
		return err
	}
	s.Note("%s", results[0].Saw)
	if err := results[0].Err; err != nil {
		return err
	}
	return complained(vm)
}

// complained is what the kernel of a second guest has to say.
func complained(vm *vmrunner.VM) error {
	reports, err := vm.Reports()
	if err == nil && len(reports) > 0 {
		err = fmt.Errorf("the second guest's kernel complained: %s", reports[0].Title)
	}
	return err
}

// cut cuts the cable of a second guest while it watches, and mends it.
func cut(ctx context.Context, s *job.Step, k *kernel, o Options) error {
	vm, err := k.second(ctx, s, o)
	if err != nil {
		return err
	}
	defer vm.Stop(context.WithoutCancel(ctx))
	if _, err := k.shell(ctx, "mkdir -p cut && chmod 777 cut"); err != nil {
		return err
	}
	there := func(command string) (string, error) {
		r, err := vm.Run(ctx, command)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("run %s in the second guest: exit status %d: %s", command, r.Code, strings.TrimSpace(string(r.Stderr)))
		}
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(r.Stdout)), nil
	}
	user := rootfs.Users[0]
	_, err = there(fmt.Sprintf("modprobe cifs && mkdir -p /run/cut && mount -t cifs -o ip=%[1]s,username=%[2]s,password=%[3]s,vers=3.1.1 //%[1]s/share /run/cut",
		serverAddr, user.Name, user.Password))
	if err != nil {
		return err
	}
	defer vm.Run(context.WithoutCancel(ctx), "umount /run/cut")
	carrier := func(up bool, want string) error {
		if err := vm.Monitor().SetLink(ctx, vmrunner.CableCard, up); err != nil {
			return err
		}
		_, err := there(`n=0
until [ "$(cat /sys/class/net/eth1/carrier)" = ` + want + ` ]; do
	sleep 0.1
	n=$((n + 1))
	[ $n -lt 100 ] || exit 1
done`)
		return err
	}
	for _, name := range []string{"while-cut", "while-cut-again", "afterwards"} {
		said := make(chan string, 1)
		go func() {
			out, err := there("cifsnotify /run/cut/cut")
			if err != nil {
				out = err.Error()
			}
			said <- out
		}()
		if err := k.pending(ctx); err != nil {
			return err
		}
		cutting := name != "afterwards"
		if cutting {
			if err := carrier(false, "0"); err != nil {
				return fmt.Errorf("cut the cable: %w", err)
			}
		}
		if _, err := k.shell(ctx, "touch cut/"+name); err != nil {
			return err
		}
		if cutting {
			select {
			case line := <-said:
				return fmt.Errorf("cifsnotify: got %q through a cable that is cut", line)
			default:
			}
			if err := carrier(true, "1"); err != nil {
				return fmt.Errorf("mend the cable: %w", err)
			}
		}
		select {
		case line := <-said:
			if want := "1 " + name; line != want {
				return fmt.Errorf("cifsnotify: got %q, want %q", line, want)
			}
		case <-time.After(k.vm.Deadline(20 * time.Second)):
			return fmt.Errorf("cifsnotify is told nothing of %s", name)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.Note("two watches were answered after a cut, a third without one")
	return complained(vm)
}

// pending waits until a CHANGE_NOTIFY is pending.
func (k *kernel) pending(ctx context.Context) error {
	_, err := k.shell(ctx, `n=0
requests=0
until [ $requests -gt 0 ]; do
	sleep 0.1
	n=$((n + 1))
	[ $n -lt 300 ] || exit 1
	read watches requests rest < /sys/class/ksmbd-control/notify
done`)
	if err != nil {
		err = fmt.Errorf("no CHANGE_NOTIFY is pending: %w", err)
	}
	return err
}
