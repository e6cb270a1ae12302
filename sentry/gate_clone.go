package sentry

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// What gVisor keeps of a program and does not tell again is noted as the program
// says it, so that it can be said again for a copy of the agent: which word is
// cleared when a thread ends, seccomp filters, timers, what an epoll instance
// waits for, who holds a lock of flock(2), which sockets are a pair, and the
// signal mask that a call has replaced while it waits.

// cloneNotes are an agent's notes.
type cloneNotes struct {
	mu       sync.Mutex                                          // leaf
	clearTID map[*kernel.Task]hostarch.Addr                      // +checklocks:mu
	filters  map[*kernel.Task][]bpf.Program                      // +checklocks:mu
	timers   map[*kernel.ThreadGroup]map[linux.TimerID]timerNote // +checklocks:mu
	files    map[*vfs.FileDescription]*fileNote                  // +checklocks:mu
	signals  map[*kernel.ThreadGroup]bool                        // who wants SIGAIOSCLONE; +checklocks:mu
	aio      map[*kernel.ThreadGroup]map[uint64]uint32           // how many events contexts of io_setup(2) take; +checklocks:mu
	calls    map[*kernel.Task]uintptr                            // by which tasks of a checkpoint had left application code; +checklocks:mu
	prune    int                                                 // +checklocks:mu
	oneShots atomic.Bool                                         // somebody has used EPOLLONESHOT
	masks    sync.Map                                            // *atomic.Uint64 by *kernel.Task
}

// timerNote is how a timer was made.
type timerNote struct {
	clock int32
	owner *kernel.Task
	event *linux.Sigevent
}

// interestKey is what an epoll instance knows an interest by.
type interestKey struct {
	file *vfs.FileDescription
	fd   int32
}

// fileNote is what is known of an open file.
type fileNote struct {
	interests map[interestKey]linux.EpollEvent
	byData    map[[2]int32]ofData
	sweep     int                 // how many interests are noted before closed files are forgotten
	flock     int32               // LOCK_SH, LOCK_EX, or 0
	watches   map[int32]watchNote // of inotify, by number
}

// leastPrune is how many notes of files are kept before any is looked at again.
const leastPrune = 256

// file returns the note of f, which it makes.
//
// +checklocks:n.mu
func (n *cloneNotes) file(f *vfs.FileDescription) *fileNote {
	if x := n.files[f]; x != nil {
		return x
	}
	if n.files == nil {
		n.files = make(map[*vfs.FileDescription]*fileNote)
		n.prune = leastPrune
	}
	x := &fileNote{}
	n.files[f] = x
	return x
}

// crowded forgets files that are closed, when there are many notes. It returns
// files to which it holds a reference, to be given back without n.mu.
//
// +checklocks:n.mu
func (n *cloneNotes) crowded() []*vfs.FileDescription {
	if len(n.files) < n.prune || n.prune == 0 {
		return nil
	}
	var held []*vfs.FileDescription
	for f, x := range n.files {
		if !f.TryIncRef() {
			delete(n.files, f)
			continue
		}
		held = append(held, f)
		for k := range x.interests {
			if k.file.TryIncRef() {
				held = append(held, k.file)
			} else {
				x.forget(k)
			}
		}
	}
	n.prune = max(leastPrune, 2*len(n.files))
	return held
}

// note changes what is known of f, for task t.
func (n *cloneNotes) note(t *kernel.Task, f *vfs.FileDescription, change func(*fileNote)) {
	n.mu.Lock()
	change(n.file(f))
	held := n.crowded()
	n.mu.Unlock()
	for _, h := range held {
		h.DecRef(t)
	}
}

// ended forgets a task that exits.
func (n *cloneNotes) ended(t *kernel.Task) {
	n.masks.Delete(t)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.clearTID, t)
	delete(n.filters, t)
	delete(n.calls, t)
	if tg := t.ThreadGroup(); len(n.timers)+len(n.signals)+len(n.aio) > 0 && tg.Count() <= 1 {
		delete(n.timers, tg)
		delete(n.signals, tg)
		delete(n.aio, tg)
	}
}

