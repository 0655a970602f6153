package scenario

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"kbuild-run/tests/client"
)

// A step that waits for long lends its place, and takes one again at its end.
func TestLend(t *testing.T) {
	st := &state{server: &Server{}, slots: make(chan struct{}, 1)}
	st.slots <- struct{}{}
	back := st.lend()
	st.slots <- struct{}{} // another scenario gets in
	<-st.slots
	back()
	if got, want := len(st.slots), 1; got != want {
		t.Errorf("places taken behind the step: got %d, want %d", got, want)
	}
	st.lend()() // a step that is quick keeps its place
	if got, want := len(st.slots), 1; got != want {
		t.Errorf("places taken behind a quick step: got %d, want %d", got, want)
	}
}

// A wait ends when the server has nothing to say, and not while it is busy.
func TestAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st := &state{ctx: context.Background(), server: &Server{Addr: l.Addr().String()}, patience: time.Millisecond}
	ctx, cancel := st.answer()
	defer cancel()
	c, err := l.Accept() // the time is over, and the server is asked whether it lives
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("the wait is over before the server has answered: %v", context.Cause(ctx))
	}
	c.Close()
	<-ctx.Done()
	if got, want := context.Cause(ctx).Error(), "nothing came for"; !strings.HasPrefix(got, want) {
		t.Errorf("cause: got %s, want %s ...", got, want)
	}
}

// A connection that the server does not answer does not keep others from theirs.
func TestDialBehindSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer func(d time.Duration) { gateWait = d }(gateWait)
	gateWait = time.Millisecond
	var dials sync.WaitGroup
	defer dials.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &Server{Addr: l.Addr().String()}
	for range 2 {
		dials.Go(func() { s.Dial(ctx, client.Options{}) })
		c, err := l.Accept() // and say nothing
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
}
