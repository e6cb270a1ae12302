package aios

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/anishathalye/porcupine"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/fabric"
)

// long is a time-out that no test comes to.
const long = time.Minute

// history is what participants did, for porcupine.
type history struct {
	mu   sync.Mutex
	now  atomic.Int64
	list []porcupine.Operation
}

// never is when an operation returns whose participant died in it.
const never = 1 << 62

// op notes what somebody does; it returns what to call with the outcome.
func (h *history) op(who int, in any) func(out any) {
	call := h.now.Add(1)
	h.mu.Lock()
	i := len(h.list)
	h.list = append(h.list, porcupine.Operation{ClientId: who, Input: in, Call: call, Output: nil, Return: never})
	h.mu.Unlock()
	return func(out any) {
		ret := h.now.Add(1)
		h.mu.Lock()
		h.list[i].Output, h.list[i].Return = out, ret
		h.mu.Unlock()
	}
}

// check fails unless there is an order in which all of it makes sense.
func (h *history) check(t *testing.T, m porcupine.Model, seed uint64) {
	t.Helper()
	if res := porcupine.CheckOperationsTimeout(m, h.list, time.Minute); res != porcupine.Ok {
		for _, o := range h.list {
			t.Logf("%d: %v -> %v [%d %d]", o.ClientId, o.Input, o.Output, o.Call, o.Return)
		}
		t.Fatalf("seed %d: the history is %v", seed, res)
	}
}

// lockOp is what is done to a lock: "lock", "unlock", "consistent", or that one
// dies.
type lockOp struct {
	what string
	who  int
}

// lockState is who has a lock, and who has died.
type lockState struct {
	owner int // -1: nobody
	died  bool
	dead  uint64
}

var lockModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{lockState{owner: -1}} },
	Step: func(state, in, out any) []any {
		s, op := state.(lockState), in.(lockOp)
		if out == nil { // It died in it, before or after it had an effect.
			if s.dead>>op.who&1 != 0 {
				return []any{s}
			}
			return append(lockStep(s, op, "ok"), append(lockStep(s, op, "owner died"), s)...)
		}
		return lockStep(s, op, out.(string))
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

func lockStep(s lockState, op lockOp, out string) []any {
	orphaned := s.owner >= 0 && s.dead>>s.owner&1 != 0
	switch {
	case op.what == "die":
		s.dead |= 1 << op.who
	case op.what == "lock" && out == "ok" && s.owner < 0 && !s.died:
		s.owner = op.who
	case op.what == "lock" && out == "owner died" && (orphaned || s.owner < 0 && s.died):
		s.owner, s.died = op.who, true
	case op.what == "consistent" && s.owner == op.who:
		s.died = false
	case op.what == "unlock" && s.owner == op.who && !s.died:
		s.owner = -1
	default:
		return nil
	}
	return []any{s}
}

// TestLockIsLinearizable has members take a lock while others of them die at any
// step of it.
func TestLockIsLinearizable(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := share(t, 1<<20)
		var h history
		var wg sync.WaitGroup
		var inside atomic.Int64
		const members = 5
		for who := range members {
			p := s.process()
			if who > 0 && rnd.IntN(2) == 0 {
				p.steps.Store(int64(rnd.IntN(60)))
			}
			wg.Go(func() {
				lived := p.does(func() {
					m, err := p.r.Join()
					must(t, err)
					for range 4 {
						done := h.op(who, lockOp{"lock", who})
						switch err := m.Lock(64, long); err {
						case nil:
							done("ok")
						case ErrOwnerDied:
							done("owner died")
							inside.Store(0)
							done := h.op(who, lockOp{"consistent", who})
							must(t, m.Consistent(64))
							done("ok")
						default:
							t.Errorf("seed %d: lock: %v", seed, err)
							return
						}
						if inside.Add(1) != 1 {
							t.Errorf("seed %d: two have the lock", seed)
						}
						inside.Add(-1)
						done = h.op(who, lockOp{"unlock", who})
						must(t, m.Unlock(64))
						done("ok")
					}
					p.steps.Store(-1)
				})
				if !lived {
					done := h.op(who, lockOp{"die", who})
					p.end()
					done("ok")
				}
			})
		}
		wg.Wait()
		h.check(t, lockModel, seed)
	}
}

// ringOp is a message that is sent, or, if it is 0, one that is received.
type ringOp int

var ringModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, in, out any) []any {
		q, op := state.(string), in.(ringOp)
		switch {
		case op != 0 && out == nil:
			return []any{q, q + fmt.Sprintf("%d,", op)}
		case op != 0 && out == "ok":
			return []any{q + fmt.Sprintf("%d,", op)}
		case op == 0 && out == nil:
			if _, rest, ok := bytes.Cut([]byte(q), []byte(",")); ok {
				return []any{q, string(rest)}
			}
			return []any{q}
		case op == 0:
			want := fmt.Sprintf("%d,", out)
			if len(q) >= len(want) && q[:len(want)] == want {
				return []any{q[len(want):]}
			}
		}
		return nil
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

// TestRingIsLinearizable has several send to a small ring and several receive,
// while some of them die at any step: the others go on, in order, and what is sent
// comes once.
func TestRingIsLinearizable(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		s := share(t, 1<<20)
		first := s.process()
		_, err := first.r.MakeRing(128, 4, 16)
		must(t, err)
		var h history
		var sending, receiving sync.WaitGroup
		const each = 5
		var over atomic.Bool
		run := func(who int, wg *sync.WaitGroup, may bool, do func(p *process, g *Ring)) {
			p := s.process()
			if may && rnd.IntN(2) == 0 {
				p.steps.Store(int64(rnd.IntN(80)))
			}
			wg.Go(func() {
				if !p.does(func() {
					g, err := p.r.Ring(128)
					must(t, err)
					do(p, g)
				}) {
					p.end()
				}
			})
		}
		for who := range 3 {
			run(who, &sending, true, func(p *process, g *Ring) {
				for i := range each {
					n := who*each + i + 1
					done := h.op(who, ringOp(n))
					if err := g.Send(uint32(n), fmt.Appendf(nil, "%d", n), long); err != nil {
						t.Errorf("seed %d: send: %v", seed, err)
						return
					}
					done("ok")
				}
			})
		}
		for who := 3; who < 5; who++ {
			run(who, &receiving, who == 3, func(p *process, g *Ring) {
				buf := make([]byte, 16)
				for !over.Load() {
					var done func(any)
					for done == nil && !over.Load() {
						done = h.op(who, ringOp(0))
						m, err := g.Receive(buf, 20*time.Millisecond)
						switch {
						case err == nil && string(m.Data) == fmt.Sprint(m.Type):
							done(int(m.Type))
						case err == nil:
							t.Errorf("seed %d: message %d says %q", seed, m.Type, m.Data)
						case err.(*Error).Errno == syscall.ETIMEDOUT:
							h.forget(who)
							done = nil
						default:
							t.Errorf("seed %d: receive: %v", seed, err)
							return
						}
					}
				}
			})
		}
		sending.Wait()
		// What was sent completely has to come.
		last := s.process()
		g, err := last.r.Ring(128)
		must(t, err)
		done := h.op(9, ringOp(1000))
		must(t, g.Send(1000, []byte("1000"), long))
		done("ok")
		for h.waits(1000) {
			time.Sleep(time.Millisecond)
		}
		over.Store(true)
		receiving.Wait()
		h.check(t, ringModel, seed)
	}
}

// forget takes back the last operation of somebody, which did nothing.
func (h *history) forget(who int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.list) - 1; i >= 0; i-- {
		if h.list[i].ClientId == who {
			h.list[i] = porcupine.Operation{ClientId: who, Input: ringOp(0), Call: h.list[i].Call, Return: never}
			return
		}
	}
}

// waits reports whether nobody has received n, and somebody may still.
func (h *history) waits(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.list {
		if o.Output == n {
			return false
		}
	}
	return true
}

// TestCounterWakes has several wait for what others count, some of whom die.
func TestCounterWakes(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		s := share(t, 1<<20)
		var wg sync.WaitGroup
		for range 3 {
			p := s.process()
			c, err := p.r.Counter(256)
			must(t, err)
			wg.Go(func() {
				if n, err := c.Await(20, long); err != nil || n < 20 {
					t.Errorf("seed %d: %d, %v", seed, n, err)
				}
			})
		}
		for n := 0; n < 20; {
			p := s.process()
			c, err := p.r.Counter(256)
			must(t, err)
			p.steps.Store(int64(rnd.IntN(8)))
			p.does(func() {
				c.Advance(1)
				p.steps.Store(-1)
			})
			p.end()
			p = s.process()
			c, _ = p.r.Counter(256)
			v, err := c.Value()
			must(t, err)
			n = int(v)
		}
		wg.Wait()
	}
}

