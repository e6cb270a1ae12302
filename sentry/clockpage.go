package sentry

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	gvtime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/clocks"
)

// The VDSO reads clocks from the page before it. gVisor maps one, which it measures
// anew every second, into every address space. Address spaces of an agent that has
// clocks of its own get another page there, before their first instruction; it follows
// the kernel's. Each has a mark by which it is known in whatever address space it is.

const (
	// clockMark is where the mark of a page is, behind what the VDSO reads: a
	// constant, and a number that no other page has.
	clockMark  = hostarch.PageSize - 16
	clockMagic = 0x6b636f6c63534f49
	// clockFollow is how often pages are looked after whose programs do not enter
	// the kernel.
	clockFollow = 50 * time.Millisecond
)

// kernelClocks is the page of the kernel, and those of agents.
type kernelClocks struct {
	// shared is the kernel's, which is at offset in the memory file. They are set
	// before anything runs; offset is 0 if it is not known where that is.
	shared safemem.Block
	offset uint64

	// used is set when the first agent gets clocks of its own.
	used atomic.Bool

	mu    sync.Mutex
	pages map[*clockPage]struct{} // +checklocks:mu
	timer ktime.WheelTimer        // runs while there are any
}

// clockPage is a page that the VDSO of an agent's programs reads.
type clockPage struct {
	s        *Kernel
	own      *ownClocks
	mappable *mm.SpecialMappable
	block    safemem.Block
	number   uint64 // of its mark
	// made is the sequence count of the kernel's page that it was made of.
	made   atomic.Uint32
	looked uint32 // when it was looked whether the clock races out; by followClocks alone

	mu sync.Mutex // a leaf; own.wall is changed while it is held
	// What is in the page, and was in that of the kernel.
	seq    uint64        // +checklocks:mu
	params clocks.Params // +checklocks:mu
	shared clocks.Params // +checklocks:mu
}

// useClockPage says where in the memory file the kernel's page is.
func (s *Kernel) useClockPage(offset uint64) error {
	k := &s.clocks
	k.pages = make(map[*clockPage]struct{}) // +checklocksignore: nothing runs yet.
	k.timer.Init(s.wheel, s.followClocks)
	if offset == 0 { // A checkpoint that was made before it was written down.
		return nil
	}
	block, err := pageBlock(s.k.MemoryFile(), memmap.FileRange{Start: offset, End: offset + hostarch.PageSize})
	if err != nil {
		return err
	}
	k.shared, k.offset = block, offset
	return mark(block, 0)
}

// pageBlock returns a page as the kernel reaches it.
func pageBlock(mf *pgalloc.MemoryFile, fr memmap.FileRange) (safemem.Block, error) {
	blocks, err := mf.MapInternal(fr, hostarch.ReadWrite)
	if err != nil {
		return safemem.Block{}, errdefs.Wrap(err, errdefs.HostIO, "map a clock")
	}
	return blocks.Head(), nil
}

// mark writes a page's mark.
func mark(page safemem.Block, number uint64) error {
	var raw [16]byte
	binary.NativeEndian.PutUint64(raw[:], clockMagic)
	binary.NativeEndian.PutUint64(raw[8:], number)
	_, err := safemem.Copy(page.DropFirst(clockMark), safemem.BlockFromSafeSlice(raw[:]))
	return errdefs.Wrap(err, errdefs.Internal, "mark a clock")
}

// newPage makes a page for an agent.
func (k *kernelClocks) newPage(s *Kernel, own *ownClocks) (*clockPage, error) {
	if k.offset == 0 {
		return nil, errdefs.New(errdefs.WrongState, "the domain was restored from a checkpoint of an AIOS that knew no clocks of agents", errdefs.Op("set the clock"),
			errdefs.Fix("start the agent in another domain"))
	}
	mf := s.k.MemoryFile()
	fr, err := mf.Allocate(hostarch.PageSize, pgalloc.AllocOpts{Kind: usage.System})
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "make a clock")
	}
	p := &clockPage{s: s, own: own, mappable: mm.NewSpecialMappable("[vvar]", mf, fr), number: rand.Uint64()}
	if p.block, err = pageBlock(mf, fr); err == nil {
		err = mark(p.block, p.number)
	}
	if err != nil {
		p.mappable.DecRef(s.k.SupervisorContext())
		return nil, err
	}
	p.rewrite()
	k.used.Store(true)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.pages) == 0 {
		k.timer.Reset(clockFollow)
	}
	k.pages[p] = struct{}{}
	return p, nil
}

// dropPage has a page not be followed any more. It may be called twice.
func (k *kernelClocks) dropPage(p *clockPage) {
	k.mu.Lock()
	_, known := k.pages[p]
	delete(k.pages, p)
	k.mu.Unlock()
	if known {
		p.mappable.DecRef(p.s.k.SupervisorContext())
	}
}

