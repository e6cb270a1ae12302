package sentry

import (
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// Calls that make a task.
const (
	sysClone  = 56
	sysFork   = 57
	sysVfork  = 58
	sysClone3 = 435
)

// gateCalls wraps the calls of the system call table at which an agent's
// limits are checked and its processes are noted. It must run before the first task exists.
func (s *Kernel) gateCalls(table *kernel.SyscallTable) {
	for _, nr := range []uintptr{sysClone, sysFork, sysVfork, sysClone3} {
		call := table.Table[nr]
		inner := call.Fn
		call.Fn = func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			a := s.agentOf(t)
			if !a.beginClone() {
				return 0, nil, linuxerr.EAGAIN
			}
			tid, ctrl, err := inner(t, sysno, args)
			a.endClone()
			if err == nil {
				s.taskCloned(t, kernel.ThreadID(tid))
			}
			return tid, ctrl, err
		}
		table.Table[nr] = call
	}
	table.Init()
}

// beginClone reserves a place for one more task, and reports whether there was
// one. Threads count, as in a pids cgroup. A task that exists while its call
// has not ended counts twice, so calls that overlap may be refused a few
// places early, but the limit holds. A nil agent has none.
func (a *Agent) beginClone() bool {
	if a == nil || a.limits.Tasks == 0 {
		return true
	}
	if int(a.cloning.Add(1))+a.ns.pid.NumTasks() <= int(a.limits.Tasks) {
		return true
	}
	a.cloning.Add(-1)
	return false
}

// endClone ends what a successful beginClone began.
func (a *Agent) endClone() {
	if a != nil && a.limits.Tasks != 0 {
		a.cloning.Add(-1)
	}
}

// agentOf returns the agent that t belongs to, or nil for the pause process.
func (s *Kernel) agentOf(t *kernel.Task) *Agent {
	id := t.ContainerID()
	if id == "" {
		return nil
	}
	a, _ := s.byID.Load(id)
	agent, _ := a.(*Agent)
	return agent
}
