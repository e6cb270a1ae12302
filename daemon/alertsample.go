package daemon

import (
	"context"
	"sync"
	"time"

	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/ktime"
)

// sampleTimeout is how long a domain may take to say what its agents use.
const sampleTimeout = 2 * time.Second

// alertSampler samples the counters of agents for rules about them.
type alertSampler struct {
	every time.Duration // 0: never
	timer ktime.Timer
	// What each agent had used when it was last sampled.
	before map[string]usedBefore
}

type usedBefore struct {
	at   time.Time
	snap account.Snapshot
}

func (s *alertSampler) stop() {
	s.every = 0
	if s.timer != nil {
		s.timer.Stop()
	}
}

// armSampler has the next sample taken, once it is known what there is to sample.
//
// +checklocks:a.mu
func (a *alerts) armSampler() {
	s := &a.sampler
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.every > 0 && a.known && !a.stopped {
		s.timer = a.d.clock.AfterFunc(s.every, a.sample)
	}
}

// sample asks every domain what its agents use, and tells the engine.
func (a *alerts) sample() {
	a.mu.Lock()
	if a.sampler.every == 0 || a.stopped {
		a.mu.Unlock()
		return
	}
	mine := a.sampler.timer
	a.work.Add(1)
	a.mu.Unlock()
	defer a.work.Done()

	var mu sync.Mutex
	var wg sync.WaitGroup
	silent := make(map[string]bool)
	used := make(map[string]account.Snapshot)
	domains := make(map[string]string)
	for _, dom := range a.d.liveDomains() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(a.ctx, sampleTimeout)
			defer cancel()
			var r control.AccountsReply
			err := dom.call(ctx, control.MethodAccounts, struct{}{}, &r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[dom.name] = true
			}
			for id, snap := range r.Agents {
				used[id], domains[id] = snap, dom.name
			}
		})
	}
	wg.Wait()

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped || a.sampler.every == 0 {
		return
	}
	now := a.d.clock.Now()
	before := make(map[string]usedBefore, len(used))
	samples := make([]alert.Sample, 0, len(used))
	for id, snap := range used {
		name, known := a.d.eventNames.Load(id)
		if !known {
			continue // It is about to be forgotten.
		}
		s := alert.Sample{Agent: id, Domain: domains[id]}
		s.Name, _ = name.(string)
		old, sampled := a.sampler.before[id]
		counters(&s, &snap, &old.snap, now.Sub(old.at), sampled)
		samples = append(samples, s)
		before[id] = usedBefore{now, snap}
	}
	a.sampler.before = before
	a.engine.Sample(a.nowLocked(), samples, silent)
	a.flush()
	if a.sampler.timer == mine { // Else another configuration has armed it.
		a.armSampler()
	}
}

// counters notes what an agent uses; rates since it was sampled before.
func counters(s *alert.Sample, now, old *account.Snapshot, d time.Duration, sampled bool) {
	s.Set(alert.Memory, float64(now.Memory.Now))
	s.Set(alert.Tasks, float64(now.Tasks.Now))
	s.Set(alert.Files, float64(now.Files.Now))
	s.Set(alert.Disk, float64(now.Disk.Now))
	if !sampled || d <= 0 {
		return
	}
	for _, r := range []struct {
		c        alert.Counter
		now, old uint64
		unit     float64
	}{
		{alert.CPU, now.CPU.UserNS + now.CPU.SystemNS, old.CPU.UserNS + old.CPU.SystemNS, 1e9},
		{alert.Faults, now.Memory.Faults, old.Memory.Faults, 1},
		{alert.MajorFaults, now.Memory.Kinds.Major, old.Memory.Kinds.Major, 1},
		{alert.Read, now.IO.ReadBytes, old.IO.ReadBytes, 1},
		{alert.Written, now.IO.WriteBytes, old.IO.WriteBytes, 1},
		{alert.Operations, now.IO.ReadOps + now.IO.WriteOps, old.IO.ReadOps + old.IO.WriteOps, 1},
		{alert.CPUPressure, now.Pressure.CPU.SomeNS, old.Pressure.CPU.SomeNS, 1e9},
		{alert.MemoryPressure, now.Pressure.Memory.SomeNS, old.Pressure.Memory.SomeNS, 1e9},
		{alert.IOPressure, now.Pressure.IO.SomeNS, old.Pressure.IO.SomeNS, 1e9},
		{alert.Throttled, now.CPU.ThrottledNS, old.CPU.ThrottledNS, 1e9},
	} {
		if r.now >= r.old { // Else it was started again.
			s.Set(r.c, float64(r.now-r.old)/r.unit/d.Seconds())
		}
	}
}