// setClearTID notes the word that is cleared when t ends. What the task has said
// itself counts more than what was said when it was made.
func (n *cloneNotes) setClearTID(t *kernel.Task, addr hostarch.Addr, itself bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.clearTID[t]; ok && !itself {
		return
	}
	if n.clearTID == nil {
		n.clearTID = make(map[*kernel.Task]hostarch.Addr)
	}
	n.clearTID[t] = addr
}

// clearTIDs returns what setClearTID noted.
func (n *cloneNotes) clearTIDs() map[*kernel.Task]hostarch.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make(map[*kernel.Task]hostarch.Addr, len(n.clearTID))
	for t, addr := range n.clearTID {
		out[t] = addr
	}
	return out
}

// addFilter notes that t has got one more filter.
func (n *cloneNotes) addFilter(t *kernel.Task, p bpf.Program) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.filters == nil {
		n.filters = make(map[*kernel.Task][]bpf.Program)
	}
	old := n.filters[t]
	n.filters[t] = append(old[:len(old):len(old)], p)
}

// inherit gives child, once, the filters that parent has. The child may have run
// and added to them already.
func (n *cloneNotes) inherit(parent, child *kernel.Task) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.filters[parent]; f != nil {
		n.filters[child] = append(f[:len(f):len(f)], n.filters[child]...)
	}
}

// saveMask notes t's signal mask before a call that replaces it.
func (n *cloneNotes) saveMask(t *kernel.Task) {
	v, ok := n.masks.Load(t)
	if !ok {
		v, _ = n.masks.LoadOrStore(t, new(atomic.Uint64))
	}
	v.(*atomic.Uint64).Store(uint64(t.SignalMask()))
}

// savedMask returns what saveMask noted.
func (n *cloneNotes) savedMask(t *kernel.Task) (linux.SignalSet, bool) {
	v, ok := n.masks.Load(t)
	if !ok {
		return 0, false
	}
	return linux.SignalSet(v.(*atomic.Uint64).Load()), true
}

// maskCalls are the calls that replace the signal mask while they wait, or that go on
// with one that does.
var maskCalls = map[string]bool{
	"rt_sigsuspend": true, "ppoll": true, "pselect6": true, "epoll_pwait": true, "epoll_pwait2": true,
	"restart_syscall": true,
}

// noteCall returns inner with notes taken of it.
func (s *Kernel) noteCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	if epollWaits[call.Name] {
		inner = s.noteEvents(call, inner)
	}
	if maskCalls[call.Name] {
		return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			if a := s.agentOf(t); a != nil {
				a.notes.saveMask(t)
			}
			return inner(t, sysno, args)
		}
	}
	var after func(a *Agent, t *kernel.Task, args arch.SyscallArguments)
	switch call.Name {
	case "set_tid_address":
		after = func(a *Agent, t *kernel.Task, args arch.SyscallArguments) {
			a.notes.setClearTID(t, args[0].Pointer(), true)
		}
	case "timer_create":
		after = noteTimer
	case "flock":
		after = noteFlock
	case "io_setup":
		after = noteAIO
	case "inotify_rm_watch":
		after = forgetWatch
	case "epoll_ctl":
		return s.noteInterest(inner)
	case "inotify_add_watch":
		return s.noteWatch(inner)
	case "seccomp", "prctl":
		return s.noteFilter(call, inner)
	case "mmap", "mprotect", "pkey_mprotect":
		return s.noteMapping(call, inner)
	default:
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := inner(t, sysno, args)
		if err == nil {
			if a := s.agentOf(t); a != nil {
				after(a, t, args)
			}
		}
		return n, ctrl, err
	}
}

func noteTimer(a *Agent, t *kernel.Task, args arch.SyscallArguments) {
	var raw [4]byte
	if _, err := t.CopyInBytes(args[2].Pointer(), raw[:]); err != nil {
		return
	}
	note := timerNote{clock: args[0].Int(), owner: t}
	if addr := args[1].Pointer(); addr != 0 {
		note.event = new(linux.Sigevent)
		if _, err := note.event.CopyIn(t, addr); err != nil {
			return
		}
	}
	n := &a.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timers == nil {
		n.timers = make(map[*kernel.ThreadGroup]map[linux.TimerID]timerNote)
	}
	tg := t.ThreadGroup()
	if n.timers[tg] == nil {
		n.timers[tg] = make(map[linux.TimerID]timerNote)
	}
	n.timers[tg][linux.TimerID(hostarch.ByteOrder.Uint32(raw[:]))] = note
}

