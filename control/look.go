package control

import "time"

// MethodLook asks what a kernel process knows of its agents, without stopping
// any: LookRequest, Look.
const MethodLook = "look"

// The views that can be asked for.
const (
	ViewTasks   = "tasks"
	ViewStacks  = "stacks"
	ViewLocks   = "locks"
	ViewQueues  = "queues"
	ViewCaps    = "caps"
	ViewMaps    = "maps"
	ViewFiles   = "files"
	ViewSockets = "sockets"
)

// Views are all of them, in the order in which they are shown.
func Views() []string {
	return []string{ViewTasks, ViewStacks, ViewQueues, ViewLocks, ViewCaps, ViewMaps, ViewFiles, ViewSockets}
}

// LookRequest says what to look at.
type LookRequest struct {
	// ID of an agent; "": every agent of the domain.
	ID string `json:"id,omitempty"`
	// PID, as the agent numbers it, of the one process to look at; 0: all.
	PID   int32    `json:"pid,omitempty"`
	Views []string `json:"views"`
}

// Look is what was seen, also as `aiosctl debug -o json` prints it. What was not
// asked for is nil.
type Look struct {
	Domain  string       `json:"domain"`
	Tasks   []LookTask   `json:"tasks,omitempty"`
	Queues  []LookQueue  `json:"queues,omitempty"`
	Locks   *LookLocks   `json:"locks,omitempty"`
	Caps    []Cap        `json:"caps,omitempty"`
	Maps    []LookMap    `json:"maps,omitempty"`
	Files   []LookFile   `json:"files,omitempty"`
	Sockets []LookSocket `json:"sockets,omitempty"`
	// Names of agents, by ID; the kernel process does not know them.
	Names map[string]string `json:"names,omitempty"`
	// Left says how many rows of a view found no room.
	Left map[string]int `json:"left_out,omitempty"`
}

// LookTask is a thread of an agent.
type LookTask struct {
	Agent string `json:"agent"` // ID
	PID   int32  `json:"pid"`
	TID   int32  `json:"tid"`
	Name  string `json:"name"`
	// State is "runs", its program; "queued", for a place to run it; "works", in
	// the kernel; "waits"; "stopped".
	State string `json:"state"`
	// For is how long it has run or worked, on a clock that stands while nothing
	// does.
	For time.Duration `json:"for_nanoseconds,omitempty"`
	// Call is the system call that it is in.
	Call string `json:"call,omitempty"`
	// Goroutine executes it.
	Goroutine int64 `json:"goroutine"`
	// Registers of its program, by name, in hexadecimal with 0x. They are missing
	// if it runs, unless stacks were asked for: then it was interrupted for a
	// moment.
	Registers map[string]string `json:"registers,omitempty"`
	// Stack is that of its goroutine, innermost first, a frame a line.
	Stack []string `json:"stack,omitempty"`
}

// LookQueue is which tasks of an agent have a CPU, and who waits for
// one.
type LookQueue struct {
	Agent  string `json:"agent"`
	Weight uint64 `json:"weight"`
	// Slice is what it asks for at once, and Lag how much CPU time it is owed.
	Slice time.Duration `json:"slice_nanoseconds"`
	Lag   time.Duration `json:"lag_nanoseconds"`
	// Running have a CPU, and Waiting wait for one. TIDs.
	Running []int32 `json:"running"`
	Waiting []int32 `json:"waiting"`
	// Quota is how many thousandths of a CPU it may use, 0: any number. Left is
	// how much of that is left of this period, and Stopped that it is used up.
	Quota   uint64        `json:"quota_millicpu,omitempty"`
	Left    time.Duration `json:"left_nanoseconds,omitempty"`
	Period  time.Duration `json:"period_nanoseconds,omitempty"`
	Stopped bool          `json:"stopped,omitempty"`
}

// LookLocks is who holds and who waits for locks.
type LookLocks struct {
	// Kernel are the locks that all agents share.
	Kernel []LookLock `json:"kernel"`
	// Waiting are goroutines that wait for a lock of the kernel, any.
	Waiting []LookWaiter `json:"waiting"`
	// Futexes are what threads of agents wait at.
	Futexes []LookFutex `json:"futexes"`
}

// LookLock is a lock of the kernel that was tried.
type LookLock struct {
	Name string `json:"name"`
	// Held says that it was not to be had within Took.
	Held bool          `json:"held"`
	Took time.Duration `json:"took_nanoseconds"`
}

// LookWaiter is a goroutine that waits for a lock.
type LookWaiter struct {
	Goroutine int64    `json:"goroutine"`
	Agent     string   `json:"agent,omitempty"` // for which it works
	TID       int32    `json:"tid,omitempty"`
	Stack     []string `json:"stack"`
}

// LookFutex is a word of memory and who waits at it.
type LookFutex struct {
	Agent   string  `json:"agent"`
	PID     int32   `json:"pid"`
	Address uint64  `json:"address"`
	Value   *uint32 `json:"value,omitempty"` // nil: it cannot be read
	// Owner is the thread that holds it, of a futex that says so; 0: not known.
	Owner   int32   `json:"owner,omitempty"`
	Waiting []int32 `json:"waiting"`
}

// LookMap is a region of a process's memory.
type LookMap struct {
	Agent  string `json:"agent"`
	PID    int32  `json:"pid"`
	Start  uint64 `json:"start"`
	End    uint64 `json:"end"`
	Perms  string `json:"perms"` // as in /proc/PID/maps
	Offset uint64 `json:"offset,omitempty"`
	What   string `json:"what,omitempty"` // a path, or as in "[heap]"
}

// LookFile is an open file of a process, or of a thread with a table of its own.
type LookFile struct {
	Agent       string `json:"agent"`
	PID         int32  `json:"pid"`
	TID         int32  `json:"tid,omitempty"` // 0: all that do not have one
	FD          int32  `json:"fd"`
	Mode        string `json:"mode"` // "r", "w", "rw", "path"
	CloseOnExec bool   `json:"close_on_exec,omitempty"`
	Append      bool   `json:"append,omitempty"`
	NonBlocking bool   `json:"nonblocking,omitempty"`
	FileSystem  string `json:"file_system"`
	Path        string `json:"path"`
}

// LookSocket is a socket that a process has open.
type LookSocket struct {
	Agent  string `json:"agent"`
	PID    int32  `json:"pid"`
	TID    int32  `json:"tid,omitempty"`
	FD     int32  `json:"fd"`
	Family string `json:"family"` // "inet", "inet6", "unix", "netlink", "packet", or a number
	Type   string `json:"type"`   // "stream", "dgram", "raw", "seqpacket", "rdm", or a number
	State  string `json:"state,omitempty"`
	Local  string `json:"local,omitempty"`
	Remote string `json:"remote,omitempty"`
}
