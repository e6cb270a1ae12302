package sentry

import (
	"sync/atomic"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/klog"
	"aios.dev/aios/sentry/smp"
)

// cpusEvery is how often the kernel looks which CPUs the host allows it.
const cpusEvery = time.Second

// processors is the CPUs of the domain as the host allows them.
type processors struct {
	watch *smp.Watch
	// usable is which of the domain's CPUs it can use now; nil: all.
	usable atomic.Pointer[smp.Set]
	// load is of all agents; told, which belongs to tellLoads, is when it was
	// last told.
	load smp.Load
	told time.Time
}

// watchCPUs begins to look which CPUs the host allows.
func (s *Kernel) watchCPUs() error {
	w, err := smp.NewWatch(s.cfg.Clock, cpusEvery, smp.Allowed)
	if err != nil {
		return err
	}
	s.processors.watch = w
	s.onCPUs(s.showCPUs)
	s.onCPUs(s.scheduleOn)
	before := w.Allowed()
	w.OnChange(func(allowed smp.Set) {
		if allowed != before {
			s.tellCPUs(before, allowed)
		}
		before = allowed
	})
	w.Start()
	s.cfg.Clock.AfterFunc(smp.LoadEvery, s.tellLoads)
	return nil
}

// onCPUs has f called with the CPUs of the domain that it can use, now and after
// each change: some of those that it was booted with, and at least one. Calls come
// one after the other; those after changes on a goroutine that holds no lock of the
// kernel. It may be called once watchCPUs has run.
func (s *Kernel) onCPUs(f func(usable smp.Set)) {
	s.processors.watch.OnChange(func(allowed smp.Set) { f(s.cfg.Topology.Usable(allowed)) })
}

// usableCPUs returns the CPUs of the domain that it can use now.
func (s *Kernel) usableCPUs() smp.Set {
	if set := s.processors.usable.Load(); set != nil {
		return *set
	}
	return smp.First(s.cfg.CPUs)
}

// showCPUs has agents see those CPUs that can be used.
func (s *Kernel) showCPUs(usable smp.Set) {
	s.processors.usable.Store(&usable)
	for _, a := range s.liveAgents() {
		a.authMu.Lock()
		if a.account.set.Load() != nil { // Otherwise it will be told later.
			a.requota()
		}
		a.authMu.Unlock()
	}
}

// scheduleOn has tasks run on those CPUs that can be used, and returns when none
// executes on others.
func (s *Kernel) scheduleOn(usable smp.Set) {
	s.sched.SetOnline(usable)
	s.sched.Flush(smp.First(s.cfg.CPUs).Minus(usable))
}

func (s *Kernel) tellCPUs(before, allowed smp.Set) {
	usable, n := s.cfg.Topology.Usable(allowed).Len(), s.cfg.Topology.Len()
	s.log.boot.Log(s.k.SupervisorContext(), klog.LevelNotice, "the host allows other CPUs",
		"allowed", allowed.String(), "before", before.String(), "usable", usable, "cpus", n)
	s.emit(nil, event.CPUChanged, &eventv1.CPUChanged{
		Allowed: allowed.String(), Before: before.String(), Usable: uint32(usable), Cpus: uint32(n),
	})
}

// HostCPUs returns which CPUs of the host the kernel has.
func (s *Kernel) HostCPUs(struct{}) (control.CPUsReply, error) {
	top := s.cfg.Topology
	return control.CPUsReply{CPUs: top.ToHost(smp.First(top.Len())), Allowed: s.processors.watch.Allowed()}, nil
}
