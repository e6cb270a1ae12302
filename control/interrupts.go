package control

// Methods about the lines of interrupts of a kernel process.
const (
	MethodInterrupts    = "interrupts"     // InterruptsRequest, InterruptsReply
	MethodSetInterrupts = "interrupts.set" // SetInterruptsRequest
)

// InterruptsRequest asks for all lines. With an agent's ID, the counts are those
// of what the agent caused.
type InterruptsRequest struct {
	Agent string `json:"agent,omitempty"`
}

// InterruptsReply has all lines, in order of number.
type InterruptsReply struct {
	CPUs  int             `json:"cpus"`
	Lines []InterruptLine `json:"lines"`
}

// InterruptLine is one line of interrupts; see package irq.
type InterruptLine struct {
	Line      int      `json:"line"`
	Name      string   `json:"name"`
	Label     string   `json:"label"`
	Doc       string   `json:"doc"`
	Way       string   `json:"way"`
	Maskable  bool     `json:"maskable,omitempty"`
	Routable  bool     `json:"routable,omitempty"`
	Throttle  string   `json:"throttle,omitempty"`
	Counts    []uint64 `json:"counts"`
	Masked    bool     `json:"masked,omitempty"`
	CPUs      string   `json:"cpus"`
	Priority  int      `json:"priority"`
	Limit     uint64   `json:"limit"`
	Pending   int      `json:"pending,omitempty"`
	Deferred  uint64   `json:"deferred,omitempty"`
	Dropped   uint64   `json:"dropped,omitempty"`
	Overflows uint64   `json:"overflows,omitempty"`
	Storms    uint64   `json:"storms,omitempty"`
	Stormy    []string `json:"stormy,omitempty"` // IDs of agents; "" is the domain
	// Of how many the latency is known, and what it was, in nanoseconds.
	Late uint64 `json:"late,omitempty"`
	P50  int64  `json:"p50,omitempty"`
	P99  int64  `json:"p99,omitempty"`
	Max  int64  `json:"max,omitempty"`
}

// SetInterruptsRequest changes one thing about a line.
type SetInterruptsRequest struct {
	Line     string  `json:"line"`
	Mask     *bool   `json:"mask,omitempty"`
	CPUs     *string `json:"cpus,omitempty"`
	Priority *int    `json:"priority,omitempty"`
	Limit    *uint64 `json:"limit,omitempty"`
}
