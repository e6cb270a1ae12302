package sentry

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/kdb"
)

// halt keeps tasks of an agent from executing anything, whatever else stops and
// resumes them: a stop is counted.
type halt struct {
	a     *Agent
	only  *kernel.ThreadGroup // nil: every process
	tasks []*kernel.Task
	// stopped are those of which await has seen that they stand still.
	stopped map[*kernel.Task]bool
}

// halt begins to stop the tasks of one process, or of all. It does not wait.
func (a *Agent) halt(only *kernel.ThreadGroup) *halt {
	h := &halt{a: a, only: only, stopped: make(map[*kernel.Task]bool)}
	a.dog.hold()
	h.more()
	return h
}

// more stops tasks that came to be since, and reports whether there were any.
func (h *halt) more() (found bool) {
	for _, t := range h.a.ns.pid().Tasks() {
		if (h.only == nil || t.ThreadGroup() == h.only) && !slices.Contains(h.tasks, t) {
			t.BeginExternalStop()
			h.tasks = append(h.tasks, t)
			found = true
		}
	}
	return found
}

// await waits until they stand still, until late, and returns those that do
// not.
func (h *halt) await(clock ktime.Clock, late time.Time) (stuck []*kernel.Task) {
	for found := true; found; found = h.more() {
		stuck = nil
		for _, t := range h.tasks {
			switch {
			case h.stopped[t]:
			case awaitStop(clock, t, late):
				h.stopped[t] = true
			default:
				stuck = append(stuck, t)
			}
		}
	}
	return stuck
}

// release lets them go on.
func (h *halt) release() {
	h.a.dog.release()
	for _, t := range h.tasks {
		t.EndExternalStop()
	}
	h.tasks = nil
}

// idOf is the thread's ID as the agent numbers it.
func (a *Agent) idOf(t *kernel.Task) string { return decimal(int32(a.ns.pid().IDOfTask(t))) }

func decimal(n int32) string { return strconv.Itoa(int(n)) }

// describeProcess says what a core says of a process beside its threads.
func (s *Kernel) describeProcess(a *Agent, tg *kernel.ThreadGroup) kdb.Process {
	ns, leader := a.ns.pid(), tg.Leader()
	p := kdb.Process{PID: int32(ns.IDOfThreadGroup(tg)), Name: leader.Name(), Nice: int8(leader.Niceness())}
	if parent := leader.Parent(); parent != nil {
		p.PPID = int32(ns.IDOfThreadGroup(parent.ThreadGroup()))
	}
	if g := tg.ProcessGroup(); g != nil {
		p.PGID = int32(ns.IDOfProcessGroup(g))
	}
	if session := tg.Session(); session != nil {
		p.SID = int32(ns.IDOfSession(session))
	}
	creds := leader.Credentials()
	p.UID = uint32(creds.RealKUID.In(creds.UserNamespace).OrOverflow())
	p.GID = uint32(creds.RealKGID.In(creds.UserNamespace).OrOverflow())
	return p
}

// Where registers are in what ptrace calls user_regs_struct, in bytes.
const (
	regRAX     = 10 * 8
	regOrigRAX = 15 * 8
	regRIP     = 16 * 8
	regEFLAGS  = 18 * 8
	regRSP     = 19 * 8
)

func wordAt(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func appendWords(b []byte, words ...uint64) []byte {
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// threadsOf copies the threads of a process that stand still, the one that the
// dump is about first.
func (a *Agent) threadsOf(tg *kernel.ThreadGroup, h *halt, cause *dumpCause) []kdb.Thread {
	var out []kdb.Thread
	at := kdb.Thread{} // the one that the dump is about
	for _, t := range h.tasks {
		if t.ThreadGroup() != tg || !h.stopped[t] || t.ExitState() != kernel.TaskExitNone {
			continue
		}
		th, ok := a.threadOf(t)
		if !ok {
			continue
		}
		if cause != nil && cause.task == t {
			th.Signal = cause.signal
			at = th
		} else {
			out = append(out, th)
		}
	}
	slices.SortFunc(out, func(a, b kdb.Thread) int { return int(a.TID - b.TID) })
	if at.TID != 0 {
		out = slices.Insert(out, 0, at)
	}
	return out
}

// Register sets, as ptrace(2) and cores number them.
const (
	setGeneral = 1     // NT_PRSTATUS
	setFloat   = 2     // NT_PRFPREG
	setXState  = 0x202 // NT_X86_XSTATE
	maxXState  = 16 << 10
)

// threadOf copies a thread that stands still.
func (a *Agent) threadOf(t *kernel.Task) (kdb.Thread, bool) {
	th := kdb.Thread{
		TID:     int32(a.ns.pid().IDOfTask(t)),
		Pending: uint64(t.PendingSignals()), Blocked: uint64(t.SignalMask()),
	}
	stats := t.CPUStats()
	th.UserTime, th.SystemTime = stats.UserTime.Microseconds(), stats.SysTime.Microseconds()
	th.Regs = registers(t, setGeneral, kdb.RegsSize)
	if len(th.Regs) != kdb.RegsSize {
		return th, false
	}
	th.FP = registers(t, setFloat, kdb.FPRegsSize)
	th.XState = registers(t, setXState, maxXState)
	return th, true
}

// registers copies a register set of a task that stands still.
func registers(t *kernel.Task, set uintptr, most int) []byte {
	var b bytes.Buffer
	if _, err := t.Arch().PtraceGetRegSet(set, &b, most, t.Kernel().FeatureSet()); err != nil {
		return nil
	}
	return b.Bytes()
}

// programOf is the path of the file that is executed, or "".
func programOf(ctx context.Context, m *mm.MemoryManager) string {
	exe := m.Executable()
	if exe == nil {
		return ""
	}
	defer exe.DecRef(ctx)
	return exe.MappedName(ctx)
}
