package abi

import (
	"slices"
	"strings"
)

// Class is the kind of resource that a capability speaks of. Its number is
// part of the wire format of tokens and of /dev/aios: it never changes.
type Class uint8

// The classes.
const (
	ClassFS       Class = 1 // a subtree of files
	ClassNet      Class = 2 // network endpoints
	ClassMem      Class = 3 // the agent's memory
	ClassCPU      Class = 4 // processor time
	ClassIO       Class = 5 // bytes and operations per second
	ClassProc     Class = 6 // the agent's own processes
	ClassAgent    Class = 7 // another agent
	ClassSys      Class = 8 // a group of privileged system calls, within the agent
	ClassEvent    Class = 9 // events, by topic
	ClassSvc      Class = 10
	ClassRegion   Class = 11 // memory that agents share
	ClassSemantic Class = 12 // semantic memory, by namespace and tags
)

// Rights is a set of rights; which bits mean what depends on the class.
type Rights uint32

// Rights to files, below the object, which is a directory or a file.
const (
	FSRead   Rights = 1 << iota // read files, list directories
	FSWrite                     // change what files hold and their attributes
	FSExec                      // execute files, map them executable
	FSCreate                    // create files, directories, links
	FSDelete                    // remove or rename them
)

// Rights to network endpoints.
const (
	NetConnect Rights = 1 << iota // connect, send
	NetBind                       // bind, listen, accept
)

// Rights to memory.
const (
	MemMap  Rights = 1 << iota // allocate and map
	MemExec                    // make memory executable that no file backs, or that was writable
)

// CPURun is the right to run.
const CPURun Rights = 1

// Rights to I/O.
const (
	IORead Rights = 1 << iota
	IOWrite
)

// Rights of an agent over its own processes.
const (
	ProcSpawn  Rights = 1 << iota // fork, clone
	ProcExec                      // execute another program
	ProcSignal                    // signal its own processes
	ProcDebug                     // ptrace them, read and write their memory
)

// Rights over another agent.
const (
	AgentSignal  Rights = 1 << iota // signal its processes
	AgentInspect                    // see its processes, capabilities and account
	AgentPause                      // pause and resume it
)

// SysUse is the right to a group of system calls.
const SysUse Rights = 1

// EventSubscribe is the right to hear of events.
const EventSubscribe Rights = 1

// SvcConnect is the right to connect to a service.
const SvcConnect Rights = 1

// Rights to a region of the fabric. None makes its memory executable.
const (
	RegionRead     Rights = 1 << iota // read it, map it
	RegionWrite                       // write it, map it writable
	RegionSnapshot                    // make versions, roll back, fork, seal
	RegionShare                       // give others a part of these rights
)

// Rights to semantic memory.
const (
	SemanticRead   Rights = 1 << iota // find and read items
	SemanticWrite                     // add and change them
	SemanticDelete                    // remove them
	SemanticShare                     // give others a part of these rights
)

// ClassInfo is what is known of a class.
type ClassInfo struct {
	Class Class
	Name  string
	// Rights names the bits, the lowest first.
	Rights []string
	// Self says that the object is always the agent itself: "self".
	Self bool
	// Meaning is a phrase for people.
	Meaning string
}

var classes = []ClassInfo{
	{ClassFS, "fs", []string{"read", "write", "exec", "create", "delete"}, false, "a subtree of files"},
	{ClassNet, "net", []string{"connect", "bind"}, false, "network endpoints"},
	{ClassMem, "mem", []string{"map", "exec"}, true, "the agent's memory"},
	{ClassCPU, "cpu", []string{"run"}, true, "processor time"},
	{ClassIO, "io", []string{"read", "write"}, true, "bytes and operations per second"},
	{ClassProc, "proc", []string{"spawn", "exec", "signal", "debug"}, true, "the agent's own processes"},
	{ClassAgent, "agent", []string{"signal", "inspect", "pause"}, false, "another agent"},
	{ClassSys, "sys", []string{"use"}, false, "a group of privileged system calls, within the agent"},
	{ClassEvent, "event", []string{"subscribe"}, false, "events of the domain, by topic"},
	{ClassSvc, "svc", []string{"connect"}, false, "a service"},
	{ClassRegion, "region", []string{"read", "write", "snapshot", "share"}, false, "memory that agents share"},
	{ClassSemantic, "semantic", []string{"read", "write", "delete", "share"}, false, "semantic memory, by namespace and tags"},
}

// Classes returns every class, in order of number. The caller must not change
// what it is given.
func Classes() []ClassInfo { return classes }

// Info returns what is known of c; ok is false if c is no class.
func (c Class) Info() (info ClassInfo, ok bool) {
	if c < 1 || int(c) > len(classes) {
		return ClassInfo{}, false
	}
	return classes[c-1], true
}

// String is the name of the class.
func (c Class) String() string {
	if i, ok := c.Info(); ok {
		return i.Name
	}
	return "?"
}

// ClassNamed returns the class of that name.
func ClassNamed(name string) (Class, bool) {
	i := slices.IndexFunc(classes, func(c ClassInfo) bool { return c.Name == name })
	if i < 0 {
		return 0, false
	}
	return classes[i].Class, true
}

// All is every right of the class.
func (c Class) All() Rights {
	i, _ := c.Info()
	return 1<<len(i.Rights) - 1
}

// RightNamed returns the right of that name in class c.
func (c Class) RightNamed(name string) (Rights, bool) {
	info, _ := c.Info()
	i := slices.Index(info.Rights, name)
	if i < 0 {
		return 0, false
	}
	return 1 << i, true
}

// Format names the rights in class c, joined by '+'; "none" when there are
// none.
func (r Rights) Format(c Class) string {
	info, _ := c.Info()
	var names []string
	for i, n := range info.Rights {
		if r&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "+")
}

// Has reports whether r holds every right of want.
func (r Rights) Has(want Rights) bool { return r&want == want }
