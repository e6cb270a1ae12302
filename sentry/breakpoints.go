package sentry

import (
	"maps"
	"slices"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// A breakpoint is an int3 in the place of the first byte of an instruction. It
// is in a page of the process's own: what is mapped of a file is copied first.
//
// Memory that is debugged gets around. The child of a fork has a copy of it, the
// child of a vfork shares it for a while, and neither is debugged. So who hits a
// breakpoint that is not its own gets the byte back, in its copy for good, in
// shared memory for as long as it shares it; and when the debugger leaves, it
// looks for copies that nobody has hit.

const (
	trapInstruction = 0xcc
	maxBreakpoints  = 4096
	// scarSide is how many bytes before and behind a breakpoint tell a copy of
	// the memory from other memory.
	scarSide = 12
)

// breakAt is where a breakpoint is.
type breakAt struct {
	mm   *mm.MemoryManager
	addr hostarch.Addr
}

// scar is what was where a breakpoint was ever put.
type scar struct {
	was    byte
	around []byte // scarSide bytes before and behind it, fewer at an end
	before int    // how many of them are before
}

// breakpoints is guarded by debugger.mu.
type breakpoints struct {
	was      map[breakAt]byte
	scars    map[hostarch.Addr][]scar
	borrowed map[*kernel.Task][]breakAt
	count    int // of scars
}

func (b *breakpoints) init() {
	b.was = make(map[breakAt]byte)
	b.scars = make(map[hostarch.Addr][]scar)
	b.borrowed = make(map[*kernel.Task][]breakAt)
}

// at returns what a breakpoint replaces, nil if there is none.
func (b *breakpoints) at(m *mm.MemoryManager, addr hostarch.Addr) *byte {
	was, ok := b.was[breakAt{m, addr}]
	if !ok {
		return nil
	}
	return &was
}

// forget drops those of memory that is gone.
func (b *breakpoints) forget(m *mm.MemoryManager) {
	maps.DeleteFunc(b.was, func(at breakAt, _ byte) bool { return at.mm == m })
}

// peek reads memory of a process, whatever its protection. It returns how much
// it could read.
func peek(ctx context.Context, m *mm.MemoryManager, addr hostarch.Addr, p []byte) int {
	if !m.IncUsers() {
		return 0
	}
	defer m.DecUsers(ctx)
	n, _ := m.CopyIn(ctx, addr, p, usermem.IOOpts{IgnorePermissions: true})
	return n
}

// poke writes memory of a process, whatever its protection.
func poke(ctx context.Context, m *mm.MemoryManager, addr hostarch.Addr, p ...byte) error {
	if !m.IncUsers() {
		return errdefs.New(errdefs.AgentNotRunning, "the process has ended")
	}
	defer m.DecUsers(ctx)
	_, err := m.CopyOut(ctx, addr, p, usermem.IOOpts{IgnorePermissions: true})
	return errdefs.Wrap(err, errdefs.InvalidArgument, "write memory at "+hexOf(uint64(addr)))
}

// newScar looks at the surroundings of an address.
func newScar(ctx context.Context, m *mm.MemoryManager, addr hostarch.Addr) (scar, bool) {
	var s scar
	one := make([]byte, 1)
	if peek(ctx, m, addr, one) != 1 {
		return s, false
	}
	s.was = one[0]
	s.around = make([]byte, 2*scarSide+1)
	if s.before = scarSide; peek(ctx, m, addr-scarSide, s.around) <= scarSide { // The start of a mapping.
		s.before = 0
		s.around = s.around[:peek(ctx, m, addr, s.around[:scarSide+1])]
	}
	return s, true
}

// copied reports whether memory looks like a copy of what the scar is in, with
// the breakpoint in it. Other breakpoints in either do not count.
func (s *scar) copied(ctx context.Context, m *mm.MemoryManager, addr hostarch.Addr) bool {
	now := make([]byte, len(s.around))
	if peek(ctx, m, addr-hostarch.Addr(s.before), now) != len(now) || now[s.before] != trapInstruction {
		return false
	}
	for i, b := range now {
		if i != s.before && b != s.around[i] && b != trapInstruction && s.around[i] != trapInstruction {
			return false
		}
	}
	return true
}

// repair gives a task the byte back if it has hit a breakpoint that is not its
// own, and reports whether it has. It must run on the task's goroutine.
func (d *debugger) repair(t *kernel.Task, m *mm.MemoryManager, addr hostarch.Addr) bool {
	at := breakAt{m, addr}
	d.mu.Lock()
	was, shared := d.breaks.was[at]
	if shared && !d.in(t) {
		d.breaks.borrowed[t] = append(d.breaks.borrowed[t], at)
	}
	scars := slices.Clone(d.breaks.scars[addr])
	d.mu.Unlock()
	if shared {
		return !d.in(t) && poke(awake{t}, m, addr, was) == nil
	}
	for _, s := range scars {
		if s.copied(awake{t}, m, addr) {
			return poke(awake{t}, m, addr, s.was) == nil
		}
	}
	return false
}

// returnBorrowed puts the breakpoints back that a task had removed, if it does
// not use that memory any more: m is what it uses.
func (d *debugger) returnBorrowed(t *kernel.Task, m *mm.MemoryManager) {
	d.mu.Lock()
	var back, rest []breakAt
	for _, at := range d.breaks.borrowed[t] {
		switch _, there := d.breaks.was[at]; {
		case at.mm == m:
			rest = append(rest, at)
		case there:
			back = append(back, at)
		}
	}
	if len(rest) > 0 {
		d.breaks.borrowed[t] = rest
	} else {
		delete(d.breaks.borrowed, t)
	}
	d.mu.Unlock()
	for _, at := range back {
		_ = poke(d.s.k.SupervisorContext(), at.mm, at.addr, trapInstruction) // It fails if the process has ended.
	}
}

// SetBreakpoint implements gdbstub.Target.
func (d *debugger) SetBreakpoint(th gdbstub.Thread, addr uint64) error {
	ctx := d.s.k.SupervisorContext()
	_, m, err := d.memoryOf(th)
	if err != nil {
		return err
	}
	at := breakAt{m, hostarch.Addr(addr)}
	d.mu.Lock()
	there, full := d.breaks.at(m, at.addr) != nil, d.breaks.count >= maxBreakpoints
	d.mu.Unlock()
	switch {
	case there:
		return nil
	case full:
		return errdefs.Newf(errdefs.QuotaExceeded, "a debugger has had %d breakpoints", maxBreakpoints).With(errdefs.Fix("attach anew"))
	}
	if err := d.mayWrite(m, addr, 1, true); err != nil {
		return err
	}
	d.unpatch(m, at.addr, 1)
	s, ok := newScar(ctx, m, at.addr)
	if !ok {
		return errdefs.New(errdefs.InvalidArgument, "nothing is at "+hexOf(addr))
	}
	d.mu.Lock()
	known := slices.ContainsFunc(d.breaks.scars[at.addr], func(old scar) bool { return old.was == s.was && slices.Equal(old.around, s.around) })
	if !known {
		d.breaks.scars[at.addr] = append(d.breaks.scars[at.addr], s)
		d.breaks.count++
	}
	d.breaks.was[at] = s.was
	d.mu.Unlock()
	if err := poke(ctx, m, at.addr, trapInstruction); err != nil {
		d.mu.Lock()
		delete(d.breaks.was, at)
		d.mu.Unlock()
		return err
	}
	return nil
}

// ClearBreakpoint implements gdbstub.Target.
func (d *debugger) ClearBreakpoint(th gdbstub.Thread, addr uint64) error {
	_, m, err := d.memoryOf(th)
	if err != nil {
		return err
	}
	at := breakAt{m, hostarch.Addr(addr)}
	d.mu.Lock()
	was, ok := d.breaks.was[at]
	delete(d.breaks.was, at)
	d.mu.Unlock()
	if !ok {
		return nil
	}
	return poke(d.s.k.SupervisorContext(), m, at.addr, was)
}

// clearBreakpoints removes all of them, also from copies of the memory. Nobody
// that is debugged moves.
func (d *debugger) clearBreakpoints() {
	ctx := d.s.k.SupervisorContext()
	d.mu.Lock()
	all, scars := d.breaks.was, d.breaks.scars
	d.breaks.init()
	d.mu.Unlock()
	own := make(map[*mm.MemoryManager]bool)
	for at, was := range all {
		own[at.mm] = true
		_ = poke(ctx, at.mm, at.addr, was) // It fails if the process has ended.
	}
	for _, t := range d.a.ns.pid().Tasks() {
		m := addressSpaceOf(t)
		if m == nil || own[m] {
			continue
		}
		own[m] = true
		for addr, list := range scars {
			for _, s := range list {
				if s.copied(ctx, m, addr) {
					_ = poke(ctx, m, addr, s.was)
				}
			}
		}
	}
}

// fixPushedFlags takes the flag that asks for steps out of what a stepped
// instruction has pushed, if it was one that pushes the flags.
func fixPushedFlags(t *kernel.Task, m *mm.MemoryManager, ac *arch.Context64, before uintptr) {
	const pushf, wide = 0x9c, 0x66
	code := make([]byte, 2)
	if before == 0 || peek(awake{t}, m, hostarch.Addr(before), code) != len(code) || code[0] != pushf && !(code[0] == wide && code[1] == pushf) {
		return
	}
	at, second := hostarch.Addr(ac.Stack())+1, make([]byte, 1)
	if peek(awake{t}, m, at, second) == 1 {
		_ = poke(awake{t}, m, at, second[0]&^1) // It was written a moment ago.
	}
}
