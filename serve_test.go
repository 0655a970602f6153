package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serving is a running `kbuild-run vm serve`.
type serving struct {
	cmd   *exec.Cmd
	port  string
	qemu  string   // process id
	temp  string   // folder that it makes its files in
	ended chan int // its exit code
}

// serve runs `kbuild-run vm serve` with a kernel that is in the cache; a test does
// not wait for one to be built.
func serve(t *testing.T) *serving {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kbuild-run")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	var args []string
	for _, series := range [][]string{{"--series", "notify"}, {"--base", "v7.3", "--series", "notify"}, {}} {
		try := append([]string{"vm", "serve", "--listen", addr}, series...)
		out, err := exec.Command(program, append([]string{"-n"}, try...)...).CombinedOutput()
		if err == nil && strings.Contains(string(out), "\nkernel                       cached ") {
			args = try
			break
		}
	}
	if args == nil {
		t.Skip("no kernel of notify in the cache; build one with: kbuild-run kernel build --series notify")
	}
	temp, err := os.MkdirTemp("/tmp", "serve-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	s := &serving{cmd: exec.Command(program, args...), temp: temp, ended: make(chan int, 1)}
	_, s.port, _ = net.SplitHostPort(addr)
	s.cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	said, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill() })
	var text strings.Builder
	lines := bufio.NewScanner(io.TeeReader(said, &text))
	for lines.Scan() {
		if strings.Contains(lines.Text(), "serving //"+addr+"/share") {
			break
		}
	}
	go func() {
		io.Copy(io.Discard, said)
		s.cmd.Wait()
		s.ended <- s.cmd.ProcessState.ExitCode()
	}()
	var children []byte
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	for _, file := range all {
		b, _ := os.ReadFile(file)
		children = append(children, b...)
	}
	for _, pid := range strings.Fields(string(children)) {
		if name, _ := os.ReadFile("/proc/" + pid + "/comm"); strings.HasPrefix(string(name), "qemu-system") {
			s.qemu = pid
		}
	}
	if s.qemu == "" {
		t.Fatalf("it serves by no QEMU; it said:\n%s", &text)
	}
	return s
}

// gone waits for the end of QEMU, and fails unless nothing answers at the port.
func (s *serving) gone(t *testing.T) {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for ; ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + s.qemu + "/stat")
		if err != nil || !strings.Contains(string(stat), "(qemu-") || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("qemu, process %s, is still there", s.qemu)
		}
	}
	// Its first thread may be gone before the others, who hold the port.
	for ; ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(end) {
			t.Fatalf("something answers at port %s", s.port)
		}
	}
}

// vm serve is used by the programs of others from this host, and leaves nothing
// behind, whether it is interrupted or killed.
func TestServe(t *testing.T) {
	if testing.Short() {
		t.Skip("boots two guests")
	}
	t.Run("interrupted", func(t *testing.T) {
		s := serve(t)
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		for _, c := range []struct {
			want string
			args []string
		}{
			{"blocks of size", []string{"smbclient", "-p", s.port, "-U", "tester%tester-password", "//127.0.0.1/share", "-c", "mkdir made; ls"}},
			{"success: ", []string{"smbtorture", "-p", s.port, "-U", "tester%tester-password", "//127.0.0.1/share", "smb2.connect"}},
		} {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Logf("skipped: %v", err)
				continue
			}
			out, err := exec.CommandContext(ctx, c.args[0], c.args[1:]...).CombinedOutput()
			t.Logf("%s: %s", c.args[0], out)
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%s: %v; want %q in it", c.args[0], err, c.want)
			}
		}
		s.cmd.Process.Signal(os.Interrupt)
		if code := <-s.ended; code != 0 {
			t.Errorf("interrupted: got exit code %d, want 0", code)
		}
		s.gone(t)
		if left, _ := filepath.Glob(filepath.Join(s.temp, "*")); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("killed", func(t *testing.T) {
		s := serve(t)
		s.cmd.Process.Signal(unix.SIGKILL)
		if code := <-s.ended; code != -1 {
			t.Errorf("killed: got exit code %d, want a signal", code)
		}
		s.gone(t)
	})
}
