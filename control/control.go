// Package control is the protocol between the daemon and a kernel process.
//
// A kernel process listens on a Unix stream socket that the daemon made and
// handed down; the daemon connects, and connects again after a restart of its
// own. Both ends exchange frames: a length, a JSON message, and the file
// descriptors that belong to it. A message is a request, the response to one,
// or an event that the kernel process pushes to every connection.
//
// The first message on a connection is Hello; a side that speaks another
// abi.ProtocolVersion is refused. Messages are at most MaxMessage bytes and
// carry at most MaxFiles descriptors; whoever exceeds that is disconnected.
//
// Streams of an attached process do not travel here: a request hands over one
// end of a socket pair, and frames of package control's Stream flow on it.
//
// Lock order: Conn.writeMu is a leaf; Client.mu is never held while writing.
// The package imports neither gVisor nor anything that does.
package control

import (
	"encoding/json"
	"time"
)

// Bounds of a message.
const (
	MaxMessage = 4 << 20 // bytes of JSON
	MaxFiles   = 64      // descriptors
)

// Methods that a kernel process serves.
const (
	MethodHello   = "hello"
	MethodMount   = "mount"
	MethodUnmount = "unmount"
	MethodSpawn   = "spawn"
	MethodClone   = "clone"
	// Specialize is Clone with Only: a kernel that does not know that refuses it.
	MethodSpecialize = "specialize"
	// Split is Clone with Split.
	MethodSplit    = "split"
	MethodUpgrade  = "upgrade"
	MethodMerge    = "merge"
	MethodWarm     = "warm"
	MethodExec     = "exec"
	MethodAttach   = "attach"
	MethodSignal   = "signal"
	MethodPause    = "pause"
	MethodResume   = "resume"
	MethodInspect  = "inspect"
	MethodList     = "list"
	MethodForget   = "forget"
	MethodStats    = "stats"
	MethodShutdown = "shutdown"
)

// Hello opens a connection.
type Hello struct {
	Version int    `json:"version"`
	Domain  string `json:"domain"`
}

// HelloReply tells who answered.
type HelloReply struct {
	Version  int       `json:"version"`
	Domain   string    `json:"domain"`
	PID      int       `json:"pid"`
	Platform string    `json:"platform"`
	Started  time.Time `json:"started"`
	Boxes    []Box     `json:"boxes"`
	Build    string    `json:"build"`
}

// Box is what became of one confinement of the kernel process.
type Box struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Effect string `json:"effect,omitempty"`
}

// Kinds of file systems that MethodMount prepares.
const (
	KindEROFS = "erofs" // file 0: the image
	KindGofer = "gofer" // file 0: a connection to a gofer
)

// MountRequest makes a file system known to the domain under a key, for
// agents to use. The files travel with the message.
type MountRequest struct {
	Key  string `json:"key"`
	Kind string `json:"kind"`
	// DirectFS lets the kernel process open files below the gofer's root
	// itself, without asking the gofer for each.
	DirectFS bool `json:"directfs,omitempty"`
	ReadOnly bool `json:"readonly,omitempty"`
	// Image says that a gofer serves a part of an image, which stays as it is: what
	// was seen of it need not be looked at again.
	Image bool `json:"image,omitempty"`
}

// UnmountRequest forgets a key. Agents that use it keep it until they end.
type UnmountRequest struct {
	Key string `json:"key"`
}

// UnmountReply says which agents still have it, by grants.
type UnmountReply struct {
	Agents []string `json:"agents,omitempty"`
}

// Bind places a known file system in an agent.
type Bind struct {
	Key      string `json:"key"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readonly,omitempty"`
}

// Root is how an agent's root directory is put together: a copy-on-write
// overlay over Base, into which the file systems of Layers are grafted.
type Root struct {
	Base   string `json:"base"`
	Layers []Bind `json:"layers,omitempty"`
	// Hide are directories of the layers that the agent sees empty.
	Hide []string `json:"hide,omitempty"`
}