// followClocks has the pages follow that of the kernel.
func (s *Kernel) followClocks() {
	k := &s.clocks
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.pages {
		p.follow()
		// While nothing runs, the kernel's is not measured, and need not be for this.
		if made := p.made.Load(); made != p.looked {
			p.looked = made
			if p.own.racesOut() {
				s.cfg.Clock.AfterFunc(0, p.own.slowDown)
			}
		}
	}
	if len(k.pages) > 0 {
		k.timer.Reset(clockFollow)
	}
}

// follow has the page follow that of the kernel, if that has changed.
func (p *clockPage) follow() {
	if seq, err := safemem.LoadUint32(p.s.clocks.shared); err == nil && seq != p.made.Load() {
		p.rewrite()
	}
}

// rewrite writes the page as the kernel's and the agent's clocks are now.
func (p *clockPage) rewrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginLocked()
	p.writeLocked(false)
}

// turn has the agent's CLOCK_REALTIME go on as f says, which gets how it goes; set says
// that it may go back. Nobody reads the clock meanwhile: what f takes to be now comes
// after all that it was read by before.
func (p *clockPage) turn(set bool, f func(clocks.Wall) clocks.Wall) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginLocked()
	wall := f(p.own.ahead())
	p.own.realtime.Store(&wall)
	p.writeLocked(set)
}

// beginLocked has who reads the page wait until it is written.
//
// +checklocks:p.mu
func (p *clockPage) beginLocked() {
	p.seq++
	safemem.SwapUint64(p.block, p.seq) // The kernel's own memory does not fail.
}

// +checklocks:p.mu
func (p *clockPage) writeLocked(set bool) {
	shared, made := p.s.clocks.read()
	cycles, wall := int64(gvtime.Rdtsc()), p.own.ahead()
	// What only is ahead is set when the kernel's clock is.
	set = set || !wall.Steady() && shared.Stepped(p.shared, cycles)
	p.params = shared.Own(wall, p.own.monotonic).After(p.params, cycles, wall, set)
	p.shared = shared
	var raw [clocks.Bytes]byte
	p.params.Encode(raw[:])
	safemem.Copy(p.block.DropFirst(8), safemem.BlockFromSafeSlice(raw[:]))
	p.seq++
	safemem.SwapUint64(p.block, p.seq)
	p.made.Store(made)
}

// read returns what the kernel's page says, and its sequence count.
func (k *kernelClocks) read() (clocks.Params, uint32) {
	var raw [clocks.Bytes]byte
	for {
		seq, _ := safemem.LoadUint32(k.shared)
		safemem.Copy(safemem.BlockFromSafeSlice(raw[:]), k.shared.DropFirst(8))
		if again, _ := safemem.LoadUint32(k.shared); seq&1 == 0 && again == seq {
			return clocks.Decode(raw[:]), seq
		}
		runtime.Gosched() // It is being written: that does not take long.
	}
}

// taskClock is a hook of the platform: a task of an agent that has clocks of its own is
// about to execute its program, if fresh in an address space that may not have the page.
func (s *Kernel) taskClock(ctx context.Context, fresh bool) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	if a == nil {
		return
	}
	c := a.clock.own.Load()
	if c == nil {
		return
	}
	c.page.follow()
	if fresh {
		if m := t.MemoryManager(); m != nil {
			c.page.mapInto(t, m)
		}
	}
}

// mapInto puts the page before the VDSO of an address space, if another page of clocks
// is there. A program that has put something else there has no clocks to read.
func (p *clockPage) mapInto(ctx context.Context, m *mm.MemoryManager) {
	at, ok := clockAddr(m)
	if !ok {
		return
	}
	var raw [16]byte
	if _, err := m.CopyIn(ctx, at+clockMark, raw[:], usermem.IOOpts{IgnorePermissions: true}); err != nil {
		return
	}
	if binary.NativeEndian.Uint64(raw[:]) != clockMagic || binary.NativeEndian.Uint64(raw[8:]) == p.number {
		return
	}
	_, err := m.MMap(ctx, memmap.MMapOpts{
		Length: p.mappable.Length(), MappingIdentity: p.mappable, Mappable: p.mappable, Addr: at, Fixed: true, Unmap: true,
		Private: true, Perms: hostarch.Read, MaxPerms: hostarch.Read,
	})
	if err != nil {
		p.s.log.boot.Log(ctx, slog.LevelWarn, "a program reads the kernel's clocks instead of its agent's", "error", err)
	}
}

// clockAddr is where the page is that the VDSO of an address space reads.
func clockAddr(m *mm.MemoryManager) (hostarch.Addr, bool) {
	for _, e := range m.Auxv() {
		if e.Key == linux.AT_SYSINFO_EHDR && e.Value > hostarch.PageSize {
			return e.Value - hostarch.PageSize, true
		}
	}
	return 0, false
}
