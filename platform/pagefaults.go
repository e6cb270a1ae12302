package platform

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// What a page fault was is seen from what comes of it. When the task is about to
// execute application code again where it stopped, the memory is there: the fault
// was major if the task had to sleep for that, as it does for what another process
// must read, and minor otherwise. A write that made no more memory resident is one
// to a page that was there already, and shared: it was copied, or found to be
// nobody else's any more. Where the task goes on elsewhere, the fault was none of
// these, but an exception.

// FaultTotals is how many page faults there were that made memory accessible.
type FaultTotals struct {
	Minor, Major uint64
	// COW are those of both that were writes to pages that were there: copied,
	// or no longer shared.
	COW uint64
}

// Add returns the sum of both.
func (f FaultTotals) Add(g FaultTotals) FaultTotals {
	return FaultTotals{f.Minor + g.Minor, f.Major + g.Major, f.COW + g.COW}
}

// FaultCounts counts them.
type FaultCounts struct {
	minor, major, cow atomic.Uint64
}

// Totals is what was counted.
func (f *FaultCounts) Totals() FaultTotals {
	return FaultTotals{f.minor.Load(), f.major.Load(), f.cow.Load()}
}

func (f *FaultCounts) count(major, cow bool) {
	if major {
		f.major.Add(1)
	} else {
		f.minor.Add(1)
	}
	if cow {
		f.cow.Add(1)
	}
}

// sized is what says how much memory is resident: gVisor's memory manager.
type sized interface{ ResidentSetSize() uint64 }

// fault is a page fault of which it is not known yet what came of it.
type fault struct {
	is, write, slept bool
	ip, sp           uintptr
	resident         uint64
}

// faulted notes a page fault.
func (c *taskContext) faulted(mm gvplatform.MemoryManager, ac *arch.Context64, at hostarch.AccessType) {
	f := &c.fault
	*f = fault{is: true, ip: ac.IP(), sp: ac.Stack()}
	if m, ok := mm.(sized); ok && at.Write {
		f.write, f.resident = true, m.ResidentSetSize()
	}
}

// resolved counts the last page fault, as the task goes on.
func (c *taskContext) resolved(crowd *Crowd, mm gvplatform.MemoryManager, ac *arch.Context64) {
	f := &c.fault
	f.is = false
	if f.ip != ac.IP() || f.sp != ac.Stack() {
		return
	}
	cow := false
	if f.write {
		m, ok := mm.(sized)
		cow = ok && m.ResidentSetSize() == f.resident
	}
	crowd.resolved.count(f.slept, cow)
	if c.own != nil {
		c.own.count(f.slept, cow)
	}
}
