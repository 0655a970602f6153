package scenario

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
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
