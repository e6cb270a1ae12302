package sentry

import (
	"bytes"
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// What the stub asks of a debugger while its threads stand still.

var _ gdbstub.Target = (*debugger)(nil)

// Threads implements gdbstub.Target.
func (d *debugger) Threads() []gdbstub.Thread {
	var out []gdbstub.Thread
	for _, t := range d.tasks() {
		out = append(out, d.describe(t))
	}
	slices.SortFunc(out, func(a, b gdbstub.Thread) int { return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.TID, b.TID)) })
	return out
}

// taskOf returns a thread that is debugged and stands still.
func (d *debugger) taskOf(th gdbstub.Thread) (*kernel.Task, error) {
	t := d.a.ns.pid().TaskWithID(kernel.ThreadID(th.TID))
	switch {
	case t == nil || !d.in(t) || t.ExitState() != kernel.TaskExitNone:
		return nil, errdefs.Newf(errdefs.NotFound, "there is no thread %d", th.TID)
	case !d.still(t):
		return nil, errdefs.Newf(errdefs.WrongState, "thread %d is in a call that does not end", th.TID)
	}
	return t, nil
}

// memoryOf returns the memory of a thread that is debugged.
func (d *debugger) memoryOf(th gdbstub.Thread) (*kernel.Task, *mm.MemoryManager, error) {
	t, err := d.taskOf(th)
	if err != nil {
		return nil, nil, err
	}
	m := addressSpaceOf(t)
	if m == nil {
		return nil, nil, errdefs.Newf(errdefs.NotFound, "thread %d has no memory any more", th.TID)
	}
	return t, m, nil
}

// ReadRegisters implements gdbstub.Target.
func (d *debugger) ReadRegisters(th gdbstub.Thread) (*gdbstub.Registers, error) {
	t, err := d.taskOf(th)
	if err != nil {
		return nil, err
	}
	raw := registers(t, setGeneral, kdb.RegsSize)
	if len(raw) != kdb.RegsSize {
		return nil, errdefs.Newf(errdefs.Internal, "the registers of thread %d cannot be read", th.TID)
	}
	r := &gdbstub.Registers{Extended: registers(t, setXState, maxXState)}
	for i := range r.General {
		r.General[i] = wordAt(raw, 8*i)
	}
	return r, nil
}

// WriteRegisters implements gdbstub.Target.
func (d *debugger) WriteRegisters(th gdbstub.Thread, r *gdbstub.Registers) error {
	t, err := d.taskOf(th)
	if err != nil {
		return err
	}
	d.mu.Lock()
	called := d.thread(t).called
	d.mu.Unlock()
	general := r.General
	if called && restarts(general[regRAX/8]) && int64(general[regOrigRAX/8]) < 0 {
		// A debugger says in this way that the call in progress is not to be
		// begun anew, because the thread is to do something else first. gVisor
		// looks at the result alone.
		general[regRAX/8] = ^uint64(unix.EINTR) + 1
	}
	features := t.Kernel().FeatureSet()
	if _, err := t.Arch().PtraceSetRegSet(setGeneral, bytes.NewReader(appendWords(nil, general[:]...)), kdb.RegsSize, features); err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "write registers")
	}
	if n := len(r.Extended); n > 0 && !bytes.Equal(r.Extended, registers(t, setXState, maxXState)) {
		if _, err := t.Arch().PtraceSetRegSet(setXState, bytes.NewReader(r.Extended), n, features); err != nil {
			return errdefs.Wrap(err, errdefs.InvalidArgument, "write registers")
		}
	}
	return nil
}

