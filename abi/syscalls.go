package abi

import (
	"math/bits"
	"slices"
	"strings"
	"syscall"
)

// Group is a set of system calls that need the same right. It is at once the
// number of a bit in an agent's mask: the gate looks at nothing else on its
// hot path.
type Group uint8

// The groups. Their numbers stay inside one kernel process and may change.
const (
	GroupBase       Group = iota // an agent's own processes, time, memory given back
	GroupFile                    // files and descriptors; the mounts decide
	GroupAbsent                  // calls that the kernel answers without doing anything
	GroupMap                     // take memory
	GroupMemExec                 // make memory executable
	GroupSpawn                   // make processes and threads
	GroupExec                    // execute programs
	GroupSignal                  // signal other processes of the agent
	GroupDebug                   // trace processes, reach into their memory
	GroupSocket                  // make network sockets
	GroupConnect                 // connect, send datagrams
	GroupBind                    // bind, listen, accept
	GroupNamespace               // make and enter namespaces
	GroupMount                   // change the agent's mounts
	GroupKeys                    // key rings
	GroupIntrospect              // look into the kernel
	GroupAsync                   // io_uring
	GroupRaw                     // raw and packet sockets
	GroupClock                   // set the agent's clock
	GroupAdmin                   // administer the machine
	groupCount
)

// Bit is the group as a set of one.
func (g Group) Bit() uint64 { return 1 << g }

// String is the name of the group.
func (g Group) String() string {
	if g >= groupCount {
		return "?"
	}
	return groups[g].Name
}

// Held is what a capability gives, as far as the gate is concerned: rights to
// an object.
type Held struct {
	Class  Class
	Object string
	Rights Rights
}

// String is the text of a grant that gives it, such as "net:loopback:connect".
func (h Held) String() string {
	text := h.Class.String() + ":" + h.Object
	if h.Rights != h.Class.All() {
		text += ":" + h.Rights.Format(h.Class)
	}
	return text
}

// GroupInfo is what is known of a group.
type GroupInfo struct {
	Group Group
	Name  string
	// Meaning is a phrase for people.
	Meaning string
	// Free groups need no right. Never groups are refused whatever an agent
	// holds. All others need one of the rights of Needs.
	Free, Never bool
	Needs       Held
	// Errno is what a refused call returns.
	Errno syscall.Errno
	// Note says what else there is to know.
	Note string
}

var groups = [groupCount]GroupInfo{
	GroupBase: {Name: "base", Free: true,
		Meaning: "an agent's own processes, users, time, futexes, pipes, queues and polling",
		Note:    "What needs a privilege on Linux, such as setuid(2), needs it here as well."},
	GroupFile: {Name: "file", Free: true,
		Meaning: "files, directories and descriptors",
		Note:    "The gate lets these calls pass. What they may reach is decided where the file is: by the mount of the `fs` capability that it belongs to, and by the file's own mode. An agent's image and what it wrote over it are always its own."},
	GroupAbsent: {Name: "absent", Free: true,
		Meaning: "calls that exist in name only",
		Note:    "The kernel answers them with an error, mostly ENOSYS, and does nothing. When gVisor begins to implement one, a test demands that it be put into a group that fits."},
	GroupMap: {Name: "memory", Needs: Held{ClassMem, "self", MemMap}, Errno: syscall.ENOMEM,
		Meaning: "take memory: allocate, map, attach",
		Note:    "Giving memory back needs no right. A refused brk(2) returns the break as it is, like Linux."},
	GroupMemExec: {Name: "memory-exec", Needs: Held{ClassMem, "self", MemExec}, Errno: syscall.EACCES,
		Meaning: "make memory executable that no file backs, or that can be written",
		Note: "Code then comes from files only. Without the right are refused: anonymous executable mappings; mappings that are executable and writable; mprotect(2) with PROT_EXEC, " +
			"of file mappings too, because the kernel does not remember whether they were written; shmat(2) with SHM_EXEC; memfd_create(2), because its files can be executed; mapping or executing such a file that was made earlier; writing to /proc/PID/mem, which heeds no protection. " +
			"Dynamic loaders are not affected: they map segments of files executable from the start, and not writable. A file that the agent wrote is a file; " +
			"whether it may be executed is for the `exec` right of its mount and for `proc:self:exec` to say."},
	GroupSpawn: {Name: "spawn", Needs: Held{ClassProc, "self", ProcSpawn}, Errno: syscall.EAGAIN,
		Meaning: "make processes and threads",
		Note:    "How many is limited by the capability's count; beyond it the errno is the same."},
	GroupExec: {Name: "exec", Needs: Held{ClassProc, "self", ProcExec}, Errno: syscall.EACCES,
		Meaning: "execute another program"},
	GroupSignal: {Name: "signal", Needs: Held{ClassProc, "self", ProcSignal}, Errno: syscall.EPERM,
		Meaning: "signal other processes of the agent",
		Note:    "A process may always signal itself, and look with signal 0 whether another exists. Other agents' processes cannot be named by these calls at all."},
	GroupDebug: {Name: "debug", Needs: Held{ClassProc, "self", ProcDebug}, Errno: syscall.EPERM,
		Meaning: "trace processes of the agent, read and write their memory, take their descriptors",
		Note:    "PTRACE_TRACEME needs the right as well: it makes a tracer of the parent. /proc/PID/mem of another process asks for it at every use."},
	GroupSocket: {Name: "socket", Needs: Held{ClassNet, "loopback", NetConnect | NetBind}, Errno: syscall.EACCES,
		Meaning: "make sockets of the network: AF_INET, AF_INET6, AF_NETLINK",
		Note:    "Either right of a `net` capability will do. Unix sockets are always allowed."},
	GroupConnect: {Name: "connect", Needs: Held{ClassNet, "loopback", NetConnect}, Errno: syscall.EACCES,
		Meaning: "connect network sockets, send datagrams",
		Note:    "Only sockets of AF_INET and AF_INET6 are asked for it. A stream socket that was accepted may be written to without it."},
	GroupBind: {Name: "bind", Needs: Held{ClassNet, "loopback", NetBind}, Errno: syscall.EACCES,
		Meaning: "bind network sockets, listen, accept",
		Note:    "Only sockets of AF_INET and AF_INET6 are asked for it."},
	GroupNamespace: {Name: "namespace", Needs: Held{ClassSys, "namespace", SysUse}, Errno: syscall.EPERM,
		Meaning: "make and enter namespaces, within the agent"},
	GroupMount: {Name: "mount", Needs: Held{ClassSys, "mount", SysUse}, Errno: syscall.EPERM,
		Meaning: "change mounts, within the agent",
		Note:    "CAP_SYS_ADMIN is needed besides, which a process gets in a user namespace of its own."},
	GroupKeys: {Name: "keys", Needs: Held{ClassSys, "keys", SysUse}, Errno: syscall.EPERM,
		Meaning: "key rings of the kernel"},
	GroupIntrospect: {Name: "introspect", Needs: Held{ClassSys, "introspect", SysUse}, Errno: syscall.EPERM,
		Meaning: "look into the kernel: bpf, performance counters, fault handlers"},
	GroupAsync: {Name: "async", Needs: Held{ClassSys, "async", SysUse}, Errno: syscall.ENOSYS,
		Meaning: "io_uring",
		Note:    "ENOSYS makes programs fall back to other ways."},
	GroupRaw: {Name: "raw", Never: true, Errno: syscall.EPERM,
		Meaning: "raw and packet sockets"},
	GroupClock: {Name: "clock", Needs: Held{ClassSys, "clock", SysUse}, Errno: syscall.EPERM,
		Meaning: "set the agent's own clock",
		Note:    "It is CLOCK_REALTIME that is set, for the programs of the agent alone; any of its processes may. There is no zone to be set by settimeofday(2)."},
	GroupAdmin: {Name: "admin", Never: true, Errno: syscall.EPERM,
		Meaning: "administer the machine: reboot, the rate of its clock, modules, swap, quotas, I/O ports, device nodes"},
}

