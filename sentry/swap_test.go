package sentry

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// swapper is an agent that knows what is in its memory.
type swapper struct {
	*spawned
	a *Agent
}

func newSwapper(t testing.TB, opts ...func(*control.SpawnRequest)) *swapper {
	s := inMemoryImage(t, []string{"swapper"}, append(opts, withStdin)...)
	s.expect("ready\n")
	return &swapper{s, theKernel.findAgent(s.id)}
}

// does has it do something, and fails unless all is right.
func (s *swapper) does(words ...string) {
	s.t.Helper()
	for _, w := range words {
		s.send(w + "\n")
		for got := ""; !strings.Contains(got, w+" ok\n"); {
			got += s.expect("\n")
			if strings.Contains(got, "FAILED") || strings.Contains(got, "WRONG") {
				s.t.Fatalf("%s: %s", w, got)
			}
		}
	}
}

// out swaps all of it out.
func (s *swapper) out() control.HibernateReply {
	s.t.Helper()
	var r control.HibernateReply
	eventually(s.t, func() bool {
		var err error
		r, err = theKernel.Hibernate(control.HibernateRequest{ID: s.id})
		if err != nil && errdefs.CodeOf(err) != errdefs.WrongState {
			s.t.Fatal(err)
		}
		return err == nil
	})
	return r
}

// TestSwap: a program has its memory swapped out between all that it can do to it,
// and finds in every page what it has written there.
func TestSwap(t *testing.T) {
	s := newSwapper(t)
	r := s.out()
	if r.Taken < 8<<20 || r.After > r.Before*3/4 {
		t.Errorf("%+v", r)
	}
	t.Logf("%+v", r)
	s.does("check")
	for _, what := range []string{
		"check", "touch", "write", "read-half", "dontneed", "grow", "touch", "shrink", "grow", "fork", "unmap", "brk", "write", "check",
	} {
		s.out()
		s.does(what)
		s.out()
		s.does("check")
	}
	s.out()
	s.does("write")
	s.out() // What was written since is swapped out on its own.
	s.does("write", "touch")
	s.out()
	s.does("kid")
	for range 2 { // Both have the same pages, and then not any more.
		s.out()
		s.does("ask", "check", "write", "ask", "ask-touch", "check")
		s.out()
		s.does("dontneed", "ask", "grow", "ask")
	}
	s.out()
	s.does("lock", "dontneed-locked", "check")
	s.out()
	s.does("dontneed-locked", "check", "dontneed", "check")
	s.out()
	s.send("execute\n")
	s.expect("ready\n")
	s.out()
	s.does("check")
	u := s.a.swap.Load()
	if u.ins.Load() == 0 || u.outs.Load() == 0 {
		t.Errorf("%d pages in, %d out", u.ins.Load(), u.outs.Load())
	}
	s.signal(9)
	s.wait()
	eventually(t, func() bool { return u.cached.Load() == 0 && u.slabs.Load() == 0 })
	sys := theKernel.swapOn.Load()
	sys.mu.Lock()
	defer sys.mu.Unlock()
	sys.frames.mu.Lock()
	defer sys.frames.mu.Unlock()
	if len(sys.frames.lent) != 0 {
		t.Errorf("references that nobody took: %v", sys.frames.lent)
	}
}

// TestSwapBusy: threads write, move, forget and verify pages, while these are
// taken from them.
func TestSwapBusy(t *testing.T) {
	s := newSwapper(t)
	sw, err := s.a.swapOf()
	if err != nil {
		t.Fatal(err)
	}
	s.does("threads")
	for end := time.Now().Add(max(time.Second, soak(t)/100)); time.Now().Before(end); {
		s.a.swapAll(t, sw)
	}
	s.does("join", "check")
	s.a.swapAll(t, sw)
	s.does("check")
}

// swapTo gives an agent a swap file.
func (s *swapper) swapTo(bytes uint64) {
	s.t.Helper()
	f, err := os.CreateTemp(s.t.TempDir(), "swap")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := theKernel.SetSwap(control.SetSwapRequest{ID: s.id, Bytes: bytes}, []*os.File{f}); err != nil {
		s.t.Fatal(err)
	}
}

// givesSwapFiles has the daemon give agents files to swap to when it is asked.
func givesSwapFiles(t *testing.T) {
	dir := t.TempDir()
	theDaemon.mu.Lock()
	theDaemon.answer = func(q control.Ask) control.Answer {
		if q.Kind != control.AskSwapFile {
			return control.NewAnswer(q.Seq, nil, errdefs.New(errdefs.Unsupported, "it gives swap files only"))
		}
		f, err := os.CreateTemp(dir, "swap")
		if err == nil {
			_, err = theKernel.SwapFile(control.SwapFileRequest{ID: q.Agent}, []*os.File{f})
		}
		return control.NewAnswer(q.Seq, nil, err)
	}
	theDaemon.mu.Unlock()
	t.Cleanup(func() {
		theDaemon.mu.Lock()
		theDaemon.answer = nil
		theDaemon.mu.Unlock()
	})
}

