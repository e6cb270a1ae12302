package sentry

import (
	"bytes"
	"io"
	"os"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb"
)

// A dump holds an agent still only while its registers are copied and its
// memory is forked, which takes milliseconds however much there is. The cores
// are then written from the copy, which belongs to the domain and not to the
// agent, and which is given back piece by piece as it is written.

// image is one process of an agent, as it was at one moment.
type processImage struct {
	kdb.Process
	mm      *mm.MemoryManager // a fork
	program string
	leftOut []kdb.LeftOut
}

// Dump writes cores of an agent to a stream. It owns files.
func (s *Kernel) Dump(req control.DumpRequest, files []*os.File) (control.DumpReply, error) {
	_, stream, err := spawnFiles(files, 0, true)
	if err != nil {
		return control.DumpReply{}, err
	}
	defer stream.Close()
	a, err := s.agent(req.ID)
	if err != nil {
		return control.DumpReply{}, err
	}
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil && errdefs.CodeOf(err) == errdefs.AgentNotRunning {
		return control.DumpReply{}, err
	}
	var cause *dumpCause
	if req.Pending {
		if cause = a.dump.Load(); cause == nil {
			return control.DumpReply{}, errdefs.New(errdefs.WrongState, "the agent does not wait for a dump any more", errdefs.Resource("%s", a.id))
		}
	}
	manifest, images, err := s.snapshot(a, req, cause)
	if cause != nil {
		cause.taken()
	}
	defer func() {
		for _, p := range images {
			p.release(s)
		}
	}()
	if err != nil {
		return control.DumpReply{}, err
	}
	return s.writeDump(stream, manifest, images)
}

// snapshot copies what the cores need, while the agent stands still.
func (s *Kernel) snapshot(a *Agent, req control.DumpRequest, cause *dumpCause) (m control.DumpManifest, images []*processImage, err error) {
	m = control.DumpManifest{Agent: a.id, Name: a.name, Domain: s.cfg.Domain, Platform: s.cfg.Driver.Name()}
	if cause != nil {
		m.Why, m.Signal = cause.why, cause.signal.Number
	}
	began := s.cfg.Clock.Now()
	h := a.halt(nil)
	defer h.release()
	stuck := h.await(s.cfg.Clock, began.Add(pauseTimeout))
	for _, t := range stuck {
		m.Remarks = append(m.Remarks, "thread "+a.idOf(t)+" ("+t.Name()+") is in a call that does not end: its registers are not in the core")
	}
	for _, tg := range a.ns.pid().ThreadGroups() {
		pid := int32(a.ns.pid().IDOfThreadGroup(tg))
		if req.PID != 0 && req.PID != pid {
			continue
		}
		p, perr := s.imageOf(a, tg, h, cause)
		if perr != nil {
			m.Remarks = append(m.Remarks, perr.Error())
			continue
		}
		images = append(images, p)
	}
	m.Held = int64(s.cfg.Clock.Now().Sub(began))
	if len(images) == 0 {
		return m, nil, errdefs.New(errdefs.AgentNotRunning, "no process of the agent can be dumped: "+strings.Join(m.Remarks, "; "),
			errdefs.Resource("%s", a.id), errdefs.Fix("`aiosctl inspect %s` lists its processes", a.id))
	}
	limit := req.Limit
	if limit == 0 {
		limit = kdb.DefaultLimit
	}
	for _, p := range images {
		p.plan(s, limit, req.Full)
	}
	return m, images, nil
}

// imageOf copies one process whose tasks stand still.
func (s *Kernel) imageOf(a *Agent, tg *kernel.ThreadGroup, h *halt, cause *dumpCause) (*processImage, error) {
	leader := tg.Leader()
	pid := a.ns.pid().IDOfThreadGroup(tg)
	if leader == nil {
		return nil, errdefs.Newf(errdefs.AgentNotRunning, "process %d has ended", pid)
	}
	p := &processImage{Process: s.describeProcess(a, tg)}
	p.Threads = a.threadsOf(tg, h, cause)
	if len(p.Threads) == 0 {
		return nil, errdefs.Newf(errdefs.AgentNotRunning, "process %d has no thread that stands still", pid)
	}
	m := addressSpaceOf(leader)
	if m == nil || !m.IncUsers() {
		return nil, errdefs.Newf(errdefs.AgentNotRunning, "process %d has no memory any more", pid)
	}
	ctx := s.dumpContext(a)
	defer m.DecUsers(ctx)
	for _, e := range m.Auxv() {
		p.Auxv = appendWords(p.Auxv, e.Key, uint64(e.Value))
	}
	p.Auxv = appendWords(p.Auxv, 0, 0)
	p.program = programOf(ctx, m)
	p.Args = strings.Join(commandLine(ctx, leader), " ")
	fork, err := m.Fork(ctx)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "copy memory of a process")
	}
	p.mm = fork
	return p, nil
}

// dumpContext is for reading an agent's memory and naming its files. What it
// allocates is the domain's, so that an agent at its limit can be dumped.
func (s *Kernel) dumpContext(a *Agent) context.Context { return s.context(a.ns, s.creds, 0) }

