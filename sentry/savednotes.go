package sentry

import (
	"context"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
)

// savedNotes are an agent's notes, as part of a checkpoint: what copies of it have to
// know when it goes on.
type savedNotes struct {
	filters map[*kernel.Task][]bpf.Program
	masks   map[*kernel.Task]uint64
	signals []*kernel.ThreadGroup
	timers  []*savedTimer
	files   []*savedFile
	aio     map[*kernel.ThreadGroup]map[uint64]uint32
	calls   map[*kernel.Task]uint64
}

// savedTimer is a timer of timer_create(2).
type savedTimer struct {
	of    *kernel.ThreadGroup
	id    int32
	clock int32
	owner *kernel.Task
	event []byte // nil if the program gave none
}

// savedFile is what was noted of an open file: parallel lists of what an epoll
// instance waits for, and of what inotify watches.
type savedFile struct {
	file   *vfs.FileDescription
	flock  int32
	files  []*vfs.FileDescription
	fds    []int32
	events []uint32
	data   []uint64
	wds    []int32
	masks  []uint32
	mounts []*vfs.Mount
	places []*vfs.Dentry
}

// saved returns the notes of an agent that stands still. What is closed is left out.
func (n *cloneNotes) saved() *savedNotes {
	o := &savedNotes{masks: make(map[*kernel.Task]uint64)}
	n.masks.Range(func(t, mask any) bool {
		o.masks[t.(*kernel.Task)] = mask.(*atomic.Uint64).Load()
		return true
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	o.filters, o.aio = n.filters, n.aio
	for tg := range n.signals {
		o.signals = append(o.signals, tg)
	}
	for tg, all := range n.timers {
		for id, x := range all {
			t := &savedTimer{of: tg, id: int32(id), clock: x.clock, owner: x.owner}
			if x.event != nil {
				t.event = marshal.Marshal(x.event)
			}
			o.timers = append(o.timers, t)
		}
	}
	for file, x := range n.files {
		if file.ReadRefs() <= 0 {
			continue
		}
		s := &savedFile{file: file, flock: x.flock}
		for k, ev := range x.interests {
			if k.file.ReadRefs() > 0 {
				s.files, s.fds, s.events = append(s.files, k.file), append(s.fds, k.fd), append(s.events, ev.Events)
				s.data = append(s.data, uint64(uint32(ev.Data[0]))|uint64(uint32(ev.Data[1]))<<32)
			}
		}
		for wd, w := range x.watches {
			if w.at.Ok() && w.at.Dentry().Watches() != nil && w.at.Dentry().Watches().Size() > 0 {
				s.wds, s.masks = append(s.wds, wd), append(s.masks, w.mask)
				s.mounts, s.places = append(s.mounts, w.at.Mount()), append(s.places, w.at.Dentry())
			}
		}
		o.files = append(o.files, s)
	}
	return o
}

// load takes over notes that were saved.
func (n *cloneNotes) load(o *savedNotes) {
	for t, mask := range o.masks {
		v := new(atomic.Uint64)
		v.Store(mask)
		n.masks.Store(t, v)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filters, n.aio = o.filters, o.aio
	n.calls = make(map[*kernel.Task]uintptr, len(o.calls))
	for t, nr := range o.calls {
		n.calls[t] = uintptr(nr)
	}
	for _, tg := range o.signals {
		if n.signals == nil {
			n.signals = make(map[*kernel.ThreadGroup]bool)
		}
		n.signals[tg] = true
	}
	for _, x := range o.timers {
		if n.timers == nil {
			n.timers = make(map[*kernel.ThreadGroup]map[linux.TimerID]timerNote)
		}
		if n.timers[x.of] == nil {
			n.timers[x.of] = make(map[linux.TimerID]timerNote)
		}
		note := timerNote{clock: x.clock, owner: x.owner}
		if len(x.event) > 0 {
			note.event = new(linux.Sigevent)
			note.event.UnmarshalBytes(x.event)
		}
		n.timers[x.of][linux.TimerID(x.id)] = note
	}
	for _, s := range o.files {
		x := n.file(s.file)
		x.flock = s.flock
		for i, file := range s.files {
			ev := linux.EpollEvent{Events: s.events[i], Data: [2]int32{int32(s.data[i]), int32(s.data[i] >> 32)}}
			x.waitFor(interestKey{file, s.fds[i]}, ev)
			n.watchFor(ev)
		}
		for i, wd := range s.wds {
			if x.watches == nil {
				x.watches = make(map[int32]watchNote)
			}
			x.watches[wd] = watchNote{vfs.MakeVirtualDentry(s.mounts[i], s.places[i]), s.masks[i]}
		}
	}
}

// StateTypeName implements state.Type.
func (*savedNotes) StateTypeName() string { return "aios/sentry.savedNotes" }

// StateFields implements state.Type.
func (*savedNotes) StateFields() []string {
	return []string{"filters", "masks", "signals", "timers", "files", "aio", "calls"}
}

// fields are what StateFields names.
func (n *savedNotes) fields() []any {
	return []any{&n.filters, &n.masks, &n.signals, &n.timers, &n.files, &n.aio, &n.calls}
}

// StateSave implements state.SaverLoader.
func (n *savedNotes) StateSave(m state.Sink) { saveAll(m, n.fields()) }

// StateLoad implements state.SaverLoader.
func (n *savedNotes) StateLoad(_ context.Context, m state.Source) { loadAll(m, n.fields()) }

// StateTypeName implements state.Type.
func (*savedTimer) StateTypeName() string { return "aios/sentry.savedTimer" }

// StateFields implements state.Type.
func (*savedTimer) StateFields() []string { return []string{"of", "id", "clock", "owner", "event"} }

// fields are what StateFields names.
func (t *savedTimer) fields() []any { return []any{&t.of, &t.id, &t.clock, &t.owner, &t.event} }

// StateSave implements state.SaverLoader.
func (t *savedTimer) StateSave(m state.Sink) { saveAll(m, t.fields()) }

// StateLoad implements state.SaverLoader.
func (t *savedTimer) StateLoad(_ context.Context, m state.Source) { loadAll(m, t.fields()) }

// StateTypeName implements state.Type.
func (*savedFile) StateTypeName() string { return "aios/sentry.savedFile" }

// StateFields implements state.Type.
func (*savedFile) StateFields() []string {
	return []string{"file", "flock", "files", "fds", "events", "data", "wds", "masks", "mounts", "places"}
}

// fields are what StateFields names.
func (s *savedFile) fields() []any {
	return []any{&s.file, &s.flock, &s.files, &s.fds, &s.events, &s.data, &s.wds, &s.masks, &s.mounts, &s.places}
}

// StateSave implements state.SaverLoader.
func (s *savedFile) StateSave(m state.Sink) { saveAll(m, s.fields()) }

// StateLoad implements state.SaverLoader.
func (s *savedFile) StateLoad(_ context.Context, m state.Source) { loadAll(m, s.fields()) }

func init() {
	for _, t := range []state.Type{(*savedNotes)(nil), (*savedTimer)(nil), (*savedFile)(nil)} {
		state.Register(t)
	}
}
