package grantfs

import (
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A blocker is the context of an operation that may block inside the inner file
// system, as opening a FIFO and taking a lock do. While it blocks it is outside
// the gate, so that a revocation need not wait for it; the revocation wakes it.
type blocker struct {
	context.Context
	fs   *FS
	hint uint32
	pass pass // changes when it blocks
}

// BlockOn implements context.Blocker.BlockOn.
func (b *blocker) BlockOn(w waiter.Waitable, mask waiter.EventMask) bool {
	_, ok := b.BlockWithTimeoutOn(w, mask, -1)
	return ok
}

// BlockWithTimeoutOn implements context.Blocker.BlockWithTimeoutOn. A negative
// timeout is none.
func (b *blocker) BlockWithTimeoutOn(w waiter.Waitable, mask waiter.EventMask, timeout time.Duration) (time.Duration, bool) {
	event, c := waiter.NewChannelEntry(mask)
	var end waiter.Entry
	end.Init(waiter.ChannelNotifier(c), waiter.EventHUp)
	if err := w.EventRegister(&event); err != nil {
		return timeout, false
	}
	defer w.EventUnregister(&event)
	b.fs.revoked.EventRegister(&end)
	defer b.fs.revoked.EventUnregister(&end)
	if b.fs.gone() { // Registered too late to be woken.
		return timeout, false
	}
	b.fs.gate.leave(b.pass)
	left, err := b.Context.BlockWithTimeout(c, timeout >= 0, timeout)
	b.pass = b.fs.gate.enter(b.hint)
	return left, err == nil && !b.fs.gone()
}
