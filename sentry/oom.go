package sentry

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/trap"
)

// When an agent has more memory than its limit, something of it must end, or it
// must stand still. Which, is its owner's policy: the process with the highest
// score, the agent, or nothing until somebody has looked at it. What is chosen
// works while other tasks of the agent go on, so a policy that leaves it running
// is given a while and some room; an agent that then has still more is ended.
//
// A process that was chosen has ended when its last task has, and what it had is
// given back some time later, by gVisor. Until then nothing more is done if what the
// others have is within the limit, however long it takes: on a busy host it may be
// long, and the others are not to be blamed for it.

const (
	// oomPatience is how long a process that was chosen may take to end before
	// another is, if what the others have is too much as well: its end may free what
	// is in no memory of a process. oomBackstop is how long if it is not.
	oomPatience = 200 * time.Millisecond
	oomBackstop = 10 * time.Second
	// freezePatience is how long a freeze may take.
	freezePatience = pauseTimeout + time.Second
	// oomTable is how many processes an event tells of.
	oomTable = 16
	// Of the scores of Linux.
	scoreMax    = 1000
	scoreExempt = -1000
)

// oomMore is how much beyond that processes may have that are ended one after the other.
const oomMore = 128 << 20

// oomRoom is how much more than its limit an agent may have while a policy works.
func oomRoom(limit uint64) uint64 { return limit/8 + 32<<20 }

// agentOOM is what is done when the agent runs out of memory, and was.
type agentOOM struct {
	policy atomic.Pointer[oomPolicy]
	// times is how often it ran out of memory, kills how many processes ended
	// for it alone, groups whether all did.
	times, kills, groups atomic.Uint64
	// frozen is when it was last frozen for it, as a time since the kernel was
	// started, until it is resumed; 0: it is not.
	frozen atomic.Int64

	// Guarded by the mutex of the agent's memoryAccount.
	victims []oomProcess // that were chosen, and whose tasks have not all ended
	chosen  time.Time    // when the last was
	first   uint64       // what it had when it came to have too much
	began   uint64       // what it had when something was last done about that; 0: it has not
}

// oomPolicy is a rule and where it stands. It is replaced as a whole.
type oomPolicy struct {
	rule   trap.Rule
	ladder trap.Ladder
}

// setOOM sets the policy; "" is the usual one.
func (a *Agent) setOOM(text string) error {
	rule, err := trap.ParseOOM(text)
	if err != nil {
		return err
	}
	a.oom.policy.Store(&oomPolicy{rule: rule})
	return nil
}

// oomProcess is a process as a candidate.
type oomProcess struct {
	tg       *kernel.ThreadGroup
	task     *kernel.Task
	mm       *mm.MemoryManager
	pid      int32
	resident uint64
	adj      int32
	score    int32
}

// score is what Linux makes of a share of all memory and an adjustment.
func oomScore(resident, all uint64, adj int32) int32 {
	if adj == scoreExempt || all == 0 {
		return 0
	}
	share := int64(float64(resident) / float64(all) * scoreMax)
	return int32(min(max(share+int64(adj), 0), 2*scoreMax))
}

// candidates lists the agent's processes, the highest score first.
func (a *Agent) candidates(all uint64) []oomProcess {
	var out []oomProcess
	at := make(map[*kernel.ThreadGroup]int)
	for _, t := range a.ns.pid().Tasks() {
		tg := t.ThreadGroup()
		if _, seen := at[tg]; seen {
			continue
		}
		var m *mm.MemoryManager
		t.WithMuLocked(func(t *kernel.Task) { m = t.MemoryManager() })
		if m == nil {
			continue // It exits.
		}
		p := oomProcess{tg: tg, task: t, mm: m, pid: int32(a.ns.pid().IDOfThreadGroup(tg)), resident: m.ResidentSetSize(), adj: t.OOMScoreAdj()}
		p.score = oomScore(p.resident, all, p.adj)
		at[tg] = len(out)
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y oomProcess) int {
		return cmp.Or(cmp.Compare(y.score, x.score), cmp.Compare(y.resident, x.resident), cmp.Compare(y.pid, x.pid))
	})
	return out
}

