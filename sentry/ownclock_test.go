package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	eventv1 "aios.dev/aios/event/v1"
)

// clocksImage makes the image "clocks" known, once: busybox, and the program that is in
// testdata/clocks.c.
var clocksImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-clocks")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "clocks", func(root string) error {
		for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		bb, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "bin", "sh"), bb, 0o755); err != nil {
			return err
		}
		out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", filepath.Join(root, "bin", "clocks"), "testdata/clocks.c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
})

func inClocks(r *control.SpawnRequest) { r.Root.Base = "clocks" }

// withClock gives an agent clocks that are ahead of the kernel's.
func withClock(offset, monotonic time.Duration) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) {
		r.Clock = &control.Clock{Offset: int64(offset), Monotonic: int64(monotonic)}
	}
}

func needClocks(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := clocksImage(); err != nil {
		t.Fatal(err)
	}
}

// shows reads what testdata/clocks.c prints at its end: how far the clocks are ahead of
// the kernel's.
func shows(t testing.TB, text string) (offset, monotonic time.Duration) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	wall, mono, ok := strings.Cut(lines[len(lines)-1], " ")
	w, err := strconv.ParseInt(wall, 10, 64)
	m, err2 := strconv.ParseInt(mono, 10, 64)
	if !ok || err != nil || err2 != nil {
		t.Fatalf("it says %q", text)
	}
	return time.Duration(w-time.Now().Unix()) * time.Second, time.Duration(m)*time.Second - time.Duration(theKernel.uptimeNS())
}

// near says whether two are the same, but for the time that tests take.
func near(a, b time.Duration) bool { return (a - b).Abs() < 30*time.Minute }

const days = 24 * time.Hour

// TestOwnClock has programs examine their agent's clocks: its first, one that it
// executes, one that it forks, and further ones.
func TestOwnClock(t *testing.T) {
	needClocks(t)
	for _, test := range []struct {
		name              string
		offset, monotonic time.Duration
	}{
		{"none", 0, 0},
		{"ahead", 400 * days, 1000 * time.Hour},
		{"behind", -40 * 365 * days, 0},
		{"far ahead", 200 * 365 * days, 50 * 365 * days},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			opts := []func(*control.SpawnRequest){inClocks}
			if test.offset != 0 {
				opts = append(opts, withClock(test.offset, test.monotonic))
			}
			long := "" // Until the kernel's clocks were measured anew.
			if test.name == "ahead" {
				long = " 1500"
			}
			s := spawn(t, sh("clocks reads"+long+" && clocks waits && (clocks reads; :) && exec clocks reads"), opts...)
			out, errout, exit := s.output()
			if exit.Code != 0 || exit.Signal != 0 || strings.Count(out, "\n") != 4 {
				t.Fatalf("%+v\n%s%s", exit, out, errout)
			}
			for line := range strings.Lines(out) {
				if offset, mono := shows(t, line); !near(offset, test.offset) || !near(mono, test.monotonic) {
					t.Errorf("its clocks are %v and %v ahead", offset, mono)
				}
			}
		})
	}
}

// TestClockIsNotThatOfOthers looks at an agent beside one that has a clock.
func TestClockIsNotThatOfOthers(t *testing.T) {
	needClocks(t)
	far := spawn(t, []string{"clocks", "stands"}, inClocks, withClock(400*days, 0))
	here := spawn(t, []string{"clocks", "stands"}, inClocks)
	if offset, _ := shows(t, far.expect("\n")); !near(offset, 400*days) {
		t.Errorf("it is %v ahead", offset)
	}
	if offset, _ := shows(t, here.expect("\n")); !near(offset, 0) {
		t.Errorf("the other's is %v ahead", offset)
	}
	out, _, _ := far.execIn([]string{"clocks", "reads"}).output()
	if offset, _ := shows(t, out); !near(offset, 400*days) {
		t.Errorf("that of a further program is %v ahead", offset)
	}
	if c := inspect(t, far.id).Clock; c == nil || c.Offset != int64(400*days) {
		t.Errorf("inspect says %+v", c)
	}
	if c := inspect(t, here.id).Clock; c != nil {
		t.Errorf("of the other, inspect says %+v", c)
	}
}

