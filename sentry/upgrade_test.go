package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sync"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// upgradeImage is another image of the same programs: it says so in /version, and has
// nothing in /opt.
var upgradeImage = sync.OnceValue(func() error {
	if err := mergeImage(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aios-upgrade")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "upgraded", func(root string) error {
		for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		bb, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		for name, text := range map[string]string{"version": "two\n", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "tmp/kept": "x", "bin/busybox": string(bb)} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
				return err
			}
		}
		return os.Symlink("busybox", filepath.Join(root, "bin", "sh"))
	})
})

// upgrade has s's agent run a script from the other image.
func (s *spawned) upgrade(script string, opts ...func(*control.UpgradeRequest)) error {
	s.t.Helper()
	if err := upgradeImage(); err != nil {
		s.t.Fatal(err)
	}
	proc := control.Process{Argv: sh(script), Env: []string{"PATH=/bin"}}
	req := control.UpgradeRequest{ID: s.id, Token: "t", Image: "upgraded", Root: control.Root{Base: "upgraded"}, Process: proc, Timeout: 300 * time.Millisecond}
	for _, o := range opts {
		o(&req)
	}
	reply, err := theKernel.Upgrade(req)
	s.t.Logf("pause %v, took %v: %v", reply.Pause, reply.Took, err)
	return err
}

func healthy(script string, limit time.Duration) func(*control.UpgradeRequest) {
	return func(r *control.UpgradeRequest) {
		r.Health, r.Timeout = &control.Process{Argv: sh(script), Env: []string{"PATH=/bin"}}, limit
	}
}

