package sentry

import (
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	gvsched "gvisor.dev/gvisor/pkg/sentry/kernel/sched"
	"gvisor.dev/gvisor/pkg/sentry/limits"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
	"aios.dev/aios/sentry/trap"
)

// agentAccount is what an agent uses, and its limits. Limits follow the
// agent's capabilities and may change at any time; account.Unlimited is none.
type agentAccount struct {
	ledger *account.Ledger
	// bytes and ops meter what the agent reads and writes.
	bytes, ops *account.Bucket
	noIO       atomic.Bool  // it may not read and write at all
	delayed    atomic.Int64 // nanoseconds its tasks were held back for them
	// set is the CPUs that it sees; nil before that is known.
	set      atomic.Pointer[smp.Set]
	capacity cpuCapacity // that there was for it
	before   sched.Usage // in the kernel that it was restored from
	load     smp.Load
	// started is how many tasks it has had, and lastTask the number of the last.
	started  atomic.Uint64
	lastTask atomic.Int32
	// mappings is how many its address spaces may have together.
	mappings atomic.Uint64
	memory   memoryAccount
}

// ioBurst is how long an agent that did no I/O may make up for it.
const ioBurst = 100 * time.Millisecond

// openAccount gives a new agent its account. Its other limits follow its
// capabilities.
func (a *Agent) openAccount(disk uint64) {
	clock := a.s.cfg.Clock
	acc := &a.account
	acc.ledger = account.NewLedger(func(c account.Crossing) {
		a.tellLimit(c)
		if a.s.cfg.OnLimit != nil {
			a.s.cfg.OnLimit(a.id, c)
		}
	})
	acc.bytes = account.NewBucket(clock, account.Unlimited, ioBurst)
	acc.ops = account.NewBucket(clock, account.Unlimited, ioBurst)
	acc.capacity.first(a.seenCPUs().Len())
	acc.mappings.Store(account.Unlimited)
	a.oom.policy.Store(&oomPolicy{rule: trap.Rule{Action: trap.KillAgent}})
	acc.memory.room.Store(math.MaxInt64)
	disk = orUnlimited(disk) // Kept by the file system.
	acc.ledger.SetLimits(account.Disk, softLimit(disk), disk)
	a.s.pressure.begin(a.s)
	a.setMeter(accountMeter{a})
	a.setGuard(accountGuard{a})
}

// orUnlimited translates a limit of which zero is none.
func orUnlimited(n uint64) uint64 {
	if n == 0 {
		return account.Unlimited
	}
	return n
}

// softLimit is where the agent's owner is told that it nears a hard limit.
func softLimit(hard uint64) uint64 {
	if hard == account.Unlimited {
		return hard
	}
	return hard - hard/10
}

// setCPUQuota lets the agent use so many thousandths of a CPU from now on:
// none at all if that is zero. It then sees as many CPUs as it can use, of those
// that it was granted and the host allows the domain.
//
// +checklocks:a.authMu
func (a *Agent) setCPUQuota(milli uint64) {
	set := a.s.usableCPUs()
	if own := a.cpuParams.CPUs.And(set); !own.Empty() {
		set = own
	}
	n := uint32(set.Len())
	if milli < uint64(n)*1000 {
		n = max(1, uint32((milli+999)/1000))
	}
	for uint32(set.Len()) > n { // It could not use more at once.
		last := 0
		set.All(func(cpu int) bool { last = cpu; return true })
		set.Remove(last)
	}
	if old := a.account.set.Swap(&set); old != nil && *old == set {
		return
	}
	if a.account.started.Load() == 0 {
		a.account.capacity.first(set.Len())
	} else {
		a.account.capacity.upTo(a.s.uptimeNS(), set.Len())
	}
	// A task that is being cloned may have taken the old mask over.
	seen := make(map[*kernel.Task]bool)
	for again := true; again; {
		again = false
		for _, t := range a.ns.pid().Tasks() {
			if !seen[t] {
				seen[t], again = true, true
				t.SetCPUMask(a.s.cpuMask(a.id)) // Fails for an empty mask only.
			}
		}
	}
}

// cpuMask is the CPUs that an agent's tasks may name.
func (s *Kernel) cpuMask(id string) gvsched.CPUSet {
	n := uint(s.cfg.CPUs)
	mask := gvsched.NewCPUSet(n)
	s.cpuSetOf(id).All(func(cpu int) bool {
		mask.Set(uint(cpu))
		return true
	})
	return mask
}

