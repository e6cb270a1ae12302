package sentry

import (
	"fmt"
	"runtime/debug"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// A panic while the kernel works for one agent's task (a nil pointer, an index
// out of range, an assertion) ends that agent, not the domain: it is recovered
// where the system call was begun, or where the platform ran the task. What the
// task held with a deferred unlock it has let go of by then. What it held
// otherwise it holds for ever, so the domain only goes on if two things are
// seen soon: every lock that agents share can still be taken, and the agent
// ends. If not, the domain ends, and only it.
//
// A panic on a goroutine of the kernel's own cannot be recovered: Go ends the
// process, and the domain with it.

// Bounds of what is looked at after a panic.
const (
	panicProbe = 2 * time.Second // for every shared lock
	panicEnd   = 5 * time.Second // for the agent to be gone
	maxStack   = 16 << 10        // bytes of a stack that are kept
)

// containCall makes a panic in a system call the end of its agent.
func (s *Kernel) containCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (n uintptr, ctrl *kernel.SyscallControl, err error) {
		done := false
		defer func() {
			if !done {
				n, ctrl, err = 0, nil, linuxerr.EFAULT
				s.panicked(t, call.Name, recover(), debug.Stack())
			}
		}()
		n, ctrl, err = inner(t, sysno, args)
		if s.debuggers.Load() != 0 {
			s.callReturned(t, call)
		}
		done = true
		return n, ctrl, err
	}
}

// taskPanicked is a hook: the platform, or a hook of it, has panicked.
func (s *Kernel) taskPanicked(ctx context.Context, cause any) {
	if t, ok := ctx.(*kernel.Task); ok {
		s.panicked(t, "", cause, debug.Stack())
	}
}

// panicked ends the agent of t and sees whether the domain can go on. It runs
// on t's goroutine and does not wait.
func (s *Kernel) panicked(t *kernel.Task, call string, cause any, stack []byte) {
	a := s.agentOf(t)
	if a == nil {
		panic(cause) // The kernel's own process: there is nothing to go on with.
	}
	message := fmt.Sprint(cause)
	why := "the kernel panicked in " + call + ": " + message
	if call == "" {
		why = "the kernel panicked while it ran its program: " + message
	}
	stack = stack[:min(len(stack), maxStack)]
	process := processOf(t)
	a.killNow(why)
	go func() {
		probe := s.probe(a)
		p := &eventv1.KernelPanic{
			Call: call, Message: event.Text(message), Stack: string(stack), Contained: probe == "", Scope: "agent", Probe: probe, Process: process,
		}
		if probe != "" {
			p.Scope = "domain"
		}
		s.emit(a, event.KernelPanic, p)
		s.trail.put(control.AuditRecord{Record: capability.Record{
			Op: opVerdict, Actor: "kernel", Agent: a.id, Target: p.GetScope() + " ended, AIOS is to blame", Reason: why,
		}})
		if probe != "" {
			s.fallStuck(a, why+"; "+probe)
		}
	}()
}

// probe takes every lock that agents share, one after the other, and waits for
// an agent's end. It returns what did not happen in time, "" if all did.
func (s *Kernel) probe(a *Agent) string {
	for _, l := range append(s.sharedLocks(), sharedLock{"the lock of the audit trail", func() { s.trail.flush() }}) {
		if !within(s, panicProbe, l.take) {
			return l.name + " is held"
		}
	}
	if !within(s, panicEnd, func() { <-a.told }) {
		return "the agent does not end"
	}
	return ""
}

// sharedLock is a lock that agents share; take takes it and lets go of it.
type sharedLock struct {
	name string
	take func()
}

// tryMounts takes the lock of mounts and lets go of it.
//
// +checklocksignore: the analysis does not know TryRLock.
func (s *Kernel) tryMounts() {
	if !s.still.TryRLock() {
		return // What is being saved must not change; nobody else moves either.
	}
	defer s.still.RUnlock()
	ctx := s.k.SupervisorContext()
	root := s.pause.task.FSContext().RootDirectory()
	_, _ = s.k.VFS().PathnameWithDeleted(ctx, root, root)
	root.DecRef(ctx)
}

// sharedLocks are those that every call of the kernel may need.
func (s *Kernel) sharedLocks() []sharedLock {
	return []sharedLock{
		{"the lock of tasks", func() { s.k.TaskSet().Root.Tasks() }},
		{"the lock of agents", func() { _, _ = s.agent("") }},
		{"the lock of authority", func() { s.space.List("") }},
		{"the lock of mounts", s.tryMounts},
		{"the lock of memory", func() { _, _ = s.k.MemoryFile().TotalUsage() }},
	}
}

// within reports whether f returned in time. If not, its goroutine stays.
func within(s *Kernel, limit time.Duration, f func()) bool {
	done, late := make(chan struct{}), make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	timer := s.cfg.Clock.AfterFunc(limit, func() { close(late) })
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-late:
		return false
	}
}
