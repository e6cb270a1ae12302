package sentry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sync"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func specialized(keep ...string) func(*control.CloneRequest) {
	return func(r *control.CloneRequest) { r.Only = &control.Specialize{Keep: keep} }
}

func holds(id string) (all []string) {
	for _, c := range theKernel.space.List(id) {
		all = append(all, c.Object().String())
	}
	slices.Sort(all)
	return all
}

// A specialised copy has what was named, and whatever is tried, it gets no more.
func TestSpecialize(t *testing.T) {
	s := original(t, granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=64", "cpu:self", "io:self", "net:loopback", "sys:mount", "sys:keys,lease=1h"))
	other := original(t)
	c := s.clone(1, specialized("sys:keys,lease=30m"), func(r *control.CloneRequest) { r.Only.CPU = "cpu:self,weight=20,idle=1" })[0]
	if got := fmt.Sprint(holds(c.id)); got != "[cpu:self io:self mem:self proc:self sys:keys]" {
		t.Errorf("it has %s", got)
	}
	a := theKernel.findAgent(c.id)
	if l := a.ownLimits(abi.ClassCPU); l.Weight != 20 || l.Idle != 1 {
		t.Errorf("its CPU time is %+v", l)
	}
	by := theKernel.actor(control.Actor{})
	by.Privileged = true
	for _, what := range []string{"net:loopback", "mem:self,bytes=1G", "cpu:self,weight=500"} {
		_, err := theKernel.CapGrant(control.GrantRequest{ID: c.id, Grants: grants(what)})
		wantCode(t, err, errdefs.AgentSealed)
	}
	for _, from := range []string{s.id, other.id} {
		for _, x := range theKernel.space.List(from) {
			for _, move := range []bool{false, true} {
				_, err := theKernel.space.Delegate(x, c.id, capability.Change{}, move, by)
				wantCode(t, err, errdefs.AgentSealed)
			}
		}
	}
	for _, x := range theKernel.space.List(c.id) {
		if x.Object().Class == abi.ClassSys {
			wantCode(t, theKernel.space.Renew(x, 40*time.Minute, by), errdefs.AgentSealed)
		}
	}
	_, err := theKernel.SetCPU(control.SetCPURequest{ID: c.id, Spec: "cpu:self,weight=100"})
	wantCode(t, err, errdefs.AgentSealed)
	_, err = c.tryClone(1, specialized("net:loopback"))
	wantCode(t, err, errdefs.RightsExceed)
	d := c.clone(1)[0]
	if got := fmt.Sprint(holds(d.id)); got != fmt.Sprint(holds(c.id)) {
		t.Errorf("its copy has %s", got)
	}
	_, err = theKernel.space.Delegate(theKernel.space.List(other.id)[0], d.id, capability.Change{}, false, by)
	wantCode(t, err, errdefs.AgentSealed)
	// The original has what it had.
	if got := fmt.Sprint(holds(s.id)); got != "[cpu:self io:self mem:self net:loopback proc:self sys:keys sys:mount]" {
		t.Errorf("the original has %s", got)
	}
	for _, x := range []*spawned{s, c, d} {
		if got := x.do("echo alive"); got != "alive\n" {
			t.Errorf("it says %q", got)
		}
	}
}

// What is open on the network is not, in a copy that may not use it.
func TestSpecializeEndsListeners(t *testing.T) {
	if sync.RaceEnabled {
		t.Skip("built for the race detector, gVisor makes sockets for none but the task that runs")
	}
	s := original(t)
	s.execIn(sh("nc -l -p 7000 > /dev/null; echo over > /over"))
	eventually(t, func() bool { return s.run("grep -q :1B58 /proc/net/tcp /proc/net/tcp6") == "[0]" })
	kept := s.clone(1, specialized("net:loopback"))[0]
	c := s.clone(1, specialized())[0]
	c.do("until [ -e /over ]; do usleep 2000; done")
	for _, x := range []*spawned{s, kept} {
		if got := x.run("ls /over"); !strings.HasSuffix(got, "[1]") {
			t.Errorf("it listens no more: %s", got)
		}
	}
}

// What the original has not, no copy has: there is none then.
func TestSpecializeRefused(t *testing.T) {
	s := original(t, granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=64", "cpu:self,weight=50", "io:self"))
	before := len(theKernel.liveAgents())
	for _, keep := range []string{"net:loopback", "mem:self,bytes=1G", "sys:mount"} {
		if _, err := s.tryClone(1, specialized(keep)); errdefs.CodeOf(err) != errdefs.RightsExceed {
			t.Errorf("%s: %v", keep, err)
		}
	}
	_, err := s.tryClone(1, specialized(), func(r *control.CloneRequest) { r.Only.CPU = "cpu:self,weight=60" })
	wantCode(t, err, errdefs.RightsExceed)
	_, err = s.tryClone(1, specialized("nonsense"))
	wantCode(t, err, errdefs.CapabilityInvalid)
	if n := len(theKernel.liveAgents()); n != before {
		t.Errorf("%d agents are there, %d were", n, before)
	}
	if got := s.do("echo alive"); got != "alive\n" {
		t.Errorf("it says %q", got)
	}
}

// ownLimits returns the limits of the agent's capability of a class.
func (a *Agent) ownLimits(class abi.Class) capability.Limits {
	for _, c := range a.s.space.List(a.id) {
		if c.Object().Class == class {
			return c.Spec().Limits
		}
	}
	return capability.Limits{}
}
