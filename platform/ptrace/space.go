package ptrace

import (
	"runtime"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/hosttid"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/usermem"
)

const (
	// maxDirect is how many threads of this process may have a stub thread
	// of their own in one address space, for each of the two purposes.
	maxDirect = 8
	// spareStubs is how many stub threads there may be in all besides the one
	// that every address space is allowed for each purpose.
	spareStubs = 2048
	// memoryThreads is how many threads change the memory of those address
	// spaces in which the caller may not have a stub thread.
	memoryThreads = 4
)

// bounded is gVisor's platform, kept from having a stub thread for every pair
// of a thread of this process and an address space.
//
// The thread that traces a stub thread is the only one that can use it. So
// gVisor makes one the first time that a thread of the Go runtime touches an
// address space, one to run code and one to change memory, and never ends it:
// after a fork bomb of 512 processes, tens of thousands of them, more than a
// host has process IDs. Here a thread touches an address space itself only as
// long as that costs little; otherwise others, which have a stub thread there
// already, do it on its behalf.
type bounded struct {
	gvplatform.Platform

	// spare is how many more stub threads there may be.
	spare atomic.Int64
	// spaces numbers address spaces.
	spaces atomic.Uint32
	memory [memoryThreads]memoryThread

	mu sync.Mutex
	// free are address spaces that were released and are empty.
	free []*space // guarded by mu
}

func bound(inner gvplatform.Platform) *bounded {
	p := &bounded{Platform: inner}
	p.spare.Store(spareStubs)
	return p
}

// space is an address space: a stub process.
type space struct {
	gvplatform.AddressSpace // gVisor's
	of                      *bounded

	// run and change are the threads of this process that have a stub thread
	// here, to run code and to change memory.
	run, change tracers
	memory      *memoryThread

	mu sync.Mutex
	// idle are the runners of this space that have nothing to do.
	idle []*runner // guarded by mu
}

// tracers are thread IDs of this process; 0 is none. They are only ever added.
type tracers [maxDirect]atomic.Int32

// admit says whether the calling thread, to which the goroutine is locked, may
// use the address space itself.
func (ts *tracers) admit(spare *atomic.Int64) bool {
	self := int32(hosttid.Current())
	for i := range ts {
		known := ts[i].Load()
		if known == 0 {
			if i > 0 && spare.Add(-1) < 0 {
				spare.Add(1)
				return false
			}
			if ts[i].CompareAndSwap(0, self) {
				return true
			}
			if i > 0 {
				spare.Add(1)
			}
			continue // Another thread was faster.
		}
		if known == self {
			return true
		}
	}
	return false
}

