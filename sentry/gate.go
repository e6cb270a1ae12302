package sentry

import (
	"math"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// The gate stands in front of every system call. What a call needs is in
// package abi: a group, and a rule about its arguments. What an agent has is
// one word, a bit for each group, which follows its capabilities; a change to
// it counts from the next call of any of its tasks.
//
// Calls of the free groups are not wrapped, unless something else wants to
// see them (gate_io.go, gate_memory.go). The others cost the way from the task
// to its agent, one atomic load and, where there is a rule, a look at the
// arguments. Only when something is missing does the gate look further: at
// the socket or file behind a descriptor, at who a process ID names
// (gate_look.go).

// agentGate is the gate's part of an agent. Its zero value lets nothing
// through but the free groups.
type agentGate struct {
	mask  atomic.Uint64
	meter atomic.Pointer[ioMeter]
	guard atomic.Pointer[memoryGuard]
}

// setMask sets the groups that the agent's calls may be of.
func (a *Agent) setMask(mask uint64) { a.gate.mask.Store(mask | abi.MaskNone()) }

// kernelGate is the gate's part of the kernel.
type kernelGate struct {
	index agentIndex
	// unclassified counts calls that gVisor knows and package abi does not.
	unclassified atomic.Uint64
	denials      denials
}

// gateCalls puts the gate into the system call table. It must run before the
// first task exists.
func (s *Kernel) gateCalls(table *kernel.SyscallTable) {
	s.gate.denials.init(s.cfg.Clock)
	for nr, entry := range table.Table {
		entry.Fn = s.gateCall(nr, entry.Fn)
		table.Table[nr] = entry
	}
	ioctl := table.Table[unix.SYS_IOCTL]
	ioctl.Fn = s.mapByIoctl(ioctl.Fn, table.Table[unix.SYS_MMAP].Fn)
	table.Table[unix.SYS_IOCTL] = ioctl
	table.Init()
}

// gateCall returns inner with everything in front of it that call nr needs.
func (s *Kernel) gateCall(nr uintptr, inner kernel.SyscallFn) kernel.SyscallFn {
	call, ok := abi.SyscallByNumber(nr)
	if !ok {
		return func(*kernel.Task, uintptr, arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			s.gate.unclassified.Add(1)
			return 0, nil, linuxerr.ENOSYS
		}
	}
	inner = s.meterCall(call, s.readPieces(call, s.guardCall(call, s.traceCall(call, s.timeCall(call, s.schedCall(call, s.noteCall(call, s.warmCall(call, s.swapCall(call, s.clockCall(call, s.heapCall(call, s.deviceCall(call, s.againWhen(call, inner)))))))))))))
	switch call.Name {
	case "pidfd_send_signal":
		inner = s.sendSignal(call)
	case "pidfd_getfd":
		inner = s.ownDescriptors(call, inner)
	}
	switch call.Rule {
	case abi.RuleClone3:
		inner = s.gateClone3(call, inner)
	case abi.RuleProtect:
		inner = s.tellProtect(call, inner)
	}
	if call.Group == abi.GroupSpawn {
		inner = s.countClone(call, inner)
	}
	switch {
	case call.May()&^abi.MaskNone() == 0:
	case call.Rule == abi.RulePlain:
		inner = s.gatePlain(call, inner)
	default:
		inner = s.gateRule(call, inner)
	}
	if s.cfg.Chaos {
		inner = s.injectFaults(call, inner)
	}
	return s.containCall(call, inner)
}

// gatePlain checks the call's group.
func (s *Kernel) gatePlain(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	bit := call.Group.Bit()
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if s.maskOf(t)&bit == 0 {
			return s.refuse(t, call, call.Group, "")
		}
		return inner(t, sysno, args)
	}
}

// gateRule checks what the call needs with these arguments.
func (s *Kernel) gateRule(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	look := s.lookFor(call)
	may := call.May()
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		mask := s.maskOf(t)
		if may&^mask == 0 {
			return inner(t, sysno, args)
		}
		return look(t, sysno, args, mask, inner)
	}
}

// everything is the mask of tasks that belong to no agent.
const everything = ^uint64(0)

// maskOf returns the groups that t's calls may be of. A task of an agent that
// is not known any more has the free ones only.
func (s *Kernel) maskOf(t *kernel.Task) uint64 {
	id := t.ContainerID()
	if id == "" {
		return everything
	}
	if a := s.findAgent(id); a != nil {
		return a.gate.mask.Load()
	}
	return abi.MaskNone()
}

// refuse makes the answer to a call that needs group, and says so to whoever
// listens. what is the thing that the call was about, if it is known.
func (s *Kernel) refuse(t *kernel.Task, call abi.Syscall, group abi.Group, what string) (uintptr, *kernel.SyscallControl, error) {
	return 0, nil, s.deny(t, call.Name, group, what)
}

// deny notes a refusal, of a system call or by another door that asks for the
// same groups, and returns the errno of it.
func (s *Kernel) deny(t *kernel.Task, operation string, group abi.Group, what string) error {
	info := group.Info()
	d := Denial{Agent: t.ContainerID(), Operation: operation, Object: what, Errno: info.Errno, Never: info.Never}
	if !info.Never {
		d.Capability = info.Needs.String()
	}
	s.gate.denials.note(d)
	if a := s.agentOf(t); a != nil && a.faults.strict {
		a.violated(t, violationOf(info), strings.TrimSpace(operation+" "+what))
	}
	return linuxerr.ErrorFromUnix(info.Errno)
}

// overLimit notes a call that would have taken more than the agent was granted:
// it has the right to the call, but no more of what it takes.
func (s *Kernel) overLimit(t *kernel.Task, call abi.Syscall, what string) {
	info := call.Group.Info()
	s.gate.denials.note(Denial{
		Agent: t.ContainerID(), Operation: call.Name, Object: what, Errno: info.Errno,
		Capability: info.Needs.String(), Why: "it has as much as it was granted by " + info.Needs.String(),
	})
}

// countClone keeps the agent's limit of tasks, and notes its processes.
func (s *Kernel) countClone(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if !a.beginClone() {
			s.overLimit(t, call, "one more process or thread")
			return 0, nil, linuxerr.EAGAIN
		}
		tid, ctrl, err := inner(t, sysno, args)
		a.endClone()
		if err == nil {
			s.taskCloned(t, kernel.ThreadID(tid))
			if a != nil {
				a.noteClone(call, t, kernel.ThreadID(tid), args)
			}
		}
		return tid, ctrl, err
	}
}

// beginClone reserves a place for one more task, and reports whether there was
// one. Threads count, as in a pids cgroup. A task that exists while its call
// has not ended counts twice, so calls that overlap may be refused a few
// places early, but the limit holds. A nil agent has none.
func (a *Agent) beginClone() bool {
	if a == nil {
		return true
	}
	if int64(a.cloning.Add(1))+int64(a.ns.pid().NumTasks()) <= int64(min(a.taskLimit(), math.MaxInt64)) {
		return true
	}
	a.cloning.Add(-1)
	return false
}

// endClone ends what a successful beginClone began.
func (a *Agent) endClone() {
	if a != nil {
		a.cloning.Add(-1)
	}
}

// interruptTasks makes every call in which a task of the agent waits come back
// to the gate. They begin anew by themselves; those of which againCalls cannot say
// what time is left return EINTR.
func (a *Agent) interruptTasks() {
	for _, t := range a.ns.pid().Tasks() {
		t.BeginExternalStop()
		t.EndExternalStop()
	}
}
