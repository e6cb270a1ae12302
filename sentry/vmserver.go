package sentry

import (
	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// memoryProcesses is how many processes one answer tells of.
const memoryProcesses = 1000

// VM says what is known of an agent's memory.
func (s *Kernel) VM(req control.AgentRequest) (control.VMReply, error) {
	var r control.VMReply
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustBe(abi.StateRunning, abi.StatePaused)
	}
	if err != nil {
		return r, err
	}
	g := a.snapshot().Memory
	r = control.VMReply{
		Used: g.Now, Peak: g.Peak, Limit: g.Limit, Kernel: a.account.memory.forKernel(), OnOOM: a.oom.policy.Load().rule.String(),
		OOMs: a.oom.times.Load(), Kills: a.oom.kills.Load(),
	}
	all := g.Limit
	if all == 0 {
		v := view{s, a}
		all, _, _ = v.memory()
	}
	r.Swap = a.swapUse()
	list := a.candidates(all)
	for _, p := range list[:min(len(list), memoryProcesses)] {
		r.Processes = append(r.Processes, control.VMProcess{PID: p.pid, Name: p.task.Name(), Resident: p.resident, Adjustment: p.adj, Score: p.score})
	}
	return r, nil
}

// swapUse is what a has swapped out.
func (a *Agent) swapUse() (r control.VMSwap) {
	sw := a.swap.Load()
	if sw == nil {
		return r
	}
	u := sw.store.Usage()
	r = control.VMSwap{
		Cached: uint64(sw.cached.Load()), Compressed: u.InMemory, InFile: u.InFile, Zero: u.Zero, Memory: u.Memory, File: u.File,
		FileLimit: u.FileLimit, Ins: sw.ins.Load(), Outs: sw.outs.Load(), WorkingSet: sw.reclaim.workingSet.Load(),
	}
	if why := sw.never.Load(); why != nil {
		r.Never = *why
	}
	return r
}

// opSetMemory is the operation of its record.
const opSetMemory = "set-vm"

// SetVM changes what is done when an agent runs out of memory.
func (s *Kernel) SetVM(req control.SetVMRequest) (control.SetVMReply, error) {
	var r control.SetVMReply
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustBe(abi.StateRunning, abi.StatePaused)
	}
	if err != nil {
		return r, err
	}
	r.Was = a.oom.policy.Load().rule.String()
	if err := a.setOOM(req.OnOOM); err != nil {
		return r, errdefs.Wrap(err, errdefs.InvalidArgument, "set what is done when memory runs out")
	}
	r.OnOOM = a.oom.policy.Load().rule.String()
	s.trail.put(control.AuditRecord{Record: capability.Record{
		Op: opSetMemory, Actor: req.Actor.Name, Agent: a.id, Target: r.OnOOM, Reason: "instead of " + r.Was,
	}})
	return r, nil
}