// Process is a program and the surroundings it starts in.
type Process struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env"`
	Cwd   string   `json:"cwd"`
	User  string   `json:"user,omitempty"` // "", uid, uid:gid or a name
	TTY   bool     `json:"tty,omitempty"`
	Stdin bool     `json:"stdin,omitempty"`
	Rows  uint16   `json:"rows,omitempty"`
	Cols  uint16   `json:"cols,omitempty"`
}

// SpawnRequest creates and starts an agent with what it is granted. File 0 is
// its log; file 1, when Attach is set, one end of a stream to join to its
// first process.
type SpawnRequest struct {
	ID       string  `json:"id"`
	Name     string  `json:"name,omitempty"`
	Hostname string  `json:"hostname"`
	Root     Root    `json:"root"`
	Grants   []Grant `json:"grants"`
	Process  Process `json:"process"`
	// Zone is the agent's time zone; nil: the image's.
	Zone *Zone `json:"zone,omitempty"`
	// Clock is clocks of the agent's own; nil: the kernel's.
	Clock *Clock `json:"clock,omitempty"`
	// DiskBytes bounds what the agent may write to its own files; 0: no limit.
	DiskBytes uint64 `json:"disk_bytes,omitempty"`
	// Seccomp is a profile in the form of OCI, which the kernel applies to
	// every process of the agent.
	Seccomp json.RawMessage `json:"seccomp,omitempty"`
	// OnFault and OnViolation are policies in the words of package trap.
	OnFault     []string `json:"on_fault,omitempty"`
	OnViolation []string `json:"on_violation,omitempty"`
	// Watchdog, if not 0, is how often in nanoseconds the agent has to feed its
	// watchdog, from the start; OnWatchdog is what happens if it does not.
	Watchdog   int64  `json:"watchdog,omitempty"`
	OnWatchdog string `json:"on_watchdog,omitempty"`
	// OnOOM is what happens when it runs out of memory, in the words of package
	// trap.
	OnOOM  string `json:"on_oom,omitempty"`
	Attach bool   `json:"attach,omitempty"`
	Actor  Actor  `json:"actor"`
	// LogBytes is what the log holds already, of an agent that is started again.
	LogBytes int64 `json:"log_bytes,omitempty"`
	// Headed says that the first process of the agent is the kernel's own, which
	// waits for the others, as after a split.
	Headed bool `json:"headed,omitempty"`
	// Template has the agent become a template as soon as it is warm.
	Template *WarmUp `json:"template,omitempty"`
	// From is the ID of the template that the agent begins as a copy of. Then
	// Process is what the copy is told of its job, and Root and Seccomp are the
	// template's.
	From string `json:"from,omitempty"`
}

// WarmUp is how an agent becomes a template.
type WarmUp struct {
	// Output is the text with which it says that it is warm; "": it says so
	// through /aios/self/template, or waits for its standard input.
	Output string `json:"output,omitempty"`
	// Timeout is how long that may take.
	Timeout time.Duration `json:"timeout"`
	// Ahead is how many copies of it are to be ready before anybody asks.
	Ahead int `json:"ahead,omitempty"`
}

// WarmReply says how an agent became a template.
type WarmReply struct {
	Took  time.Duration `json:"took"`
	Tasks uint32        `json:"tasks"`
}

// CloneRequest copies an agent while it runs. File i is the log of copy i.
type CloneRequest struct {
	ID     string      `json:"id"`
	Copies []CloneCopy `json:"copies"`
	// Pause leaves the copies stopped.
	Pause bool `json:"pause,omitempty"`
	// Template makes templates of the copies.
	Template bool `json:"template,omitempty"`
	// Ahead is what WarmUp.Ahead is, of each.
	Ahead int `json:"ahead,omitempty"`
	// Only, if it is set, has the copies have less authority than their part.
	Only *Specialize `json:"only,omitempty"`
	// Split, if it is set, has the copy be one of some processes, which leave the
	// agent for it. Then what Only says is not for good.
	Split *Split `json:"split,omitempty"`
	Actor Actor  `json:"actor"`
}