// TestSwapLimit: an agent swaps as far as its capabilities for memory say; copies get
// a part of it, and nobody what is not said.
func TestSwapLimit(t *testing.T) {
	givesSwapFiles(t)
	limitOf := func(a *Agent) uint64 { return a.swapUse().FileLimit }
	big := idle(t, granted("mem:self,bytes=64M,swap=256M", "proc:self:spawn+exec+signal,count=64", "cpu:self", "io:self"))
	eventually(t, func() bool { return limitOf(theKernel.findAgent(big.id)) == 256<<20 })
	if got := mustRun(t, big, "cat /sys/fs/cgroup/memory.swap.max; sed -n 's/^mem //p' /aios/self/limits; sed -n 's/SwapTotal: *//p' /proc/meminfo"); got != "268435456\nbytes=67108864 swap=268435456\n262144 kB\n" {
		t.Errorf("inside: %q", got)
	}
	if sw := theKernel.findAgent(big.id).swap.Load(); !sw.reclaim.on.Load() {
		t.Error("it does not swap by itself")
	}

	small := idle(t, granted("mem:self,bytes=64M,swap=64M", "proc:self:spawn+exec+signal,count=64", "cpu:self", "io:self"))
	a := theKernel.findAgent(small.id)
	eventually(t, func() bool { return limitOf(a) == 64<<20 })
	c := theKernel.findAgent(small.clone(1)[0].id)
	eventually(t, func() bool { return limitOf(c) == 32<<20 && limitOf(a) == 32<<20 })
	if _, err := theKernel.SetSwap(control.SetSwapRequest{ID: c.id, Bytes: 1 << 30}, nil); errdefs.CodeOf(err) != errdefs.WrongState {
		t.Errorf("a copy gives itself more: %v", err)
	}
	reply, err := theKernel.SetSwap(control.SetSwapRequest{ID: small.id, Bytes: 96 << 20}, nil)
	if err != nil || reply.Was != 64<<20 || reply.Now != 96<<20 || limitOf(a) != 64<<20 {
		t.Errorf("%+v, %v, %d", reply, err, limitOf(a))
	}
	if _, err := theKernel.SetSwap(control.SetSwapRequest{ID: small.id, Bytes: 1 << 20}, nil); err == nil {
		t.Error("what a copy has is gone")
	}
	none := idle(t, memory(64<<20))
	if theKernel.findAgent(none.id).swap.Load() != nil {
		t.Error("an agent that was given no swap has some")
	}
}

// TestReclaim: a program that touches far more than its limit goes on, with the rest
// in the swap file, and all of it is right.
func TestReclaim(t *testing.T) {
	const limit = 64 << 20
	s := newSwapper(t, memory(limit))
	s.swapTo(256 << 20)
	s.does("big", "work", "work", "check", "work")
	m := s.a.snapshot().Memory
	if m.Peak > limit+oomRoom(limit) || s.a.oom.times.Load() > 0 {
		t.Errorf("%+v, %d times out of memory", m, s.a.oom.times.Load())
	}
	sw := s.a.swap.Load()
	u := sw.store.Usage()
	if u.InFile == 0 || sw.outs.Load() < 5000 || sw.ins.Load() == 0 {
		t.Errorf("%+v, %d out, %d in", u, sw.outs.Load(), sw.ins.Load())
	}
	t.Logf("peak %d MiB; %+v, %d out, %d in, working set %d MiB", m.Peak>>20, u, sw.outs.Load(), sw.ins.Load(), sw.reclaim.workingSet.Load()>>20)
}

// TestReclaimFork: processes share pages that are put away, change them, and each
// sees its own.
func TestReclaimFork(t *testing.T) {
	s := newSwapper(t, memory(36<<20))
	s.swapTo(256 << 20)
	s.does("medium", "fork", "check")
	if sw := s.a.swap.Load(); sw.outs.Load() == 0 || sw.ins.Load() == 0 || s.a.oom.times.Load() > 0 {
		t.Errorf("%d out, %d in, %d times out of memory", sw.outs.Load(), sw.ins.Load(), s.a.oom.times.Load())
	}
}

// TestReclaimBesideOthers: who has the agent in hand most of the time keeps pages
// from being put away, which is no reason to end it.
func TestReclaimBesideOthers(t *testing.T) {
	s := newSwapper(t, memory(64<<20))
	s.swapTo(256 << 20)
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			s.a.lifeMu.Lock()
			time.Sleep(50 * time.Millisecond)
			s.a.lifeMu.Unlock()
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	defer others.Wait()
	defer close(done)
	s.does("big", "check")
	if n := s.a.oom.times.Load(); n > 0 {
		t.Errorf("%d times out of memory", n)
	}
}

// TestSwapFull: with too little room to swap to, the agent ends as ever.
func TestSwapFull(t *testing.T) {
	s := newSwapper(t, memory(32<<20)) // Compressed, what it writes takes 54 MiB.
	s.swapTo(2 << 20)
	s.send("big\n")
	if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit of 32 MiB") {
		t.Errorf("%+v", exit)
	}
}

// swapAll swaps all of an agent out that runs.
func (a *Agent) swapAll(t testing.TB, sw *agentSwap) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if _, err := a.takePages(sw, time.Now().Add(time.Second), everywhere); err != nil && errdefs.CodeOf(err) != errdefs.Timeout {
		t.Fatal(err)
	}
	for _, p := range a.swapPages() {
		if _, err := p.putAway(); err != nil {
			t.Fatal(err)
		}
	}
}
