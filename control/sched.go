package control

import "time"

// MethodSched asks who gets the CPUs of a kernel process: SchedRequest, SchedReply.
const MethodSched = "sched"

// SchedRequest asks for all agents, or for one and its tasks.
type SchedRequest struct {
	ID string `json:"id,omitempty"`
}

// SchedReply is how the CPUs are shared. Times are of the scheduler, which began
// when the kernel process did.
type SchedReply struct {
	At      time.Duration `json:"at"`
	CPUs    []SchedCPU    `json:"cpus"`
	Waiting int           `json:"waiting"`
	Slice   time.Duration `json:"slice"`
	// What has happened since the beginning.
	Switches   uint64       `json:"switches"`
	Preempted  uint64       `json:"preempted"`
	Migrated   uint64       `json:"migrated"`
	WakeKicks  uint64       `json:"wake_kicks"`
	SliceKicks uint64       `json:"slice_kicks"`
	Agents     []SchedAgent `json:"agents"`
	// Cut is how many agents found no room.
	Cut int `json:"cut,omitempty"`
}

// SchedCPU is a CPU, and who has it.
type SchedCPU struct {
	CPU      int           `json:"cpu"`
	Online   bool          `json:"online"`
	Agent    string        `json:"agent,omitempty"` // ID; "": nobody
	TID      int32         `json:"tid,omitempty"`
	Task     string        `json:"task,omitempty"`
	Busy     time.Duration `json:"busy"`
	Queued   int           `json:"queued"` // agents that wait for it alone
	Switches uint64        `json:"switches"`
	Kicks    uint64        `json:"kicks"`
	Late     SchedLatency  `json:"late"`
}

// SchedLatency says how long things took.
type SchedLatency struct {
	Count uint64        `json:"count,omitempty"`
	P50   time.Duration `json:"p50,omitempty"`
	P99   time.Duration `json:"p99,omitempty"`
	Max   time.Duration `json:"max,omitempty"`
}

// SchedReservation is CPU time that is promised; all zero: none.
type SchedReservation struct {
	Runtime  time.Duration `json:"runtime,omitempty"`
	Deadline time.Duration `json:"deadline,omitempty"`
	Period   time.Duration `json:"period,omitempty"`
}

// SchedAgent is what the scheduler knows of an agent.
type SchedAgent struct {
	ID     string        `json:"id"`
	At     time.Duration `json:"at"`
	Idle   bool          `json:"idle,omitempty"`
	Weight uint64        `json:"weight"`
	Quota  *uint64       `json:"quota,omitempty"` // thousandths of a CPU; nil: none
	Period time.Duration `json:"period"`
	Burst  time.Duration `json:"burst,omitempty"`
	CPUs   string        `json:"cpus"` // where its tasks may run; "": anywhere
	// Priority is how far its tasks may lower their niceness: to 20 less this.
	Priority uint64 `json:"priority"`

	Reserved SchedReservation `json:"reserved"`
	Taken    float64          `json:"taken,omitempty"` // of that, by its tasks; CPUs
	Missed   uint64           `json:"missed,omitempty"`
	Overruns uint64           `json:"overruns,omitempty"`

	Hint    string `json:"hint"`
	Tasks   int    `json:"tasks"`
	Running int    `json:"running,omitempty"`
	Waiting int    `json:"waiting,omitempty"`

	Service time.Duration `json:"service"`
	User    time.Duration `json:"user"`
	System  time.Duration `json:"system"`
	Lag     time.Duration `json:"lag"`
	Request time.Duration `json:"request"`

	Throttled bool          `json:"throttled,omitempty"`
	Left      time.Duration `json:"left,omitempty"`
	Periods   uint64        `json:"periods,omitempty"`
	Stops     uint64        `json:"stops,omitempty"`
	Stopped   time.Duration `json:"stopped,omitempty"`
	// Corrected is what the host counted more than Service, and the quota was charged.
	Corrected time.Duration `json:"corrected,omitempty"`

	Switches  uint64 `json:"switches"`
	Preempted uint64 `json:"preempted"`
	Migrated  uint64 `json:"migrated"`

	Waits SchedLatency `json:"waits"`
	// WaitCounts are the counts of Waits; see observe.Counts.
	WaitCounts []uint64 `json:"wait_counts,omitempty"`

	// Threads are only there if one agent was asked for.
	Threads []SchedTask `json:"threads,omitempty"`
	Cut     int         `json:"threads_cut,omitempty"`
}

// SchedTask is a task of an agent.
type SchedTask struct {
	PID   int32  `json:"pid"`
	TID   int32  `json:"tid"`
	Name  string `json:"name"`
	State string `json:"state"` // "runs", "waits", "spent", "sleeps"
	// For is since when it runs or waits.
	For      time.Duration    `json:"for,omitempty"`
	CPU      int              `json:"cpu"`    // -1: none
	Policy   string           `json:"policy"` // "normal", "batch", "idle", "deadline"
	Nice     int              `json:"nice"`
	CPUs     string           `json:"cpus"`
	Reserved SchedReservation `json:"reserved"`
	Missed   uint64           `json:"missed,omitempty"`
	Overruns uint64           `json:"overruns,omitempty"`
	Lent     bool             `json:"lent,omitempty"` // it has rank of another that waits for it
	Service  time.Duration    `json:"service"`
	User     time.Duration    `json:"user"`
	System   time.Duration    `json:"system"`
}
