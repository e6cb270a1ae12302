package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/errdefs"
)

// Contexts of io_setup(2) are made anew at their addresses, by which programs know
// them, with what was done and not asked for. How many requests one takes is noted
// when it is made: from that is found whether any is under way.

// mostAIO is how many requests a context may take that can be made anew.
const mostAIO = 1 << 16

// noteAIO notes what a call of io_setup(2) has made.
func noteAIO(a *Agent, t *kernel.Task, args arch.SyscallArguments) {
	var raw [8]byte
	if _, err := t.CopyInBytes(args[1].Pointer(), raw[:]); err != nil {
		return
	}
	a.notes.putAIO(t.ThreadGroup(), hostarch.ByteOrder.Uint64(raw[:]), uint32(args[0].Int()))
}

// room returns how many requests a context of an address space takes.
func (n *cloneNotes) room(m *mm.MemoryManager, id uint64) (uint32, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for tg, all := range n.aio {
		if l := tg.Leader(); l != nil && l.MemoryManager() == m {
			if room, ok := all[id]; ok {
				return room, true
			}
		}
	}
	return 0, false
}

// results returns what is done of a context's requests.
func results(x *mm.AIOContext) (all []any) {
	for {
		v, ok := x.PopRequest()
		if !ok {
			break
		}
		all = append(all, v)
	}
	finish(x, all)
	return all
}

// finish has requests be done.
func finish(x *mm.AIOContext, all []any) {
	for _, v := range all {
		if x.Prepare() == nil {
			x.FinishRequest(v)
		}
	}
}

// underWay says whether asynchronous I/O of the agent is under way.
func (f *family) underWay() (busy string, err error) {
	notes := &f.a.notes
	notes.mu.Lock()
	none := len(notes.aio) == 0
	notes.mu.Unlock()
	if none {
		return "", nil
	}
	for _, g := range f.groups {
		notes.mu.Lock()
		ids := make(map[uint64]uint32)
		for id, room := range notes.aio[g.old] {
			ids[id] = room
		}
		notes.mu.Unlock()
		m := g.leader.old.MemoryManager()
		if g.leader.zombie || m == nil {
			continue
		}
		for id, room := range ids {
			x, ok := m.LookupAIOContext(f.a.ctx, id)
			if !ok {
				continue
			}
			if room > mostAIO {
				return "", f.refuse(g.leader.old, "has a context of io_setup(2) for more requests than can be made anew")
			}
			free, done := uint32(0), uint32(len(results(x)))
			for x.Prepare() == nil {
				free++
			}
			for range free {
				x.CancelPendingRequest()
			}
			if free+done < room {
				return g.leader.old.Name() + " has asynchronous I/O under way", nil
			}
		}
	}
	return "", nil
}

// copyAIO makes a context of io_setup(2) anew in the place of its ring.
func (c *copying) copyAIO(old, m *mm.MemoryManager, x mapping) error {
	id := uint64(x.addr.Start)
	was, ok := old.LookupAIOContext(c.src.ctx, id)
	if !ok {
		return nil // It is another process's, of which this one was forked.
	}
	room, ok := c.src.notes.room(old, id)
	if !ok {
		return errdefs.New(errdefs.Unsupported, "a process has a context of io_setup(2) that was not seen when it was made", errdefs.Op("clone"), errdefs.Resource("%s", c.src.id))
	}
	fail := func(err error) error {
		return errdefs.Wrap(err, errdefs.Internal, "make a context of asynchronous I/O")
	}
	size := uint64(x.addr.Length())
	if err := m.MUnmap(c.ctx, x.addr.Start, size); err != nil {
		return fail(err)
	}
	at, err := m.NewAIOContext(c.ctx, room)
	if err == nil && at != id {
		_, err = m.MRemap(c.ctx, hostarch.Addr(at), size, size, mm.MRemapOpts{Move: mm.MRemapMustMove, NewAddr: x.addr.Start})
	}
	if err != nil {
		return fail(err)
	}
	own, ok := m.LookupAIOContext(c.ctx, id)
	if !ok {
		return fail(errdefs.New(errdefs.Internal, "it is not where it has to be"))
	}
	var all []any
	for _, v := range results(was) {
		if e, ok := v.(*linux.IOEvent); ok {
			event := *e
			v = &event
		}
		all = append(all, v)
	}
	finish(own, all)
	for _, g := range c.f.groups {
		if g.new != nil && !g.leader.zombie && g.leader.old.MemoryManager() == old {
			c.dst.notes.putAIO(g.new, id, room)
			break
		}
	}
	return nil
}

func (n *cloneNotes) putAIO(tg *kernel.ThreadGroup, id uint64, room uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.aio == nil {
		n.aio = make(map[*kernel.ThreadGroup]map[uint64]uint32)
	}
	if n.aio[tg] == nil {
		n.aio[tg] = make(map[uint64]uint32)
	}
	n.aio[tg][id] = room
}
