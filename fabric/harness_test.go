package fabric

import (
	"errors"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/platform/fake"
)

func TestMain(m *testing.M) {
	log.SetLevel(log.Warning)
	cpuid.Initialize()
	for _, err := range []error{rand.Init(), usage.Init()} {
		if err != nil {
			panic(err)
		}
	}
	fd, err := memutil.CreateMemFD("fabric-test", 0)
	if err != nil {
		panic(err)
	}
	memoryFile, err = pgalloc.NewMemoryFile(os.NewFile(uintptr(fd), "fabric-test"), pgalloc.MemoryFileOpts{DisableIMAWorkAround: true})
	if err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var memoryFile *pgalloc.MemoryFile

const (
	alice = "a-00000000000a"
	bob   = "a-00000000000b"
)

// world is a store and who may use it.
type world struct {
	t       testing.TB
	ctx     context.Context
	clock   *ktime.Fake
	space   *capability.Space
	store   *Store
	charged map[string]uint64
	limit   uint64
	lost    int
	lastMem uint32
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, ctx: context.Background(), clock: ktime.NewFake(time.Unix(1000, 0)), charged: map[string]uint64{}, limit: 1 << 40}
	w.space = capability.NewSpace(capability.Options{Clock: w.clock})
	t.Cleanup(w.space.Close)
	for _, h := range []string{alice, bob} {
		must(t, w.space.AddHolder(h))
	}
	w.store = NewStore(Options{
		Memory: memoryFile, Clock: w.clock,
		Account: func() uint32 { w.lastMem++; return 1000 + w.lastMem },
		Charge: func(owner string, n uint64) error {
			if w.charged[owner]+n > w.limit {
				return errdefs.New(errdefs.BudgetExhausted, "too much")
			}
			w.charged[owner] += n
			return nil
		},
		Release: func(owner string, n uint64) { w.charged[owner] -= n },
		Lost:    func(*View, uint64) { w.lost++ },
		Lend:    func(Task, Task, uintptr) {},
		PassOn:  func(Task, Task, uintptr) {},
		Reclaim: func(Task) {},
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code errdefs.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("got error %v, want %s", err, code)
	}
}

func (w *world) region(spec Spec) *Region {
	w.t.Helper()
	r, err := w.store.Create(spec)
	must(w.t, err)
	return r
}

// view gives holder rights to r.
func (w *world) view(r *Region, holder, grant string) *View {
	w.t.Helper()
	spec, err := capability.ParseSpec("region:" + r.Name() + ":" + grant)
	must(w.t, err)
	c, err := w.space.Mint(holder, spec, capability.Actor{Name: "operator", Privileged: true})
	must(w.t, err)
	v, err := r.ViewOf(c)
	must(w.t, err)
	return v
}

func (w *world) revoke(v *View) {
	w.t.Helper()
	_, err := w.space.Revoke(v.cap, true, capability.Actor{Name: "operator", Privileged: true}, "")
	must(w.t, err)
}

// memory is that of a process.
type memory struct {
	w   *world
	ctx context.Context
	*mm.MemoryManager
}

// limited is a context with the limits that a memory manager asks for.
type limited struct {
	context.Context
	set *limits.LimitSet
}

func (l limited) Value(key any) any {
	if key == limits.CtxLimits {
		return l.set
	}
	return l.Context.Value(key)
}

func (w *world) memory() memory {
	w.t.Helper()
	m, err := mm.NewMemoryManager(fake.New(), memoryFile)
	must(w.t, err)
	set := limits.NewLimitSet()
	ctx := limited{w.ctx, set}
	_, err = m.SetMmapLayout(arch.New(arch.AMD64), set)
	must(w.t, err)
	w.t.Cleanup(func() { m.DecUsers(ctx) })
	return memory{w, ctx, m}
}

func (m memory) mmap(v *View, perms hostarch.AccessType) hostarch.Addr {
	m.w.t.Helper()
	addr, err := m.MMap(m.ctx, memmap.MMapOpts{Length: v.r.Size(), Perms: perms, MaxPerms: hostarch.ReadWrite, Mappable: v})
	must(m.w.t, err)
	return addr
}

func (m memory) write(addr hostarch.Addr, text []byte) error {
	_, err := m.CopyOut(m.ctx, addr, text, usermem.IOOpts{})
	return err
}

func (m memory) read(addr hostarch.Addr, n int) ([]byte, error) {
	buf := make([]byte, n)
	_, err := m.CopyIn(m.ctx, addr, buf, usermem.IOOpts{})
	return buf, err
}