// outOfMemory does what the policy says about an agent that has more than its
// limit. It does not wait.
//
// +checklocks:a.account.memory.mu
func (a *Agent) outOfMemory(used, limit uint64) {
	o, clock := &a.oom, a.s.cfg.Clock
	if limit == 0 {
		a.outOfMemoryKill(used, limit, nil, "its memory was taken back", "kill-agent")
		return
	}
	if a.dying.Load() {
		return
	}
	// What is being given back is no process's any more.
	returning := min(a.account.memory.returning.Load(), used)
	live := used - returning
	if o.began == 0 {
		o.first, o.began = live, live
	}
	beyond := live > o.began+oomRoom(limit)
	if at := o.frozen.Load(); at != 0 {
		if a.isPaused() || !beyond && clock.Since(a.s.started)-time.Duration(at) < freezePatience {
			return // It stands still, or is about to.
		}
	}
	list := a.candidates(limit)
	if !o.chosen.IsZero() {
		ending, left := a.ending(live)
		wait := oomPatience
		if left <= limit {
			wait = oomBackstop
		}
		if !beyond && (ending || left <= limit && returning > 0) && clock.Since(o.chosen) < wait {
			return // Its end frees what it had.
		}
		if beyond && live <= o.first+oomRoom(limit)+oomMore && a.another(list, live-o.began-oomRoom(limit)) {
			beyond = false // It is the doing of somebody else, who is the next.
		}
	}
	why := "it used more than its memory limit of " + inUnits(limit)
	if k := a.account.memory.forKernel(); k > limit/2 {
		why += ", " + inUnits(k>>20<<20) + " of it in the kernel"
	}
	policy := o.policy.Load()
	action := policy.ladder.Climb(policy.rule, clock.Since(a.s.started))
	if beyond && action != trap.Restart {
		if action != trap.KillAgent {
			why += ", and still more when " + policy.rule.String() + " was done about it"
		}
		action = trap.KillAgent
	}
	switch action {
	case trap.KillProcess:
		o.began = live
		a.outOfMemoryProcess(used, limit, list, why, policy)
	case trap.Freeze:
		o.times.Add(1)
		if o.frozen.Swap(max(int64(clock.Since(a.s.started)), 1)) == 0 {
			a.pressure.memory.change(1, a.s.uptimeNS(), true)
		}
		a.tellOOM(used, limit, list, nil, action.String(), policy.rule.String(), why)
		a.detain(false, why)
	case trap.Restart:
		a.again.Store(true)
		a.outOfMemoryKill(used, limit, list, why, action.String())
	default:
		a.outOfMemoryKill(used, limit, list, why, action.String())
	}
}

// ending reports whether a process that was chosen has not ended yet, and of live
// bytes how many are left when all have.
func (a *Agent) ending(live uint64) (ending bool, left uint64) {
	alive := make(map[*kernel.ThreadGroup]bool)
	for _, t := range a.ns.pid().Tasks() {
		if s := t.ExitState(); s == kernel.TaskExitNone || s == kernel.TaskExitInitiated {
			alive[t.ThreadGroup()] = true
		}
	}
	o := &a.oom
	o.victims = slices.DeleteFunc(o.victims, func(v oomProcess) bool { return !alive[v.tg] })
	for _, v := range o.victims {
		live -= min(v.mm.ResidentSetSize(), live)
	}
	return len(o.victims) > 0, live
}

// another reports whether what the agent has beyond its room can be one process's
// that was not chosen yet and may end without the agent.
func (a *Agent) another(list []oomProcess, excess uint64) bool {
	i := a.oom.next(list)
	return i >= 0 && list[i].tg != a.firstGroup() && list[i].resident >= excess
}

// next is the index of the process to end next, or -1.
func (o *agentOOM) next(list []oomProcess) int {
	return slices.IndexFunc(list, func(p oomProcess) bool {
		return p.adj != scoreExempt && !slices.ContainsFunc(o.victims, func(v oomProcess) bool { return v.tg == p.tg })
	})
}

// outOfMemoryKill ends the agent.
//
// +checklocks:a.account.memory.mu
func (a *Agent) outOfMemoryKill(used, limit uint64, list []oomProcess, why, action string) {
	a.oom.times.Add(1)
	a.oom.groups.Store(1)
	a.tellOOM(used, limit, list, nil, action, a.oom.policy.Load().rule.String(), why)
	a.killNow(why)
}