// cpuSetOf is the same, as a set.
func (s *Kernel) cpuSetOf(id string) smp.Set {
	if a := s.findAgent(id); a != nil {
		return a.seenCPUs()
	}
	return s.usableCPUs()
}

// seenCPUs is the CPUs that the agent sees.
func (a *Agent) seenCPUs() smp.Set {
	if set := a.account.set.Load(); set != nil {
		return *set
	}
	return a.s.usableCPUs()
}

// setIOLimits bounds what the agent reads and writes, in bytes and calls per
// second.
func (a *Agent) setIOLimits(bytesPerSec, opsPerSec uint64) {
	a.account.noIO.Store(bytesPerSec == 0 || opsPerSec == 0)
	a.account.bytes.SetRate(bytesPerSec)
	a.account.ops.SetRate(opsPerSec)
}

// setTaskLimit bounds how many processes and threads the agent has.
func (a *Agent) setTaskLimit(n uint64) {
	a.account.ledger.SetLimits(account.Tasks, softLimit(n), n)
}

// taskLimit is what setTaskLimit set.
func (a *Agent) taskLimit() uint64 {
	_, hard := a.account.ledger.Limits(account.Tasks)
	return hard
}

// accountMeter charges an agent's I/O. A call that goes over a rate is not
// held back itself: what it has done is done. The next one waits.
type accountMeter struct{ a *Agent }

// Before implements ioMeter.Before.
func (m accountMeter) Before(t *kernel.Task, _ ioDirection) error {
	acc := &m.a.account
	if acc.noIO.Load() {
		m.a.s.gate.denials.note(Denial{Agent: m.a.id, Operation: "read or write", Capability: "io:self", Errno: syscall.EPERM})
		return linuxerr.EPERM
	}
	wait := max(acc.bytes.Owed(), acc.ops.Owed())
	if wait == 0 {
		return nil
	}
	done := m.a.stalled(&m.a.pressure.io)
	left, err := t.BlockWithTimeout(nil, true, wait)
	done()
	acc.delayed.Add(int64(wait - left))
	if linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
		return nil
	}
	return err
}

// After implements ioMeter.After.
func (m accountMeter) After(t *kernel.Task, dir ioDirection, bytes uint64) {
	acc := &m.a.account
	if dir&ioRead != 0 {
		acc.ledger.Add(account.ReadOps, 1)
		acc.ledger.Add(account.ReadBytes, bytes)
	}
	if dir&ioWrite != 0 {
		acc.ledger.Add(account.WriteOps, 1)
		acc.ledger.Add(account.WriteBytes, bytes)
	}
	acc.bytes.Take(bytes)
	acc.ops.Take(1)
	// The buffer may be fresh memory, and the file kept in memory.
	m.a.moved(bytes)
}

// Account returns what an agent uses and used, also after its end.
func (s *Kernel) Account(req control.AgentRequest) (account.Snapshot, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return account.Snapshot{}, err
	}
	return a.snapshot(), nil
}

// Accounts returns what every agent uses that runs. Memory is counted once for
// all.
func (s *Kernel) Accounts(struct{}) (control.AccountsReply, error) {
	var agents []*Agent
	for _, a := range s.allAgents() {
		if a.mustBe(abi.StateRunning, abi.StatePaused, abi.StateTemplate) == nil {
			agents = append(agents, a)
		}
	}
	s.watch.refresh(agents...)
	r := control.AccountsReply{Agents: make(map[string]account.Snapshot, len(agents))}
	for _, a := range agents {
		r.Agents[a.id] = a.reckon()
	}
	return r, nil
}

// cpuUse is what the agent has used of the CPUs, before a restore too.
func (a *Agent) cpuUse() sched.Usage {
	u, was := a.crowd.Group().Usage(), a.account.before
	u.User += was.User
	u.System += was.System
	u.Stopped += was.Stopped
	u.Periods += was.Periods
	u.Stops += was.Stops
	return u
}

// measure brings the ledger up to date with what is not charged as it happens.
// Memory is that of the last look.
func (a *Agent) measure() {
	l := a.account.ledger
	u := a.cpuUse()
	l.Measure(account.CPUTime, uint64(u.User+u.System))
	a.mu.Lock()
	ended := a.state.Final()
	a.mu.Unlock()
	if ended {
		for _, r := range []account.Resource{account.Memory, account.Tasks, account.Files, account.Disk, account.Regions, account.SemanticItems, account.SemanticBytes} {
			l.Measure(r, 0)
		}
		return
	}
	l.Measure(account.Memory, memoryOf(a))
	l.Measure(account.Tasks, uint64(a.ns.pid().NumTasks()))
	files, limit := a.files()
	l.Measure(account.Files, files)
	if _, hard := l.Limits(account.Files); hard != limit {
		l.SetLimits(account.Files, account.Unlimited, limit)
	}
	l.Measure(account.Disk, a.disk())
	l.Measure(account.Regions, a.fabric.charged.Load())
	l.Measure(account.SemanticItems, a.remembered.items.Load())
	l.Measure(account.SemanticBytes, a.remembered.bytes.Load())
}

