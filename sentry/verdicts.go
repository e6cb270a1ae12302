package sentry

import (
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/kdb"
	"aios.dev/aios/sentry/trap"
)

// A verdict is what AIOS does about an exception or a violation beyond what
// Linux would: it follows from the agent's policies, is taken on the goroutine
// of the task that is to blame, before that task executes anything more, and is
// in the audit trail and on the bus.

// opVerdict is the operation of its record.
const opVerdict = "verdict"

// setPolicies gives a new agent its policies.
func (a *Agent) setPolicies(faults, violations []string) (err error) {
	f := &a.faults
	if f.policy, err = trap.ParseFaults(faults); err != nil {
		return err
	}
	if f.violations, err = trap.ParseViolations(violations); err != nil {
		return err
	}
	f.strict = !f.violations.Plain()
	if !f.policy.Exceptionless() {
		a.setTrapper(a.judgeFault)
	}
	return nil
}

// exceptionOf says which exception it was. It must run on t's goroutine.
func exceptionOf(t *kernel.Task, ip, sp uintptr, info *linux.SignalInfo, at hostarch.AccessType) trap.Exception {
	r := trap.Raw{Signal: syscall.Signal(info.Signo), Code: info.Code, IP: uint64(ip), SP: uint64(sp)}
	if at.Any() || linux.Signal(info.Signo) == linux.SIGBUS {
		r.Addr = info.Addr()
	}
	if at.Read {
		r.Access |= trap.Read
	}
	if at.Write {
		r.Access |= trap.Write
	}
	if at.Execute {
		r.Access |= trap.Execute
	}
	if m := t.MemoryManager(); m != nil && !at.Any() {
		text, before := make([]byte, 15), make([]byte, 2)
		n, _ := m.CopyIn(awake{t}, hostarch.Addr(ip), text, usermem.IOOpts{IgnorePermissions: true})
		r.Text = text[:n]
		if n, _ := m.CopyIn(awake{t}, hostarch.Addr(ip)-2, before, usermem.IOOpts{IgnorePermissions: true}); n == len(before) {
			r.Before = before
		}
	}
	return trap.Classify(r)
}

// noteException counts an exception, and publishes it for who wants each.
func (s *Kernel) noteException(a *Agent, t *kernel.Task, e trap.Exception, handled bool) {
	f := &a.faults
	f.counts.Add(e.Vector, e.Region)
	a.pages.excepted(t, &e)
	s.storms(a, e.Vector)
	if s.events.EnabledFor(event.FaultException, a.id) {
		s.emit(a, event.FaultException, exceptionPayload(t, e, handled))
	}
}

func exceptionPayload(t *kernel.Task, e trap.Exception, handled bool) *eventv1.FaultException {
	return &eventv1.FaultException{
		Vector: uint32(e.Vector), Name: e.Vector.String(), Process: processOf(t), Address: e.Addr, Ip: e.IP, StackPointer: e.SP,
		Access: e.Access.String(), Mapping: e.Region.String(), Signal: int32(e.Signal), Code: e.Code, Handled: handled,
	}
}

// judgeFault applies the agent's policy to an exception. It is a trapFunc.
func (a *Agent) judgeFault(t *kernel.Task, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) (handled bool) {
	s, f := a.s, &a.faults
	began := s.cfg.Clock.Now()
	e := exceptionOf(t, ac.IP(), ac.Stack(), info, at)
	rule := f.policy.Rule(e.Vector)
	action := f.ladders[e.Vector].Climb(rule, s.cfg.Clock.Since(s.started))
	switch action {
	case trap.Deliver:
		return false
	case trap.Ignore: // The flag that asks to hear of misaligned accesses.
		s.noteException(a, t, e, true)
		ac.Regs.Eflags &^= alignmentFlag
		return true
	case trap.Dump:
		// The task comes here again when the dump is written, and then gets
		// its signal.
		last, now := f.dumped.Load(), s.cfg.Clock.Now().UnixNano()
		if last != 0 && now-last < int64(dumpEvery) || !f.dumped.CompareAndSwap(last, now) {
			return false // It is dumped already, or another thread has seen to it.
		}
	}
	s.noteException(a, t, e, true)
	a.act(verdict{
		task: t, action: action, policy: rule.String(), violation: e.Vector.String(), scope: action.Info().Scope, began: began,
		detail: "at " + hexOf(e.IP) + accessText(e), signal: kdb.Signal{Number: int32(e.Signal)},
	})
	return true
}

