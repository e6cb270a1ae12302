package sentry

import (
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// ioDirection is a set of what a call does to data.
type ioDirection uint8

const (
	ioRead ioDirection = 1 << iota
	ioWrite
)

// ioMeter is told of the calls of one agent that move data. Its methods are
// called on the task's own goroutine.
type ioMeter interface {
	// Before is called before data moves. It may block t, by
	// t.BlockWithTimeout; the error with which that ends is what the call
	// returns.
	Before(t *kernel.Task, dir ioDirection) error
	// After is told how many bytes a call that Before let pass has moved: 0
	// when it failed.
	After(t *kernel.Task, dir ioDirection, bytes uint64)
}

// setMeter has m told of the agent's calls that begin from now on; nil stops
// it.
func (a *Agent) setMeter(m ioMeter) {
	if m == nil {
		a.gate.meter.Store(nil)
		return
	}
	a.gate.meter.Store(&m)
}

// ioCall is a call that moves data.
type ioCall struct {
	dir ioDirection
	// The call returns a number of messages.
	messages bool
}

// The calls that move data. Not among them are those that start a transfer
// and do not wait for it, io_submit and io_uring_enter, and memory that files
// are mapped to.
var ioCalls = map[string]ioCall{
	"read": {dir: ioRead}, "pread64": {dir: ioRead}, "readv": {dir: ioRead}, "preadv": {dir: ioRead}, "preadv2": {dir: ioRead},
	"recvfrom": {dir: ioRead}, "recvmsg": {dir: ioRead}, "recvmmsg": {dir: ioRead, messages: true},
	"write": {dir: ioWrite}, "pwrite64": {dir: ioWrite}, "writev": {dir: ioWrite}, "pwritev": {dir: ioWrite}, "pwritev2": {dir: ioWrite},
	"sendto": {dir: ioWrite}, "sendmsg": {dir: ioWrite}, "sendmmsg": {dir: ioWrite, messages: true},
	"sendfile": {dir: ioRead | ioWrite}, "splice": {dir: ioRead | ioWrite}, "tee": {dir: ioRead | ioWrite},
	"copy_file_range": {dir: ioRead | ioWrite},
}

// meterCall lets the agent's meter see a call that moves data.
func (s *Kernel) meterCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	io, ok := ioCalls[call.Name]
	if !ok {
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if a == nil {
			return inner(t, sysno, args)
		}
		meter := a.gate.meter.Load()
		if meter == nil {
			return inner(t, sysno, args)
		}
		if err := (*meter).Before(t, io.dir); err != nil {
			return 0, nil, linuxerr.ConvertIntr(err, linuxerr.ERESTARTSYS)
		}
		n, ctrl, err := inner(t, sysno, args)
		moved := uint64(n)
		if io.messages || err != nil && int64(n) < 0 {
			moved = 0
		}
		(*meter).After(t, io.dir, moved)
		return n, ctrl, err
	}
}