// Who it is, what it may and what it has made stays; what runs is new.
func TestUpgrade(t *testing.T) {
	s := original(t, granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=64", "cpu:self", "io:self", "net:loopback"))
	s.do("echo mine > /mine; mkdir -p /var/d /tmp/t; echo deep > /var/d/f; echo t > /tmp/t/f; rm /etc/hosts")
	had := fmt.Sprint(theKernel.space.List(s.id))
	if err := s.upgrade("echo new; touch /begun; until [ -e /finish ]; do usleep 5000; done; exit 4", healthy("test -e /begun", 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := s.do("cat /version /mine /var/d/f /tmp/t/f; ls -d /opt /etc/hosts 2>/dev/null; true"); got != "two\nmine\ndeep\nt\n" {
		t.Errorf("it has %q", got)
	}
	if got := fmt.Sprint(theKernel.space.List(s.id)); got != had {
		t.Errorf("it may %s, and could %s", got, had)
	}
	st := inspect(t, s.id)
	if st.Upgraded != "t" || st.Upgrading || len(st.Processes) == 0 || st.Processes[0].PID != 1 || !strings.Contains(fmt.Sprint(st.Processes[0].Argv), "finish") {
		t.Errorf("it is %+v", st)
	}
	if got := s.do("hostname"); strings.TrimSpace(got) == "" {
		t.Error("it has no name")
	}
	// Again, and back to the first image.
	if err := s.upgrade("until [ -e /finish ]; do usleep 5000; done; exit 5", func(r *control.UpgradeRequest) { r.Root.Base = "merge" }); err != nil {
		t.Fatal(err)
	}
	if got := s.do("cat /mine; ls -d /opt /version 2>/dev/null; true"); got != "mine\n/opt\n" {
		t.Errorf("it has %q", got)
	}
	s.do("touch /finish")
	if e := exits.wait(t, s.id, 0); e.Code != 5 {
		t.Errorf("it ended with %+v", e)
	}
}

// consecutive reports the last of the numbers that an agent has counted to in its log,
// of which none may be missing.
func (s *spawned) consecutive() int {
	s.t.Helper()
	last := 0
	for _, line := range strings.Split(s.logged(), "\n") {
		text, ok := strings.CutPrefix(line, "at ")
		if n, err := strconv.Atoi(text); ok && err == nil {
			if n != last+1 {
				s.t.Fatalf("it counted %d after %d", n, last)
			}
			last = n
		}
	}
	return last
}

// If the new program is not well, the old one goes on where it was.
func TestUpgradeRollsBack(t *testing.T) {
	s := counter(t)
	for name, try := range map[string]func() error{
		"it ends": func() error { return s.upgrade("echo bad > /bad; echo overwritten > /count; exit 3") },
		"it is not healthy": func() error {
			return s.upgrade("echo bad > /bad; sleep 100", healthy("echo checked; false", 400*time.Millisecond))
		},
		"the check hangs":             func() error { return s.upgrade("sleep 100", healthy("sleep 100", 200*time.Millisecond)) },
		"it ends while it is checked": func() error { return s.upgrade("usleep 50000; exit 3", healthy("sleep 100", 10*time.Second)) },
	} {
		was := s.consecutive()
		wantCode(t, try(), errdefs.UpgradeFailed)
		eventually(t, func() bool { return s.consecutive() > was+3 })
		if got := s.do("ls /bad /version 2>/dev/null; ls -d /opt; jobs"); got != "/opt\n" {
			t.Errorf("%s: it has %q", name, got)
		}
	}
	err := s.upgrade("", func(r *control.UpgradeRequest) { r.Process.Argv = []string{"/no/such"} })
	wantCode(t, err, errdefs.ProgramNotFound)
	err = s.upgrade("", func(r *control.UpgradeRequest) { r.Root.Base = "no such image" })
	if err == nil {
		t.Error("an image that is not there runs")
	}
	was := s.consecutive()
	eventually(t, func() bool { return s.consecutive() > was+3 })
	if st := inspect(t, s.id); st.Upgraded != "" || st.Upgrading {
		t.Errorf("it is %+v", st)
	}
	s.do("touch /stop /end")
	if e := s.wait(); e.Code != 0 {
		t.Errorf("it ended with %+v", e)
	}
}

// While it is not decided, nothing else is done to it, but it can be ended.
func TestUpgradeUndecided(t *testing.T) {
	s := counter(t)
	done := make(chan error, 1)
	go func() { done <- s.upgrade("sleep 100", healthy("test -e /well", 20*time.Second)) }()
	eventually(t, func() bool { return inspect(t, s.id).Upgrading })
	_, err := theKernel.Pause(control.AgentRequest{ID: s.id})
	wantCode(t, err, errdefs.WrongState)
	_, err = s.tryClone(1)
	wantCode(t, err, errdefs.WrongState)
	wantCode(t, s.upgrade("true"), errdefs.WrongState)
	s.do("touch /well")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 10 { // It may be killed before the new program has begun.
		go func() { done <- s.upgrade("sleep 100", healthy("false", 20*time.Second)) }()
		for !inspect(t, s.id).Upgrading {
			select {
			case err := <-done:
				t.Fatalf("it was decided already: %v", err)
			default:
				runtime.Gosched()
			}
		}
		if _, err := theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, <-done, errdefs.AgentNotRunning)
		if e := exits.wait(t, s.id, 0); e.Signal != 9 {
			t.Errorf("it ended with %+v", e)
		}
		s = original(t)
	}
}

// What is taken meanwhile is taken from both, what is given has who stays.
func TestUpgradeGrants(t *testing.T) {
	s := original(t)
	dir, key := hostDir(t)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	kept := give(t, s.id, "fs:/kept:rw,at=/kept", key)
	taken := give(t, s.id, "fs:/taken:ro,at=/taken", key)
	holder := s.execIn(sh("exec 3</taken/f 4</kept/f; echo open; until [ -e /ask ]; do usleep 5000; done; cat <&4; cat <&3; echo; echo asked"))
	holder.expect("open\n")
	done := make(chan error, 1)
	go func() { done <- s.upgrade("sleep 100", healthy("test -e /well", 2*time.Second)) }()
	eventually(t, func() bool { return inspect(t, s.id).Upgrading && s.run("cat /kept/f /taken/f") == "texttext [0]" })
	if _, err := theKernel.CapRevoke(control.RevokeRequest{Cap: taken.ID}); err != nil {
		t.Fatal(err)
	}
	given := give(t, s.id, "fs:/given:ro,at=/given", key)
	if got := s.run("cat /given/f; cat /taken/f 2>/dev/null"); got != "text [1]" {
		t.Errorf("while it is tried it reads %q", got)
	}
	wantCode(t, <-done, errdefs.UpgradeFailed)
	if got := s.run("cat /given/f /kept/f; cat /taken/f 2>/dev/null"); got != "texttext [1]" {
		t.Errorf("after it reads %q", got)
	}
	s.do("touch /ask")
	if got := holder.expect("asked\n"); strings.Count(got, "text") != 1 {
		t.Errorf("who had both open reads %q", got)
	}
	for _, id := range []control.Cap{kept, given} {
		if _, err := theKernel.CapRevoke(control.RevokeRequest{Cap: id.ID}); err != nil {
			t.Error(err)
		}
	}
	if got := s.run("cat /kept/f /given/f 2>/dev/null"); got != "[1]" {
		t.Errorf("when all is taken it sees %q", got)
	}
}
