// Package natsserver runs the real NATS server for tests: the program that
// tools/nats-server builds, on loopback, with its data in a directory of the
// test. It is no part of what is shipped.
package natsserver

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Server is a server that runs, or has been stopped.
type Server struct {
	URL string // nats://127.0.0.1:PORT; the same after Restart

	t    testing.TB
	bin  string
	dir  string
	args []string
	cmd  *exec.Cmd
}

// Start starts a server with JetStream, and more arguments of nats-server. The
// test's end ends it.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, bin: program(t), dir: t.TempDir(), args: args}
	t.Cleanup(s.Stop)
	s.run("-p", "-1")
	return s
}

// run starts the process and waits until it serves.
func (s *Server) run(port ...string) {
	s.t.Helper()
	ports := filepath.Join(s.dir, "ports")
	os.RemoveAll(ports)
	if err := os.Mkdir(ports, 0o700); err != nil {
		s.t.Fatal(err)
	}
	log := filepath.Join(s.dir, "log")
	argv := append([]string{"-a", "127.0.0.1", "--ports_file_dir", ports, "-js", "-sd", filepath.Join(s.dir, "js"), "-l", log}, port...)
	s.cmd = exec.Command(s.bin, append(argv, s.args...)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if at := serving(ports); at != "" {
			s.URL = at
			return
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log)
			s.t.Fatalf("nats-server does not serve: %s", text)
		}
	}
}

// serving returns where a server serves that has written its ports.
func serving(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.ports"))
	if len(files) != 1 {
		return ""
	}
	raw, err := os.ReadFile(files[0])
	var p struct{ Nats []string }
	if err != nil || json.Unmarshal(raw, &p) != nil || len(p.Nats) == 0 {
		return ""
	}
	u, err := url.Parse(p.Nats[0])
	if err != nil {
		return ""
	}
	conn, err := net.DialTimeout("tcp", u.Host, time.Second)
	if err != nil {
		return ""
	}
	conn.Close()
	return "nats://" + u.Host
}

// Stop kills the server, as a power cut would.
func (s *Server) Stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// Restart starts it again where it was, with what it had stored.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	u, err := url.Parse(s.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.run("-p", u.Port())
}

// program returns the path of nats-server, which it builds if need be. Without
// its source the test is skipped, or fails where everything must be there.
func program(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	bin := filepath.Join(root, "bin", "nats-server")
	module := filepath.Join(root, "tools", "nats-server")
	if fresh(bin, filepath.Join(module, "go.mod")) {
		return bin
	}
	tmp := fmt.Sprintf("%s.%d", bin, os.Getpid())
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", tmp, "github.com/nats-io/nats-server/v2")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err == nil {
		err = os.Rename(tmp, bin) // Others may do the same at the same time.
	}
	switch {
	case err == nil:
		return bin
	case os.Getenv("AIOS_REQUIRE_PROGRAMS") == "1":
		t.Fatalf("build nats-server: %v: %s", err, out)
	default:
		t.Skipf("nats-server cannot be built here: %v: %s", err, out)
	}
	return ""
}

// fresh reports whether a program is there and not older than what it is built
// of.
func fresh(bin, source string) bool {
	b, err := os.Stat(bin)
	if err != nil {
		return false
	}
	s, err := os.Stat(source)
	return err == nil && !b.ModTime().Before(s.ModTime())
}
