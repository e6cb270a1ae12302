package sentry

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// TestSetCPU changes what an agent may use while it runs, and looks who is told.
func TestSetCPU(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"}, instead("cpu:self,weight=200,cpu=0.5"))
	a := limited(t, s)
	changed := eventsOf[*eventv1.CPUParams](t, s, "cpu.params")
	set := func(spec, was string) (control.SetCPUReply, error) {
		return theKernel.SetCPU(control.SetCPURequest{ID: s.id, Spec: spec, Was: was, Actor: control.Actor{Name: "uid:7", Correlation: "c1"}})
	}
	asked, err := set("", "")
	if err != nil || asked.Spec != asked.Was || !strings.HasPrefix(asked.Spec, "cpu:self,") {
		t.Fatalf("%+v %v", asked, err)
	}
	for _, same := range []string{asked.Spec, "cpu:self,weight=900"} {
		if _, err := set(same, "cpu:self,weight=1"); err == nil || errdefs.CodeOf(err) != errdefs.WrongState {
			t.Errorf("it did not say what was expected: %v", err)
		}
	}
	if _, err := set(asked.Spec, ""); err != nil {
		t.Error(err)
	}
	r, err := set("cpu:0,weight=900,reserve=0.1,every=50ms,priority=30,idle=1", asked.Spec)
	if err != nil || r.Was != asked.Spec {
		t.Fatalf("%+v %v", r, err)
	}
	// The first that is told: what changes nothing is not.
	if p := changed(); p.Was != asked.Spec || p.Grant != r.Spec || p.By != "uid:7" || p.Capability != r.Cap {
		t.Errorf("%+v", p)
	}
	p := a.crowd.Group().Params()
	if p.Weight != 900 || p.MilliCPU != sched.Unlimited || p.Reserved.Runtime != 5e6 || p.Reserved.Period != 50e6 || !p.Idle || p.CPUs != smp.Of(0) {
		t.Errorf("%+v", p)
	}
	v, err := theKernel.Sched(control.SchedRequest{ID: s.id})
	if err != nil || len(v.Agents) != 1 || v.Agents[0].Priority != 30 || a.leastNice() != -10 {
		t.Errorf("%+v %v", v, err)
	}

	// What cannot be kept, or makes no sense, changes nothing, not for a moment,
	// and nobody is told.
	before, seen := a.ownCPU().Spec(), a.crowd.Group().Params()
	stop, all := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			if a.crowd.Group().Params() != seen {
				n++
			}
			select {
			case <-stop:
				all <- n
				return
			default:
			}
		}
	}()
	for spec, code := range map[string]errdefs.Code{
		"cpu:self,weight=7,reserve=100": errdefs.InvalidArgument, "cpu:0,weight=7,reserve=0.99": errdefs.CPULimit, "cpu:1000": errdefs.CapabilityInvalid,
		"mem:self": errdefs.InvalidArgument, "cpu:self,weight=99999": errdefs.CapabilityInvalid, "cpu": errdefs.CapabilityInvalid,
	} {
		if _, err := set(spec, ""); errdefs.CodeOf(err) != code || errdefs.FixOf(err) == "" && code != errdefs.InvalidArgument {
			t.Errorf("%s: %v", spec, err)
		}
	}
	close(stop)
	if n := <-all; n > 0 {
		t.Errorf("it was something else for a while, seen %d times", n)
	}
	if a.ownCPU().Spec() != before || a.crowd.Group().Params() != seen {
		t.Errorf("%v %+v", a.ownCPU().Spec(), a.crowd.Group().Params())
	}
	if _, err := set("cpu:self", ""); err != nil {
		t.Error(err)
	}
	if p := changed(); p.Grant != "cpu:self" || p.Was != r.Spec {
		t.Errorf("what was refused was told: %+v", p)
	}
	s.signal(9)
	s.wait()
	if _, err := set("cpu:self,weight=5", ""); err == nil {
		t.Error("it has ended")
	}
}

