package sentry

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/netstack"
)

// What waits in pipes and sockets is in the memory of the kernel process itself:
// gVisor accounts it to nobody. It is added up when an agent's memory is counted.
// What only a message holds that was sent and not received, a pipe in a socket, is
// not found.

// Estimates of what the kernel process itself needs, in bytes, on the low side.
const (
	taskBytes = 28 << 10 // a task: its goroutine, its stack, its place in the scheduler
	fileBytes = 1 << 10  // a descriptor, and what is open
)

// tables returns the agent's tables of descriptors, each once, to be given back
// with DecRef.
func (a *Agent) tables() map[*kernel.FDTable]bool {
	seen := make(map[*kernel.FDTable]bool)
	for _, t := range a.ns.pid().Tasks() {
		// gVisor's execve replaces it without a lock. What was noted may have been
		// replaced since, and of a task that is ending it may be gone.
		if table := a.crowd.FDTable(t); table != nil && !seen[table] && table.TryIncRef() {
			seen[table] = true
		}
	}
	return seen
}

// buffered returns how many bytes wait in the agent's pipes and sockets, and how
// many descriptors it has open.
func (a *Agent) buffered() (bytes, files uint64) {
	ctx := a.s.k.SupervisorContext()
	pipes := make(map[*pipe.Pipe]bool)
	sockets := make(map[transport.Endpoint]bool)
	tables := a.tables()
	for table := range tables {
		// ForEach does not lock the table.
		for _, fd := range table.GetFDs(ctx) {
			file, _ := table.Get(fd)
			if file == nil {
				continue
			}
			files++
			switch f := file.Impl().(type) {
			case *pipe.VFSPipeFD:
				if p := f.Pipe(); !pipes[p] {
					pipes[p] = true
					bytes += queuedIn(ctx, f)
				}
			case *unix.Socket:
				if e := f.Endpoint(); !sockets[e] {
					sockets[e] = true
					if n, err := e.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil && n > 0 {
						bytes += uint64(n)
					}
				}
			}
			file.DecRef(ctx)
		}
	}
	for table := range tables {
		table.DecRef(ctx)
	}
	return bytes + netstack.Buffered(a.network()), files
}

// queuedIn returns how many bytes wait in a pipe.
func queuedIn(ctx context.Context, f *pipe.VFSPipeFD) uint64 {
	var n [4]byte
	if _, err := f.Ioctl(ctx, &usermem.BytesIO{Bytes: n[:]}, 0, arch.SyscallArguments{1: {Value: linux.FIONREAD}}); err != nil {
		return 0
	}
	return uint64(hostarch.ByteOrder.Uint32(n[:]))
}

// overhead is what the kernel process needs for one agent beside pages, as far as
// it is known.
type overhead struct {
	last    atomic.Uint64 // bytes, when it was added up last
	under   atomic.Bool   // way
	stirred atomic.Bool   // data was moved since
	at      atomic.Int64  // when that was, since the kernel was started
}

// overheadAge is how long what was added up is good for while no data is moved.
const overheadAge = 100 * time.Millisecond

// recent is measure, unless not much can have changed.
func (o *overhead) recent(a *Agent) uint64 {
	now := int64(a.s.cfg.Clock.Since(a.s.started))
	if !o.stirred.Load() && now-o.at.Load() < int64(overheadAge) {
		return o.last.Load()
	}
	o.stirred.Store(false)
	o.at.Store(now)
	return o.measure(a)
}

// overheadWait is how long adding up may take. A pipe is locked while a file is
// read into it, and that may be one of a host that does not answer.
const overheadWait = 10 * time.Millisecond

// measure adds it up, and returns what is known by then. The caller may hold no
// lock of gVisor's.
func (o *overhead) measure(a *Agent) uint64 {
	if !o.under.CompareAndSwap(false, true) {
		return o.last.Load()
	}
	done := make(chan struct{})
	go func() {
		bytes, files := a.buffered()
		o.last.Store(bytes + files*fileBytes + uint64(a.ns.pid().NumTasks())*taskBytes)
		o.under.Store(false)
		close(done)
	}()
	late := make(chan struct{})
	timer := a.s.cfg.Clock.AfterFunc(overheadWait, func() { close(late) })
	defer timer.Stop()
	select {
	case <-done:
	case <-late:
	}
	return o.last.Load()
}
