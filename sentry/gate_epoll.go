package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// What an epoll instance waits for is noted as the program says it, and what
// EPOLLONESHOT has switched off as the program is told.

// leastSweep is how many interests of an epoll instance are noted before any is
// looked at again.
const leastSweep = 64

// ofData is which interest a program has given some data.
type ofData struct {
	key     interestKey
	several bool // another one had the same
}

// waitFor notes what an epoll instance waits for.
func (x *fileNote) waitFor(key interestKey, ev linux.EpollEvent) {
	if x.interests == nil {
		x.interests, x.byData, x.sweep = make(map[interestKey]linux.EpollEvent), make(map[[2]int32]ofData), leastSweep
	}
	if len(x.interests) >= x.sweep {
		for k := range x.interests {
			if k.file.ReadRefs() <= 0 {
				x.forget(k)
			}
		}
		x.sweep = max(leastSweep, 2*len(x.interests))
	}
	was := x.byData[ev.Data]
	other, there := x.interests[was.key]
	several := was.several || was.key != key && there && other.Data == ev.Data && was.key.file.ReadRefs() > 0
	x.byData[ev.Data] = ofData{key, several}
	x.interests[key] = ev
}

// forget notes that an epoll instance does not wait for something any more.
func (x *fileNote) forget(key interestKey) {
	data := x.interests[key].Data
	delete(x.interests, key)
	if d := x.byData[data]; d.key == key && !d.several {
		delete(x.byData, data)
	}
}

// noteInterest follows what epoll instances wait for. The files are looked up
// first: the call may be the last that knows them. What is to be waited for is noted
// before the call, in which another thread may hear of it already.
func (s *Kernel) noteInterest(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		ep, f := t.GetFile(args[0].Int()), t.GetFile(args[2].Int())
		for _, file := range []*vfs.FileDescription{ep, f} {
			if file != nil {
				defer file.DecRef(t)
			}
		}
		if a == nil || ep == nil || f == nil {
			return inner(t, sysno, args)
		}
		if _, ok := ep.Impl().(*vfs.EpollInstance); !ok {
			return inner(t, sysno, args)
		}
		key := interestKey{f, args[2].Int()}
		if args[1].Int() == linux.EPOLL_CTL_DEL {
			n, ctrl, err := inner(t, sysno, args)
			if err == nil {
				a.notes.note(t, ep, func(x *fileNote) { x.forget(key) })
			}
			return n, ctrl, err
		}
		var ev, was linux.EpollEvent
		had := false
		if _, err := ev.CopyIn(t, args[3].Pointer()); err == nil {
			a.notes.note(t, ep, func(x *fileNote) {
				was, had = x.interests[key]
				x.waitFor(key, ev)
			})
			a.notes.watchFor(ev)
		}
		n, ctrl, err := inner(t, sysno, args)
		if err != nil {
			a.notes.note(t, ep, func(x *fileNote) {
				if x.forget(key); had {
					x.waitFor(key, was)
				}
			})
		}
		return n, ctrl, err
	}
}

// epollWaits are the calls that return what epoll instances have to tell: a wait that
// goes on is one by the arguments that it had.
var epollWaits = map[string]bool{"epoll_wait": true, "epoll_pwait": true, "epoll_pwait2": true, "restart_syscall": true}

// eventBytes is the size of an event in a program's memory.
const eventBytes = 12

// noteEvents follows what EPOLLONESHOT switches off: what was told. The program is
// told of an interest by what it has said about it, which may be the same of several:
// then none of them is taken for switched off.
func (s *Kernel) noteEvents(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if a == nil || call.Name == "restart_syscall" && !waitsInEpoll(t) {
			return inner(t, sysno, args)
		}
		ep := t.GetFile(args[0].Int())
		if ep == nil {
			return inner(t, sysno, args)
		}
		defer ep.DecRef(t)
		n, ctrl, err := inner(t, sysno, args)
		if err == nil && n > 0 && a.notes.oneShots.Load() {
			raw := make([]byte, n*eventBytes)
			got, _ := t.CopyInBytes(args[1].Pointer(), raw)
			a.notes.told(ep, raw[:got/eventBytes*eventBytes])
		}
		return n, ctrl, err
	}
}

// waitsInEpoll reports whether the call that a task goes on with is one of epoll.
func waitsInEpoll(t *kernel.Task) bool {
	block := t.SyscallRestartBlock() // Who asks takes it away.
	t.SetSyscallRestartBlock(block)
	w, ok := block.(*waitOn)
	return ok && w.how != againSignal
}

// watchFor has noteEvents look at what programs are told, if an interest is for once.
func (n *cloneNotes) watchFor(ev linux.EpollEvent) {
	if ev.Events&linux.EPOLLONESHOT != 0 {
		n.oneShots.Store(true)
	}
}

// told notes the events that a program has got of an epoll instance.
func (n *cloneNotes) told(ep *vfs.FileDescription, raw []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.files[ep]
	if x == nil {
		return
	}
	for ; len(raw) > 0; raw = raw[eventBytes:] {
		of := x.byData[[2]int32{int32(hostarch.ByteOrder.Uint32(raw[4:])), int32(hostarch.ByteOrder.Uint32(raw[8:]))}]
		if ev, ok := x.interests[of.key]; ok && !of.several && ev.Events&linux.EPOLLONESHOT != 0 {
			ev.Events &= linux.EP_PRIVATE_BITS
			x.interests[of.key] = ev
		}
	}
}
