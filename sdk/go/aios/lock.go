package aios

import (
	"errors"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// What is in the word of a lock; fabric.LockOwner and the others.
const (
	lockOwner = 1<<30 - 1
	lockDied  = 1 << 30
)

// ErrOwnerDied says that a lock was taken from one who died with it: what it
// guards may be half done. Make it good, say so with Consistent, and go on; or
// unlock, and nobody gets it any more (ENOTRECOVERABLE).
var ErrOwnerDied = errors.New("region: who had the lock died with it")

// Member is a goroutine that takes locks. It keeps its thread, to which those who
// wait lend their rank, until it leaves, and ends with it: then its locks go to
// the next, who hears ErrOwnerDied.
type Member struct {
	r  *Region
	id uint32
}

// Join makes the calling goroutine a member. Only it may use what is returned.
func (r *Region) Join() (*Member, error) {
	runtime.LockOSThread()
	a := regionArg{}
	if err := r.sys.call(regionJoin, &a); err != nil {
		runtime.UnlockOSThread()
		return nil, refused("join", err)
	}
	return &Member{r, a.id}, nil
}

// Leave ends it.
func (m *Member) Leave() error {
	defer runtime.UnlockOSThread()
	if err := m.r.sys.call(regionLeave, &regionArg{id: m.id}); err != nil {
		return refused("leave", err)
	}
	return nil
}

// Lock takes the lock at off, a multiple of 4; a word that is 0 is free. With a
// time-out of 0 it does not wait (EBUSY); when the time is over that is ETIMEDOUT.
// With ErrOwnerDied it has the lock, too.
func (m *Member) Lock(off uint64, timeout time.Duration) (err error) {
	if err := m.r.has(off, 4, 4); err != nil {
		return err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	if atomic.CompareAndSwapUint32(m.r.word(off), 0, m.id) {
		return nil
	}
	a := regionArg{offset: off, id: m.id, deadline: deadline(timeout)}
	if timeout == 0 {
		a.flags, a.deadline = regionTry, 0
	}
	for {
		switch err := m.r.sys.call(regionLock, &a); err {
		case nil:
			return nil
		case syscall.EOWNERDEAD:
			return ErrOwnerDied
		case syscall.EINTR:
		case syscall.EAGAIN: // Somebody writes there all the time.
			if over(a.deadline) || timeout == 0 {
				return refused("lock", syscall.ETIMEDOUT)
			}
		default:
			return refused("lock", err)
		}
	}
}

// Consistent says that what the lock at off guards is as it should be again.
func (m *Member) Consistent(off uint64) (err error) {
	if err := m.r.has(off, 4, 4); err != nil {
		return err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	for {
		w := atomic.LoadUint32(m.r.word(off))
		if w&lockOwner != m.id {
			return refused("consistent", syscall.EPERM)
		}
		if atomic.CompareAndSwapUint32(m.r.word(off), w, w&^lockDied) {
			return nil
		}
	}
}

// Unlock gives it back.
func (m *Member) Unlock(off uint64) (err error) {
	if err := m.r.has(off, 4, 4); err != nil {
		return err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	if atomic.CompareAndSwapUint32(m.r.word(off), m.id, 0) {
		return nil
	}
	if err := m.r.sys.call(regionUnlock, &regionArg{offset: off, id: m.id}); err != nil {
		return refused("unlock", err)
	}
	return nil
}
