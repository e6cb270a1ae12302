package account

// Snapshot is the account of one agent at one time. A limit that is left out
// is none.
type Snapshot struct {
	CPU    CPUUse    `json:"cpu"`
	Memory MemoryUse `json:"memory"`
	IO     IOUse     `json:"io"`
	Tasks  Gauge     `json:"tasks"`
	// Files is of all the agent's processes together; the limit is that of
	// each.
	Files Gauge `json:"files"`
	Disk  Gauge `json:"disk"`
	// Pressure is for how long its tasks could not go on for want of something.
	Pressure Pressure `json:"pressure"`
	// Regions is what its regions may come to need; it counts in Memory as well.
	Regions Gauge `json:"regions"`
	// SemanticItems and SemanticBytes are what it has written to semantic memory
	// that is still there, as of when it last asked it.
	SemanticItems Gauge `json:"semantic_items"`
	SemanticBytes Gauge `json:"semantic_bytes"`
}

// CPUUse is what an agent used of the processors.
type CPUUse struct {
	// UserNS is the time its programs ran, SystemNS the time the kernel
	// worked for them, in nanoseconds. Their sum is exact, the parts are
	// estimated by samples.
	UserNS   uint64 `json:"user_ns"`
	SystemNS uint64 `json:"system_ns"`
	// QuotaMilli is how many thousandths of a CPU it may use; nil is any
	// number, zero none.
	QuotaMilli *uint64 `json:"quota_milli,omitempty"`
	// Periods counts the quota periods in which it ran, Throttled those in
	// which it was stopped for having used up the quota.
	Periods   uint64 `json:"periods"`
	Throttled uint64 `json:"throttled"`
	// ThrottledNS is how long it was stopped, in nanoseconds.
	ThrottledNS uint64 `json:"throttled_ns"`
	// CPUs is how many it sees.
	CPUs uint64 `json:"cpus"`
}

// MemoryUse is what an agent has resident, in bytes.
type MemoryUse struct {
	Gauge
	// Faults counts page faults, of every kind.
	Faults uint64   `json:"faults"`
	Kinds  FaultUse `json:"fault_kinds"`
}

// FaultUse counts page faults by what came of them.
type FaultUse struct {
	// Minor and Major made memory accessible; for those the task had to sleep
	// until another process had read it, or it was brought back.
	Minor uint64 `json:"minor"`
	Major uint64 `json:"major"`
	// COW are those of both that wrote to a page that was there and shared: it
	// was copied, or found to be nobody else's any more.
	COW uint64 `json:"cow"`
	// Protection and Unmapped became exceptions: what was touched was mapped, but
	// not for that, or not mapped.
	Protection uint64 `json:"protection"`
	Unmapped   uint64 `json:"unmapped"`
}

// IOUse is what an agent read and wrote, whatever from and to.
type IOUse struct {
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
	ReadOps    uint64 `json:"read_ops"`
	WriteOps   uint64 `json:"write_ops"`
	// BytesPerSec and OpsPerSec are its limits.
	BytesPerSec uint64 `json:"bytes_per_sec,omitempty"`
	OpsPerSec   uint64 `json:"ops_per_sec,omitempty"`
	// DelayedNS is how long its tasks were held back, added up.
	DelayedNS uint64 `json:"delayed_ns"`
}

// Pressure is the pressure on an agent, by what it lacks.
type Pressure struct {
	CPU    PressureUse `json:"cpu"`
	Memory PressureUse `json:"memory"`
	IO     PressureUse `json:"io"`
}

// PressureUse is for how long some task could not go on, and for how long none
// could: since the agent began, in nanoseconds, and as a part of the last 10, 60 and
// 300 seconds.
type PressureUse struct {
	SomeNS uint64     `json:"some_ns"`
	FullNS uint64     `json:"full_ns"`
	Some   [3]float64 `json:"some"`
	Full   [3]float64 `json:"full"`
}

// Gauge is something of which an agent has so much at a time.
type Gauge struct {
	Now     uint64 `json:"now"`
	Peak    uint64 `json:"peak"`
	Soft    uint64 `json:"soft,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
	Refused uint64 `json:"refused,omitempty"`
}

// Gauge returns the entry of r.
func (l *Ledger) Gauge(r Resource) Gauge {
	soft, hard := l.Limits(r)
	return Gauge{
		Now: l.Used(r), Peak: l.Peak(r), Refused: l.Refused(r),
		Soft: noneIfUnlimited(soft), Limit: noneIfUnlimited(hard),
	}
}

func noneIfUnlimited(limit uint64) uint64 {
	if limit == Unlimited {
		return 0
	}
	return limit
}
