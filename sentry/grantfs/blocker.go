package grantfs

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
)

// A blocker is the context of an operation that may block inside the inner file
// system, as opening a FIFO and taking a lock do. While it blocks it is outside
// the gate, so that a revocation need not wait for it; the revocation wakes it.
type blocker struct {
	context.Context
	fs   *FS
	hint uint32
	need abi.Rights // without which it must not go on
	pass pass       // changes when it blocks
}

// BlockOn implements context.Blocker.BlockOn.
func (b *blocker) BlockOn(w waiter.Waitable, mask waiter.EventMask) bool {
	_, ok := b.BlockWithTimeoutOn(w, mask, -1)
	return ok
}

// BlockWithTimeoutOn implements context.Blocker.BlockWithTimeoutOn. A negative
// timeout is none.
func (b *blocker) BlockWithTimeoutOn(w waiter.Waitable, mask waiter.EventMask, timeout time.Duration) (time.Duration, bool) {
	c := make(waiter.ChannelNotifier, 1)
	var happened atomic.Bool
	event := waiter.NewFunctionEntry(mask, func(m waiter.EventMask) {
		happened.Store(true)
		c.NotifyEvent(m)
	})
	var change waiter.Entry
	change.Init(c, waiter.EventHUp)
	if err := w.EventRegister(&event); err != nil {
		return timeout, false
	}
	defer w.EventUnregister(&event)
	b.fs.changed.EventRegister(&change)
	defer b.fs.changed.EventUnregister(&change)
	for b.fs.allows(b.need) == nil {
		b.fs.gate.leave(b.pass)
		left, err := b.Context.BlockWithTimeout(c, timeout >= 0, timeout)
		b.pass = b.fs.gate.enter(b.hint)
		if err != nil {
			return left, false
		}
		if happened.Load() {
			return left, b.fs.allows(b.need) == nil
		}
		timeout = left // Fewer rights, but enough.
	}
	return timeout, false
}
