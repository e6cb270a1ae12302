package sentry

import (
	"fmt"
	"os"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/swap"
)

// How much of a swap file an agent may use is a limit of its capabilities for memory,
// and so is divided, handed on and taken back with them. The file itself the daemon
// makes: the kernel process reaches none. Until it is there, what is put away is
// compressed and stays in memory.

const (
	// swapAskPause and swapAskMost bound how long it is until the daemon is asked
	// again for a file.
	swapAskPause = 250 * time.Millisecond
	swapAskMost  = 30 * time.Second
)

// setSwapLimit lets the agent use so many bytes of a swap file from now on. What is
// there beyond that stays until it is touched.
func (a *Agent) setSwapLimit(bytes uint64) {
	if bytes == 0 && a.swap.Load() == nil {
		return
	}
	sw, err := a.swapOf()
	if err != nil {
		a.s.log.boot.Warn("an agent cannot swap", "agent", a.id, "err", err)
		return
	}
	sw.fileMu.Lock()
	defer sw.fileMu.Unlock()
	sw.limit = bytes
	if sw.file != nil {
		sw.store.SetFile(fileTier{sw.file}, bytes)
	}
	sw.reclaim.on.Store(bytes >= swap.SlabSize && !sw.ended)
	if sw.wantsFileLocked() && !sw.asking {
		sw.asking = true
		go a.askSwapFile(sw)
	}
}

// wantsFileLocked reports whether there is to be a file, and is none.
//
// +checklocks:sw.fileMu
func (sw *agentSwap) wantsFileLocked() bool {
	return !sw.ended && sw.file == nil && sw.limit >= swap.SlabSize
}

// askSwapFile asks the daemon for a file until there is one or none is needed.
func (a *Agent) askSwapFile(sw *agentSwap) {
	for pause := swapAskPause; ; pause = min(2*pause, swapAskMost) {
		_, err := a.s.ask(control.Ask{Kind: control.AskSwapFile, Agent: a.id, Actor: control.Actor{Name: "kernel"}})
		sw.fileMu.Lock()
		if !sw.wantsFileLocked() {
			sw.asking = false
			sw.fileMu.Unlock()
			return
		}
		sw.fileMu.Unlock()
		if err != nil && pause == swapAskPause {
			a.s.log.boot.Warn("an agent has no swap file yet", "agent", a.id, "err", err)
		}
		nap(a.s.cfg.Clock, pause)
	}
}

// SwapFile gives an agent the file that it swaps to, if it has none. It owns files.
func (s *Kernel) SwapFile(req control.SwapFileRequest, files []*os.File) (struct{}, error) {
	var none struct{}
	f, _, err := spawnFiles(files, 1, false)
	if err != nil {
		return none, err
	}
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.takeSwapFile(f)
	} else {
		f.Close()
	}
	return none, err
}

// takeSwapFile gives the agent f, which it owns.
func (a *Agent) takeSwapFile(f *os.File) error {
	sw, err := a.swapOf()
	if err != nil {
		f.Close()
		return err
	}
	sw.fileMu.Lock()
	defer sw.fileMu.Unlock()
	if sw.file != nil || sw.ended {
		f.Close()
		return nil
	}
	sw.file = f
	sw.store.SetFile(fileTier{f}, sw.limit)
	return nil
}

// SetSwap changes how much swap the agent's own capability for memory gives it. It
// owns files.
func (s *Kernel) SetSwap(req control.SetSwapRequest, files []*os.File) (control.SetSwapReply, error) {
	defer s.trail.flush()
	var r control.SetSwapReply
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustBe(abi.StateRunning, abi.StatePaused)
	}
	if err != nil {
		return r, err
	}
	if s.space.HolderClosed(a.id) {
		return r, a.noSwapSet(errdefs.AgentSealed, "it was specialised: its swap is what it is", "specialise its original again, with what is needed")
	}
	a.swapSetMu.Lock()
	defer a.swapSetMu.Unlock()
	own := a.ownMemory()
	if own == nil {
		return r, a.noSwapSet(errdefs.WrongState, "all its memory was derived from what others have", "grant it some of its own: aiosctl cap grant AGENT mem:self,bytes=1M,swap=64M")
	}
	spec := own.Spec()
	r.Was, r.Now, r.Grant = spec.Limits.Swap, req.Bytes, spec.String()
	switch {
	case req.Ask:
		r.Now = r.Was
		return r, nil
	case req.IfGrant != "" && req.IfGrant != r.Grant:
		return r, a.noSwapSet(errdefs.WrongState, "somebody else has changed it meanwhile", "look at what it is now, and try again")
	case r.Was == r.Now:
		return r, nil
	case len(files) > 0:
		if err := a.takeSwapFile(files[0]); err != nil {
			return r, err
		}
		files = files[1:]
	}
	spec.Limits.Swap = req.Bytes
	if err := s.space.Amend(own, spec.Object, spec.Limits, s.actor(req.Actor)); err != nil {
		return r, err
	}
	s.trail.put(control.AuditRecord{Record: capability.Record{
		Op: opSetMemory, Actor: req.Actor.Name, Agent: a.id, Target: fmt.Sprint("swap=", r.Now), Reason: fmt.Sprint("instead of swap=", r.Was),
	}})
	return r, nil
}

// noSwapSet is why its swap stays as it is.
func (a *Agent) noSwapSet(code errdefs.Code, detail, fix string) error {
	return errdefs.New(code, detail, errdefs.Op("set swap"), errdefs.Resource("%s", a.id), errdefs.Fix("%s", fix))
}

// ownMemory returns the capability for memory that the agent was started with, or
// nil.
func (a *Agent) ownMemory() *capability.Capability {
	for _, c := range a.s.space.List(a.id) {
		if c.Live() && c.Object().Class == abi.ClassMem && c.Parent() == nil && c.Origin() == "" && c.Spec().Rights.Has(abi.MemMap) {
			return c
		}
	}
	return nil
}

// endSwap is for the end of the agent. Its file stays open while copies of it have
// pages there.
func (a *Agent) endSwap() {
	sw := a.swap.Load()
	if sw == nil {
		return
	}
	sw.fileMu.Lock()
	defer sw.fileMu.Unlock()
	sw.ended = true
	sw.reclaim.on.Store(false)
	if sw.file != nil && sw.store.Usage().InFile == 0 {
		sw.file.Close()
	}
}
