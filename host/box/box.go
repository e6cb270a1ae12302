// Package box confines the helper processes of AIOS: the kernel process of a
// domain and the gofer that serves a host directory.
//
// A kernel process interprets every system call of untrusted agents. The boxes
// around it assume that an agent has taken it over, and leave such an agent
// with nothing. In the order in which they close:
//
//	cgroup             bounds memory, processes and CPU time; package cgroup,
//	                   named here because its report stands with the others
//	user namespace     the process is "nobody", and what capabilities it holds
//	                   count only against its own namespaces
//	mount namespace    its mounts are its own, so that the root can be emptied
//	pid namespace      it sees and signals no process of the host, and its
//	                   stubs die with it
//	ipc, uts and       it shares no System V object, host name or network with
//	net namespaces     the host; the network namespace has no interface
//	descriptors        what it inherited by accident is closed
//	empty root         it can name no file of the host
//	capabilities       none is left, nor can be had again
//	no new privileges  no program can hand it any
//	seccomp            of the host's system calls it reaches those it needs,
//	                   with the arguments it needs; the rest kill it
//
// The parent calls Prepare on the command that starts the child; the host
// decides which namespaces it grants. The child calls Apply as the first thing
// in main, starts what it needs, and calls InstallProgram before it runs
// anything untrusted. PrepareGofer and ApplyGofer are the same for a gofer,
// which keeps its user's identity and one directory.
//
// Each box that the host refuses is a Report, not a failure: the others still
// stand. Refused turns reports into an error for those who want all or
// nothing. One thing is never attempted: changing mounts without a mount
// namespace of one's own.
//
// A child must be started through /proc/self/exe: as "nobody" it may be unable
// to walk to its own program. For the same reason it opens nothing in the
// state directory; what it needs is handed down as descriptors. The death of
// the parent is not the child's: no parent-death signal is set.
//
// Program bytes come from package filter, which knows gVisor; this package
// does not and must not.
//
// Prepare may be called from many goroutines. Apply, ApplyGofer and
// InstallProgram change the whole process and belong to main alone.
package box

import (
	"strings"

	"aios.dev/aios/errdefs"
)

// The names of the boxes in reports.
const (
	UserNamespace   = "user namespace"
	MountNamespace  = "mount namespace"
	PIDNamespace    = "pid namespace"
	IPCNamespace    = "ipc namespace"
	UTSNamespace    = "uts namespace"
	NetNamespace    = "network namespace"
	Cgroup          = "cgroup"
	Descriptors     = "descriptors"
	EmptyRoot       = "empty root"
	Capabilities    = "capabilities"
	NoNewPrivileges = "no new privileges"
	Seccomp         = "seccomp"
)

// Report says how the host answered to one box.
type Report struct {
	// Box is one of the names above.
	Box string `json:"box"`
	// OK is true when the box stands.
	OK bool `json:"ok"`
	// Reason says why it does not, or what is notable about it.
	Reason string `json:"reason,omitempty"`
	// Effect says what the missing box leaves open.
	Effect string `json:"effect,omitempty"`
}

// effects is what is left open without each box.
var effects = map[string]string{
	UserNamespace:   "the process runs as its user on the host; what that user owns is protected by the other boxes only",
	MountNamespace:  "the process shares the host's mounts",
	PIDNamespace:    "the process can see the host's processes; seccomp bounds what it can do to them",
	IPCNamespace:    "System V and POSIX queues of the host are in reach of a process that gets past seccomp",
	UTSNamespace:    "the host's name is visible",
	NetNamespace:    "the host's network is in reach of a process that gets past seccomp",
	Cgroup:          "memory, processes and CPU time of the domain are bounded by AIOS only, not by the host",
	Descriptors:     "descriptors inherited by accident stay open",
	EmptyRoot:       "the host's files can be named; seccomp refuses to open any by path",
	Capabilities:    "the process keeps capabilities; seccomp bounds what they are good for",
	NoNewPrivileges: "a set-user-ID program could raise privileges; seccomp refuses to execute any",
	Seccomp:         "every system call of the host is in reach of the process",
}

// Stands returns the report of a box that stands.
func Stands(box string) Report { return Report{Box: box, OK: true} }

// Missing returns the report of a box that the host refused.
func Missing(box, reason string) Report {
	return Report{Box: box, Reason: reason, Effect: effects[box]}
}

// Refused returns a BOX_REFUSED error that names every box that does not
// stand, or nil.
func Refused(reports []Report) error {
	var reasons []string
	names := make(map[string][]string) // by reason, which several boxes may have in common
	for _, r := range reports {
		if r.OK {
			continue
		}
		if names[r.Reason] == nil {
			reasons = append(reasons, r.Reason)
		}
		names[r.Reason] = append(names[r.Reason], r.Box)
	}
	if len(reasons) == 0 {
		return nil
	}
	for i, why := range reasons {
		reasons[i] = strings.Join(names[why], ", ") + ": " + why
	}
	return errdefs.New(errdefs.BoxRefused, "refused "+strings.Join(reasons, "; refused "), errdefs.Op("confine the kernel process"),
		errdefs.Fix("run without --strict to go on with the other boxes, or see what the host lacks with `aiosctl doctor`"))
}
