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
	// Regions is what its regions may come to need; it counts in Memory as well.
	Regions Gauge `json:"regions"`
}

// CPUUse is what an agent used of the processors.
type CPUUse struct {
	// UserNS is the time its programs ran, SystemNS the time the kernel
	// worked for them, in nanoseconds.
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
	// Faults counts page faults that the kernel resolved.
	Faults uint64 `json:"faults"`
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