// alignmentFlag is AC in the register of flags.
const alignmentFlag = 1 << 18

// dumpEvery is how long after a dump an agent's exceptions make no other.
const dumpEvery = 10 * time.Second

func hexOf(n uint64) string {
	const digits = "0123456789abcdef"
	out := []byte{}
	for n > 0 || len(out) == 0 {
		out = append([]byte{digits[n&15]}, out...)
		n >>= 4
	}
	return "0x" + string(out)
}

func accessText(e trap.Exception) string {
	if e.Access == 0 {
		return ""
	}
	return ", " + e.Access.String() + " of " + hexOf(e.Addr) + " (" + e.Region.String() + ")"
}

// taskSettled is a hook: the kernel was told of an exception, and the task has
// its signal, or ends of it.
func (s *Kernel) taskSettled(ctx context.Context, told *platform.Exception, exits bool) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	if a == nil {
		return
	}
	sig := linux.Signal(told.Info.Signo)
	act, err := t.ThreadGroup().SetSigAction(sig, nil)
	hasHandler := err == nil && act.Handler > linux.SIG_IGN
	if exits && !told.Known {
		// It may have been resolved, and the task killed for another reason.
		if status := t.ThreadGroup().ExitStatus(); !status.Signaled() || status.TerminationSignal() != sig {
			return
		}
	} else if !exits && !told.Known && !hasHandler {
		return
	}
	e := exceptionOf(t, told.IP, told.SP, &told.Info, told.Access)
	s.noteException(a, t, e, hasHandler && !exits)
	if exits && !canDeliver(t, told.SP) {
		p := exceptionPayload(t, e, false)
		a.faults.counts.Add(trap.DoubleFault, trap.RegionStack)
		s.emit(a, event.FaultDouble, p)
	}
}

// canDeliver reports whether there is a stack to run a signal's handler on. If
// not, a signal cannot be delivered even if there is a handler, which the kernel
// has forgotten when it ends the process for that.
func canDeliver(t *kernel.Task, sp uintptr) bool {
	if alt := t.SignalStack(); alt.Flags&linux.SS_DISABLE == 0 && alt.Size > 0 {
		return true
	}
	m := t.MemoryManager()
	if m == nil {
		return true
	}
	const redZone, frame = 128, 1024
	var word [1]byte
	_, err := m.CopyOut(awake{t}, hostarch.Addr(sp)-redZone-frame, word[:], usermem.IOOpts{})
	return err == nil
}

// violated applies the agent's policy to something that was refused. t may be
// nil when it is not known who did it.
func (a *Agent) violated(t *kernel.Task, v trap.Violation, what string) {
	f := &a.faults
	if !f.strict {
		return
	}
	rule := f.violations.Rule(v)
	action := f.violationLadders[v].Climb(rule, a.s.cfg.Clock.Since(a.s.started))
	if action == trap.Deny {
		return
	}
	if action == trap.KillProcess && t == nil {
		action = trap.KillAgent
	}
	a.act(verdict{
		task: t, action: action, policy: rule.String(), violation: v.String(), scope: action.Info().Scope, began: a.s.cfg.Clock.Now(), detail: what, security: true,
	})
}

// violationOf is the kind that a refusal is of.
func violationOf(info abi.GroupInfo) trap.Violation {
	if info.Never {
		return trap.ViolatesEscape
	}
	if info.Needs.Class == abi.ClassMem && info.Needs.Rights.Has(abi.MemExec) {
		return trap.ViolatesExec
	}
	if class, ok := info.Needs.Class.Info(); ok {
		if v, err := trap.ParseViolation(class.Name); err == nil {
			return v
		}
	}
	return trap.ViolatesSys
}

// verdict is one that was reached.
type verdict struct {
	task      *kernel.Task // whose fault it is, or nil
	action    trap.Action
	scope     trap.Scope
	policy    string
	violation string
	detail    string
	signal    kdb.Signal
	security  bool
	began     time.Time
}

