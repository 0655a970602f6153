package job

import (
	"os/exec"
	"runtime"
)

// runLocked runs x on an operating system thread of its own. Pdeathsig is sent
// when the thread that forked the child ends, not when the process does
// (prctl(2), PR_SET_PDEATHSIG), so that thread must live as long as the child.
func runLocked(x *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- x.Run()
	}()
	return <-done
}
