package sentry

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// agentIndex remembers agents by ID for the gate, which asks for one at every
// system call and cannot pay for a map. It is a cache with one place for each
// of its slots; Kernel.byID is where an agent is known, and a slot that
// another agent has taken only costs the way there.
type agentIndex [1 << agentIndexBits]atomic.Pointer[Agent]

const agentIndexBits = 12

// slot returns the place of an ID, which is random from its second byte on.
func (x *agentIndex) slot(id string) *atomic.Pointer[Agent] {
	if len(id) < 9 {
		return &x[0]
	}
	word := uint64(id[1]) | uint64(id[2])<<8 | uint64(id[3])<<16 | uint64(id[4])<<24 |
		uint64(id[5])<<32 | uint64(id[6])<<40 | uint64(id[7])<<48 | uint64(id[8])<<56
	return &x[word*0x9e3779b97f4a7c15>>(64-agentIndexBits)]
}

// findAgent returns the agent of that ID, or nil.
func (s *Kernel) findAgent(id string) *Agent {
	if a := s.gate.index.slot(id).Load(); a != nil && a.id == id {
		return a
	}
	return s.fillIndex(id)
}

// fillIndex is outside findAgent so that the hot path is inlined.
func (s *Kernel) fillIndex(id string) *Agent {
	v, _ := s.byID.Load(id)
	a, _ := v.(*Agent)
	if a == nil {
		return nil
	}
	slot := s.gate.index.slot(id)
	slot.Store(a)
	// forgetAgent takes it out of byID first and out of the slot second:
	// whichever of the two comes last leaves the slot empty.
	if _, ok := s.byID.Load(id); !ok {
		slot.CompareAndSwap(a, nil)
	}
	return a
}

// forgetAgent takes the agent out of the index for good.
func (s *Kernel) forgetAgent(a *Agent) {
	s.gone.add(a.id, a.name)
	s.byID.Delete(a.id)
	s.gate.index.slot(a.id).CompareAndSwap(a, nil)
}

// agentOf returns the agent that t belongs to, or nil for the pause process.
func (s *Kernel) agentOf(t *kernel.Task) *Agent {
	id := t.ContainerID()
	if id == "" {
		return nil
	}
	return s.findAgent(id)
}
