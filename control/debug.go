package control

// Methods by which the daemon looks into a kernel process and its agents.
const (
	MethodDump   = "dump"
	MethodBundle = "bundle"
	MethodDebug  = "debug"
)

// DebugRequest has somebody debug an agent: its threads stop, and what comes
// through file 0, one end of a stream, is the protocol of gdb from then on. When
// the stream ends, the agent goes on for itself.
type DebugRequest struct {
	ID string `json:"id"`
	// PID, as the agent numbers it, of the one process to debug; 0: all.
	PID   int32 `json:"pid,omitempty"`
	Actor Actor `json:"actor"`
}

// A bundle is asked for without a body. File 0 is one end of a stream that takes
// a tar: KernelManifest as kernel.json, the agents as agents.json and
// goroutines.txt.

// KernelManifest describes a kernel process.
type KernelManifest struct {
	Domain      string `json:"domain"`
	Platform    string `json:"platform"`
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memory_bytes"`
	ImagesOnly  bool   `json:"images_only,omitempty"`
	Version     string `json:"version"`
	Go          string `json:"go"`
	Module      string `json:"module,omitempty"` // and version of it
	GVisor      string `json:"gvisor,omitempty"`
	Agents      int    `json:"agents"`
	Goroutines  int    `json:"goroutines"`
	HeapBytes   uint64 `json:"heap_bytes"`
	// Cut says that there are more stacks than goroutines.txt holds.
	Cut bool `json:"goroutines_cut,omitempty"`
}

// DumpRequest asks for ELF cores of an agent. File 0 is one end of a stream
// that takes a tar: DumpManifest as manifest.json, then one core for each
// process.
type DumpRequest struct {
	ID string `json:"id"`
	// PID, as the agent numbers it, of the one process to dump; 0: all.
	PID int32 `json:"pid,omitempty"`
	// Limit bounds the memory in each core, in bytes; 0: the default.
	Limit uint64 `json:"limit,omitempty"`
	// Full adds what files hold that the process has mapped.
	Full bool `json:"full,omitempty"`
	// Pending says that the kernel process asked for this dump by an EventDump.
	Pending bool `json:"pending,omitempty"`
}

// DumpManifest describes a dump of an agent.
type DumpManifest struct {
	Agent    string       `json:"agent"`
	Name     string       `json:"name,omitempty"`
	Domain   string       `json:"domain"`
	Platform string       `json:"platform"`
	Why      string       `json:"why,omitempty"`
	Signal   int32        `json:"signal,omitempty"`
	Held     int64        `json:"held_nanoseconds"` // how long the agent stood still for it
	Cores    []DumpedCore `json:"cores"`
	Remarks  []string     `json:"remarks,omitempty"` // what is not in it
}

// DumpedCore is the core of one process.
type DumpedCore struct {
	Member  string   `json:"member"` // its name in the tar
	PID     int32    `json:"pid"`
	Name    string   `json:"name"`
	Program string   `json:"program,omitempty"` // the file that it executes
	Threads int      `json:"threads"`
	Bytes   int64    `json:"bytes"`
	LeftOut []string `json:"left_out,omitempty"`
}

// DumpReply says what went into the stream that the manifest could not foresee.
type DumpReply struct {
	Unreadable uint64 `json:"unreadable,omitempty"` // bytes of memory, in the cores as zeros
}

// EventDump is the event that the kernel process holds an agent still and wants
// it dumped; its body is a DumpEvent, and the daemon calls MethodDump.
const EventDump = "dump"

// DumpEvent says which agent is to be dumped, and why.
type DumpEvent struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}