// plan finds out what the memory is made of, and how much of it is written.
func (p *processImage) plan(s *Kernel, limit uint64, full bool) {
	var smaps bytes.Buffer
	p.mm.ReadSmapsDataInto(s.k.SupervisorContext(), &smaps)
	p.Mappings = kdb.ParseSmaps(smaps.Bytes())
	for i := range p.Mappings { // The last is beyond what a program can map.
		if p.Mappings[i].File == "[vsyscall]" {
			p.Mappings = p.Mappings[:i]
			break
		}
	}
	if sys := s.swapOn.Load(); sys != nil {
		for i := range p.Mappings { // What is swapped out was touched, too.
			m := &p.Mappings[i]
			if len(sys.mappings(p.mm, hostarch.AddrRange{Start: hostarch.Addr(m.Start), End: hostarch.Addr(m.End)})) > 0 {
				m.Resident = max(m.Resident, hostarch.PageSize)
			}
		}
	}
	if n := len(p.Mappings); n > kdb.MaxMappings {
		p.leftOut = append(p.leftOut, kdb.LeftOut{
			Start: p.Mappings[kdb.MaxMappings].Start, End: p.Mappings[n-1].End, Why: "a core holds no more mappings",
		})
		p.Mappings = p.Mappings[:kdb.MaxMappings]
	}
	stacks := make([]uint64, len(p.Threads))
	for i := range p.Threads {
		stacks[i] = wordAt(p.Threads[i].Regs, regRSP)
	}
	p.leftOut = append(p.leftOut, kdb.Plan(p.Mappings, stacks, limit, full)...)
}

func (p *processImage) release(s *Kernel) {
	if p.mm != nil {
		p.mm.DecUsers(s.k.SupervisorContext())
		p.mm = nil
	}
}

// dumpChunk is how much memory is copied at once.
const dumpChunk = 1 << 20

// forkMemory reads the fork of an agent's memory, and gives back what was read.
type forkMemory struct {
	ctx context.Context
	mm  *mm.MemoryManager
}

// ReadMemory implements kdb.Memory.
func (f forkMemory) ReadMemory(addr uint64, p []byte) error {
	_, err := f.mm.CopyIn(f.ctx, hostarch.Addr(addr), p, usermem.IOOpts{IgnorePermissions: true})
	if addr%hostarch.PageSize == 0 && len(p)%hostarch.PageSize == 0 {
		f.mm.Decommit(hostarch.Addr(addr), uint64(len(p))) // Fails for nothing that would take memory.
	}
	return err
}

// maxLeftOut is how much of what is missing a manifest lists for one core.
const maxLeftOut = 100

// writeDump writes the tar.
func (s *Kernel) writeDump(w io.Writer, m control.DumpManifest, images []*processImage) (reply control.DumpReply, err error) {
	cores := make([]*kdb.Core, len(images))
	for i, p := range images {
		if cores[i], err = kdb.NewCore(&p.Process); err != nil {
			return reply, err
		}
		c := control.DumpedCore{
			Member: "core." + decimal(p.PID), PID: p.PID, Name: p.Name, Program: p.program,
			Threads: len(p.Threads), Bytes: cores[i].Size(),
		}
		for n, l := range p.leftOut {
			if n == maxLeftOut {
				c.LeftOut = append(c.LeftOut, "and more")
				break
			}
			c.LeftOut = append(c.LeftOut, l.String())
		}
		m.Cores = append(m.Cores, c)
	}
	archive := kdb.NewArchive(w, s.cfg.Clock.Now())
	if err := archive.JSON("manifest.json", m); err != nil {
		return reply, err
	}
	buf := make([]byte, dumpChunk)
	for i, p := range images {
		member, err := archive.Member(m.Cores[i].Member, cores[i].Size())
		if err != nil {
			return reply, err
		}
		lost, err := cores[i].Write(member, forkMemory{s.k.SupervisorContext(), p.mm}, buf)
		if err != nil {
			return reply, errdefs.Wrap(err, errdefs.HostIO, "write core")
		}
		reply.Unreadable += lost
		p.release(s)
	}
	return reply, archive.Close()
}

// dumpCause is a dump that the kernel asked for.
type dumpCause struct {
	why    string
	task   *kernel.Task // on whose account, or nil
	signal kdb.Signal
	done   chan struct{} // closed when the copy is made, or will not be
}

// taken lets the agent go on.
func (c *dumpCause) taken() {
	select {
	case c.done <- struct{}{}:
	default:
	}
}

// collectTimeout is how long an agent stands still for a daemon that was asked
// to dump it.
const collectTimeout = 10 * time.Second

// dumpAgent has the daemon dump an agent, and calls then, unless it is nil,
// before any task of the agent goes on. It does not wait, so it may be called on
// a task's goroutine: the task stops before it executes anything more. t is the
// task on whose account it is, and signal what it would get; t may be nil. One
// dump at a time: another, or one that nobody takes, only calls then.
func (s *Kernel) dumpAgent(a *Agent, why string, t *kernel.Task, signal kdb.Signal, then func()) {
	if then == nil {
		then = func() {}
	}
	cause := &dumpCause{why: why, task: t, signal: signal, done: make(chan struct{}, 1)}
	h := a.halt(nil)
	go func() {
		defer h.release()
		defer then()
		if !a.dump.CompareAndSwap(nil, cause) {
			return
		}
		defer a.dump.CompareAndSwap(cause, nil)
		if s.cfg.Push == nil || s.cfg.Push(control.EventDump, control.DumpEvent{ID: a.id, Why: why}) == 0 {
			return // No daemon: nobody could keep it.
		}
		late := make(chan struct{})
		timer := s.cfg.Clock.AfterFunc(collectTimeout, func() { close(late) })
		defer timer.Stop()
		select {
		case <-cause.done:
		case <-late:
		}
	}()
}
