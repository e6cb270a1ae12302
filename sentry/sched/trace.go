package sched

import "aios.dev/aios/errdefs"

// TraceKind says what happened.
type TraceKind uint8

// What is traced.
const (
	TraceWait      TraceKind = iota // a task begins to wait for a CPU
	TraceRun                        // it gets one
	TraceLeave                      // it leaves it
	TraceGone                       // it waits no more, and got none
	TraceThrottled                  // a group's quota is used up
	TraceResumed                    // its next period has begun
)

// TraceEntry is something that happened.
type TraceEntry struct {
	At int64
	// Took is how long the task had waited, of TraceRun; and of TraceLeave how
	// long ago it was told to leave, 0 if it was not.
	Took int64
	// Who is a place in Trace.Tasks, or in Trace.Groups of what happens to a
	// group.
	Who uint32
	// Waiting is how many tasks wait then.
	Waiting uint32
	CPU     int16
	Kind    TraceKind
	// Before says that it was so when the trace began.
	Before bool
}

// TaskName is what a task is called: its process, itself, and what either is
// called by those who wrote the program.
type TaskName struct {
	PID, TID int32
	Name     string
}

// TracedTask is a task that something happened to.
type TracedTask struct {
	Group uint32 // a place in Trace.Groups
	TaskName
}

// Trace is what happened between two moments, in order.
type Trace struct {
	Begin, End int64
	CPUs       int
	Entries    []TraceEntry
	Tasks      []TracedTask
	Groups     []string
	// Switches is how often a CPU went to another task in that time.
	Switches uint64
	// Dropped is how much found no room: all of it happened after the last entry.
	Dropped uint64
}

// Check reports what makes no sense about an entry of the trace that comes after a
// time.
func (t *Trace) Check(e TraceEntry, after int64) error {
	task := e.Kind != TraceThrottled && e.Kind != TraceResumed
	hasCPU := e.Kind == TraceRun || e.Kind == TraceLeave
	switch {
	case e.Kind > TraceResumed, task && int(e.Who) >= len(t.Tasks), !task && int(e.Who) >= len(t.Groups),
		hasCPU && (e.CPU < 0 || int(e.CPU) >= t.CPUs), e.At < after, e.At > t.End, e.Took < 0:
		return errdefs.New(errdefs.Protocol, "an entry makes no sense", errdefs.Op("read trace"), errdefs.Resource("%+v", e))
	}
	return nil
}

// TraceConfig is how to trace.
type TraceConfig struct {
	// Limit is how many entries are kept.
	Limit int
	// Name says what a task is called, by what its ID returns. It is called once
	// for each, without locks: when the task is closed, by who closes it, or when
	// the trace ends.
	Name func(id any) TaskName
}

// traceChunk is how many entries are allocated at once: what is there is never
// copied while the scheduler waits.
const traceChunk = 4096

// tracer collects what happens.
type tracer struct {
	TraceConfig
	number  uint32 // of the trace
	begin   int64
	counted uint64 // switches, when it began
	chunks  [][]TraceEntry
	n       int
	dropped uint64
	over    bool
	tasks   []traced
	groups  []*Group
	places  map[*Group]uint32
}

type traced struct {
	TracedTask
	id any // nil: it has its name
}

// StartTrace notes what happens from now on. There is one trace at a time.
func (s *Scheduler) StartTrace(cfg TraceConfig) error {
	s.mu.Lock()
	defer s.unlock()
	if s.tracer != nil {
		return errdefs.New(errdefs.WrongState, "it is being traced already", errdefs.Op("trace the scheduler"),
			errdefs.Fix("wait for that trace to end, or end it where it was started"))
	}
	now := s.Now()
	s.traces++
	tr := &tracer{TraceConfig: cfg, number: s.traces, begin: now, counted: s.counts.Switches, places: make(map[*Group]uint32)}
	s.tracer = tr
	for _, g := range s.groups {
		if g.quota.stopped {
			tr.note(TraceEntry{At: now, Kind: TraceThrottled, Who: tr.placeOf(g), Before: true}, s)
		}
		for _, t := range g.members {
			switch t.state {
			case running:
				tr.note(TraceEntry{At: now, Kind: TraceRun, CPU: int16(t.cpu), Who: tr.numberOf(t), Before: true}, s)
			case queued, spent:
				tr.note(TraceEntry{At: now, Kind: TraceWait, CPU: -1, Who: tr.numberOf(t), Before: true}, s)
			}
		}
	}
	return nil
}

