package sentry

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/account"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/trap"
)

// Page faults are counted by the platform, which sees each: for the agent, for
// the task, and here those of a process, which are its tasks' together. gVisor
// counts none and shows zeros; what is shown instead is what programs look at:
// /proc/PID/stat, getrusage, /proc/vmstat and memory.stat of the cgroup.

// pageFaults is what an agent's page faults were.
type pageFaults struct {
	// protection and unmapped are exceptions: what was touched is mapped but
	// not for that, or not mapped at all.
	protection atomic.Uint64
	unmapped   atomic.Uint64

	mu    sync.Mutex                                   // leaf
	tasks map[*kernel.Task]*platform.FaultCounts       // +checklocks:mu
	past  map[*kernel.ThreadGroup]platform.FaultTotals // of tasks that have ended; +checklocks:mu
}

// taskCounted is a hook: where the page faults of a task are counted.
func (s *Kernel) taskCounted(ctx context.Context) *platform.FaultCounts {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return nil
	}
	a := s.agentOf(t)
	if a == nil {
		return nil
	}
	p := &a.pages
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tasks == nil {
		p.tasks = make(map[*kernel.Task]*platform.FaultCounts)
		p.past = make(map[*kernel.ThreadGroup]platform.FaultTotals)
	}
	c := new(platform.FaultCounts)
	p.tasks[t] = c
	return c
}

// ended keeps what a task that exits has counted, for its process.
func (p *pageFaults) ended(t *kernel.Task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.tasks[t]
	if c == nil {
		return
	}
	delete(p.tasks, t)
	tg := t.ThreadGroup()
	if tg.Count() <= 1 {
		delete(p.past, tg)
		return
	}
	p.past[tg] = p.past[tg].Add(c.Totals())
}

// of returns the page faults of t, or of its whole process.
func (p *pageFaults) of(t *kernel.Task, whole bool) (sum platform.FaultTotals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !whole {
		if c := p.tasks[t]; c != nil {
			sum = c.Totals()
		}
		return sum
	}
	tg := t.ThreadGroup()
	sum = p.past[tg]
	for other, c := range p.tasks {
		if other.ThreadGroup() == tg {
			sum = sum.Add(c.Totals())
		}
	}
	return sum
}

// excepted counts an exception of t that began as a page fault. What the signal
// says of it is of no use: memory without access is not mapped where t runs.
func (p *pageFaults) excepted(t *kernel.Task, e *trap.Exception) {
	if e.Vector != trap.PageFault {
		return
	}
	if m := t.MemoryManager(); m != nil {
		if _, err := m.FindVMARange(hostarch.Addr(e.Addr)); err == nil {
			p.protection.Add(1)
			return
		}
	}
	p.unmapped.Add(1)
}

// faultUse is the page faults of an agent.
func (a *Agent) faultUse() account.FaultUse {
	r := a.crowd.Resolved()
	return account.FaultUse{
		Minor: r.Minor, Major: r.Major, COW: r.COW, Protection: a.pages.protection.Load(), Unmapped: a.pages.unmapped.Load(),
	}
}

// faultsSeen is the page faults that v's agent has had; the kernel counts none.
func (v *view) faultsSeen() (f account.FaultUse) {
	if v.a != nil {
		f = v.a.faultUse()
	}
	return f
}

// vmstat is /proc/vmstat, as far as there is something to say.
func (v *view) vmstat(buf *bytes.Buffer) {
	total, used, kinds := v.memory()
	f := v.faultsSeen()
	var ins, outs uint64
	if v.a != nil {
		if sw := v.a.swap.Load(); sw != nil {
			ins, outs = sw.ins.Load(), sw.outs.Load()
		}
	}
	const page = 4096
	for _, line := range []struct {
		name string
		n    uint64
	}{
		{"nr_free_pages", (total - used) / page}, {"nr_anon_pages", kinds.Anonymous / page},
		{"nr_mapped", kinds.Mapped / page}, {"nr_file_pages", (kinds.PageCache + kinds.Mapped + kinds.Tmpfs) / page},
		{"nr_shmem", kinds.Tmpfs / page}, {"pgfault", f.Minor + f.Major}, {"pgmajfault", f.Major}, {"oom_kill", v.oomKills()},
		{"pswpin", ins}, {"pswpout", outs},
	} {
		fmt.Fprintf(buf, "%s %d\n", line.name, line.n)
	}
}

// rusageFaults adds page faults to what getrusage(2) has answered.
func (s *Kernel) rusageFaults(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		ret, ctrl, err := inner(t, sysno, args)
		a := s.agentOf(t)
		which := args[0].Int()
		if err != nil || a == nil || which != linux.RUSAGE_SELF && which != linux.RUSAGE_THREAD {
			return ret, ctrl, err
		}
		f := a.pages.of(t, which == linux.RUSAGE_SELF)
		var ru linux.Rusage
		if _, err := ru.CopyIn(t, args[1].Pointer()); err != nil {
			return 0, nil, err
		}
		ru.MinFlt, ru.MajFlt = int64(f.Minor), int64(f.Major)
		_, err = ru.CopyOut(t, args[1].Pointer())
		return ret, ctrl, err
	}
}

// taskStat is the file "stat" of a process or thread.
type taskStat struct {
	kernfs.Inode
	s     *Kernel
	pidns *kernel.PIDNamespace
	id    kernel.ThreadID
	whole bool // of the process
}

// Open implements kernfs.Inode.Open.
func (p *taskStat) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	inner, err := p.Inode.Open(ctx, rp, d, opts)
	if err != nil {
		return nil, err
	}
	f := &taskStatFD{stat: p, inner: inner}
	if err := f.InitWithImpl(f, rp.Mount(), d, f, new(vfs.FileLocks), opts.Flags, rp.Credentials()); err != nil {
		inner.DecRef(ctx)
		return nil, err
	}
	return f.VFSFileDescription(), nil
}

// taskStatFD is an open "stat".
type taskStatFD struct {
	kernfs.DynamicBytesFD

	stat  *taskStat
	inner *vfs.FileDescription
}

var _ vfs.FileDescriptionImpl = (*taskStatFD)(nil)

// Release implements vfs.FileDescriptionImpl.Release.
func (f *taskStatFD) Release(ctx context.Context) { f.inner.DecRef(ctx) }

// Generate implements vfs.DynamicBytesSource.Generate.
func (f *taskStatFD) Generate(ctx context.Context, buf *bytes.Buffer) error {
	text := make([]byte, 4096) // The longest is shorter.
	n, err := f.inner.Impl().PRead(ctx, usermem.BytesIOSequence(text), 0, vfs.ReadOptions{})
	if err != nil {
		return err
	}
	p := f.stat
	var faults platform.FaultTotals
	if t := p.pidns.TaskWithID(p.id); t != nil {
		if a := p.s.agentOf(t); a != nil {
			faults = a.pages.of(t, p.whole)
		}
	}
	buf.Write(withFaults(text[:n], faults))
	return nil
}

// withFaults returns the text of a "stat" with the numbers of page faults in it:
// the eighth and the tenth behind the name, which may have blanks and brackets.
func withFaults(text []byte, f platform.FaultTotals) []byte {
	const minor, major = 8, 10
	end := bytes.LastIndexByte(text, ')')
	fields := bytes.Split(text[end+1:], []byte(" "))
	if end < 0 || len(fields) <= major {
		return text
	}
	fields[minor] = fmt.Append(nil, f.Minor)
	fields[major] = fmt.Append(nil, f.Major)
	return append(text[:end+1:end+1], bytes.Join(fields, []byte(" "))...)
}
