package grantfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	fslock "gvisor.dev/gvisor/pkg/sentry/fsimpl/lock"
	"gvisor.dev/gvisor/pkg/waiter"
)

// attach makes f one of those that a revocation visits.
//
// +checklocks:f.waitMu
func (f *file) attach() {
	f.fs.filesMu.Lock()
	f.fs.files[f] = struct{}{}
	f.fs.filesMu.Unlock()
}

// Readiness implements waiter.Waitable.Readiness. A file that may be read
// no more is ready: to say so.
func (f *file) Readiness(mask waiter.EventMask) waiter.EventMask {
	if f.fs.gone() || f.vfsfd.IsReadable() && f.fs.allows(f.reads()) != nil {
		return mask&(waiter.ReadableEvents|waiter.WritableEvents) | waiter.EventErr | waiter.EventHUp
	}
	return f.inner.Readiness(mask)
}

// EventRegister implements waiter.Waitable.EventRegister.
func (f *file) EventRegister(e *waiter.Entry) error {
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	if err := f.inner.EventRegister(e); err != nil {
		return err
	}
	if f.waiters == nil {
		f.waiters = map[*waiter.Entry]struct{}{}
	}
	f.waiters[e] = struct{}{}
	f.attach()
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (f *file) EventUnregister(e *waiter.Entry) {
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	if _, ok := f.waiters[e]; !ok {
		return
	}
	delete(f.waiters, e)
	f.inner.EventUnregister(e)
}

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (f *file) Epollable() bool { return f.inner.Epollable() }

// wake wakes everybody who waits for f.
func (f *file) wake() {
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	for e := range f.waiters {
		e.NotifyEvent(waiter.AllEvents) // They look for themselves.
	}
}

// SupportsLocks implements vfs.FileDescriptionImpl.SupportsLocks.
func (f *file) SupportsLocks() bool { return f.inner.SupportsLocks() }

// lock takes a lock by take, outside the gate while it has to wait. owner is that
// of a POSIX lock, nil for a BSD lock.
func (f *file) lock(ctx context.Context, owner fslock.UniqueID, take func(ctx context.Context) error) error {
	p, err := f.begin("lock", anyRight)
	if err != nil {
		return err
	}
	b := &blocker{Context: ctx, fs: f.fs, hint: f.hint, pass: p}
	defer func() { f.end(b.pass) }()
	f.holds(owner) // Before it is taken: a revocation must not miss it.
	err = take(b)
	if err != nil {
		if goneErr := f.fs.allows(anyRight); goneErr != nil {
			return f.refuse("lock", anyRight, goneErr)
		}
	}
	return err
}

// holds notes who takes a lock.
func (f *file) holds(owner fslock.UniqueID) {
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	switch {
	case owner == nil:
		f.bsd = true
	case f.posix == nil:
		f.posix = map[fslock.UniqueID]struct{}{owner: {}}
	default:
		f.posix[owner] = struct{}{}
	}
	f.attach()
}

// LockBSD implements vfs.FileDescriptionImpl.LockBSD.
func (f *file) LockBSD(ctx context.Context, _ fslock.UniqueID, ownerPID int32, t fslock.LockType, block bool) error {
	return f.lock(ctx, nil, func(ctx context.Context) error { return f.inner.LockBSD(ctx, ownerPID, t, block) })
}

// UnlockBSD implements vfs.FileDescriptionImpl.UnlockBSD. What is given up needs
// no right.
func (f *file) UnlockBSD(ctx context.Context, _ fslock.UniqueID) error { return f.inner.UnlockBSD(ctx) }

// LockPOSIX implements vfs.FileDescriptionImpl.LockPOSIX.
func (f *file) LockPOSIX(ctx context.Context, uid fslock.UniqueID, ownerPID int32, t fslock.LockType, r fslock.LockRange, block bool) error {
	return f.lock(ctx, uid, func(ctx context.Context) error { return f.inner.LockPOSIX(ctx, uid, ownerPID, t, r, block) })
}

// UnlockPOSIX implements vfs.FileDescriptionImpl.UnlockPOSIX.
func (f *file) UnlockPOSIX(ctx context.Context, uid fslock.UniqueID, r fslock.LockRange) error {
	if r.Start == 0 && r.End == fslock.LockEOF {
		f.waitMu.Lock()
		delete(f.posix, uid)
		f.waitMu.Unlock()
	}
	return f.inner.UnlockPOSIX(ctx, uid, r)
}

// TestPOSIX implements vfs.FileDescriptionImpl.TestPOSIX.
func (f *file) TestPOSIX(ctx context.Context, uid fslock.UniqueID, t fslock.LockType, r fslock.LockRange) (linux.Flock, error) {
	p, err := f.begin("lock", anyRight)
	if err != nil {
		return linux.Flock{}, err
	}
	defer f.end(p)
	return f.inner.TestPOSIX(ctx, uid, t, r)
}

// unlockAll releases every lock that was taken through f.
func (f *file) unlockAll(ctx context.Context) {
	f.waitMu.Lock()
	bsd, posix := f.bsd, f.posix
	f.posix = nil
	f.waitMu.Unlock()
	if bsd {
		f.inner.UnlockBSD(ctx)
	}
	for uid := range posix {
		f.inner.UnlockPOSIX(ctx, uid, fslock.LockRange{Start: 0, End: fslock.LockEOF})
	}
}