// StopTrace ends that, and returns what was noted; nil if nothing was traced.
func (s *Scheduler) StopTrace() *Trace {
	s.mu.Lock()
	tr := s.tracer
	if tr == nil || tr.over {
		s.mu.Unlock()
		return nil
	}
	tr.over = true
	out := &Trace{Begin: tr.begin, End: s.Now(), CPUs: len(s.cpus), Switches: s.counts.Switches - tr.counted, Dropped: tr.dropped}
	var left []int
	ids := make(map[int]any)
	for i := range tr.tasks {
		if id := tr.tasks[i].id; id != nil {
			left, ids[i] = append(left, i), id
		}
	}
	s.mu.Unlock()

	// One that is closed meanwhile is named by who closes it: it may not have a
	// name any more when it is asked for here.
	names := make(map[int]TaskName, len(left))
	for _, i := range left {
		names[i] = tr.Name(ids[i])
	}

	s.mu.Lock()
	s.tracer = nil
	for _, i := range left {
		if t := &tr.tasks[i]; t.id != nil {
			t.TaskName, t.id = names[i], nil
		}
	}
	s.mu.Unlock()
	out.Entries = make([]TraceEntry, 0, tr.n)
	for _, c := range tr.chunks {
		out.Entries = append(out.Entries, c...)
	}
	for i := range tr.tasks {
		out.Tasks = append(out.Tasks, tr.tasks[i].TracedTask)
	}
	for _, g := range tr.groups {
		out.Groups = append(out.Groups, g.name)
	}
	return out
}

// trace notes something that happens to a task.
func (s *Scheduler) trace(k TraceKind, t *Task, now, took int64) {
	if tr := s.tracer; tr != nil && tr.room() {
		tr.note(TraceEntry{At: now, Took: took, Kind: k, CPU: int16(t.cpu), Who: tr.numberOf(t)}, s)
	}
}

// traceGroup notes something that happens to a group.
func (s *Scheduler) traceGroup(k TraceKind, g *Group, now int64) {
	if tr := s.tracer; tr != nil && tr.room() {
		tr.note(TraceEntry{At: now, Kind: k, CPU: -1, Who: tr.placeOf(g)}, s)
	}
}

// room reports whether there is room for another entry, and counts it if not.
func (tr *tracer) room() bool {
	switch {
	case tr.over:
		return false
	case tr.n >= tr.Limit:
		tr.dropped++
		return false
	}
	return true
}

func (tr *tracer) note(e TraceEntry, s *Scheduler) {
	last := len(tr.chunks) - 1
	if last < 0 || len(tr.chunks[last]) == traceChunk {
		tr.chunks = append(tr.chunks, make([]TraceEntry, 0, traceChunk))
		last++
	}
	e.Waiting = uint32(s.waiting)
	tr.chunks[last] = append(tr.chunks[last], e)
	tr.n++
}

func (tr *tracer) numberOf(t *Task) uint32 {
	if t.traceOf != tr.number {
		t.traceOf, t.traceAt = tr.number, uint32(len(tr.tasks))
		g, _ := t.outer()
		tr.tasks = append(tr.tasks, traced{TracedTask: TracedTask{Group: tr.placeOf(g)}, id: t.id})
	}
	return t.traceAt
}

func (tr *tracer) placeOf(g *Group) uint32 {
	at, ok := tr.places[g]
	if !ok {
		at = uint32(len(tr.groups))
		tr.places[g] = at
		tr.groups = append(tr.groups, g)
	}
	return at
}

// nameTraced gives a task that ends its name in the trace, if it is in one.
func (t *Task) nameTraced() {
	s := t.s
	s.mu.Lock()
	tr := s.tracer
	in := tr != nil && t.traceOf == tr.number
	s.mu.Unlock()
	if !in {
		return
	}
	name := tr.Name(t.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := &tr.tasks[t.traceAt]; e.id != nil {
		e.TaskName, e.id = name, nil
	}
}