// outOfMemoryProcess ends the process with the highest score, or the agent if
// there is none that may end.
//
// +checklocks:a.account.memory.mu
func (a *Agent) outOfMemoryProcess(used, limit uint64, list []oomProcess, why string, policy *oomPolicy) {
	o := &a.oom
	i := o.next(list)
	if i < 0 {
		a.outOfMemoryKill(used, limit, list, why+", and no process of it may be ended", trap.KillAgent.String())
		return
	}
	p := list[i]
	if p.tg == a.firstGroup() {
		a.outOfMemoryKill(used, limit, list, why+"; process "+strconv.Itoa(int(p.pid))+" had the most, which is its first", trap.KillProcess.String())
		return
	}
	o.times.Add(1)
	o.kills.Add(1)
	o.victims, o.chosen = append(o.victims, p), a.s.cfg.Clock.Now()
	a.tellOOM(used, limit, list, &p, trap.KillProcess.String(), policy.rule.String(), why)
	a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL)) // Fails if it has ended.
}

// tellOOM puts what is done about it on the bus and into the audit trail.
func (a *Agent) tellOOM(used, limit uint64, list []oomProcess, victim *oomProcess, action, policy, why string) {
	e := &eventv1.MemoryOOM{
		Used: used, Limit: limit, Scope: "agent", Action: action, Policy: policy, Reason: event.Text(why), ProcessCount: uint32(len(list)),
	}
	for _, p := range list[:min(len(list), oomTable)] {
		e.Processes = append(e.Processes, &eventv1.MemoryOOM_Candidate{
			Pid: p.pid, Name: event.Text(p.task.Name()), Resident: p.resident, Adjustment: p.adj, Score: p.score,
		})
	}
	reason := why
	if victim != nil {
		e.Scope, e.Victim = "process", processOf(victim.task)
		e.Pids = []int32{victim.pid}
		reason = fmt.Sprintf("%s: process %d (%s) ended, with %s resident and a score of %d", why, victim.pid, victim.task.Name(), inUnits(victim.resident), victim.score)
	}
	a.s.emit(a, event.MemoryOOM, e)
	a.s.trail.put(control.AuditRecord{Record: capability.Record{Op: opOOM, Actor: "kernel", Agent: a.id, Target: action, Reason: reason}})
}

// opOOM is the operation of its record.
const opOOM = "oom"

// isPaused reports whether the agent stands still.
func (a *Agent) isPaused() bool { return a.mustBe(abi.StatePaused) == nil }

// oomKills is how many processes of v's agent ended for want of memory.
func (v *view) oomKills() uint64 {
	if v.a == nil {
		return 0
	}
	return v.a.oom.kills.Load()
}

// memoryEvents counts what was refused, and what ended for want of memory.
func (v *view) memoryEvents(buf *bytes.Buffer) {
	var refused, times, kills, groups uint64
	if v.a != nil {
		o := &v.a.oom
		refused, times, kills, groups = v.a.account.ledger.Refused(account.Memory), o.times.Load(), o.kills.Load(), o.groups.Load()
	}
	fmt.Fprintf(buf, "low 0\nhigh 0\nmax %d\noom %d\noom_kill %d\noom_group_kill %d\n", refused+times, times, kills, groups)
}

// oomGroup says whether what exceeds the limit ends all of the agent.
func (v *view) oomGroup(buf *bytes.Buffer) {
	group := 1
	if v.a != nil {
		if a := v.a.oom.policy.Load().rule.Action; a == trap.KillProcess || a == trap.Freeze {
			group = 0
		}
	}
	fmt.Fprintln(buf, group)
}

// oomScoreText is /proc/PID/oom_score: who would end first.
func oomScoreText(pidns *kernel.PIDNamespace, id kernel.ThreadID) viewText {
	return viewText{of: "oom_score", arg: strconv.Itoa(int(id)), pidns: pidns}
}

func (v *view) oomScore(pidns *kernel.PIDNamespace, id string, buf *bytes.Buffer) {
	var score int32
	n, _ := strconv.Atoi(id)
	if t := pidns.TaskWithID(kernel.ThreadID(n)); t != nil {
		if m := addressSpaceOf(t); m != nil {
			all, _, _ := v.memory()
			score = oomScore(m.ResidentSetSize(), all, t.OOMScoreAdj())
		}
	}
	fmt.Fprintln(buf, score)
}
