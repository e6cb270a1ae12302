package sentry

import (
	"bytes"
	"io"
	"os"
	"sync"

	"aios.dev/aios/control"
	"aios.dev/aios/ktime"
)

// maxLog is how large an agent's log file grows, in bytes, unless its owner
// says otherwise. When it is full, the older half is dropped.
const maxLog = 16 << 20

// agentLog is the file that keeps what an agent's processes wrote. It was
// opened by the daemon; the kernel process writes it, so that output is kept
// while no daemon runs. A failing disk costs output, not the agent.
type agentLog struct {
	clock ktime.Clock
	max   int64 // immutable; in bytes, at least two full records

	mu sync.Mutex
	// Nil after close.
	f    *os.File // +checklocks:mu
	size int64    // +checklocks:mu
	// Bytes that could not be written.
	lost int64 // +checklocks:mu
}

// newAgentLog goes on after the size bytes that the file holds already.
func newAgentLog(f *os.File, size int64, clock ktime.Clock) *agentLog {
	return &agentLog{f: f, clock: clock, max: maxLog, size: max(0, size)}
}

// append writes one record per MaxLogRecord bytes of p.
func (l *agentLog) append(stderr bool, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 && l.f != nil {
		k := min(len(p), control.MaxLogRecord)
		rec := control.AppendLogRecord(nil, control.LogRecord{Time: l.clock.Now(), Stderr: stderr, Data: p[:k]})
		if l.size+int64(len(rec)) > l.max {
			l.halve()
		}
		n, err := l.f.WriteAt(rec, l.size)
		if err != nil {
			// A partial record would make the rest unreadable; the next
			// write starts over at the same place.
			l.lost += int64(k)
			if n > 0 {
				l.f.Truncate(l.size)
			}
		} else {
			l.size += int64(n)
		}
		p = p[k:]
	}
}

// halve drops the older half of the records.
//
// +checklocks:l.mu
func (l *agentLog) halve() {
	buf := make([]byte, l.size)
	if _, err := l.f.ReadAt(buf, 0); err != nil && err != io.EOF {
		buf = nil
	}
	r := bytes.NewReader(buf)
	skipped := 0
	for skipped < len(buf)/2 {
		_, n, err := control.ReadLogRecord(r)
		if err != nil {
			skipped = len(buf) // Unreadable: drop everything.
			break
		}
		skipped += n
	}
	keep := buf[skipped:]
	l.size = 0
	if l.f.Truncate(0) != nil {
		return
	}
	if _, err := l.f.WriteAt(keep, 0); err == nil {
		l.size = int64(len(keep))
	}
}

func (l *agentLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}