func init() {
	for g := range groups {
		i := &groups[g]
		i.Group = Group(g)
		switch {
		case i.Free:
			maskFree |= i.Group.Bit()
		case !i.Never:
			maskAll |= i.Group.Bit()
		}
	}
	maskAll |= maskFree
}

var maskFree, maskAll uint64

// MaskNone is the mask of an agent that holds nothing: the free groups.
func MaskNone() uint64 { return maskFree }

// MaskAll is the mask of an agent that holds every right there is. The groups
// that nobody gets are not in it.
func MaskAll() uint64 { return maskAll }

// MaskFor returns the groups that are open to whoever holds all of held.
func MaskFor(held []Held) uint64 {
	mask := maskFree
	for i := range groups {
		if g := &groups[i]; mask&g.Group.Bit() == 0 && g.openedBy(held) >= 0 {
			mask |= g.Group.Bit()
		}
	}
	return mask
}

// OpenedBy returns the first of held that opens g; ok is false if none does.
func (g Group) OpenedBy(held []Held) (i int, ok bool) {
	if g >= groupCount {
		return -1, false
	}
	i = groups[g].openedBy(held)
	return i, i >= 0
}

func (i *GroupInfo) openedBy(held []Held) int {
	if i.Free || i.Never {
		return -1
	}
	for n, h := range held {
		if h.Class != i.Needs.Class || h.Rights&i.Needs.Rights == 0 {
			continue
		}
		// Which endpoints a net capability reaches is for the network to
		// check, and a process is always its own self.
		if h.Class != ClassSys || h.Object == i.Needs.Object || h.Object == "*" {
			return n
		}
	}
	return -1
}

// Groups returns every group, in order of number.
func Groups() []GroupInfo { return append([]GroupInfo(nil), groups[:]...) }

// Info returns what is known of g, which must be a group.
func (g Group) Info() GroupInfo { return groups[g] }

// FirstGroup returns the lowest group of a set that is not empty.
func FirstGroup(set uint64) Group { return Group(bits.TrailingZeros64(set)) }

// FormatGroups names the groups of a set.
func FormatGroups(set uint64) string {
	var names []string
	for i := range groups {
		if set&groups[i].Group.Bit() != 0 {
			names = append(names, groups[i].Name)
		}
	}
	return strings.Join(names, "+")
}

// SysNames are the objects of class sys, sorted.
func SysNames() []string {
	var names []string
	for _, g := range groups {
		if g.Needs.Class == ClassSys {
			names = append(names, g.Needs.Object)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