func (s *spawned) setClock(offset time.Duration) control.ClockReply {
	s.t.Helper()
	r, err := theKernel.Clock(control.ClockRequest{ID: s.id, Offset: new(int64(offset)), Actor: control.Actor{Name: "uid:7", Correlation: "c7"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestClockIsSet while a program reads it and does nothing else.
func TestClockIsSet(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "sees"}, inClocks)
	told := eventsOf[*eventv1.AgentClock](t, s, "agent.clock")
	s.expect("looks\n")
	for _, step := range []struct {
		offset time.Duration
		sees   int
	}{{10 * time.Hour, 10}, {30 * time.Hour, 20}, {-days, -54}, {0, 24}} {
		before := inspect(t, s.id).Clock
		r := s.setClock(step.offset)
		if before != nil && r.Was.Offset != before.Offset || r.Clock.Offset != int64(step.offset) || !near(time.Duration(r.Realtime-time.Now().UnixNano()), step.offset) {
			t.Errorf("it says %+v", r)
		}
		s.expect(fmt.Sprintf("set by %d\n", step.sees))
		if e := told(); e.GetOffset() != int64(step.offset) || e.GetWasOffset() != r.Was.Offset || e.GetBy() != "uid:7" {
			t.Errorf("it is told that %v", e)
		}
	}
	r, err := theKernel.Clock(control.ClockRequest{ID: s.id, Wall: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()})
	if err != nil || time.Unix(0, r.Realtime).UTC().Year() != 2030 {
		t.Errorf("%+v %v", r, err)
	}
	s.expect("set by ")
}

// TestClockIsNoClock refuses what a clock cannot show.
func TestClockIsNoClock(t *testing.T) {
	needClocks(t)
	for _, c := range []control.Clock{
		{Offset: -int64(100 * 365 * days)}, {Offset: 1<<63 - 1}, {Offset: -1 << 63}, {Wall: 1<<63 - 1},
		{Monotonic: -int64(365 * days)}, {Monotonic: 1<<63 - 1}, {Monotonic: -1 << 63},
	} {
		_, err := trySpawn(t, []string{"clocks", "stands"}, inClocks, func(r *control.SpawnRequest) { r.Clock = &c })
		wantCode(t, err, errdefs.InvalidArgument)
	}
	s := spawn(t, []string{"clocks", "stands"}, inClocks)
	for _, offset := range []int64{-1 << 63, 1<<63 - 1, -int64(100 * 365 * days)} {
		_, err := theKernel.Clock(control.ClockRequest{ID: s.id, Offset: &offset})
		wantCode(t, err, errdefs.InvalidArgument)
	}
	_, err := theKernel.Clock(control.ClockRequest{ID: "nobody"})
	wantCode(t, err, errdefs.AgentNotFound)
}

// TestWaitsFollowTheClock has calls wait until tomorrow, which comes at once; a timer is
// what it was set to.
func TestWaitsFollowTheClock(t *testing.T) {
	needClocks(t)
	for _, opt := range []func(*control.SpawnRequest){inClocks, withClock(-3*time.Hour, 0)} {
		s := spawn(t, []string{"clocks", "tomorrow"}, inClocks, opt)
		got := ""
		for strings.Count(got, " waits\n") < 3 {
			got += s.expect("\n")
		}
		// They wait again if they are not told to end.
		s.setClock(time.Hour)
		s.setClock(30 * time.Hour)
		rest, _, exit := s.output()
		got += rest
		for _, want := range []string{"clock_nanosleep: 1\n", "futex: 1\n", "pthread_cond_timedwait: 1\n", "the timer has 24 hours\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("it says %q, not %q; %+v", got, want, exit)
			}
		}
	}
}

// TestProgramsSetTheClock where they may, for their agent alone.
func TestProgramsSetTheClock(t *testing.T) {
	needClocks(t)
	later := strconv.FormatInt(time.Now().Add(100*days).Unix(), 10)
	s := spawn(t, []string{"clocks", "sets", later}, inClocks)
	if out, _, _ := s.output(); !strings.HasPrefix(out, "1 1 1 1\n") {
		t.Errorf("without the right to: %q", out)
	}
	s = spawn(t, sh("clocks sets "+later+" && clocks reads && clocks waits"), inClocks, granted(append([]string{"sys:clock"}, everyGrant...)...))
	told := eventsOf[*eventv1.AgentClock](t, s, "agent.clock")
	out, _, exit := s.output()
	if !strings.HasPrefix(out, "0 0 22 22\n") || exit.Code != 0 {
		t.Errorf("with it: %q %+v", out, exit)
	}
	if offset, mono := shows(t, out); !near(offset, 100*days) || !near(mono, 0) {
		t.Errorf("its clocks are %v and %v ahead", offset, mono)
	}
	if e := told(); e.GetBy() != s.id || !near(time.Duration(e.GetOffset()), 100*days) {
		t.Errorf("it is told that %v", e)
	}
	s = spawn(t, []string{"clocks", "sets", "99999999999"}, inClocks, granted(append([]string{"sys:clock"}, everyGrant...)...))
	if out, _, _ := s.output(); !strings.HasPrefix(out, "22 22 22 22\n") {
		t.Errorf("to the year 5138: %q", out)
	}
}

// TestCopiesKeepTheClock of their original, and their own from then on.
func TestCopiesKeepTheClock(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "sees"}, inClocks, withClock(400*days, 1000*time.Hour))
	s.expect("looks\n")
	c := s.clone(1)[0]
	if got := inspect(t, c.id).Clock; got == nil || got.Offset != int64(400*days) || got.Monotonic != int64(1000*time.Hour) {
		t.Errorf("the copy's is %+v", got)
	}
	s.setClock(410 * days)
	s.expect("set by 240\n")
	if _, err := theKernel.Clock(control.ClockRequest{ID: c.id, Offset: new(int64(399 * days))}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.HasSuffix(c.logged(), "set by -24\n") })
	if got := c.logged(); strings.Contains(got, "240") {
		t.Errorf("the copy says %q", got)
	}
	out, _, _ := c.execIn([]string{"clocks", "reads"}).output()
	if offset, mono := shows(t, out); !near(offset, 399*days) || !near(mono, 1000*time.Hour) {
		t.Errorf("the copy's clocks are %v and %v ahead", offset, mono)
	}
}