// TestWaitsAreCut ends the right to a region under those who wait in it.
func TestWaitsAreCut(t *testing.T) {
	s := share(t, 1<<20)
	holder, waiter := s.process(), s.process()
	m, err := holder.r.Join()
	must(t, err)
	must(t, m.Lock(0, 0))
	errs := make(chan error, 3)
	go func() {
		m, err := waiter.r.Join()
		must(t, err)
		errs <- m.Lock(0, long)
	}()
	go func() { errs <- waiter.r.Wait(8, 0, long) }()
	go func() {
		c, err := waiter.r.Counter(16)
		must(t, err)
		_, err = c.Await(1, long)
		errs <- err
	}()
	time.Sleep(50 * time.Millisecond)
	_, err = s.space.Revoke(waiter.cap, true, capability.Actor{Name: "operator", Privileged: true}, "")
	must(t, err)
	for range 3 {
		wantErrno(t, <-errs, syscall.EACCES)
	}
	must(t, m.Unlock(0))
	third := s.process()
	go func() {
		m, err := third.r.Join()
		must(t, err)
		must(t, m.Lock(0, 0))
		errs <- nil
		errs <- third.r.Wait(8, 0, long)
	}()
	must(t, <-errs)
	time.Sleep(50 * time.Millisecond)
	wantErrno(t, m.Lock(0, 0), syscall.EBUSY)
	wantErrno(t, m.Lock(0, 10*time.Millisecond), syscall.ETIMEDOUT)
	s.store.Remove(s.r)
	wantErrno(t, <-errs, syscall.ENOENT)
	wantErrno(t, holder.r.Wait(8, 0, long), syscall.ENOENT)
}

// TestLockThatIsLost is given back without having been made good.
func TestLockThatIsLost(t *testing.T) {
	s := share(t, 1<<20)
	a, b := s.process(), s.process()
	ma, err := a.r.Join()
	must(t, err)
	must(t, ma.Lock(0, 0))
	wantErrno(t, ma.Lock(0, 0), syscall.EDEADLK)
	a.end()
	mb, err := b.r.Join()
	must(t, err)
	if err := mb.Lock(0, long); err != ErrOwnerDied {
		t.Fatal(err)
	}
	must(t, mb.Unlock(0))
	wantErrno(t, mb.Lock(0, long), syscall.ENOTRECOVERABLE)
	wantErrno(t, mb.Unlock(0), syscall.EPERM)
}

// TestScribbler writes what it likes over a ring and a lock: whoever uses them
// gets errors or messages, and neither a panic nor more time than it asked for.
func TestScribbler(t *testing.T) {
	s := share(t, 1<<20)
	vandal := s.process()
	_, err := vandal.r.MakeRing(128, 8, 48)
	must(t, err)
	rings := make([]*Ring, 2)
	procs := []*process{s.process(), s.process()}
	for i, p := range procs {
		rings[i], err = p.r.Ring(128)
		must(t, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			off := uint64(rnd.IntN(1024)) &^ 7
			v := rnd.Uint64()
			if rnd.IntN(2) == 0 { // Something that means something.
				v = uint64(rnd.IntN(4))<<32 | uint64(rnd.IntN(6))<<2 | uint64(rnd.IntN(4))
			}
			atomic.StoreUint64(vandal.r.long(off), v)
			if rnd.IntN(50) == 0 {
				vandal.r.Wake(off)
				time.Sleep(time.Microsecond)
			}
		}
	})
	outcomes := make(chan string, 8)
	for i, g := range rings {
		for k := range 2 {
			wg.Go(func() {
				buf := make([]byte, 48)
				for n := range 200 {
					var err error
					switch {
					case k == 0:
						err = g.Send(uint32(n), buf[:n%48], time.Millisecond)
					default:
						_, err = g.Receive(buf, time.Millisecond)
					}
					if err != nil {
						switch e := err.(*Error); e.Errno {
						case syscall.ETIMEDOUT, syscall.EBADMSG, syscall.EAGAIN:
						default:
							t.Errorf("%d: %v", i, err)
						}
					}
				}
				outcomes <- "ring"
			})
		}
		wg.Go(func() {
			m, err := procs[i].r.Join()
			must(t, err)
			for range 200 {
				if err := m.Lock(0, time.Millisecond); err == nil || err == ErrOwnerDied {
					m.Unlock(0)
				}
			}
			outcomes <- "lock"
		})
	}
	for range 6 {
		select {
		case <-outcomes:
		case <-time.After(long):
			t.Fatal("somebody hangs")
		}
	}
	close(stop)
	wg.Wait()
}

