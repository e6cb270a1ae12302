package aios

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/memutil"
	gvktime "gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric"
	"aios.dev/aios/ktime"
)

// The kernel's side of regions, without a kernel: a store whose tasks are
// goroutines, and whose processes map the pages where Go has them.

var memoryFile = sync.OnceValue(func() *pgalloc.MemoryFile {
	log.SetLevel(log.Warning)
	cpuid.Initialize()
	if err := usage.Init(); err != nil {
		panic(err)
	}
	fd, err := memutil.CreateMemFD("aios-test", 0)
	if err != nil {
		panic(err)
	}
	mf, err := pgalloc.NewMemoryFile(os.NewFile(uintptr(fd), "aios-test"), pgalloc.MemoryFileOpts{DisableIMAWorkAround: true})
	if err != nil {
		panic(err)
	}
	return mf
})

// shared is a region that processes of a test use together.
type shared struct {
	t     testing.TB
	space *capability.Space
	store *fabric.Store
	r     *fabric.Region
	lent  atomic.Int64
}

func share(t testing.TB, size uint64) *shared {
	s := &shared{t: t, space: capability.NewSpace(capability.Options{Clock: ktime.Real})}
	t.Cleanup(s.space.Close)
	s.store = fabric.NewStore(fabric.Options{
		Memory: memoryFile(), Clock: ktime.Real, Account: func() uint32 { return 7 },
		Charge: func(string, uint64) error { return nil }, Release: func(string, uint64) {},
		Lend:   func(fabric.Task, fabric.Task, uintptr) { s.lent.Add(1) },
		PassOn: func(fabric.Task, fabric.Task, uintptr) {}, Reclaim: func(fabric.Task) {},
	})
	if err := s.space.AddHolder("a-00000000000a"); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.r, err = s.store.Create(fabric.Spec{Name: "r", Size: size}); err != nil {
		t.Fatal(err)
	}
	return s
}

// process is one that has the region mapped.
type process struct {
	s    *shared
	view *fabric.View
	cap  *capability.Capability
	r    *Region
	// steps is after how many accesses it dies; negative: never.
	steps atomic.Int64
	dead  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	tasks map[int]*thread
}

// Invalidate implements memmap.MappingSpace: what was taken back is not gone here,
// and the test must not touch it.
func (*process) Invalidate(hostarch.AddrRange, memmap.InvalidateOpts) {}

type thread struct{ p *process }

func (t *thread) BlockWithDeadline(c <-chan struct{}, have bool, at gvktime.Time) error {
	var over <-chan time.Time
	if have {
		over = time.After(time.Duration(at.Nanoseconds() - monotonic()))
	}
	select {
	case <-c:
		return nil
	case <-over:
		return linuxerr.ETIMEDOUT
	case <-t.p.dead:
		return linuxerr.ErrInterrupted
	}
}

func (s *shared) process() *process {
	s.t.Helper()
	spec, err := capability.ParseSpec("region:r:all")
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := s.space.Mint("a-00000000000a", spec, capability.Actor{Name: "operator", Privileged: true})
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := s.r.ViewOf(c)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &process{s: s, view: v, cap: c, dead: make(chan struct{}), tasks: make(map[int]*thread)}
	p.steps.Store(-1)
	if err := v.AddMapping(context.Background(), p, p.where(), 0, true); err != nil {
		s.t.Fatal(err)
	}
	all := memmap.MappableRange{Start: 0, End: s.r.Size()}
	ts, err := v.Translate(context.Background(), all, all, hostarch.ReadWrite)
	if err != nil || len(ts) != 1 {
		s.t.Fatalf("the region is in %d parts: %v", len(ts), err)
	}
	seq, err := memoryFile().MapInternal(ts[0].FileRange(), hostarch.ReadWrite)
	if err != nil || seq.NumBlocks() != 1 {
		s.t.Fatal(err)
	}
	if p.r, err = newRegion(seq.Head().ToSlice(), p, true); err != nil {
		s.t.Fatal(err)
	}
	lives.Store(p.r, p)
	return p
}

func (p *process) where() hostarch.AddrRange {
	return hostarch.AddrRange{Start: 0x1000_0000, End: hostarch.Addr(0x1000_0000 + p.s.r.Size())}
}

// lives has the process of a region.
var lives sync.Map

// died is what a process panics with when it is killed.
type died struct{ p *process }

func init() {
	probe = func(r *Region) {
		if p, ok := lives.Load(r); ok {
			p := p.(*process)
			if p.steps.Load() >= 0 && p.steps.Add(-1) < 0 {
				p.steps.Store(0)
				panic(died{p})
			}
		}
	}
}

// end unmaps what the process has mapped, as the kernel does when it has died.
func (p *process) end() {
	p.once.Do(func() {
		close(p.dead)
		p.view.RemoveMapping(context.Background(), p, p.where(), 0, true)
		lives.Delete(p.r)
	})
}

// does has the process do something, and reports whether it lived through it.
func (p *process) does(f func()) (lived bool) {
	defer func() {
		switch d := recover().(type) {
		case nil:
			lived = true
		case died:
			if d.p != p {
				panic(d)
			}
		default:
			panic(d)
		}
	}()
	f()
	return
}

// call implements regionCalls, as the ioctl does.
func (p *process) call(nr uintptr, a *regionArg) error {
	if probe != nil {
		probe(p.r)
	}
	p.mu.Lock()
	t := p.tasks[syscall.Gettid()]
	if t == nil {
		t = &thread{p}
		p.tasks[syscall.Gettid()] = t
	}
	p.mu.Unlock()
	c := fabric.Caller{Task: t, Space: p}
	var err error
	switch nr {
	case regionJoin:
		a.id, err = p.view.Join(c, a.flags&regionProcess == 0)
	case regionLeave:
		err = p.view.Leave(c, a.id)
	case regionAlive:
		err = p.view.Alive(a.id)
	case regionWait:
		err = p.view.Wait(c, a.offset, uint32(a.expect), fabric.Until(a.deadline))
	case regionWake:
		a.count, err = p.view.Wake(a.offset, a.count)
	case regionLock:
		err = p.view.Lock(c, a.id, a.offset, a.flags&regionTry != 0, fabric.Until(a.deadline))
	case regionUnlock:
		err = p.view.Unlock(c, a.id, a.offset)
	}
	select {
	case <-p.dead:
		panic(died{p})
	default:
	}
	if e, ok := err.(*gverrors.Error); ok {
		return syscall.Errno(e.Errno())
	}
	if err != nil {
		return errdefs.Errno(err)
	}
	return nil
}

func wantErrno(t testing.TB, err error, want syscall.Errno) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Errno != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