// TestWhatIsMadeOfAnAgentKeepsItsClock: what is split off, what begins from a template,
// and a copy with narrower authority.
func TestWhatIsMadeOfAnAgentKeepsItsClock(t *testing.T) {
	needClocks(t)
	keeps := func(what string, c *spawned) {
		t.Helper()
		out, _, _ := c.execIn([]string{"clocks", "reads"}).output()
		if offset, mono := shows(t, out); !near(offset, 400*days) || !near(mono, 1000*time.Hour) {
			t.Errorf("%s: its clocks are %v and %v ahead", what, offset, mono)
		}
	}
	s := spawn(t, sh("sh -c 'while :; do usleep 5000; done' & echo $!; wait"), inClocks, withClock(400*days, 1000*time.Hour))
	pid, err := strconv.Atoi(strings.TrimSpace(s.expect("\n")))
	if err != nil {
		t.Fatal(err)
	}
	keeps("specialised", s.clone(1, func(r *control.CloneRequest) { r.Only = &control.Specialize{} })[0])
	keeps("split", s.split(int32(pid)))
	tpl := warm(t, sh("while read line; do :; done"), inClocks, withClock(400*days, 1000*time.Hour))
	keeps("from a template", spawn(t, nil, from(tpl)))
}

// TestCheckpointKeepsTheClock in another kernel.
func TestCheckpointKeepsTheClock(t *testing.T) {
	needClocks(t)
	s := spawn(t, sh("while :; do clocks reads; done"), inClocks, withClock(400*days, 1000*time.Hour))
	looks := spawn(t, []string{"clocks", "sees"}, inClocks, withClock(-days, 0))
	s.expect("\n")
	looks.expect("looks\n")
	c := takeCheckpoint(t, s, looks)
	r := c.restore()
	before := strings.Count(r.text(s.id), "\n")
	eventually(t, func() bool { return strings.Count(r.text(s.id), "\n") > before+2 })
	for line := range strings.Lines(r.text(s.id)) {
		offset, mono := shows(t, line)
		if !near(offset, 400*days) || !near(mono, 1000*time.Hour) {
			t.Errorf("its clocks are %v and %v ahead", offset, mono)
		}
	}
	if got := r.ask("clock " + looks.id); got != fmt.Sprintf("%d 0 <nil>", -days) {
		t.Errorf("it says %q", got)
	}
	if got := r.ask("set " + looks.id + " 10h"); got != fmt.Sprintf("%d 0 <nil>", 10*time.Hour) {
		t.Errorf("set, it says %q", got)
	}
	if got := r.expectText(looks, "set by 34\n"); strings.Count(got, "set by") != 1 {
		t.Errorf("it says %q", got)
	}
	r.ask("end")
}
