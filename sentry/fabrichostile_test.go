package sentry

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// TestUnmapRaces has threads of two agents map a region, write to it, fork and unmap it,
// while it is shared with them and taken back, versions are made and rolled back to, and
// others are removed. Nobody has anything of it in the end, and who still may finds it
// whole.
func TestUnmapRaces(t *testing.T) {
	owner, a, b := regioner(t), regioner(t), regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Agent: owner.id, Size: 1 << 20, Keep: 2})
	owner.say("open /aios/fabric/table rw", 0)
	owner.say("map w", 0)
	for _, s := range []*spawned{a, b} {
		s.send("churn /aios/fabric/table 400\n")
	}
	done := make(chan int, 2)
	for _, s := range []*spawned{a, b} {
		go func() { done <- parseOutcome(t, s.expect("\n"), "churn") }()
	}
	for round, left := 0, 2; left > 0; round++ {
		to := []*spawned{a, b}[round%2]
		c, err := theKernel.Fabric(control.FabricRequest{Op: control.FabricShare, Name: "table", Agent: to.id, Rights: "read+write"})
		if err != nil {
			t.Fatal(err)
		}
		v := fab(t, control.FabricRequest{Op: control.FabricSnapshot, Name: "table"}).Versions[0]
		switch round % 4 {
		case 0:
			fab(t, control.FabricRequest{Op: control.FabricRollback, Name: "table", Version: v.Number})
		case 1:
			read := abi.RegionRead
			if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.Cap.ID, Change: capability.Change{Rights: &read}}); err != nil {
				t.Fatal(err)
			}
		case 2:
			leaseEnds(to, c.Cap)
		}
		theKernel.Fabric(control.FabricRequest{Op: control.FabricUnshare, Name: "table", Agent: to.id})
		select {
		case got := <-done:
			if left--; got != 0 {
				t.Errorf("churn: %d", got)
			}
		default:
		}
	}
	r, err := theKernel.fabric.Lookup("table")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*spawned{a, b} {
		theKernel.Fabric(control.FabricRequest{Op: control.FabricUnshare, Name: "table", Agent: s.id})
		s.say("open /aios/fabric/table r", int(unix.ENOENT))
	}
	if views := r.Views(); len(views) != 1 || r.Info().Mapped != 1<<20 {
		t.Errorf("%d views, %d bytes are mapped", len(views), r.Info().Mapped)
	}
	owner.say("poke 8191 77", 0)
	owner.say("pread 8191", 1077)
	fab(t, control.FabricRequest{Op: control.FabricRemove, Name: "table"})
	owner.say("peek 8191", bus)
}

// TestLeaseGames: nobody keeps a region beyond what it was given, however it is lent on,
// narrowed, renewed or given back.
func TestLeaseGames(t *testing.T) {
	a, b, c := regioner(t), regioner(t), regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Agent: a.id, Size: 4096})
	lent := share(t, "table", b, "read+share", time.Hour)
	by := func(s *spawned) control.Actor { return control.Actor{Name: s.id} }
	long, none := 100*time.Hour, time.Duration(0)
	within := func(id capability.ID) {
		t.Helper()
		n, err := theKernel.space.ByID(id)
		if err != nil {
			t.Fatal(err)
		}
		if left, ok := n.Expires(); !ok || left > time.Hour {
			t.Errorf("it has %v, %v", left, ok)
		}
	}
	// Lent on for longer, or for ever, to oneself or back to who gave it, it ends with
	// what it was lent from.
	for _, lease := range []*time.Duration{&long, &none, nil} {
		for _, to := range []*spawned{c, b, a} {
			within(handOn(t, *lent, to.id, capability.Change{Lease: lease}).ID)
		}
	}
	// Who holds it cannot renew it, nor make more of it.
	if _, err := theKernel.CapRenew(control.CapRequest{Cap: lent.ID, Lease: long, Actor: by(b)}); err == nil {
		t.Error("who borrows has renewed")
	}
	if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: lent.ID, Change: capability.Change{Lease: &long}, Actor: by(b)}); err == nil {
		within(lent.ID)
	}
	write := abi.RegionRead | abi.RegionWrite
	_, err := theKernel.CapDelegate(control.CapRequest{Cap: lent.ID, To: c.id, Change: capability.Change{Rights: &write}, Actor: by(b)})
	wantCode(t, err, errdefs.RightsExceed)
	for _, s := range []*spawned{b, c} {
		s.say("open /aios/fabric/table r", 0)
		s.say("map r", 0)
		s.say("peek 1", 1000)
	}
	leaseEnds(b, lent)
	for _, s := range []*spawned{b, c} {
		s.say("peek 1", bus)
		s.say("open /aios/fabric/table r", int(unix.ENOENT))
	}
	if _, err := theKernel.CapRenew(control.CapRequest{Cap: lent.ID, Lease: long, Actor: by(a)}); err == nil {
		t.Error("what has ended was renewed")
	}
	a.say("open /aios/fabric/table rw", 0)
}