// NewAddressSpace implements gVisor's Platform.NewAddressSpace.
func (p *bounded) NewAddressSpace() (gvplatform.AddressSpace, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	s := &space{of: p, memory: &p.memory[p.spaces.Add(1)%memoryThreads]}
	var err error
	s.memory.do(func() {
		// It changes the memory of the stub process, too.
		s.AddressSpace, err = p.Platform.NewAddressSpace()
		s.change.admit(&p.spare)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// NewContext implements gVisor's Platform.NewContext.
func (p *bounded) NewContext(ctx context.Context) gvplatform.Context {
	return &taskContext{Context: p.Platform.NewContext(ctx)}
}

// MapFile implements gVisor's AddressSpace.MapFile.
func (s *space) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, precommit bool) (err error) {
	if s.enter() {
		defer runtime.UnlockOSThread()
		return s.AddressSpace.MapFile(addr, f, fr, at, precommit)
	}
	s.memory.do(func() { err = s.AddressSpace.MapFile(addr, f, fr, at, precommit) })
	return err
}

// Unmap implements gVisor's AddressSpace.Unmap.
func (s *space) Unmap(addr hostarch.Addr, length uint64) {
	if s.enter() {
		defer runtime.UnlockOSThread()
		s.AddressSpace.Unmap(addr, length)
		return
	}
	s.memory.do(func() { s.AddressSpace.Unmap(addr, length) })
}

// enter locks the goroutine to its thread, if that may change the memory of s.
func (s *space) enter() bool {
	runtime.LockOSThread()
	if s.change.admit(&s.of.spare) {
		return true
	}
	runtime.UnlockOSThread()
	return false
}

// Release implements gVisor's AddressSpace.Release. Like gVisor's, it keeps
// the stub process for another address space; unlike that, it empties it in a
// thread that may have a stub thread there.
func (s *space) Release() {
	go s.memory.do(func() {
		s.AddressSpace.Unmap(0, uint64(s.of.MaxUserAddress()))
		s.of.mu.Lock()
		s.of.free = append(s.of.free, s)
		s.of.mu.Unlock()
	})
}

// memoryThread changes memory on behalf of others, one after the other. The
// zero one is ready; it takes a thread when it is first needed.
type memoryThread struct {
	mu   sync.Mutex
	work chan func()   // guarded by mu
	done chan struct{} // guarded by mu
}

// do returns when the thread has called f.
func (m *memoryThread) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.work == nil {
		m.work, m.done = make(chan func()), make(chan struct{})
		go serve(m.work, m.done)
	}
	m.work <- f
	<-m.done
}

// serve never returns: a thread that ends would take its stub threads along.
func serve(work <-chan func(), done chan<- struct{}) {
	runtime.LockOSThread()
	for f := range work {
		f()
		done <- struct{}{}
	}
}

// taskContext is the context of one task. It is used by one goroutine at a
// time, but for Interrupt.
type taskContext struct {
	gvplatform.Context
	mm   memoryManager
	call switchCall
}

// memoryManager shows gVisor's address space in place of the one around it.
type memoryManager struct {
	gvplatform.MemoryManager
	space gvplatform.AddressSpace
	// elsewhere says that it is not the task's goroutine that looks.
	elsewhere bool
}

// AddressSpace implements gVisor's MemoryManager.AddressSpace.
func (m *memoryManager) AddressSpace() gvplatform.AddressSpace { return m.space }

// CopyIn implements gVisor's MemoryManager.CopyIn. Only the task's goroutine may
// read the task's memory.
func (m *memoryManager) CopyIn(ctx context.Context, addr hostarch.Addr, dst []byte, opts usermem.IOOpts) (int, error) {
	if m.elsewhere {
		return 0, linuxerr.EFAULT
	}
	return m.MemoryManager.CopyIn(ctx, addr, dst, opts)
}

// Switch implements gVisor's Context.Switch.
func (c *taskContext) Switch(ctx context.Context, mm gvplatform.MemoryManager, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	s := mm.AddressSpace().(*space)
	c.mm = memoryManager{mm, s.AddressSpace, false}
	runtime.LockOSThread()
	if s.run.admit(&s.of.spare) {
		defer runtime.UnlockOSThread()
		return c.Context.Switch(ctx, &c.mm, ac, cpu)
	}
	runtime.UnlockOSThread()
	c.mm.elsewhere = true
	for {
		info, at, err := s.delegate(c, ctx, ac, cpu)
		// What the platform does about CPUID itself takes the task's
		// goroutine.
		if err != gvplatform.ErrContextSignal || linux.Signal(info.Signo) != linux.SIGSEGV || !gvplatform.TryCPUIDEmulate(ctx, mm, ac) {
			return info, at, err
		}
	}
}

// switchCall is a Switch that a runner does.
type switchCall struct {
	ctx      context.Context
	ac       *arch.Context64
	cpu      int32
	info     *linux.SignalInfo
	at       hostarch.AccessType
	err      error
	panicked any
}

// runner is a thread that runs code in one address space on behalf of tasks
// whose own thread may not.
type runner struct {
	work chan *taskContext
	done chan struct{}
}

// delegate is Switch, by a runner.
func (s *space) delegate(c *taskContext, ctx context.Context, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	s.mu.Lock()
	var r *runner
	if n := len(s.idle); n > 0 {
		r = s.idle[n-1]
		s.idle = s.idle[:n-1]
	}
	s.mu.Unlock()
	if r == nil {
		r = &runner{work: make(chan *taskContext), done: make(chan struct{})}
		go r.serve()
	}
	c.call = switchCall{ctx: ctx, ac: ac, cpu: cpu}
	r.work <- c
	<-r.done
	s.mu.Lock()
	s.idle = append(s.idle, r)
	s.mu.Unlock()
	if c.call.panicked != nil {
		panic(c.call.panicked)
	}
	return c.call.info, c.call.at, c.call.err
}

// serve never returns, as serve for memory.
func (r *runner) serve() {
	runtime.LockOSThread()
	for c := range r.work {
		c.run()
		r.done <- struct{}{}
	}
}

// run is Switch in the runner's thread. A panic is the task's.
func (c *taskContext) run() {
	defer func() { c.call.panicked = recover() }()
	c.call.info, c.call.at, c.call.err = c.Context.Switch(c.call.ctx, &c.mm, c.call.ac, c.call.cpu)
}