// Specialize is what a copy has of the authority of its original, and can never have
// more of.
type Specialize struct {
	// Keep are grants, each within one that the original has. What is not within
	// them the copy has not, but for memory, processes, I/O and CPU time.
	Keep []string `json:"keep,omitempty"`
	// CPU, if it is not empty, is a grant of CPU time that says less.
	CPU string `json:"cpu,omitempty"`
}

// Split says which processes of an agent become one of their own.
type Split struct {
	// PIDs are their numbers, as the agent sees them. How the new agent ends is how
	// the first of them does.
	PIDs []int32 `json:"pids"`
	// Alone leaves what they have started where it is.
	Alone bool `json:"alone,omitempty"`
	// Share is how many percent of the agent's budget they get; 0: half.
	Share uint32 `json:"share,omitempty"`
}

// UpgradeRequest has another program, of another image, run in the place of an
// agent's. The answer comes when it is known whether that is well.
type UpgradeRequest struct {
	ID string `json:"id"`
	// Token is what the agent says of itself from then on; see AgentStatus.
	Token   string  `json:"token"`
	Image   string  `json:"image"` // as people call it
	Root    Root    `json:"root"`
	Process Process `json:"process"`
	// Health, if it is set, is tried until it ends with status 0; without, the
	// program is well if it runs as long as Timeout.
	Health  *Process      `json:"health,omitempty"`
	Timeout time.Duration `json:"timeout"`
	Actor   Actor         `json:"actor"`
}

// UpgradeReply says how long an upgrade took.
type UpgradeReply struct {
	// Pause is how long nothing of the agent ran.
	Pause time.Duration `json:"pause"`
	Took  time.Duration `json:"took"`
}

// CloneCopy is what a copy has of its own.
type CloneCopy struct {
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Hostname string `json:"hostname"`
}

// CloneReply tells what was made.
type CloneReply struct {
	Copies []CloneCopied `json:"copies"`
	// Pause is for how long the agent stood still, and Ready how long it took
	// until the copies ran.
	Pause time.Duration `json:"pause"`
	Ready time.Duration `json:"ready"`
}

// CloneCopied is one copy that was made.
type CloneCopied struct {
	ID string `json:"id"`
}

// Clock is how far ahead of the kernel's an agent's clocks are, in nanoseconds.
type Clock struct {
	Offset    int64 `json:"offset_ns,omitempty"`    // CLOCK_REALTIME
	Monotonic int64 `json:"monotonic_ns,omitempty"` // CLOCK_MONOTONIC and CLOCK_BOOTTIME
	// Rate is how fast CLOCK_REALTIME goes, in billionths of the kernel's; 0: as fast.
	Rate int64 `json:"rate_ppb,omitempty"`
	// Wall, of a request, is what CLOCK_REALTIME is to show, since 1970; 0: as
	// Offset says.
	Wall int64 `json:"wall_ns,omitempty"`
}

// Zone is a time zone: its name in the IANA database, and what programs read of it.
type Zone struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// ExecRequest starts a further process in a running agent. File 0, when
// Attach is set, is one end of a stream to join to it.
type ExecRequest struct {
	ID      string  `json:"id"`
	Process Process `json:"process"`
	Attach  bool    `json:"attach,omitempty"`
}

// ExecReply names the new process.
type ExecReply struct {
	ExecID int32 `json:"exec_id"`
}

// AttachRequest joins a stream, file 0, to a process that runs.
type AttachRequest struct {
	ID     string `json:"id"`
	ExecID int32  `json:"exec_id,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`
}

// AttachReply tells what was joined.
type AttachReply struct {
	TTY bool `json:"tty"`
}

// SignalRequest sends a signal to a process of the agent, or to all.
type SignalRequest struct {
	By
	ID     string `json:"id"`
	ExecID int32  `json:"exec_id,omitempty"`
	Signal int32  `json:"signal"`
	All    bool   `json:"all,omitempty"`
}

