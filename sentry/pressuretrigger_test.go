package sentry

import (
	"strings"
	"testing"
	"time"
)

func TestParseTrigger(t *testing.T) {
	for text, want := range map[string]triggerSpec{
		"some 150000 1000000":         {false, 150 * time.Millisecond, time.Second},
		"full 1 500000\n":             {true, time.Microsecond, 500 * time.Millisecond},
		"some 10000000 10000000\x00x": {false, 10 * time.Second, 10 * time.Second},
	} {
		if got, ok := parseTrigger(text); !ok || got != want {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{
		"", "some", "some 1", "none 150000 1000000", "some 0 1000000", "some 1000001 1000000", "some 1 499999", "some 1 10000001",
		"some -1 1000000", "some 99999999999 1000000", "some 150000 1000000 1",
	} {
		if spec, ok := parseTrigger(text); ok {
			t.Errorf("%q: %+v", text, spec)
		}
	}
}

// TestTriggerWindow: what counts is what was in the last window, wherever that begins.
func TestTriggerWindow(t *testing.T) {
	const second = time.Second
	var w triggerWindow
	for _, step := range []struct{ now, total, want time.Duration }{
		{second / 2, second / 4, second / 4},            // the first window
		{second * 3 / 2, second / 2, second / 2},        // is over: the next begins
		{second * 2, second / 2, second / 4},            // of the one before one half counts
		{second * 5 / 2, second * 3 / 4, second / 4},    // and nothing of it any more
		{second * 100, second * 3 / 4, second / 4},      // quiet
		{second*100 + second/2, second, second * 3 / 8}, // what came since, and half of that
	} {
		if got := w.grown(second, step.now, step.total); got != step.want {
			t.Errorf("at %v: %v, not %v", step.now, got, step.want)
		}
	}
}

// TestPressureTrigger has programs wait for pressure of their own agent.
func TestPressureTrigger(t *testing.T) {
	s := inMemoryImage(t, []string{"pressure"}, withStdin)
	other := inMemoryImage(t, []string{"pressure"}, withStdin)
	a := theKernel.findAgent(s.id)
	ask := func(s *spawned, line, want string) {
		t.Helper()
		s.send(line + "\n")
		if got := s.expect("\n"); got != want+"\n" {
			t.Errorf("%s: %q, not %q", line, got, want)
		}
	}
	for _, s := range []*spawned{s, other} {
		s.expect("ready\n")
		ask(s, "open /proc/pressure/memory", "ok")
		ask(s, "poll 0", "1 pri err")
		ask(s, "write some 150000 100000", "Invalid argument")
		ask(s, "write some 50000 500000", "ok")
		ask(s, "write some 50000 500000", "Device or resource busy")
		ask(s, "poll 0", "0")
	}
	for _, how := range []string{"poll", "epoll"} {
		s.send(how + " 60000\n")
		done := a.stalled(&a.pressure.memory)
		if got := s.expect("\n"); got != "1 pri\n" {
			t.Errorf("%s: %q", how, got)
		}
		done()
	}
	ask(other, "poll 0", "0")
	ask(s, "open /proc/pressure/io", "ok")
	ask(s, "write full 50000 500000", "ok")
	ask(s, "open /proc/pressure/cpu", "ok")
	ask(s, "write some 50000 500000", "ok")
	s.send("poll 60000\n")
	setQuota(limited(t, s), 10)
	s.execIn(sh("while :; do :; done"))
	if got := s.expect("\n"); got != "1 pri\n" {
		t.Errorf("%q", got)
	}
	ask(other, "open /sys/fs/cgroup/memory.pressure", "Read-only file system")
}

// TestPressureTriggerCopied: a copy waits for its own pressure, and so does one that was
// restored.
func TestPressureTriggerCopied(t *testing.T) {
	s := inMemoryImage(t, []string{"pressure"}, withStdin, memory(64<<20))
	s.expect("ready\n")
	s.send("open /proc/pressure/memory\nwrite some 50000 500000\npoll 0\n")
	s.expect("0\n")
	file := func(id string) (fd *pressureFD) {
		t.Helper()
		a := theKernel.findAgent(id)
		ctx := theKernel.k.SupervisorContext()
		eventually(t, func() bool { // What a copy has open is known once it runs.
			for table := range a.tables() {
				for _, n := range table.GetFDs(ctx) {
					if f, _ := table.Get(n); f != nil {
						if p, ok := f.Impl().(*pressureFD); ok {
							fd = p
						}
						f.DecRef(ctx)
					}
				}
				table.DecRef(ctx)
			}
			return fd != nil
		})
		return fd
	}
	c := s.clone(1)[0]
	p := file(c.id)
	p.mu.Lock()
	set := p.trigger
	p.mu.Unlock()
	if set == nil || set.a.id != c.id || set.spec != file(s.id).spec {
		t.Errorf("%+v", set)
	}
}

// What an open file waits for is so in a new kernel, too: it takes no second trigger.
func TestPressureTriggerRestored(t *testing.T) {
	s := spawn(t, sh(`exec 3<>/proc/pressure/memory; printf 'some 50000 500000' >&3; echo set $?
		while :; do printf 'some 50000 500000' >&3; echo again $?; usleep 20000; done 2>/dev/null`))
	if got := s.expect("again "); !strings.Contains(got, "set 0\n") {
		t.Fatalf("it says %q", got)
	}
	r := takeCheckpoint(t, s).restore()
	before := strings.Count(r.text(s.id), "again 1\n")
	eventually(t, func() bool { return strings.Count(r.text(s.id), "again 1\n") > before+2 })
	if got := r.text(s.id); strings.Contains(got, "again 0\n") {
		t.Errorf("it says %q", got)
	}
	r.ask("end")
}