// TestCallsAreThoseOfTheKernel compares numbers.
func TestCallsAreThoseOfTheKernel(t *testing.T) {
	for call, nr := range map[int]uintptr{
		abi.RegionJoin: regionJoin, abi.RegionLeave: regionLeave, abi.RegionAlive: regionAlive, abi.RegionWait: regionWait,
		abi.RegionWake: regionWake, abi.RegionLock: regionLock, abi.RegionUnlock: regionUnlock, abi.RegionCommit: regionCommit,
	} {
		if uintptr(abi.RegionRequest(call)) != nr {
			t.Errorf("call %d is %#x to the kernel and %#x here", call, abi.RegionRequest(call), nr)
		}
		if got, ok := abi.RegionCallOf(uint32(nr)); !ok || got != call {
			t.Errorf("%#x is call %d, %v", nr, got, ok)
		}
	}
	if regionProcess != abi.RegionProcess || regionTry != abi.RegionTry || lockOwner != fabric.LockOwner || lockDied != fabric.LockDied {
		t.Error("bits differ")
	}
	var wire [abi.RegionArgSize]byte
	in := regionArg{1, 2, 3, 4, 5, 6, 3, 0}
	(&abi.RegionArg{Offset: 1, Deadline: 2, Expect: 3, New: 4, ID: 5, Count: 6, Flags: 3}).Encode(&wire)
	if unsafe.Sizeof(in) != abi.RegionArgSize || wire != *(*[abi.RegionArgSize]byte)(unsafe.Pointer(&in)) {
		t.Error("the argument differs")
	}
}

// TestRingCarriesMessages, copied and where they lie.
func TestRingCarriesMessages(t *testing.T) {
	s := share(t, 1<<20)
	a, b := s.process(), s.process()
	g, err := a.r.MakeRing(0, 2, 100)
	must(t, err)
	h, err := b.r.Ring(0)
	must(t, err)
	_, err = h.Receive(nil, 0)
	wantErrno(t, err, syscall.EAGAIN)
	_, err = h.Receive(nil, 5*time.Millisecond)
	wantErrno(t, err, syscall.ETIMEDOUT)
	wantErrno(t, g.Send(1, make([]byte, g.Payload()+1), 0), syscall.EMSGSIZE)
	must(t, g.Send(7, []byte("hello"), 0))
	copy(a.r.Bytes()[9000:], "lies here")
	must(t, g.SendSpan(8, 9000, 9, 0))
	wantErrno(t, g.Send(1, nil, 0), syscall.EAGAIN)
	wantErrno(t, g.SendSpan(1, 1<<20, 1, 0), syscall.EINVAL)
	m, err := h.Receive(make([]byte, 100), long)
	if err != nil || m.Type != 7 || string(m.Data) != "hello" || m.Span {
		t.Errorf("%+v, %v", m, err)
	}
	m, err = h.Receive(nil, long)
	if err != nil || m.Type != 8 || string(m.Data) != "lies here" || !m.Span || m.Offset != 9000 || &m.Data[0] != &b.r.Bytes()[9000] {
		t.Errorf("%+v, %v", m, err)
	}
	_, err = b.r.Ring(1 << 19)
	wantErrno(t, err, syscall.EINVAL)
}

// BenchmarkRing sends small messages from one goroutine to another.
func BenchmarkRing(b *testing.B) {
	s := share(b, 1<<20)
	g, err := s.process().r.MakeRing(0, 1024, 48)
	must(b, err)
	h, err := s.process().r.Ring(0)
	must(b, err)
	was := probe
	probe = nil
	defer func() { probe = was }()
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		msg := make([]byte, 16)
		for range b.N {
			if err := g.Send(1, msg, long); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	buf := make([]byte, 48)
	for range b.N {
		if _, err := h.Receive(buf, long); err != nil {
			b.Fatal(err)
		}
	}
}
