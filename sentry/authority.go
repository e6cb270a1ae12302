package sentry

import (
	"cmp"
	"slices"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/netstack"
)

// The kernel holds the derivation tree of its domain and enforces it. The
// doors:
//
//	files          a mount of package grantfs per grant       grants.go
//	system calls   the agent's mask of groups, in the gate    gate.go
//	memory, tasks, CPU, I/O   the agent's limits              reweigh
//	network        the mask, and the agent's network stack    reweigh
//	other agents   the control tree                           agentops.go
//	events         a subscription of the bus                  agentevents.go
//	regions        a view of package fabric per capability    fabric.go
//	semantic memory   each question, and its answer           semantic.go
//
// What an agent may do follows from the capabilities it holds: every change to
// them ends in reweigh.

// bootAuthority makes the derivation tree.
func (s *Kernel) bootAuthority() error {
	s.trail.init(s)
	s.clearing.init(s.cfg.Clock, s.dogs.clearing)
	s.images = make(map[capability.ID]*capability.Capability) // +checklocksignore: the kernel boots.
	s.space = capability.NewSpace(capability.Options{
		Clock:   s.cfg.Clock,
		Audit:   s.trail.add,
		Changed: s.capsChanged,
	})
	s.OnDenied(s.trail.denied)
	return nil
}

// capsChanged follows a change to what an agent holds.
func (s *Kernel) capsChanged(holder string) {
	if a := s.findAgent(holder); a != nil && a.endowed.Load() {
		a.reweigh()
	}
}

// actor translates who asks. Whoever is not an agent of the domain speaks for
// the operator.
func (s *Kernel) actor(a control.Actor) capability.Actor {
	_, agent := s.byID.Load(a.Name)
	return capability.Actor{Name: cmp.Or(a.Name, "operator"), Privileged: !agent, Correlation: a.Correlation}
}

// endow gives a new agent what it was spawned with: all or nothing. Nested
// directories go in outermost first. Caller holds a.lifeMu.
func (a *Agent) endow(grants []control.Grant, by capability.Actor) error {
	grants = slices.Clone(grants)
	slices.SortStableFunc(grants, func(x, y control.Grant) int {
		return cmp.Compare(pathDepth(x.Spec), pathDepth(y.Spec))
	})
	if err := a.s.space.AddHolder(a.id); err != nil {
		return err
	}
	for _, g := range grants {
		if _, err := a.grant(g, "", by); err != nil {
			return err // The agent is released, and its holder with it.
		}
	}
	a.s.trail.putGathered(a)
	a.endowed.Store(true)
	a.reweigh()
	if err := a.s.labelsAllow(a.id, capability.Object{Class: abi.ClassRegion}); err != nil {
		return err
	}
	return a.cpuRefusal()
}

// grant mints one capability and opens what it is for.
func (a *Agent) grant(g control.Grant, origin capability.ID, by capability.Actor) (*capability.Capability, error) {
	spec, err := capability.ParseSpec(g.Spec)
	if err != nil {
		return nil, err
	}
	if spec.Object, err = a.s.ofAgent(spec.Object); err != nil {
		return nil, err
	}
	if err := a.s.hasCPUs(spec.Object); err != nil {
		return nil, err
	}
	if err := a.s.hasRegion(a.id, spec.Object); err != nil {
		return nil, err
	}
	var c *capability.Capability
	if origin == "" {
		c, err = a.s.space.Mint(a.id, spec, by)
	} else {
		c, err = a.s.space.MintRemoteImage(a.id, spec, origin, by)
	}
	if err != nil {
		return nil, err
	}
	if origin != "" {
		a.s.imagesMu.Lock()
		a.s.images[origin] = c
		a.s.imagesMu.Unlock()
	}
	if spec.Object.Class == abi.ClassFS {
		if err := a.openGrant(c, g.Key); err != nil {
			a.s.space.Revoke(c, true, by, "it could not be opened: "+err.Error())
			return nil, err
		}
	}
	if spec.Limits.Reserve != 0 && a.endowed.Load() {
		if err := a.cpuRefusal(); err != nil {
			a.s.space.Revoke(c, true, by, "it cannot be kept: "+err.Error())
			return nil, err
		}
	}
	return c, nil
}

// amount is a sum of limits; one that has none makes the sum have none.
type amount struct {
	sum       uint64
	unlimited bool
}

func (m *amount) add(c *capability.Capability, k capability.Kind) {
	left, limited := c.Left(k)
	m.unlimited = m.unlimited || !limited
	m.sum += left
}

// limit is the sum, for the account.
func (m *amount) limit() uint64 {
	if m.unlimited {
		return account.Unlimited
	}
	return m.sum
}

