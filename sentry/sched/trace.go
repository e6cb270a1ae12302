package sched

// What is traced.
const (
	traceRun TraceKind = iota
	traceStop
)

// TraceKind says what happened.
type TraceKind uint8

// TraceEntry is one switch.
type TraceEntry struct {
	At   int64
	Kind TraceKind
	CPU  int
	Task *Task
	// Wait is how long the task had waited, of one that begins to run.
	Wait int64
	// Preempted says that it was told to stop, of one that does.
	Preempted bool
}

// Begins reports whether the task got the CPU, or else left it.
func (e *TraceEntry) Begins() bool { return e.Kind == traceRun }

// tracer collects what happens.
type tracer struct {
	entries []TraceEntry
	limit   int
	dropped uint64
}

// StartTrace notes switches from now on, at most limit of them.
func (s *Scheduler) StartTrace(limit int) {
	s.mu.Lock()
	defer s.unlock()
	s.tracer = &tracer{limit: limit}
}

// StopTrace ends that, and returns what was noted, and how much was not.
func (s *Scheduler) StopTrace() (entries []TraceEntry, dropped uint64) {
	s.mu.Lock()
	defer s.unlock()
	t := s.tracer
	s.tracer = nil
	if t == nil {
		return nil, 0
	}
	return t.entries, t.dropped
}

func (s *Scheduler) trace(k TraceKind, cpu int, t *Task, now int64) {
	if s.tracer == nil {
		return
	}
	if len(s.tracer.entries) >= s.tracer.limit {
		s.tracer.dropped++
		return
	}
	e := TraceEntry{At: now, Kind: k, CPU: cpu, Task: t}
	if k == traceRun {
		e.Wait = now - t.asked
	}
	s.tracer.entries = append(s.tracer.entries, e)
}