// snapshot returns the agent's account.
func (a *Agent) snapshot() account.Snapshot {
	a.mu.Lock()
	ended := a.state.Final()
	a.mu.Unlock()
	if !ended {
		a.account.memory.kernel.measure(a)
		a.s.watch.refresh(a)
	}
	return a.reckon()
}

// reckon is snapshot with the memory of the last look.
func (a *Agent) reckon() account.Snapshot {
	a.measure()
	acc := &a.account
	u := a.cpuUse()
	l := acc.ledger
	snap := account.Snapshot{
		CPU: account.CPUUse{
			UserNS: uint64(u.User), SystemNS: uint64(u.System), CPUs: uint64(a.seenCPUs().Len()),
			Periods: u.Periods, Throttled: u.Stops, ThrottledNS: uint64(u.Stopped),
		},
		Memory: account.MemoryUse{Gauge: l.Gauge(account.Memory), Faults: a.crowd.Faults(), Kinds: a.faultUse()},
		IO: account.IOUse{
			ReadBytes: l.Used(account.ReadBytes), WriteBytes: l.Used(account.WriteBytes),
			ReadOps: l.Used(account.ReadOps), WriteOps: l.Used(account.WriteOps),
			DelayedNS: uint64(acc.delayed.Load()),
		},
		Pressure: account.Pressure{CPU: a.pressureUse(pressureCPU), Memory: a.pressureUse(pressureMemory), IO: a.pressureUse(pressureIO)},
		Tasks:    l.Gauge(account.Tasks), Files: l.Gauge(account.Files), Disk: l.Gauge(account.Disk), Regions: l.Gauge(account.Regions),
		SemanticItems: l.Gauge(account.SemanticItems), SemanticBytes: l.Gauge(account.SemanticBytes),
	}
	if q := a.crowd.Group().Quota(); q != sched.Unlimited {
		snap.CPU.QuotaMilli = &q
	}
	if r := acc.bytes.Rate(); r != account.Unlimited {
		snap.IO.BytesPerSec = r
	}
	if r := acc.ops.Rate(); r != account.Unlimited {
		snap.IO.OpsPerSec = r
	}
	return snap
}

// files counts the descriptors of the agent's processes, each table once, and
// returns how many each may have.
func (a *Agent) files() (n, limit uint64) {
	ctx := a.s.k.SupervisorContext()
	limit = account.Unlimited
	for _, t := range a.ns.pid().Tasks() {
		limit = min(limit, t.ThreadGroup().Limits().Get(limits.NumberOfFiles).Cur)
	}
	for table := range a.tables() {
		n += uint64(len(table.GetFDs(ctx)))
		table.DecRef(ctx)
	}
	return n, limit
}

// disk returns how much the agent's writable layer holds.
func (a *Agent) disk() uint64 {
	mntns := a.mounts()
	if mntns == nil {
		return 0
	}
	defer mntns.DecRef(a.ctx)
	root := mntns.Root(a.ctx)
	defer root.DecRef(a.ctx)
	st, err := a.s.k.VFS().StatFSAt(a.ctx, a.s.creds, at(root, "/"))
	if err != nil { // It was unmounted.
		return 0
	}
	return (st.Blocks - st.BlocksFree) * uint64(st.BlockSize)
}

// tellLimit tells the bus that a limit was reached. It must not block.
func (a *Agent) tellLimit(c account.Crossing) {
	typ := event.LimitSoft
	if c.Level == account.Hard {
		typ = event.LimitHard
	}
	a.s.emit(a, typ, &eventv1.Limit{Resource: c.Resource.String(), Used: c.Used, Limit: c.Limit})
	if c.Resource == account.Memory && c.Limit > 0 {
		a.s.emit(a, event.MemoryPressure, &eventv1.MemoryPressure{Used: c.Used, Limit: c.Limit, Percent: uint32(min(100*c.Used/c.Limit, 1000))})
	}
}