// act does what a verdict says. It does not wait, and the task that it is about
// executes nothing more before it is done.
func (a *Agent) act(v verdict) {
	s := a.s
	why := "policy " + v.policy + ": " + v.violation
	if v.security {
		why = "policy " + v.policy + ": violation of " + v.violation
	}
	if v.detail != "" {
		why += " " + v.detail
	}
	switch v.action {
	case trap.Deliver: // Of a watchdog: a fault has its signal without a verdict.
		a.abort()
	case trap.KillProcess:
		if v.task.ThreadGroup() == a.firstGroup() {
			a.dying.Store(true)
		}
		s.k.SendExternalSignalThreadGroup(v.task.ThreadGroup(), kernel.SignalInfoPriv(linux.SIGKILL)) // Fails if it has ended.
	case trap.Restart:
		a.again.Store(true)
		a.killNow(why)
	case trap.KillAgent:
		a.killNow(why)
	case trap.Freeze, trap.Quarantine:
		a.detain(v.action == trap.Quarantine, why)
	case trap.Dump:
		s.dumpAgent(a, why, v.task, v.signal, nil)
	case trap.KillDomain:
		s.fall(a, why)
	}
	p := &eventv1.FaultVerdict{
		Scope: v.scope.String(), Policy: v.policy, Action: v.action.String(), Blame: "agent", Violation: v.violation,
		Detail: event.Text(v.detail), Took: int64(s.cfg.Clock.Since(v.began)),
	}
	if v.task != nil {
		p.Process = processOf(v.task)
	}
	s.emit(a, event.FaultVerdict, p)
	s.trail.put(control.AuditRecord{Record: capability.Record{Op: opVerdict, Actor: "kernel", Agent: a.id, Target: v.action.String(), Reason: why}})
}

// firstGroup is the thread group of the agent's first process, nil if it has
// none.
func (a *Agent) firstGroup() *kernel.ThreadGroup {
	p, err := a.process(0)
	if err != nil {
		return nil
	}
	return p.tg
}

// detain pauses the agent, and takes back all it was granted if it is to be
// quarantined. Nothing of it executes from here on.
func (a *Agent) detain(quarantine bool, why string) {
	h := a.halt(nil)
	go func() {
		defer h.release()
		if quarantine {
			n := a.strip(why)
			a.s.emit(a, event.AgentQuarantine, &eventv1.AgentQuarantine{By: "policy", Reason: event.Text(why), Revoked: uint32(n)})
		}
		// It fails if the agent is paused already, or ends.
		_ = a.s.pauseFor(a, "policy")
	}()
}

// strip takes back all that the agent was granted or has handed on, and leaves
// what it is made of: its memory, its processes, its own files. It returns how
// many capabilities ended.
func (a *Agent) strip(why string) int {
	by := capability.Actor{Name: "kernel", Privileged: true}
	var dead []*capability.Capability
	for _, c := range a.s.space.List(a.id) {
		self := a.isMadeOf(c.Spec().String())
		ended, err := a.s.space.Revoke(c, !self, by, why)
		if err == nil {
			dead = append(dead, ended...)
		}
	}
	if exports := a.s.exportsOf(dead); len(exports) > 0 {
		a.s.ask(control.Ask{Kind: control.AskRevoke, Agent: a.id, Exports: exports, Actor: control.Actor{Name: "kernel"}})
	}
	return len(dead)
}

// killNow is kill of all processes at once: what only the end of the first one
// would end executes nothing more either.
func (a *Agent) killNow(why string) {
	a.kill(why)
	for _, tg := range a.ns.pid().ThreadGroups() {
		a.s.k.SendExternalSignalThreadGroup(tg, kernel.SignalInfoPriv(linux.SIGKILL)) // Fails for those that have ended.
	}
}

const (
	// fallDelay is how long a domain that falls has to say so at least, and
	// how often it then looks whether the audit trail is whole.
	fallDelay = 50 * time.Millisecond
	// fallPatience is how long it waits for that: without a daemon nobody
	// writes the trail.
	fallPatience = 2 * time.Second
)

// fall ends the domain. It does not wait.
func (s *Kernel) fall(a *Agent, why string) {
	s.fallStuck(a, why)
	a.halt(nil)
}

// fallStuck is fall of a kernel in which a lock may be held for ever: it leaves
// alone what it would have to lock.
func (s *Kernel) fallStuck(a *Agent, why string) {
	s.emit(a, event.FaultTriple, &eventv1.FaultException{Name: "domain", Mapping: event.Text(why)})
	s.cfg.Clock.AfterFunc(fallDelay, func() { s.fallen(s.cfg.Clock.Now()) })
}

// fallen ends the process when its audit records are written, or nobody has
// written them for long enough.
func (s *Kernel) fallen(since time.Time) {
	if s.trail.written() || s.cfg.Clock.Since(since) >= fallPatience {
		s.cfg.Exit(fallStatus)
		return
	}
	s.cfg.Clock.AfterFunc(fallDelay, func() { s.fallen(since) })
}

// fallStatus is the exit status of a kernel process whose policy ended it.
const fallStatus = 70