// AgentRequest names an agent: pause, resume, inspect, forget.
type AgentRequest struct {
	By
	ID string `json:"id"`
}

// By is who wants something done to an agent, and why; "" is an operator, who
// need not say.
type By struct {
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	Code   int32  `json:"code"`
	Signal int32  `json:"signal,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Again says that a policy of the agent wants it started again.
	Again bool `json:"again,omitempty"`
}

// AgentStatus is what a kernel process knows of an agent.
type AgentStatus struct {
	ID          string    `json:"id"`
	State       string    `json:"state"`
	Tasks       uint32    `json:"tasks"`
	MemoryBytes uint64    `json:"memory_bytes"`
	Exit        *Exit     `json:"exit,omitempty"`
	Ended       time.Time `json:"ended,omitzero"`
	Processes   []Proc    `json:"processes,omitempty"` // inspect only
	Clock       *Clock    `json:"clock,omitempty"`     // inspect only; nil: the kernel's
	Ahead       uint32    `json:"ahead,omitempty"`     // copies that are ready, of a template; inspect only
	// Upgraded is the token of the upgrade by which the agent became what it is;
	// Upgrading says that one is not decided.
	Upgraded  string `json:"upgraded,omitempty"`
	Upgrading bool   `json:"upgrading,omitempty"`
}

// Proc is one process of an agent, as the agent numbers it.
type Proc struct {
	PID     int32    `json:"pid"`
	PPID    int32    `json:"ppid"`
	Name    string   `json:"name"`
	Threads uint32   `json:"threads"`
	Argv    []string `json:"argv"`
	State   string   `json:"state"`
}

// ListReply holds every agent that has not been forgotten.
type ListReply struct {
	Agents []AgentStatus `json:"agents"`
}

// StatsReply is the state of the kernel process itself, for leak hunting.
type StatsReply struct {
	Goroutines  int    `json:"goroutines"`
	Tasks       int    `json:"tasks"`
	MemoryBytes uint64 `json:"memory_bytes"` // committed in the memory file
	HeapBytes   uint64 `json:"heap_bytes"`
	// Watchdogs are those over parts of the kernel, and over agents.
	Watchdogs []Watchdog `json:"watchdogs,omitempty"`
}

// Watchdog is one as it stands. Times are in nanoseconds.
type Watchdog struct {
	// Name is of a part of the kernel, or the ID of an agent.
	Name    string `json:"name"`
	Agent   bool   `json:"agent,omitempty"`
	Timeout int64  `json:"timeout"`
	Unfed   int64  `json:"unfed"`
	Late    bool   `json:"late,omitempty"`  // expired, and not fed since
	Waits   bool   `json:"waits,omitempty"` // what it watches over has nothing to do
	Times   uint64 `json:"times,omitempty"` // that it has expired
}

// Promised sums up limits of agents. Where one of them has none, the sum has
// none.
type Promised struct {
	Agents          int    `json:"agents"`
	MemoryBytes     uint64 `json:"memory_bytes"`
	Tasks           uint64 `json:"tasks"`
	MilliCPU        uint64 `json:"milli_cpu"`
	MemoryUnlimited bool   `json:"memory_unlimited,omitempty"`
	TasksUnlimited  bool   `json:"tasks_unlimited,omitempty"`
	CPUUnlimited    bool   `json:"cpu_unlimited,omitempty"`
}

// ShutdownRequest ends the kernel process and every agent in it.
type ShutdownRequest struct{}

// EventExit is the event that a process has ended; its body is an ExitEvent.
const EventExit = "exit"

// ExitEvent says that a process ended: an agent's first (ExecID 0), with
// which the agent has ended, or a further one.
type ExitEvent struct {
	ID     string    `json:"id"`
	ExecID int32     `json:"exec_id,omitempty"`
	Exit   Exit      `json:"exit"`
	Time   time.Time `json:"time"`
}
