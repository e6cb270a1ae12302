package capability

import (
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// TestNothingComesOfWhatIsNotSaid: a capability that speaks of no weight, rank or
// promise gives nobody one, neither its holder nor others.
func TestNothingComesOfWhatIsNotSaid(t *testing.T) {
	s := NewSpace(Options{Clock: ktime.Real})
	for _, h := range []string{"a", "b"} {
		if err := s.AddHolder(h); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := ParseSpec("cpu:self")
	if err != nil {
		t.Fatal(err)
	}
	a := Actor{Name: "a"}
	for _, c := range []struct {
		l  Limits
		ok bool
	}{
		{Limits{Reserve: 1}, false}, {Limits{Weight: 101}, false}, {Limits{Priority: 21}, false}, {Limits{Burst: 1}, false},
		{Limits{Weight: 100, Priority: 20}, true}, {Limits{Weight: 1, Priority: 1, Idle: 1, MilliCPU: 500, Period: 1e7}, true},
	} {
		own, err := s.Mint("a", spec, Actor{Privileged: true})
		if err != nil {
			t.Fatal(err)
		}
		made, err := s.Delegate(own, "b", Change{Limits: &c.l}, false, a)
		if (err == nil) != c.ok || !c.ok && errdefs.CodeOf(err) != errdefs.RightsExceed {
			t.Errorf("delegated with %+v: %v", c.l, err)
		}
		if made != nil {
			s.Revoke(made, true, a, "")
		}
		if _, err = s.Attenuate(own, Change{Limits: &c.l}, a); (err == nil) != c.ok || !c.ok && errdefs.CodeOf(err) != errdefs.RightsExceed {
			t.Errorf("attenuated to %+v: %v", c.l, err)
		}
	}
	// Nor does it if the one it was derived from says nothing any more.
	more, err := s.Mint("a", Spec{Object: spec.Object, Rights: spec.Rights, Limits: Limits{Weight: 300}}, Actor{Privileged: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delegate(more, "b", Change{Limits: &Limits{Weight: 200}}, false, a); err != nil {
		t.Fatal(err)
	}
	if err := s.Amend(more, spec.Object, Limits{}, Actor{Privileged: true}); errdefs.CodeOf(err) != errdefs.RightsExceed {
		t.Error(err)
	}
}
