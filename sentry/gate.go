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
			if !s.mayAddTask(t) {
				return 0, nil, linuxerr.EAGAIN
			}
			tid, ctrl, err := inner(t, sysno, args)
			if err == nil {
				s.taskCloned(t, kernel.ThreadID(tid))
			}
			return tid, ctrl, err
		}
		table.Table[nr] = call
	}
	table.Init()
}

// mayAddTask reports whether the agent of t is below its limit of tasks.
// Threads count, as in a pids cgroup. Calls that overlap may each see the last
// free place, so an agent can exceed its limit by as many tasks as it has
// calls in progress, once.
func (s *Kernel) mayAddTask(t *kernel.Task) bool {
	a := s.agentOf(t)
	return a == nil || a.limits.Tasks == 0 || a.ns.pid.NumTasks() < int(a.limits.Tasks)
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