// TestSetCPUBesideADelegation has an agent hand on some of what it was promised,
// which stays with whom it gave it to.
func TestSetCPUBesideADelegation(t *testing.T) {
	s, other := spawn(t, []string{"sleep", "1000"}, instead("cpu:self,reserve=0.2")), spawn(t, []string{"sleep", "1000"})
	a := limited(t, s)
	half := capability.Change{Limits: &capability.Limits{Reserve: 100000}}
	if _, err := theKernel.CapDelegate(control.CapRequest{Cap: a.ownCPU().ID(), To: other.id, Change: half}); err != nil {
		t.Fatal(err)
	}
	promised := func(s *spawned) int64 { return limited(t, s).crowd.Group().Params().Reserved.Runtime }
	eventually(t, func() bool { return promised(s) == 10e6 && promised(other) == 10e6 })
	set := func(spec string) error {
		_, err := theKernel.SetCPU(control.SetCPURequest{ID: s.id, Spec: spec})
		return err
	}
	// It has handed on half.
	if err := set("cpu:self,reserve=0.05"); err == nil {
		t.Error("less than it has handed on")
	}
	if err := set("cpu:self,reserve=0.3"); err != nil || promised(s) != 20e6 || promised(other) != 10e6 {
		t.Errorf("%v, %d and %d", err, promised(s), promised(other))
	}
}

// TestHintsAreTold at once, and no more than once in a while.
func TestHintsAreTold(t *testing.T) {
	s := spawn(t, sh("read x; for i in 1 2 3 4 5 6 7 8 9 10; do echo batch > /aios/self/hint; echo interactive > /aios/self/hint; done; sleep 1000"), withStdin)
	told := eventsOf[*eventv1.CPUHint](t, s, "cpu.hint")
	if r, err := theKernel.Hint(control.HintRequest{ID: s.id, Hint: "tool-call", Actor: control.Actor{Name: "uid:7"}}); err != nil || r.Hint != "tool-call" || r.Was != "none" {
		t.Errorf("%+v %v", r, err)
	}
	if p := told(); p.Hint != "tool-call" || p.Was != "none" || p.By != "uid:7" || p.Changes != 1 {
		t.Errorf("%+v", p)
	}
	start := time.Now()
	s.send("go\n")
	changes, events := uint64(0), 0
	for changes < 20 {
		p := told()
		changes, events = changes+p.Changes, events+1
		if p.By != s.id {
			t.Errorf("%+v", p)
		}
	}
	if most := int(time.Since(start)/hintEvery) + 1; changes != 20 || events > most {
		t.Errorf("%d events of %d changes", events, changes)
	}
	s.signal(9)
	s.wait()
	if _, err := theKernel.Hint(control.HintRequest{ID: s.id, Hint: "batch"}); err == nil {
		t.Error("it has ended")
	}
}

// TestBrokenPromisesAreTold: of a reservation that is used up, soon and then
// seldom, and of deadlines that pass, when there are fewer CPUs than there were.
func TestBrokenPromisesAreTold(t *testing.T) {
	n := theKernel.cfg.CPUs
	if n < 2 {
		t.Skip("needs two CPUs")
	}
	var all []*spawned
	for range 3 {
		all = append(all, schedules(t, "cpu:self,reserve=0.5,every=50ms", "spin", "1000", "2", "-"))
	}
	overrun := eventsOf[*eventv1.CPUPromise](t, all[0], "cpu.overrun")
	p := overrun()
	if p.Times == 0 || p.TimesTotal < p.Times || p.Interval < int64(throttleSoon)/2 || p.Runtime != 25e6 || p.Period != 50e6 || p.Short != 0 {
		t.Errorf("%+v", p)
	}
	missed := make([]func() *eventv1.CPUPromise, len(all))
	for i, s := range all {
		missed[i] = eventsOf[*eventv1.CPUPromise](t, s, "cpu.missed")
	}
	theKernel.sched.SetOnline(smp.Of(0))
	defer theKernel.sched.SetOnline(smp.First(n))
	eventually(t, func() bool {
		sum := uint64(0)
		for _, s := range all {
			sum += limited(t, s).crowd.Group().Kept().Missed
		}
		return sum > 20
	})
	for i, s := range all {
		if limited(t, s).crowd.Group().Kept().Missed == 0 {
			continue
		}
		if p := missed[i](); p.Times == 0 || p.TimesTotal < p.Times || p.Short <= 0 || p.Short > 25e6 || p.Runtime != 25e6 {
			t.Errorf("%+v", p)
		}
	}
	for _, s := range all {
		s.signal(9)
	}
}
