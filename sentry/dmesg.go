package sentry

import (
	"sync"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/klog"
)

// dmesgBytes is how much of the kernel's log is kept for each agent, as text.
const dmesgBytes = 16 << 10

// dmesg is the part of the kernel's log that is about one agent, which its
// programs may read. The oldest lines make room for new ones.
type dmesg struct {
	mu    sync.Mutex
	lines [][]byte // +checklocks:mu
	size  int      // +checklocks:mu
}

func (d *dmesg) add(r *klog.Record) {
	line := r.AppendSyslog(nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
	d.size += len(line)
	for d.size > dmesgBytes {
		d.size -= len(d.lines[0])
		d.lines = d.lines[1:]
	}
}

// last returns whole lines, the newest, that are of at most n bytes together.
func (d *dmesg) last(n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := len(d.lines)
	for from > 0 && len(d.lines[from-1]) <= n {
		from--
		n -= len(d.lines[from])
	}
	var text []byte
	for _, line := range d.lines[from:] {
		text = append(text, line...)
	}
	return text
}

// dmesgCall puts syslog(2) into the table: what is about the caller's agent.
func (s *Kernel) dmesgCall(table *kernel.SyscallTable) {
	const sysSyslog = 103
	call := table.Table[sysSyslog]
	call.Fn = s.syslog
	table.Table[sysSyslog] = call
}

// syslog implements syslog(2), as far as it changes nothing.
func (s *Kernel) syslog(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	const (
		actionClose, actionOpen, actionReadAll, actionSizeBuffer = 0, 1, 3, 10
	)
	action, size := args[0].Int(), args[2].Int()
	switch {
	case action == actionClose || action == actionOpen:
		return 0, nil, nil
	case action == actionSizeBuffer:
		return dmesgBytes, nil, nil
	case action < 0 || action > actionSizeBuffer:
		return 0, nil, linuxerr.EINVAL
	case action != actionReadAll: // Consume, clear, set the level of a console.
		return 0, nil, linuxerr.EPERM
	case args[1].Pointer() == 0 || size < 0:
		return 0, nil, linuxerr.EINVAL
	}
	a := s.agentOf(t)
	if a == nil {
		return 0, nil, nil
	}
	n, err := t.CopyOutBytes(args[1].Pointer(), a.dmesg.last(int(size)))
	return uintptr(n), nil, err
}
