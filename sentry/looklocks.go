package sentry

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/control"
)

// lookFrames is how many frames of a stack a look shows.
const lookFrames = 40

// takeStacks takes the stacks of all goroutines, once.
func (l *look) takeStacks() {
	if l.stacks != nil {
		return
	}
	l.stacks, l.states = make(map[int64][]string), make(map[int64]string)
	dump, _ := stacksUpTo(maxStacks)
	for g := range strings.SplitSeq(string(dump), "\n\n") {
		id, state, stack := parseStack(g)
		if id != 0 {
			l.stacks[id], l.states[id] = stack, state
		}
	}
}

// parseStack reads the stack of one goroutine: "goroutine N [STATE, …]:", and two
// lines a frame. Of each frame it leaves the function, the file's name and the
// line.
func parseStack(text string) (id int64, state string, stack []string) {
	first, rest, _ := strings.Cut(text, "\n")
	number, what, ok := strings.Cut(strings.TrimPrefix(first, "goroutine "), " [")
	id, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !ok {
		return 0, "", nil
	}
	state, _, _ = strings.Cut(what, "]")
	state, _, _ = strings.Cut(state, ",")
	function := ""
	for line := range strings.SplitSeq(rest, "\n") {
		at, place := strings.CutPrefix(line, "\t")
		switch {
		case !place:
			if i := strings.LastIndexByte(line, '('); i > 0 && !strings.HasPrefix(line, "created by ") {
				line = line[:i]
			}
			function = line[strings.LastIndexByte(line, '/')+1:]
		case len(stack) < lookFrames:
			at, _, _ = strings.Cut(at[strings.LastIndexByte(at, '/')+1:], " ")
			stack = append(stack, function+" "+at)
		}
	}
	return id, state, stack
}

// awaitsLock reports whether a goroutine in this state waits for a lock.
func awaitsLock(state string) bool {
	return strings.HasPrefix(state, "sync.Mutex.") || strings.HasPrefix(state, "sync.RWMutex.") || state == "semacquire"
}

// lockLook is how long a look waits for each of the locks that agents share.
const lockLook = 100 * time.Millisecond

// locks looks at who waits for locks, of those that were tried and of others. If
// one is held no agent is looked at.
func (l *look) locks(tried []control.LookLock) {
	l.out.Locks = &control.LookLocks{Kernel: tried, Waiting: []control.LookWaiter{}, Futexes: l.futexes()}
	l.takeStacks()
	type place struct {
		a *Agent
		t *kernel.Task
	}
	working := make(map[int64]place)
	for _, a := range l.agents {
		for _, t := range l.tasksOf(a) {
			working[t.GoroutineID()] = place{a, t}
		}
	}
	for id, state := range l.states {
		p, ofAgent := working[id]
		if !awaitsLock(state) || !ofAgent && len(l.agents) == 1 {
			continue // Of one agent only its own.
		}
		row := control.LookWaiter{Goroutine: id, Stack: l.stacks[id]}
		if ofAgent {
			row.Agent, row.TID = p.a.id, int32(p.a.ns.pid().IDOfTask(p.t))
		}
		if l.fits(control.ViewLocks, row) {
			l.out.Locks.Waiting = append(l.out.Locks.Waiting, row)
		}
	}
	slices.SortFunc(l.out.Locks.Waiting, func(a, b control.LookWaiter) int { return cmp.Compare(a.Goroutine, b.Goroutine) })
}

// lockTry is what is known of the locks that agents share.
type lockTry struct {
	mu sync.Mutex // held while they are tried, which takes a moment at most
	// stuck is the one that a goroutine waits for since it was tried.
	stuck string // +checklocks:mu
}

// tryLocks tries the locks that agents share, up to the first that is held, and
// that one not again until it was had.
func (s *Kernel) tryLocks() []control.LookLock {
	w := &s.trying
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stuck != "" {
		return []control.LookLock{{Name: w.stuck, Held: true}}
	}
	var out []control.LookLock
	for _, lock := range s.sharedLocks() {
		began, got := s.cfg.Clock.Now(), make(chan struct{})
		free := within(s, lockLook, func() { lock.take(); close(got) })
		out = append(out, control.LookLock{Name: lock.name, Held: !free, Took: s.cfg.Clock.Since(began)})
		if !free {
			w.stuck = lock.name
			go func() {
				<-got
				w.mu.Lock()
				w.stuck = ""
				w.mu.Unlock()
			}()
			break // The others may need it.
		}
	}
	return out
}

// futexes lists what threads of agents wait at.
func (l *look) futexes() []control.LookFutex {
	type at struct {
		a    *Agent
		pid  int32
		addr uint64
	}
	found := make(map[at]*control.LookFutex)
	for _, a := range l.agents {
		for _, t := range l.tasksOf(a) {
			regs, ok := steadyRegisters(t, t.TaskGoroutineState())
			if !ok || regs.Orig_rax != linuxFutex {
				continue
			}
			pid := int32(a.ns.pid().IDOfThreadGroup(t.ThreadGroup()))
			key := at{a, pid, regs.Rdi}
			f := found[key]
			if f == nil {
				f = &control.LookFutex{Agent: a.id, PID: pid, Address: regs.Rdi}
				found[key] = f
				l.readFutex(t, f, regs.Rsi)
			}
			f.Waiting = append(f.Waiting, int32(a.ns.pid().IDOfTask(t)))
		}
	}
	out := []control.LookFutex{}
	for _, f := range found {
		if l.fits(control.ViewLocks, f) {
			out = append(out, *f)
		}
	}
	slices.SortFunc(out, func(a, b control.LookFutex) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Address, b.Address))
	})
	return out
}

const linuxFutex = 202

// readFutex reads the word, and whose the futex is if the word says that.
func (l *look) readFutex(t *kernel.Task, f *control.LookFutex, op uint64) {
	m := addressSpaceOf(t)
	word := make([]byte, 4)
	if m == nil || peek(l.s.k.SupervisorContext(), m, hostarch.Addr(f.Address), word) != len(word) {
		return
	}
	v := binary.LittleEndian.Uint32(word)
	f.Value = &v
	if cmd := op &^ (linux.FUTEX_PRIVATE_FLAG | linux.FUTEX_CLOCK_REALTIME); cmd == linux.FUTEX_LOCK_PI {
		f.Owner = int32(v & linux.FUTEX_TID_MASK)
	}
}