// ReadMemory implements gdbstub.Target.
func (d *debugger) ReadMemory(th gdbstub.Thread, addr uint64, p []byte) (int, error) {
	_, m, err := d.memoryOf(th)
	if err != nil {
		return 0, err
	}
	at := hostarch.Addr(addr)
	n := 0
	for n < len(p) { // A piece that is not there may follow one that is.
		piece := min(len(p)-n, hostarch.PageSize-int((at+hostarch.Addr(n)).PageOffset()))
		got := peek(d.s.k.SupervisorContext(), m, at+hostarch.Addr(n), p[n:n+piece])
		n += got
		if got < piece {
			break
		}
	}
	p = p[:n]
	for _, patch := range d.patches(m) {
		for i, b := range patch.was {
			if where := patch.site + hostarch.Addr(i); where >= at && where-at < hostarch.Addr(n) {
				p[where-at] = b
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for b, was := range d.breaks.was {
		if b.mm == m && b.addr >= at && b.addr-at < hostarch.Addr(n) {
			p[b.addr-at] = was
		}
	}
	return n, nil
}

// WriteMemory implements gdbstub.Target.
func (d *debugger) WriteMemory(th gdbstub.Thread, addr uint64, p []byte) error {
	_, m, err := d.memoryOf(th)
	if err != nil {
		return err
	}
	if err := d.mayWrite(m, addr, uint64(len(p)), false); err != nil {
		return err
	}
	at := hostarch.Addr(addr)
	d.unpatch(m, at, len(p))
	d.mu.Lock()
	p = bytes.Clone(p)
	for b := range d.breaks.was {
		if b.mm == m && b.addr >= at && b.addr-at < hostarch.Addr(len(p)) {
			d.breaks.was[b] = p[b.addr-at]
			p[b.addr-at] = trapInstruction
		}
	}
	d.mu.Unlock()
	return poke(d.s.k.SupervisorContext(), m, at, p...)
}

// mayWrite says whether a range of addresses may be written: all of it is there,
// and what is mapped of it and shared may be written by the program itself, or
// with private is none.
func (d *debugger) mayWrite(m *mm.MemoryManager, addr, n uint64, private bool) error {
	end := addr + n
	next := addr
	refused := ""
	m.ReadMapsDataInto(d.s.k.SupervisorContext(), func(start, stop hostarch.Addr, perms hostarch.AccessType, shared string, _ uint64, _, _ uint32, _ uint64, _ string) {
		if uint64(start) > next || uint64(stop) <= next || next >= end {
			return
		}
		if shared == "s" && (private || !perms.Write) {
			refused = "what is there is shared with others"
		}
		next = uint64(stop)
	})
	switch {
	case end < addr || next < end:
		return errdefs.New(errdefs.InvalidArgument, "nothing is at "+hexOf(next))
	case refused != "":
		return errdefs.New(errdefs.InvalidArgument, refused, errdefs.Resource("%s", hexOf(addr)))
	}
	return nil
}

// PassSignals implements gdbstub.Target.
func (d *debugger) PassSignals(signals []int32) {
	var pass linux.SignalSet
	for _, sig := range signals {
		if linux.Signal(sig).IsValid() {
			pass |= linux.SignalSetOf(linux.Signal(sig))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pass = pass
}

// StopAtExec implements gdbstub.Target.
func (d *debugger) StopAtExec(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellExec = on
}

// Signal implements gdbstub.Target.
func (d *debugger) Signal(th gdbstub.Thread) []byte {
	t, err := d.taskOf(th)
	if err != nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.thread(t).got
	if got == nil {
		return nil
	}
	b := make([]byte, got.SizeBytes())
	got.MarshalBytes(b)
	return b
}

// Auxv implements gdbstub.Target.
func (d *debugger) Auxv(th gdbstub.Thread) ([]byte, error) {
	_, m, err := d.memoryOf(th)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, e := range m.Auxv() {
		out = appendWords(out, e.Key, uint64(e.Value))
	}
	return appendWords(out, 0, 0), nil
}

// Executable implements gdbstub.Target.
func (d *debugger) Executable(th gdbstub.Thread) (string, error) {
	_, m, err := d.memoryOf(th)
	if err != nil {
		return "", err
	}
	return programOf(d.s.dumpContext(d.a), m), nil
}

// Stops implements gdbstub.Target.
func (d *debugger) Stops() <-chan gdbstub.Stop { return d.stops }

// Kill implements gdbstub.Target.
func (d *debugger) Kill() {
	why := "it was killed by its debugger"
	if d.only == nil {
		d.a.killNow(why)
		return
	}
	if d.only == d.a.firstGroup() {
		d.a.kill(why)
		return
	}
	_ = d.s.k.SendExternalSignalThreadGroup(d.only, kernel.SignalInfoPriv(linux.SIGKILL)) // It fails if it has ended.
}
