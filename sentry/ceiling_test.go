package sentry

import (
	"fmt"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
)

// TestCeilings: the lowest ceiling counts; what an agent holds counts again when
// all are lifted, also what changed there meanwhile; and other agents do not
// notice.
func TestCeilings(t *testing.T) {
	s, other := idle(t), idle(t)
	set := func(name string, milli uint64) {
		t.Helper()
		r := control.CeilingRequest{ID: s.id, Name: name}
		if milli > 0 {
			r.MilliCPU = &milli
		}
		if _, err := theKernel.Ceiling(r); err != nil {
			t.Fatal(err)
		}
	}
	quota := func() string {
		t.Helper()
		r, err := theKernel.Accounts(struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		if q := r.Agents[other.id].CPU.QuotaMilli; q != nil {
			t.Errorf("its neighbour has a quota of %d", *q)
		}
		snap, ok := r.Agents[s.id]
		if !ok || snap.Memory.Now == 0 || snap.Tasks.Now == 0 {
			t.Fatalf("%+v", r)
		}
		if snap.CPU.QuotaMilli == nil {
			return "none"
		}
		return fmt.Sprint(*snap.CPU.QuotaMilli)
	}
	var got []string
	step := func() { got = append(got, quota()) }
	step()
	set("a", 500)
	step()
	set("b", 200)
	step()
	set("b", 700)
	step()
	set("a", 0)
	step()
	c := own(t, s.id, "cpu")
	limits := capability.Limits{MilliCPU: 300}
	if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Limits: &limits}}); err != nil {
		t.Fatal(err)
	}
	step()
	set("b", 100)
	step()
	set("b", 0)
	step()
	set("b", 0) // Once more is none.
	if want := "[none 500 200 500 700 300 100 300]"; fmt.Sprint(got) != want {
		t.Errorf("%v, not %v", got, want)
	}
	for i := range maxCeilings {
		set(fmt.Sprint("c", i), 1000)
	}
	milli := uint64(1)
	if _, err := theKernel.Ceiling(control.CeilingRequest{ID: s.id, Name: "one more", MilliCPU: &milli}); err == nil {
		t.Error("there is no end of ceilings")
	}
}

// TestEndedForAReason: the end of an agent says why somebody ended it.
func TestEndedForAReason(t *testing.T) {
	s := idle(t)
	by := control.By{By: "alert hog", Reason: "alert hog: cpu is 2, more than 1"}
	if _, err := theKernel.Pause(control.AgentRequest{By: by, ID: s.id}); err != nil {
		t.Fatal(err)
	}
	if st := inspect(t, s.id).State; st != string(abi.StatePaused) {
		t.Errorf("it is %s", st)
	}
	if _, err := theKernel.Signal(control.SignalRequest{By: by, ID: s.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Signal != 9 || exit.Reason != by.Reason {
		t.Errorf("%+v", exit)
	}
}