func noteFlock(a *Agent, t *kernel.Task, args arch.SyscallArguments) {
	if f := t.GetFile(args[0].Int()); f != nil {
		op := args[1].Int() &^ linux.LOCK_NB
		if op == linux.LOCK_UN {
			op = 0
		}
		a.notes.note(t, f, func(x *fileNote) { x.flock = op })
		f.DecRef(t)
	}
}

// noteFilter follows the filters that programs give themselves. The program is
// read before the call and may be another one in the call, if a thread changes it
// meanwhile: then the copy's filter is the one that was read first.
func (s *Kernel) noteFilter(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		var addr hostarch.Addr
		sync := false
		if call.Name == "seccomp" && args[0].Int() == linux.SECCOMP_SET_MODE_FILTER {
			addr, sync = args[2].Pointer(), args[1].Uint()&linux.SECCOMP_FILTER_FLAG_TSYNC != 0
		} else if call.Name == "prctl" && args[0].Int() == linux.PR_SET_SECCOMP && args[1].Int() == linux.SECCOMP_MODE_FILTER {
			addr = args[2].Pointer()
		}
		a := s.agentOf(t)
		if addr == 0 || a == nil {
			return inner(t, sysno, args)
		}
		p, ok := readFilter(t, addr)
		n, ctrl, err := inner(t, sysno, args)
		if err != nil || !ok {
			return n, ctrl, err
		}
		if !sync {
			a.notes.addFilter(t, p)
			return n, ctrl, err
		}
		a.notes.addFilter(t, p)
		t.ThreadGroup().ForEachTask(func(o *kernel.Task) bool {
			if o != t {
				a.notes.inheritAll(t, o)
			}
			return true
		})
		return n, ctrl, err
	}
}

// inheritAll has to know exactly the filters of from.
func (n *cloneNotes) inheritAll(from, to *kernel.Task) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filters[to] = n.filters[from]
}

// readFilter reads struct sock_fprog.
func readFilter(t *kernel.Task, addr hostarch.Addr) (bpf.Program, bool) {
	var head [16]byte
	if _, err := t.CopyInBytes(addr, head[:]); err != nil {
		return bpf.Program{}, false
	}
	count := int(hostarch.ByteOrder.Uint16(head[:2]))
	if count == 0 || count > bpf.MaxInstructions {
		return bpf.Program{}, false
	}
	raw := make([]byte, 8*count)
	if _, err := t.CopyInBytes(hostarch.Addr(hostarch.ByteOrder.Uint64(head[8:])), raw); err != nil {
		return bpf.Program{}, false
	}
	code := make([]bpf.Instruction, count)
	for i := range code {
		b := raw[8*i:]
		code[i] = bpf.Instruction{
			OpCode: hostarch.ByteOrder.Uint16(b), JumpIfTrue: b[2], JumpIfFalse: b[3], K: hostarch.ByteOrder.Uint32(b[4:]),
		}
	}
	p, err := bpf.Compile(code, true)
	return p, err == nil
}

// noteClone notes what a call that has made a task said about it.
func (a *Agent) noteClone(call abi.Syscall, parent *kernel.Task, tid kernel.ThreadID, args arch.SyscallArguments) {
	t := parent.PIDNamespace().TaskWithID(tid)
	if t == nil {
		return
	}
	a.notes.inherit(parent, t)
	var flags uint64
	var addr hostarch.Addr
	switch call.Name {
	case "clone":
		flags, addr = args[0].Uint64(), args[3].Pointer()
	case "clone3":
		var raw [24]byte // flags, pidfd, child_tid
		if _, err := parent.CopyInBytes(args[0].Pointer(), raw[:]); err != nil {
			return
		}
		flags, addr = hostarch.ByteOrder.Uint64(raw[:8]), hostarch.Addr(hostarch.ByteOrder.Uint64(raw[16:]))
	}
	if flags&linux.CLONE_CHILD_CLEARTID != 0 {
		a.notes.setClearTID(t, addr, false)
	}
	if t.ExitState() != kernel.TaskExitNone { // Its end may have come first.
		a.notes.ended(t)
	}
}
