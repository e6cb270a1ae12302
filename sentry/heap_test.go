package sentry

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
)

// TestHoards has a program make ever more of something small that the kernel keeps on
// its heap. It is ended for its memory limit, or refused, before the heap has grown by
// much more than that; its neighbour lives on, and is not charged for it.
func TestHoards(t *testing.T) {
	const (
		limit = 6 << 20
		most  = 120 << 20 // Garbage is collected when there is some.
	)
	h := &theKernel.heap
	h.spare.Store(0)
	h.each.Store(0)
	h.enough.Store(1 << 20)
	t.Cleanup(func() {
		h.spare.Store(heapFree)
		h.each.Store(heapFreeAgent)
		h.enough.Store(heapGrown)
	})
	neighbour := inMemoryImage(t, []string{"cat"}, withStdin, memory(limit))
	beside := limited(t, neighbour)
	for _, what := range strings.Fields("messages flight interests watches notices timers locks names links queues") {
		t.Run(what, func(t *testing.T) {
			before := readHeap().live
			s := inMemoryImage(t, []string{"hoard", what}, memory(limit))
			a := limited(t, s)
			var peak uint64
			ended, refused := make(chan control.Exit, 1), make(chan string, 1)
			go func() {
				for {
					kind, p, err := s.stream.Read()
					if err != nil || kind == control.FrameExit {
						return
					}
					if strings.Contains(string(p), "\n") {
						refused <- string(p)
						return
					}
				}
			}()
			go func() { ended <- s.wait() }()
			late := time.After(60 * time.Second)
			for done := false; !done; {
				select {
				case exit := <-ended:
					done = true
					if exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit of 6 MiB") {
						t.Errorf("%+v", exit)
					}
				case text := <-refused:
					done = true
					t.Logf("refused: %s", text)
				case <-late:
					t.Fatalf("nothing was done about %d KiB, and the heap has grown by %d", a.snapshot().Memory.Now>>10, (readHeap().live-before)>>10)
				case <-time.After(10 * time.Millisecond):
					peak = max(peak, readHeap().objects)
				}
			}
			if peak > before+most {
				t.Errorf("the heap has grown by %d KiB", (peak-before)>>10)
			}
			t.Logf("%s: the heap has grown by %d KiB", what, (int64(peak)-int64(before))>>10)
			neighbour.send("there\n")
			neighbour.expect("there")
			if n := beside.account.memory.heap.Load(); n > 1<<20 {
				t.Errorf("its neighbour was charged %d KiB", n>>10)
			}
		})
	}
}

// TestHeapIsDivided: who made most is charged most, nobody more than he can have made.
func TestHeapIsDivided(t *testing.T) {
	got := divide(1000, []uint64{1000, 100, 0})
	if got[0] < 980 || got[1] > 20 || got[2] != 0 {
		t.Errorf("%d", got)
	}
	if got := divide(1000, []uint64{30, 10}); got[0] != 60 || got[1] != 20 {
		t.Errorf("more than they can have made: %d", got)
	}
	if got := divide(1000, []uint64{0, 0}); got[0] != 0 || got[1] != 0 {
		t.Errorf("nobody made it: %d", got)
	}
}

// TestHeapIsGivenBack: what the heap shrinks by is taken from those that have ended,
// then from the others, each his part.
func TestHeapIsGivenBack(t *testing.T) {
	var h heapWatch
	a, b := new(Agent), new(Agent)
	a.account.memory.heap.Store(300 << 10)
	b.account.memory.heap.Store(100 << 10)
	h.left, h.free = 50<<10, 1<<20 // +checklocksignore: nobody else has it.
	h.shrink([]*Agent{a, b}, 250<<10)
	if x, y := a.account.memory.heap.Load()>>10, b.account.memory.heap.Load()>>10; x != 149 || y != 49 || h.left != 0 || h.free != 1<<20 {
		t.Errorf("%d, %d, of the ended %d, of nobody %d", x, y, h.left, h.free)
	}
	h.shrink([]*Agent{a, b}, 1<<20)
	if x, y := a.account.memory.heap.Load(), b.account.memory.heap.Load(); x != 0 || y != 0 || h.free > 300<<10 {
		t.Errorf("%d, %d, of nobody %d", x, y, h.free)
	}
}
