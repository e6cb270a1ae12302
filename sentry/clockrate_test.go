package sentry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/clocks"
)

// withRate gives an agent a CLOCK_REALTIME that is ahead, and goes so fast.
func withRate(rate clocks.Rate, offset time.Duration) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Clock = &control.Clock{Offset: int64(offset), Rate: int64(rate)} }
}

func (s *spawned) setRate(rate clocks.Rate) control.ClockReply {
	s.t.Helper()
	r, err := theKernel.Clock(control.ClockRequest{ID: s.id, Rate: int64(rate), Actor: control.Actor{Name: "uid:7"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestRate has programs examine clocks that go faster and slower: what they read in the
// VDSO and by calls, while the kernel's are measured anew, and how they wait.
func TestRate(t *testing.T) {
	needClocks(t)
	all := make(map[clocks.Rate]*spawned)
	for _, rate := range []clocks.Rate{clocks.Fastest, 60 * clocks.Normal, clocks.Normal + 500_000, clocks.Normal / 10} {
		all[rate] = spawn(t, []string{"clocks", "rated", rate.String(), "1500"}, inClocks, withRate(rate, -days))
	}
	for rate, s := range all {
		if out, errout, exit := s.output(); exit.Code != 0 || exit.Signal != 0 {
			t.Errorf("%v times as fast: %+v\n%s%s", rate, exit, out, errout)
		}
	}
}

// TestRateIsChanged while a program reads the clock and does nothing else. It goes on
// from what it showed.
func TestRateIsChanged(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "turns"}, inClocks)
	told := eventsOf[*eventv1.AgentClock](t, s, "agent.clock")
	s.expect("goes 1\n")
	was := clocks.Normal
	for _, rate := range []clocks.Rate{60 * clocks.Normal, clocks.Fastest, 20 * clocks.Normal, clocks.Normal / 2, clocks.Slowest, 2 * clocks.Normal, clocks.Normal} {
		began := time.Now()
		r := s.setRate(rate)
		jump := time.Duration(r.Clock.Offset - r.Was.Offset).Abs()
		if most := time.Duration(float64(time.Since(began)) * max(rate.Float(), was.Float(), 1)); jump > most {
			t.Errorf("from %v to %v it jumps by %v", was, rate, jump)
		}
		if r.Was.Rate != int64(was) || r.Clock.Rate != int64(rate) {
			t.Errorf("it says %+v", r)
		}
		s.expect(fmt.Sprintf("goes %.2g\n", rate.Float()))
		if e := told(); e.GetRate() != rate.Float() || e.GetWasRate() != was.Float() || e.GetBy() != "uid:7" {
			t.Errorf("it is told that %v", e)
		}
		was = rate
	}
	if c := s.setRate(clocks.Normal); c.Clock != c.Was || c.Clock.Offset < int64(time.Second) {
		t.Errorf("it goes on ahead, as %+v", c)
	}
	s.setRate(60 * clocks.Normal)
	if c := inspect(t, s.id).Clock; c == nil || c.Rate != int64(60*clocks.Normal) {
		t.Errorf("inspect says %+v", c)
	}
	// It is set, and goes on as fast as it did; and both at once.
	if r := s.setClock(days); r.Clock.Rate != int64(60*clocks.Normal) || !near(time.Duration(r.Clock.Offset), days) {
		t.Errorf("set, it is %+v", r)
	}
	r, err := theKernel.Clock(control.ClockRequest{ID: s.id, Offset: new(int64), Rate: int64(clocks.Normal)})
	if err != nil || r.Clock != clockOf(0, clocks.Normal, 0) {
		t.Errorf("as the kernel's it is %+v %v", r, err)
	}
}

// TestRateIsNone refuses what no clock can do.
func TestRateIsNone(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "stands"}, inClocks)
	for _, rate := range []clocks.Rate{-1, clocks.Slowest - 1, clocks.Fastest + 1, -clocks.Normal, 1<<63 - 1, -1 << 63} {
		_, err := trySpawn(t, []string{"clocks", "stands"}, inClocks, withRate(rate, 0))
		wantCode(t, err, errdefs.InvalidArgument)
		_, err = theKernel.Clock(control.ClockRequest{ID: s.id, Rate: int64(rate)})
		wantCode(t, err, errdefs.InvalidArgument)
	}
	if c := inspect(t, s.id).Clock; c != nil {
		t.Errorf("it has %+v", c)
	}
}

