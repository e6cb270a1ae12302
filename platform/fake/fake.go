// Package fake is a platform that needs nothing of the host: it interprets
// the agent's instructions. It understands few of them (see interpret.go),
// enough for the contract suite and for tests of what surrounds a platform.
// It runs wherever Go runs, under the race detector too.
//
// Key types: Platform, addressSpace (a page table over memory files) and
// threadContext (an interpreter between two Switches).
//
// Lock order: addressSpace.mu is taken alone; the interpreter holds it for
// reading during one memory access. An interrupt is noticed before the next
// instruction. The package must not import anything under sentry/.
package fake

import (
	"math"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/platform/interrupt"
)

// Name is the platform's name.
const Name = "fake"

// Platform implements gVisor's Platform by interpretation.
type Platform struct {
	gvplatform.NoCPUPreemptionDetection
	gvplatform.NoCPUNumbers
}

var _ gvplatform.Platform = (*Platform)(nil)

// New returns the platform. CPU features (cpuid.Initialize) must be known
// before a program runs.
func New() *Platform { return &Platform{} }

// SupportsAddressSpaceIO implements gVisor's Platform.
func (*Platform) SupportsAddressSpaceIO() bool { return false }

// HaveGlobalMemoryBarrier implements gVisor's Platform.
func (*Platform) HaveGlobalMemoryBarrier() bool { return false }

// GlobalMemoryBarrier implements gVisor's Platform.
func (*Platform) GlobalMemoryBarrier() error {
	panic("the fake platform has no global memory barrier")
}

// MapUnit implements gVisor's Platform: a mapping costs by the page.
func (*Platform) MapUnit() uint64 { return hostarch.PageSize }

// MinUserAddress implements gVisor's Platform.
func (*Platform) MinUserAddress() hostarch.Addr { return hostarch.PageSize }

// MaxUserAddress implements gVisor's Platform.
func (*Platform) MaxUserAddress() hostarch.Addr { return 1<<47 - hostarch.PageSize }

// ConcurrencyCount implements gVisor's Platform.
func (*Platform) ConcurrencyCount() int { return math.MaxInt }

// SeccompInfo implements gVisor's Platform: no system calls are made.
func (*Platform) SeccompInfo() gvplatform.SeccompInfo {
	return gvplatform.StaticSeccompInfo{PlatformName: Name}
}

// NewAddressSpace implements gVisor's Platform.
func (*Platform) NewAddressSpace() (gvplatform.AddressSpace, error) {
	return &addressSpace{pages: make(map[hostarch.Addr]page)}, nil
}

// NewContext implements gVisor's Platform.
func (*Platform) NewContext(context.Context) gvplatform.Context { return &threadContext{} }

// page is a page of a memory file at an address.
type page struct {
	file   memmap.File
	offset uint64
	at     hostarch.AccessType
}

type addressSpace struct {
	gvplatform.NoAddressSpaceIO

	mu    sync.RWMutex
	pages map[hostarch.Addr]page // guarded by mu; by page-aligned address
}

// MapFile implements gVisor's AddressSpace.
func (as *addressSpace) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, _ bool) error {
	as.mu.Lock()
	defer as.mu.Unlock()
	for off := uint64(0); off < fr.Length(); off += hostarch.PageSize {
		as.pages[addr+hostarch.Addr(off)] = page{file: f, offset: fr.Start + off, at: at}
	}
	return nil
}

// Unmap implements gVisor's AddressSpace.
func (as *addressSpace) Unmap(addr hostarch.Addr, length uint64) {
	as.mu.Lock()
	defer as.mu.Unlock()
	// The range may be most of the address space, the map is what is small.
	for a := range as.pages {
		if a >= addr && uint64(a-addr) < length {
			delete(as.pages, a)
		}
	}
}

// Release implements gVisor's AddressSpace.
func (as *addressSpace) Release() {
	as.mu.Lock()
	defer as.mu.Unlock()
	clear(as.pages)
}

// PreFork implements gVisor's AddressSpace.
func (*addressSpace) PreFork() {}

// PostFork implements gVisor's AddressSpace.
func (*addressSpace) PostFork() {}

// access gives f the bytes of one page from addr on, if at is allowed there.
// It reports whether it was.
func (as *addressSpace) access(addr hostarch.Addr, at hostarch.AccessType, f func([]byte)) bool {
	as.mu.RLock()
	defer as.mu.RUnlock()
	p, ok := as.pages[addr.RoundDown()]
	if !ok || !p.at.SupersetOf(at) {
		return false
	}
	blocks, err := p.file.MapInternal(memmap.FileRange{Start: p.offset, End: p.offset + hostarch.PageSize},
		hostarch.AccessType{Read: true, Write: at.Write})
	if err != nil || blocks.Head().Len() != hostarch.PageSize {
		return false
	}
	f(blocks.Head().ToSlice()[addr.PageOffset():])
	return true
}

// threadContext implements gVisor's Context.
type threadContext struct {
	gvplatform.NoCPUNumbers
	forwarder   interrupt.Forwarder
	interrupted atomic.Bool
}

// Switch implements gVisor's Context.
func (c *threadContext) Switch(ctx context.Context, mm gvplatform.MemoryManager, ac *arch.Context64, _ int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	if !c.forwarder.Enable(c) {
		return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
	}
	// In this order no interrupt is lost: after Disable none sets the flag.
	defer c.interrupted.Store(false)
	defer c.forwarder.Disable()

	m := &interpreter{as: mm.AddressSpace().(*addressSpace), regs: &ac.StateData().Regs, vector: *ac.FloatingPointData()}
	for !c.interrupted.Load() {
		switch trap := m.step(); {
		case trap == nil && ac.SingleStep():
			info := &linux.SignalInfo{Signo: int32(linux.SIGTRAP), Code: linux.TRAP_TRACE}
			info.SetAddr(uint64(ac.IP()))
			return info, hostarch.NoAccess, gvplatform.ErrContextSignal
		case trap == nil:
		case trap.syscall:
			return nil, hostarch.NoAccess, nil
		case trap.signal == linux.SIGSEGV && gvplatform.TryCPUIDEmulate(ctx, mm, ac):
		default:
			info := &linux.SignalInfo{Signo: int32(trap.signal), Code: linux.SI_KERNEL}
			info.SetAddr(uint64(trap.addr))
			return info, trap.at, gvplatform.ErrContextSignal
		}
	}
	return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
}

// NotifyInterrupt implements interrupt.Receiver.
func (c *threadContext) NotifyInterrupt() { c.interrupted.Store(true) }

// Interrupt implements gVisor's Context.
func (c *threadContext) Interrupt() { c.forwarder.NotifyInterrupt() }

// Preempt implements gVisor's Context.
func (c *threadContext) Preempt() { c.forwarder.Preempt() }

// PullFullState implements gVisor's Context: all state is always there.
func (*threadContext) PullFullState(gvplatform.AddressSpace, *arch.Context64) error { return nil }

// FullStateChanged implements gVisor's Context.
func (*threadContext) FullStateChanged() {}

// Release implements gVisor's Context.
func (*threadContext) Release() {}

// PrepareSleep implements gVisor's Context.
func (*threadContext) PrepareSleep() {}

// PrepareUninterruptibleSleep implements gVisor's Context.
func (*threadContext) PrepareUninterruptibleSleep() {}

// PrepareStop implements gVisor's Context.
func (*threadContext) PrepareStop() {}

// PrepareExecve implements gVisor's Context.
func (*threadContext) PrepareExecve() {}

// PrepareExit implements gVisor's Context.
func (*threadContext) PrepareExit() {}