// reweigh makes the agent's mask and limits follow its capabilities.
func (a *Agent) reweigh() {
	a.authMu.Lock()
	defer a.authMu.Unlock()
	var (
		held                       []abi.Held
		mem, tasks, cpu, bps, opps amount
		maps                       amount
		swap                       uint64
		params                     cpuGrants
		net                        abi.Rights
		files                      []*capability.Capability
		network                    bool
	)
	for _, c := range a.s.space.List(a.id) {
		if !c.Live() {
			continue
		}
		spec := c.Spec()
		held = append(held, abi.Held{Class: spec.Object.Class, Object: spec.Object.Name, Rights: spec.Rights})
		switch spec.Object.Class {
		case abi.ClassMem:
			if spec.Rights.Has(abi.MemMap) {
				mem.add(c, capability.KindBytes)
				maps.add(c, capability.KindCount)
				left, _ := c.Left(capability.KindSwap)
				swap += left
			}
		case abi.ClassProc:
			if spec.Rights.Has(abi.ProcSpawn) {
				tasks.add(c, capability.KindCount)
			}
		case abi.ClassCPU:
			cpu.add(c, capability.KindMilliCPU)
			params.add(c)
		case abi.ClassIO:
			bps.add(c, capability.KindBytesPerSec)
			opps.add(c, capability.KindOpsPerSec)
		case abi.ClassNet:
			net |= spec.Rights
			network = network || networked(spec.Object)
		case abi.ClassFS:
			if spec.Limits != (capability.Limits{}) {
				files = append(files, c)
			}
		}
	}
	a.setMask(abi.MaskFor(held))
	a.promised = control.Promised{
		Agents: 1, MemoryBytes: mem.sum, Tasks: tasks.sum, MilliCPU: cpu.sum,
		MemoryUnlimited: mem.unlimited, TasksUnlimited: tasks.unlimited, CPUUnlimited: cpu.unlimited,
	}
	a.setTaskLimit(tasks.limit())
	a.setMappingLimit(maps.limit())
	a.setSwapLimit(swap) // First: it may be what keeps the agent below its limit.
	a.setMemoryLimit(mem.limit())
	a.cpuGranted = cpu.limit()
	a.cpuParams = params.params()
	a.priority.Store(int32(max(params.priority, usualPriority)))
	a.requota()
	a.setIOLimits(bps.limit(), opps.limit())
	for _, c := range files {
		if g := a.grantOf(c.ID()); g != nil {
			g.requota(c)
		}
	}
	if lost := a.netRights &^ net; lost != 0 {
		netstack.Cut(a.network())
	}
	a.netRights = net
	if a.fabric.network.Swap(network) != network {
		a.barRegions()
	}
}

// promised is what the agents of the domain may use together.
func (s *Kernel) promised() control.Promised {
	sum := control.Promised{MemoryBytes: s.ownRegions.Load()}
	s.byID.Range(func(_, v any) bool {
		a := v.(*Agent)
		a.authMu.Lock()
		p := a.promised
		a.authMu.Unlock()
		sum.Agents += p.Agents
		sum.MemoryBytes += p.MemoryBytes
		sum.Tasks += p.Tasks
		sum.MilliCPU += p.MilliCPU
		sum.MemoryUnlimited = sum.MemoryUnlimited || p.MemoryUnlimited
		sum.TasksUnlimited = sum.TasksUnlimited || p.TasksUnlimited
		sum.CPUUnlimited = sum.CPUUnlimited || p.CPUUnlimited
		return true
	})
	return sum
}

// gathers reports whether the agent is coming or going: whatever is minted or
// revoked then is so by the one goroutine that brings or ends it.
func (a *Agent) gathers() bool { return !a.endowed.Load() }

// loseAll ends everything that the agent holds or handed on.
func (a *Agent) loseAll(reason string) {
	a.endowed.Store(false) // There is nothing left to reweigh.
	exports := a.s.exportsOf(a.s.space.Retire(a.id, capability.Actor{Name: "kernel", Privileged: true}, reason))
	a.s.space.RemoveHolder(a.id, reason)
	a.s.trail.putGathered(a)
	if len(exports) > 0 {
		// Nobody waits for it: the agent has ended.
		go a.s.ask(control.Ask{Kind: control.AskRevoke, Agent: a.id, Exports: exports, Actor: control.Actor{Name: a.id}})
	}
}

// exportsOf picks the dead capabilities whose images live in other domains.
func (s *Kernel) exportsOf(dead []*capability.Capability) []control.Export {
	s.forgetImages(dead)
	var out []control.Export
	for _, c := range dead {
		if r := c.Remote(); r != "" {
			out = append(out, control.Export{Origin: c.ID(), Remote: r})
		}
	}
	return out
}

// forgetImages forgets the images among dead capabilities, and has their
// originals ended, which give back what was taken for them.
func (s *Kernel) forgetImages(dead []*capability.Capability) {
	var ended []control.Export
	for _, c := range dead {
		if o := c.Origin(); o != "" {
			s.imagesMu.Lock()
			delete(s.images, o)
			s.imagesMu.Unlock()
			ended = append(ended, control.Export{Origin: o})
		}
	}
	if len(ended) > 0 && s.cfg.Push != nil {
		s.cfg.Push(control.EventAsk, control.Ask{Kind: control.AskEnded, Exports: ended, Actor: control.Actor{Name: "kernel"}})
	}
}

// agentNamed returns the running agent with that ID or name.
func (s *Kernel) agentNamed(ref string) *Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[ref]; a != nil {
		return a
	}
	for _, a := range s.agents {
		if a.name == ref && ref != "" {
			return a
		}
	}
	return nil
}