// TestWaitsFollowTheRate has calls wait for a moment that comes soon when the clock goes
// faster.
func TestWaitsFollowTheRate(t *testing.T) {
	needClocks(t)
	for _, opt := range []func(*control.SpawnRequest){inClocks, withRate(2*clocks.Normal, -days)} {
		s := spawn(t, []string{"clocks", "tomorrow", "200"}, inClocks, opt)
		got := ""
		for strings.Count(got, " waits\n") < 3 {
			got += s.expect("\n")
		}
		s.setRate(clocks.Normal / 2)
		s.setRate(clocks.Fastest)
		rest, _, exit := s.output()
		got += rest
		for _, want := range []string{"clock_nanosleep: 1\n", "futex: 1\n", "pthread_cond_timedwait: 1\n", "the timer has 0 hours\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("it says %q, not %q; %+v", got, want, exit)
			}
		}
	}
}

// TestRateComesToAnEnd where clocks do: it goes on as the kernel's.
func TestRateComesToAnEnd(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "turns"}, inClocks)
	told := eventsOf[*eventv1.AgentClock](t, s, "agent.clock")
	_, err := theKernel.Clock(control.ClockRequest{ID: s.id, Wall: lastWall - int64(500*time.Second), Rate: int64(clocks.Fastest)})
	if err != nil {
		t.Fatal(err)
	}
	s.expect("goes 1e+03\n")
	s.expect("goes 1\n")
	told()
	if e := told(); e.GetRate() != 1 || e.GetWasRate() != 1000 || e.GetBy() != "kernel" {
		t.Errorf("it is told that %v", e)
	}
	r, err := theKernel.Clock(control.ClockRequest{ID: s.id})
	if err != nil || r.Realtime < lastWall || r.Realtime > lastWall+int64(days) {
		t.Errorf("it is %v, %v", time.Unix(0, r.Realtime), err)
	}
	_, err = theKernel.Clock(control.ClockRequest{ID: s.id, Rate: int64(clocks.Fastest)})
	wantCode(t, err, errdefs.InvalidArgument)
}

// TestCopiesKeepTheRate of their original, and have their own from then on.
func TestCopiesKeepTheRate(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "turns"}, inClocks, withRate(60*clocks.Normal, 400*days))
	s.expect("goes 60\n")
	c := s.clone(1)[0]
	if got := inspect(t, c.id).Clock; got.Rate != int64(60*clocks.Normal) || !near(time.Duration(got.Offset), 400*days) {
		t.Errorf("that of the copy is %+v", got)
	}
	c.setRate(2 * clocks.Normal)
	eventually(t, func() bool { return strings.HasSuffix(c.logged(), "goes 2\n") })
	if got := inspect(t, s.id).Clock; got.Rate != int64(60*clocks.Normal) || !near(time.Duration(got.Offset), 400*days) {
		t.Errorf("that of the original is %+v", got)
	}
	if got := s.logged(); !strings.HasSuffix(got, "goes 60\n") || strings.Contains(got, "goes 2\n") || strings.Contains(got, "backwards") {
		t.Errorf("the original says %q", got)
	}
}

// TestCheckpointKeepsTheRate in another kernel, where the clock goes on from as far ahead
// as it was.
func TestCheckpointKeepsTheRate(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "turns"}, inClocks, withRate(60*clocks.Normal, 400*days))
	s.expect("goes 60\n")
	r := takeCheckpoint(t, s).restore()
	if got, want := r.ask("rate "+s.id), fmt.Sprintf("60 %v <nil>", 400*days); got != want {
		t.Errorf("it says %q, not %q", got, want)
	}
	if got := r.ask("turn " + s.id + " 2"); !strings.HasPrefix(got, "2 ") {
		t.Errorf("changed, it says %q", got)
	}
	if got := r.expectText(s, "goes 2\n"); strings.Contains(got, "backwards") {
		t.Errorf("it says %q", got)
	}
	r.ask("end")
}
