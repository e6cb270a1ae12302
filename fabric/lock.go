package fabric

import (
	"slices"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// A lock is a word of 4 bytes: the number of the member who has it, or 0, and
// bits. Who finds it 0 takes it, and who has it gives it back, with one atomic
// operation each, unless LockWaiters is set; the kernel is for the rest. It
// remembers no owner: when somebody comes, the word says whose it is, and the
// table of members whether that is anybody. So nothing has to be known of a lock
// before somebody waits for it, and nothing is lost when its owner dies.
const (
	// LockOwner is the part of the word that has the number of the owner.
	LockOwner = 1<<30 - 1
	// LockDied says that an owner died, and nobody has said since that what the
	// lock guards is as it should be.
	LockDied = 1 << 30
	// LockWaiters says that somebody waits, so that the kernel has to be asked to
	// hand it on.
	LockWaiters = 1 << 31
	// LockLost is what is in the place of an owner when one gave it back without
	// having made good what another had left: nobody gets it any more.
	LockLost = LockOwner
)

// Member is one who takes part in the synchronisation in a region, under a number
// that is in its locks: a task, or a process.
type Member struct {
	view  *View
	id    uint32
	space memmap.MappingSpace
	// task is who is lent the rank of those who wait, if it is a process the one
	// that was last seen; alone says that it is the member.
	task  Task
	alone bool
}

// Join makes the caller a member, or its whole process, and returns its number.
// It is one until its task ends (alone), nothing of the region is mapped through
// v in its process any more, or the right to write ends. Who joins again is who
// it was.
func (v *View) Join(c Caller, alone bool) (uint32, error) {
	ws := &v.r.waits
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sizes[c.Space] == 0 {
		return 0, errdefs.New(errdefs.InvalidArgument, "the process has nothing of it mapped", errdefs.Op("join"), errdefs.Resource("region %s", v.r.name),
			errdefs.Fix("map it first, by this open file or another of the same agent"))
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err := v.Err(abi.RegionRead | abi.RegionWrite); err != nil {
		return 0, err
	}
	for _, m := range ws.members {
		if m.view == v && m.space == c.Space && m.alone == alone && (!alone || m.task == c.Task) {
			return m.id, nil
		}
	}
	if ws.last >= LockLost-1 {
		return 0, errdefs.New(errdefs.MemoryLimit, "all numbers of members are used up", errdefs.Op("join"), errdefs.Resource("region %s", v.r.name),
			errdefs.Fix("make another region"))
	}
	ws.last++
	m := &Member{view: v, id: ws.last, space: c.Space, task: c.Task, alone: alone}
	if ws.members == nil {
		ws.members = make(map[uint32]*Member)
	}
	ws.members[m.id] = m
	if alone {
		v.r.store.alone.add(m)
	}
	return m.id, nil
}

// Leave ends a membership of the caller: the locks that it has go to the next as
// those of the dead do.
func (v *View) Leave(c Caller, id uint32) error {
	ws := &v.r.waits
	ws.mu.Lock()
	defer ws.mu.Unlock()
	m, err := ws.caller(v, c, id)
	if err == nil {
		ws.end(m)
	}
	return err
}

// Alive says whether somebody is a member under that number.
func (v *View) Alive(id uint32) error {
	ws := &v.r.waits
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err := v.Err(abi.RegionRead); err != nil {
		return err
	}
	if ws.members[id] == nil {
		return linuxerr.ESRCH
	}
	return nil
}

// caller returns the member that c is under that number.
//
// +checklocks:ws.mu
func (ws *waits) caller(v *View, c Caller, id uint32) (*Member, error) {
	m := ws.members[id]
	if m == nil || m.view != v || m.space != c.Space || m.alone && m.task != c.Task {
		return nil, linuxerr.ESRCH
	}
	m.task = c.Task
	return m, nil
}

// Lock takes the lock at off for the member with that number. It waits until it
// gets it, or the time is over (ETIMEDOUT); with try it does not wait (EBUSY).
// EOWNERDEAD: it has it, from one who died; ENOTRECOVERABLE: nobody gets it any
// more; EDEADLK: it has it already.
func (v *View) Lock(c Caller, id uint32, off uint64, try bool, until Until) error {
	if err := v.r.hasWord(off, 4); err != nil {
		return err
	}
	for {
		w, err := v.lock(c, id, off, try)
		if w == nil {
			return err
		}
		err = v.r.waits.sleep(w, until)
		v.r.store.opts.Reclaim(c.Task)
		if err != errRetry {
			return v.explain(err, abi.RegionRead|abi.RegionWrite)
		}
	}
}

// lock takes the lock, or begins to wait for it.
func (v *View) lock(c Caller, id uint32, off uint64, try bool) (*waiter, error) {
	r := v.r
	ws := &r.waits
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err := v.Err(abi.RegionRead | abi.RegionWrite); err != nil {
		return nil, err
	}
	m, err := ws.caller(v, c, id)
	if err != nil {
		return nil, err
	}
	for range casTries {
		word, err := r.load(off)
		if err != nil {
			return nil, err
		}
		is, outcome, wait := id|word&LockDied, error(nil), false
		if ws.locking(off) != nil {
			is |= LockWaiters
		}
		switch owner := word & LockOwner; {
		case owner == LockLost:
			return nil, linuxerr.ENOTRECOVERABLE
		case owner == id:
			return nil, linuxerr.EDEADLK
		case owner != 0 && ws.members[owner] == nil:
			is |= LockDied
		case owner != 0 && try:
			return nil, linuxerr.EBUSY
		case owner != 0:
			is, wait = word|LockWaiters, true
		}
		if is&LockDied != 0 && !wait {
			outcome = linuxerr.EOWNERDEAD
		}
		switch done, err := r.cas(off, word, is); {
		case err != nil:
			return nil, err
		case !done:
			continue
		case !wait:
			return nil, outcome
		}
		r.store.opts.Lend(c.Task, ws.members[word&LockOwner].task, r.lockKey(off))
		return ws.enqueue(v, c.Task, off, m), nil
	}
	return nil, linuxerr.EAGAIN
}

// locking returns who waits longest for the lock at off.
//
// +checklocks:ws.mu
func (ws *waits) locking(off uint64) *waiter {
	if q := ws.words[off]; q != nil {
		if i := slices.IndexFunc(q.list, func(w *waiter) bool { return w.member != nil }); i >= 0 {
			return q.list[i]
		}
	}
	return nil
}

// lockKey is what a task waits for, to the scheduler.
func (r *Region) lockKey(off uint64) uintptr { return uintptr(1<<63 | uint64(r.memID)<<40 ^ off) }

// Unlock gives back the lock at off, which the member with that number has, to
// who waits longest. If an owner died, and nobody has taken LockDied out of the
// word since, nobody gets it any more.
func (v *View) Unlock(c Caller, id uint32, off uint64) error {
	r := v.r
	if err := r.hasWord(off, 4); err != nil {
		return err
	}
	ws := &r.waits
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err := v.Err(abi.RegionRead | abi.RegionWrite); err != nil {
		return err
	}
	if _, err := ws.caller(v, c, id); err != nil {
		return err
	}
	for range casTries {
		word, err := r.load(off)
		switch {
		case err != nil:
			return err
		case word&LockOwner != id:
			return linuxerr.EPERM
		}
		next := ws.locking(off)
		is := uint32(0)
		switch {
		case word&LockDied != 0:
			is = LockLost
		case next != nil:
			is = ws.handed(next, 0)
		}
		done, err := r.cas(off, word, is)
		switch {
		case err != nil:
			return err
		case !done:
			continue
		case is == LockLost:
			ws.finishAll(func(w *waiter) bool { return w.off == off && w.member != nil }, linuxerr.ENOTRECOVERABLE)
		case next != nil:
			next.member.task = next.task
			ws.finish(next, nil)
			r.store.opts.PassOn(c.Task, next.task, r.lockKey(off))
		}
		return nil
	}
	return linuxerr.EAGAIN
}

// handed is the word of a lock that goes to who waits for it.
//
// +checklocks:ws.mu
func (ws *waits) handed(next *waiter, bits uint32) uint32 {
	for _, o := range ws.words[next.off].list {
		if o != next && o.member != nil {
			bits |= LockWaiters
		}
	}
	return next.member.id | bits
}

// end ends a membership. Locks that somebody waits for go to him; others are seen
// to be nobody's when somebody comes. All who wait for anything look again: the
// member may have died between what it did and waking them.
//
// +checklocks:ws.mu
func (ws *waits) end(m *Member) {
	if ws.members[m.id] != m {
		return
	}
	delete(ws.members, m.id)
	if m.alone {
		m.view.r.store.alone.drop(m)
	}
	ws.finishAll(func(w *waiter) bool { return w.member == m }, errCut)
	ws.finishAll(func(w *waiter) bool { return w.member == nil }, nil)
	for off := range ws.words {
		ws.bequeath(m, off)
	}
}

// bequeath hands the lock at off to the next, if m, who is gone, has it.
//
// +checklocks:ws.mu
func (ws *waits) bequeath(m *Member, off uint64) {
	r := m.view.r
	for range casTries {
		word, err := r.load(off)
		next := ws.locking(off)
		if err != nil || next == nil || word&LockOwner != m.id {
			return
		}
		done, err := r.cas(off, word, ws.handed(next, LockDied))
		if err != nil {
			break
		}
		if !done {
			continue
		}
		next.member.task = next.task
		heir := next.task
		ws.finish(next, linuxerr.EOWNERDEAD)
		if q := ws.words[off]; q != nil {
			for _, w := range q.list {
				if w.member != nil {
					r.store.opts.Lend(w.task, heir, r.lockKey(off))
				}
			}
		}
		return
	}
	// Somebody writes there all the time, or nobody can: let them find out.
	ws.finishAll(func(w *waiter) bool { return w.off == off }, errRetry)
}

// endAll ends those members that are of what.
//
// +checklocks:ws.mu
func (ws *waits) endAll(what func(*Member) bool) {
	for _, m := range ws.members {
		if what(m) {
			ws.end(m)
		}
	}
}

// unmapped ends the members of a process that has nothing of v mapped any more:
// it has ended, executes another program, or said so.
func (ws *waits) unmapped(v *View, space memmap.MappingSpace) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.endAll(func(m *Member) bool { return m.view == v && m.space == space })
}
