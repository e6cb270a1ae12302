package account

import (
	"math"
	"sync/atomic"
)

// Unlimited is the limit that nothing reaches.
const Unlimited uint64 = math.MaxUint64

// Resource is something that an agent uses.
type Resource uint8

// The resources of a Ledger.
const (
	CPUTime       Resource = iota // nanoseconds; only grows
	Memory                        // bytes resident
	ReadBytes                     // only grows
	WriteBytes                    // only grows
	ReadOps                       // only grows
	WriteOps                      // only grows
	Tasks                         // processes and threads
	Files                         // open file descriptors
	Disk                          // bytes written to the agent's own layer and kept
	Regions                       // bytes that its regions of memory may come to need
	SemanticItems                 // items that it has written to semantic memory
	SemanticBytes                 // bytes of them
	resources
)

var resourceNames = [resources]string{
	"cpu_time", "memory", "read_bytes", "write_bytes", "read_ops", "write_ops", "tasks", "files", "disk", "regions", "semantic_items", "semantic_bytes",
}

// String is the name of the resource as Snapshot spells it.
func (r Resource) String() string {
	if r < resources {
		return resourceNames[r]
	}
	return "?"
}

// Level says which limit was reached.
type Level uint8

// The levels.
const (
	Soft Level = iota + 1 // usage is at or above the soft limit
	Hard                  // a charge was refused, or usage measured above the hard limit
)

// String is "soft" or "hard".
func (l Level) String() string {
	if l == Hard {
		return "hard"
	}
	return "soft"
}

// Crossing is the news that a limit was reached. The same limit is reported
// again only after usage has fallen below seven eighths of it, or after a limit
// of the resource has changed.
type Crossing struct {
	Resource Resource
	Level    Level
	Used     uint64
	Limit    uint64
}

// Ledger is the account of one agent. Its methods may be called concurrently.
type Ledger struct {
	onCrossing func(Crossing)
	entries    [resources]entry
}

// entry is a resource of one agent.
type entry struct {
	used, peak atomic.Uint64
	soft, hard atomic.Uint64
	refused    atomic.Uint64
	// told holds the levels that were reported and not left since.
	told atomic.Uint32
}

// NewLedger returns a ledger with nothing used and nothing limited. onCrossing
// may be nil; it must not block.
func NewLedger(onCrossing func(Crossing)) *Ledger {
	l := &Ledger{onCrossing: onCrossing}
	for i := range l.entries {
		l.entries[i].soft.Store(Unlimited)
		l.entries[i].hard.Store(Unlimited)
	}
	return l
}

// Charge takes n of r, or, if that would pass the hard limit, nothing: then it
// reports false. Charges that race for the last of a resource do not refuse
// each other: whoever fits gets it.
func (l *Ledger) Charge(r Resource, n uint64) bool {
	e := &l.entries[r]
	for {
		used := e.used.Load()
		next := used + n
		if hard := e.hard.Load(); next > hard || next < used {
			e.refused.Add(1)
			l.tell(e, r, Hard, used, hard)
			return false
		}
		if e.used.CompareAndSwap(used, next) {
			l.grew(e, r, next)
			return true
		}
	}
}

// Refuse notes that a wish for r was refused before it was charged.
func (l *Ledger) Refuse(r Resource) {
	e := &l.entries[r]
	e.refused.Add(1)
	l.tell(e, r, Hard, e.used.Load(), e.hard.Load())
}

// Add takes n of r whatever the limit: for what has happened already.
func (l *Ledger) Add(r Resource, n uint64) {
	e := &l.entries[r]
	l.grew(e, r, e.used.Add(n))
}

// Release gives back n of r. More than is used gives back all.
func (l *Ledger) Release(r Resource, n uint64) {
	e := &l.entries[r]
	for {
		used := e.used.Load()
		next := used - min(n, used)
		if e.used.CompareAndSwap(used, next) {
			e.fell(next)
			return
		}
	}
}

// Measure says what is used of r: for resources that are looked at from time
// to time and not charged.
func (l *Ledger) Measure(r Resource, used uint64) {
	e := &l.entries[r]
	e.used.Store(used)
	e.fell(used)
	l.grew(e, r, used)
}

// Used returns what is used of r.
func (l *Ledger) Used(r Resource) uint64 { return l.entries[r].used.Load() }

// Peak returns the most that was ever used of r.
func (l *Ledger) Peak(r Resource) uint64 { return l.entries[r].peak.Load() }

// Refused returns how many charges of r were refused.
func (l *Ledger) Refused(r Resource) uint64 { return l.entries[r].refused.Load() }

// Limits returns the soft and the hard limit of r.
func (l *Ledger) Limits(r Resource) (soft, hard uint64) {
	e := &l.entries[r]
	return e.soft.Load(), e.hard.Load()
}

// SetLimits changes the limits of r. A hard limit below what is used refuses
// further charges and takes nothing away.
func (l *Ledger) SetLimits(r Resource, soft, hard uint64) {
	e := &l.entries[r]
	softSame, hardSame := e.soft.Swap(soft) == soft, e.hard.Swap(hard) == hard
	if softSame && hardSame {
		return
	}
	e.told.Store(0)
	l.grew(e, r, e.used.Load())
}

// grew notes that used is, or was a moment ago, what is used of r.
func (l *Ledger) grew(e *entry, r Resource, used uint64) {
	for peak := e.peak.Load(); used > peak; peak = e.peak.Load() {
		if e.peak.CompareAndSwap(peak, used) {
			break
		}
	}
	if soft := e.soft.Load(); used >= soft {
		l.tell(e, r, Soft, used, soft)
	}
	if hard := e.hard.Load(); used > hard {
		l.tell(e, r, Hard, used, hard)
	}
}

// tell reports a crossing once.
func (l *Ledger) tell(e *entry, r Resource, level Level, used, limit uint64) {
	bit := uint32(1) << level
	if e.told.Load()&bit != 0 || e.told.Or(bit)&bit != 0 {
		return
	}
	if l.onCrossing != nil {
		l.onCrossing(Crossing{Resource: r, Level: level, Used: used, Limit: limit})
	}
}

// fell lets crossings be reported again that usage has left behind.
func (e *entry) fell(used uint64) {
	told := e.told.Load()
	if told == 0 {
		return
	}
	if told&(1<<Soft) != 0 && used < rearm(e.soft.Load()) {
		e.told.And(^uint32(1 << Soft))
	}
	if told&(1<<Hard) != 0 && used < rearm(e.hard.Load()) {
		e.told.And(^uint32(1 << Hard))
	}
}

// rearm is below what usage must fall before limit is reported again.
func rearm(limit uint64) uint64 { return limit - limit/8 }
