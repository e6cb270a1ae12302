package fabric

import (
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"aios.dev/aios/abi"
)

// Task is a thread of an agent that may wait.
type Task interface {
	// BlockWithDeadline returns when something comes from C, with ETIMEDOUT at
	// deadline, or with ErrInterrupted.
	BlockWithDeadline(C <-chan struct{}, haveDeadline bool, deadline ktime.Time) error
}

// Caller is who asks for something: a task and the memory of its process.
type Caller struct {
	Task  Task
	Space memmap.MappingSpace
}

// Until is when a wait is given up, in nanoseconds of the clock that agents know
// as CLOCK_MONOTONIC; 0 is never.
type Until uint64

// waits is who takes part in the synchronisation in a region, and who waits. It
// knows which words somebody waits for, and nothing of what they mean: that is in
// the region, where anybody who may write writes what he likes. So the worst that
// can be done by it is that somebody waits until his time is over.
type waits struct {
	mu sync.Mutex
	// last is the number of the last member. Numbers are not used again, for they
	// stay in the region when their member is gone.
	last    uint32             // +checklocks:mu
	members map[uint32]*Member // +checklocks:mu
	// words are those that somebody waits for, by offset.
	words map[uint64]*queue // +checklocks:mu
	spare []*queue          // +checklocks:mu
}

// queue is who waits for a word, the first first.
type queue struct{ list []*waiter }

// waiter is one who waits. All of it is guarded by waits.mu.
type waiter struct {
	ch   chan struct{} // of capacity 1
	view *View
	task Task
	off  uint64
	// member is who wants the lock; nil for who waits for the word to change.
	member *Member
	// done says that it is in no queue any more, and outcome why.
	done    bool
	outcome error
}

var waiters = sync.Pool{New: func() any { return &waiter{ch: make(chan struct{}, 1)} }}

const (
	maxSpare = 64
	// casTries is how often it is tried to change a word that somebody else keeps
	// changing.
	casTries = 64
)

// Outcomes of a wait that its caller does not see.
var (
	errCut   = linuxerr.EIDRM    // the right to the region may have ended
	errRetry = linuxerr.ERESTART // look again
)

// enqueue adds one who waits.
//
// +checklocks:ws.mu
func (ws *waits) enqueue(v *View, t Task, off uint64, m *Member) *waiter {
	w := waiters.Get().(*waiter)
	w.view, w.task, w.off, w.member, w.done, w.outcome = v, t, off, m, false, nil
	q := ws.words[off]
	if q == nil {
		if n := len(ws.spare); n > 0 {
			q, ws.spare = ws.spare[n-1], ws.spare[:n-1]
		} else {
			q = new(queue)
		}
		if ws.words == nil {
			ws.words = make(map[uint64]*queue)
		}
		ws.words[off] = q
	}
	q.list = append(q.list, w)
	return w
}

// remove takes w out of its queue.
//
// +checklocks:ws.mu
func (ws *waits) remove(w *waiter) {
	q := ws.words[w.off]
	q.list = slices.DeleteFunc(q.list, func(o *waiter) bool { return o == w })
	if len(q.list) == 0 {
		delete(ws.words, w.off)
		if len(ws.spare) < maxSpare {
			ws.spare = append(ws.spare, q)
		}
	}
}

// finish ends the wait of w.
//
// +checklocks:ws.mu
func (ws *waits) finish(w *waiter, outcome error) {
	ws.remove(w)
	w.done, w.outcome = true, outcome
	w.ch <- struct{}{}
}

// finishAll ends every wait that is of what.
//
// +checklocks:ws.mu
func (ws *waits) finishAll(what func(*waiter) bool, outcome error) {
	for _, q := range ws.words {
		for _, w := range slices.Clone(q.list) {
			if what(w) {
				ws.finish(w, outcome)
			}
		}
	}
}

// sleep waits until the wait of w is over, and returns its outcome. Caller does
// not hold ws.mu any more.
func (ws *waits) sleep(w *waiter, until Until) error {
	err := w.task.BlockWithDeadline(w.ch, until != 0, ktime.FromNanoseconds(int64(min(until, 1<<63-1))))
	ws.mu.Lock()
	if w.done {
		if err != nil { // Both at once.
			<-w.ch
		}
		err = w.outcome
	} else {
		ws.remove(w)
	}
	ws.mu.Unlock()
	w.view, w.task, w.member, w.outcome = nil, nil, nil, nil
	waiters.Put(w)
	return err
}

// hasWord refuses an offset at which there is no word of n bytes.
func (r *Region) hasWord(off uint64, n uint64) error {
	if off%n != 0 || off > r.size-n {
		return linuxerr.EINVAL
	}
	return nil
}

// Wait waits while the word at off, of 4 bytes, has a value: until somebody wakes
// it, or the time is over (ETIMEDOUT). If it has another value, that is EAGAIN. It
// may return although nothing has happened.
func (v *View) Wait(c Caller, off uint64, value uint32, until Until) error {
	if err := v.r.hasWord(off, 4); err != nil {
		return err
	}
	ws := &v.r.waits
	ws.mu.Lock()
	if err := v.Err(abi.RegionRead); err != nil {
		ws.mu.Unlock()
		return err
	}
	switch now, err := v.r.load(off); {
	case err != nil:
		ws.mu.Unlock()
		return err
	case now != value:
		ws.mu.Unlock()
		return linuxerr.EAGAIN
	}
	w := ws.enqueue(v, c.Task, off, nil)
	ws.mu.Unlock()
	return v.explain(ws.sleep(w, until), abi.RegionRead)
}

// explain says why a wait was cut.
func (v *View) explain(err error, want abi.Rights) error {
	if err != errCut {
		return err
	}
	if why := v.Err(want); why != nil {
		return why
	}
	return linuxerr.EACCES // It ended, and is there again.
}

// Wake ends the wait of at most n who wait for the word at off, and returns how
// many that were.
func (v *View) Wake(off uint64, n uint32) (uint32, error) {
	if err := v.r.hasWord(off, 4); err != nil {
		return 0, err
	}
	ws := &v.r.waits
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err := v.Err(abi.RegionWrite); err != nil {
		return 0, err
	}
	woken := uint32(0)
	for woken < n {
		q := ws.words[off]
		if q == nil {
			break
		}
		i := slices.IndexFunc(q.list, func(w *waiter) bool { return w.member == nil })
		if i < 0 {
			break
		}
		ws.finish(q.list[i], nil)
		woken++
	}
	return woken, nil
}

// cut ends the waits through v, and its members: its right has ended.
func (ws *waits) cut(v *View, readable bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.finishAll(func(w *waiter) bool { return w.view == v && (w.member != nil || !readable) }, errCut)
	ws.endAll(func(m *Member) bool { return m.view == v })
}

// stir has all who wait look again: the contents have become others.
func (ws *waits) stir() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.finishAll(func(w *waiter) bool { return w.member == nil }, nil)
	ws.finishAll(func(*waiter) bool { return true }, errRetry)
}

// close ends all waits and members: the region has ended.
func (ws *waits) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.finishAll(func(*waiter) bool { return true }, errCut)
	ws.endAll(func(*Member) bool { return true })
}

func (ws *waits) count() (members, waiting int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, q := range ws.words {
		waiting += len(q.list)
	}
	return len(ws.members), waiting
}
