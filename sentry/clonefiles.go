package sentry

import (
	"io"
	"maps"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/eventfd"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/pipefs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/signalfd"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/timerfd"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs"
)

// fileCopier makes the open files of a copy. What two descriptors share they share
// in the copy too: a description is copied once.
type fileCopier struct {
	c        *copying
	ctx      context.Context
	from, to vfs.VirtualDentry // the roots
	files    map[*vfs.FileDescription]*vfs.FileDescription
	pipes    map[*pipe.Pipe]*pipeEnds
	deleted  map[fileID]nameless // files without a name, and the name they have for now
	holder   map[*vfs.FileDescription]*twin
	endings  []func() // at the end
	sockets  socketCopier
	remains  map[*vfs.FileDescription]*remains // of sockets that get no more

	terminals map[*vfs.FileDescription]*terminal // by their ends in the original
	byNumber  map[uint32]*terminal
}

// fileID is what tells files apart.
type fileID struct {
	dev, ino uint64
}

// pipeEnds are the ends of a pipe in the copy.
type pipeEnds struct {
	r, w *vfs.FileDescription
}

func newFileCopier(c *copying) *fileCopier {
	return &fileCopier{
		c: c, ctx: c.ctx, from: c.src.ns.mnt.Root(c.ctx), to: c.dst.ns.mnt.Root(c.ctx),
		files: make(map[*vfs.FileDescription]*vfs.FileDescription), pipes: make(map[*pipe.Pipe]*pipeEnds),
		deleted: make(map[fileID]nameless), holder: make(map[*vfs.FileDescription]*twin),
		remains: make(map[*vfs.FileDescription]*remains), terminals: make(map[*vfs.FileDescription]*terminal), byNumber: make(map[uint32]*terminal),
	}
}

// release gives back what the copier holds, and takes away names that were needed
// for a while.
func (f *fileCopier) release() {
	for _, x := range f.deleted {
		remove := f.c.s.k.VFS().UnlinkAt
		if x.dir {
			remove = f.c.s.k.VFS().RmdirAt
		}
		remove(f.ctx, f.c.s.creds, creating(f.to, x.name))
	}
	for _, file := range f.files {
		if file != nil {
			file.DecRef(f.ctx)
		}
	}
	for _, p := range f.pipes {
		for _, end := range []*vfs.FileDescription{p.r, p.w} {
			if end != nil {
				end.DecRef(f.ctx)
			}
		}
	}
	for _, x := range f.byNumber {
		for _, end := range []*vfs.FileDescription{x.anchor, x.own} { // Without a master it hangs up.
			if end != nil {
				end.DecRef(f.ctx)
			}
		}
	}
	for _, r := range f.remains {
		for _, m := range r.all {
			m.control.Release(f.ctx)
		}
	}
	f.from.DecRef(f.ctx)
	f.to.DecRef(f.ctx)
}

// refuse says that a file cannot be carried over.
func (f *fileCopier) refuse(file *vfs.FileDescription, why string) error {
	who := ""
	if tw := f.holder[file]; tw != nil {
		who = "process " + tw.old.Name() + " has "
	}
	return errdefs.New(errdefs.Unsupported, who+"an open file that cannot be copied: "+why, errdefs.Op("clone"), errdefs.Resource("%s", f.c.src.id),
		errdefs.Fix("have the program close it, and clone the agent then; docs/clone.md says what a copy can carry"))
}

// tables fills the tables of the copy.
func (f *fileCopier) tables() error {
	for _, tw := range f.c.f.twins {
		if tw.zombie {
			continue
		}
		tw.old.FDTable().ForEach(f.ctx, func(_ int32, file *vfs.FileDescription, _ kernel.FDFlags) bool {
			if f.holder[file] == nil || tw.lead && tw.tid < f.holder[file].tid {
				f.holder[file] = tw
			}
			return true
		})
	}
	if err := f.renewals(); err != nil {
		return err
	}
	if err := f.connections(); err != nil {
		return err
	}
	for old, table := range f.c.tables {
		type entry struct {
			fd    int32
			file  *vfs.FileDescription
			flags kernel.FDFlags
		}
		var all []entry
		old.ForEach(f.ctx, func(fd int32, file *vfs.FileDescription, flags kernel.FDFlags) bool {
			all = append(all, entry{fd, file, flags}) // The table stands still, and keeps it.
			return true
		})
		for _, e := range all {
			file, err := f.file(e.file)
			if err != nil {
				return err
			}
			prev, err := table.NewFDAt(f.ctx, e.fd, file, e.flags)
			if prev != nil {
				prev.DecRef(f.ctx)
			}
			if err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "set a descriptor")
			}
		}
	}
	for old, file := range f.files {
		if err := f.interests(old, file); err != nil {
			return err
		}
		f.owner(old, file)
	}
	for _, end := range f.endings {
		end()
	}
	return f.locks()
}

// file returns the copy of an open file. The reference is the copier's.
func (f *fileCopier) file(old *vfs.FileDescription) (*vfs.FileDescription, error) {
	if file, ok := f.files[old]; ok {
		return file, nil
	}
	file, err := f.copyFile(old)
	if err != nil {
		return nil, err
	}
	f.files[old] = file
	if want := old.StatusFlags(); file.StatusFlags() != want {
		file.SetStatusFlags(f.ctx, f.c.s.creds, want) // What can be changed.
	}
	return file, nil
}

func (f *fileCopier) copyFile(old *vfs.FileDescription) (*vfs.FileDescription, error) {
	v := f.c.s.k.VFS()
	switch impl := old.Impl().(type) {
	case *pipe.VFSPipeFD:
		return f.copyPipe(old, impl)
	case *eventfd.EventFileDescription:
		return f.copyEvent(old, impl)
	case *timerfd.TimerFileDescription:
		return f.copyTimer(old, impl)
	case *signalfd.SignalFileDescription:
		tw := f.holder[old]
		if tw == nil || tw.group.leader.new == nil {
			return nil, f.refuse(old, "nobody reads the signals")
		}
		return signalfd.New(v, tw.group.leader.new, impl.Mask(), anonFlags(old))
	case *vfs.EpollInstance:
		return v.NewEpollInstanceFD(f.ctx)
	case *vfs.Inotify:
		return f.copyInotify(old, impl)
	}
	if ids, err := kernel.ObservedTIDsForPIDFD(old, f.src(old)); err == nil {
		return f.copyPIDFD(old, kernel.ThreadID(ids[0]))
	}
	if file, ok, err := f.sockets.copy(f, old); ok || err != nil {
		return file, err
	}
	if file, ok, err := f.copyTerminal(old); ok || err != nil {
		return file, err
	}
	if old.Mount() == f.c.s.k.ShmMount() {
		return f.copyMemory(old)
	}
	return f.reopen(old)
}

// copyPIDFD names the copy of a process; if that has ended and was waited for, one
// that ends before the copy runs.
func (f *fileCopier) copyPIDFD(old *vfs.FileDescription, id kernel.ThreadID) (*vfs.FileDescription, error) {
	thread := false
	if id == -1 {
		gone, err := f.c.idle(f.c.group(kernel.NewSignalHandlers(), linux.SIGCHLD, nil), "", nil)
		if err != nil {
			return nil, err
		}
		id = f.c.dst.ns.pid().IDOfTask(gone)
	} else {
		tw := f.c.f.twins[id]
		if tw == nil || tw.new == nil {
			return nil, f.refuse(old, "the process that it names is another agent's")
		}
		thread = !tw.lead
	}
	file, err := f.creator(old).PIDFDOpen(id, thread, old.StatusFlags()&linux.O_NONBLOCK != 0)
	return file, errdefs.Wrap(err, errdefs.Internal, "open a process")
}

// copyPipe makes the ends of a pipe anew, with what is in it.
func (f *fileCopier) copyPipe(old *vfs.FileDescription, impl *pipe.VFSPipeFD) (*vfs.FileDescription, error) {
	p := impl.Pipe()
	ends := f.pipes[p]
	if ends == nil {
		if old.Mount() != f.c.s.k.PipeMount() {
			return f.copyFIFO(old, impl)
		}
		var err error
		if ends, err = f.newPipe(impl); err != nil {
			return nil, err
		}
	}
	end := ends.w
	if old.IsReadable() {
		end = ends.r
	}
	if end == nil {
		return nil, f.refuse(old, "it is an end of the standard input or output that is not the program's")
	}
	end.IncRef()
	return end, nil
}

func (f *fileCopier) newPipe(impl *pipe.VFSPipeFD) (*pipeEnds, error) {
	r, w, err := pipefs.NewConnectedPipeFDs(f.ctx, f.c.s.k.PipeMount(), 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make a pipe")
	}
	ends := &pipeEnds{r: r, w: w}
	f.pipes[impl.Pipe()] = ends
	return ends, f.fillPipe(w, impl)
}

// fillPipe puts into a new pipe what is in another.
func (f *fileCopier) fillPipe(w *vfs.FileDescription, impl *pipe.VFSPipeFD) error {
	dst := w.Impl().(*pipe.VFSPipeFD)
	if size := impl.PipeSize(); size != dst.PipeSize() {
		if _, err := dst.SetPipeSize(size); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "size a pipe")
		}
	}
	if impl.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents == 0 && !impl.Pipe().HasReaders() {
		return nil
	}
	_, err := pipe.Tee(f.ctx, dst, impl, impl.PipeSize())
	if err != nil && !linuxerr.Equals(linuxerr.ErrWouldBlock, err) && err != io.EOF {
		return errdefs.Wrap(err, errdefs.Internal, "copy what is in a pipe")
	}
	return nil
}

// copyFIFO opens a pipe that has a name.
func (f *fileCopier) copyFIFO(old *vfs.FileDescription, impl *pipe.VFSPipeFD) (*vfs.FileDescription, error) {
	name, err := f.path(old)
	if err != nil {
		return nil, err
	}
	open := func(flags uint32) (*vfs.FileDescription, error) {
		file, err := f.c.s.k.VFS().OpenAt(f.ctx, f.c.s.creds, creating(f.to, name), &vfs.OpenOptions{Flags: flags | linux.O_NONBLOCK})
		return file, errdefs.Wrap(err, errdefs.Internal, "open", errdefs.Resource("%s", name))
	}
	both, err := open(linux.O_RDWR)
	if err != nil {
		return nil, err
	}
	f.endings = append(f.endings, func() { both.DecRef(f.ctx) })
	if dst := both.Impl().(*pipe.VFSPipeFD); dst.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents == 0 {
		if err := f.fillPipe(both, impl); err != nil {
			return nil, err
		}
	}
	return open(old.StatusFlags() & linux.O_ACCMODE)
}

// copyEvent makes an eventfd with the same count. It tells a semaphore from a
// counter by what a read of more than one returns.
func (f *fileCopier) copyEvent(old *vfs.FileDescription, impl *eventfd.EventFileDescription) (*vfs.FileDescription, error) {
	read := func() (n uint64) {
		raw := make([]byte, 8)
		if _, err := impl.Read(f.ctx, usermem.BytesIOSequence(raw), vfs.ReadOptions{}); err == nil {
			for i := range raw {
				n |= uint64(raw[i]) << (8 * i)
			}
		}
		return n
	}
	var sum uint64
	for n := read(); n != 0; n = read() {
		sum += n
	}
	impl.Signal(2)
	semaphore := read() == 1
	if semaphore {
		read()
	}
	if sum > 0 {
		impl.Signal(sum)
	}
	file, err := eventfd.New(f.ctx, f.c.s.k.VFS(), sum, semaphore, anonFlags(old))
	return file, errdefs.Wrap(err, errdefs.Internal, "make an eventfd")
}

// anonFlags are the flags by which a file without a name is made like old.
func anonFlags(old *vfs.FileDescription) uint32 {
	return old.StatusFlags() & (linux.O_ACCMODE | linux.O_NONBLOCK)
}

// copyTimer makes a timer that expires when the original does. How often one has
// expired and was not read can only be seen by reading it; both have it again by
// being set to a time that is past.
func (f *fileCopier) copyTimer(old *vfs.FileDescription, impl *timerfd.TimerFileDescription) (*vfs.FileDescription, error) {
	file, err := timerfd.New(f.ctx, f.c.s.k.VFS(), impl.Clock(), anonFlags(old))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make a timer")
	}
	timer := file.Impl().(*timerfd.TimerFileDescription)
	now, set := impl.GetTime()
	var unread uint64
	for raw := make([]byte, 8); ; now, set = impl.GetTime() { // Until it has not expired meanwhile.
		if _, err := impl.Read(f.ctx, usermem.BytesIOSequence(raw), vfs.ReadOptions{}); err != nil {
			break
		}
		unread += hostarch.ByteOrder.Uint64(raw)
	}
	if unread > 0 {
		if !set.Enabled { // It was to expire once.
			set.Enabled, set.Next = true, now
		} else {
			set.Next = set.Next.Add(-time.Duration(unread) * set.Period)
		}
		impl.SetTime(set)
	}
	timer.SetTime(set)
	return file, nil
}

// copyMemory copies a file of memfd_create(2), or what is mapped without a file.
func (f *fileCopier) copyMemory(old *vfs.FileDescription) (*vfs.FileDescription, error) {
	id := idOf(f.ctx, old)
	for other, file := range f.files {
		if file != nil && other.Mount() == old.Mount() && idOf(f.ctx, other) == id {
			file.IncRef() // Two descriptions of one are rare; they share the offset then.
			return file, nil
		}
	}
	name := old.MappedName(f.ctx)
	file, err := tmpfs.NewMemfd(f.ctx, f.c.s.creds, f.c.s.k.ShmMount(), true, name)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make a file in memory")
	}
	if err := f.content(old.VirtualDentry(), file); err != nil {
		file.DecRef(f.ctx)
		return nil, err
	}
	if seals, err := tmpfs.GetSeals(old); err == nil && seals != 0 {
		tmpfs.AddSeals(file, seals)
	}
	f.seek(old, file)
	return file, nil
}

func idOf(ctx context.Context, file *vfs.FileDescription) fileID {
	return fileID{file.DeviceID(), file.InodeID()}
}

// seek gives file the offset of old.
func (f *fileCopier) seek(old, file *vfs.FileDescription) {
	if at, err := old.Seek(f.ctx, 0, linux.SEEK_CUR); err == nil && at != 0 {
		file.Seek(f.ctx, at, linux.SEEK_SET)
	}
}

// beneath returns the name by which the agent reaches what is in a layer of its
// root: devices, pipes and sockets are opened there.
func (f *fileCopier) beneath(vd vfs.VirtualDentry) string {
	s, ns := f.c.s, f.c.src.ns
	name, err := s.k.VFS().PathnameInFilesystem(f.ctx, vd)
	if err != nil {
		return ""
	}
	fs := vd.Mount().Filesystem()
	if fs == ns.upper.Filesystem() {
		return ns.root.lowerName(name)
	}
	is := func(key string) bool {
		mnt, err := s.mount(key)
		if err != nil {
			return false
		}
		defer mnt.DecRef(f.ctx)
		return mnt.Filesystem() == fs
	}
	switch {
	case is(devKey):
		return "/dev" + name
	case is(ns.root.Base):
		return name
	}
	for _, l := range ns.root.Layers {
		if is(l.Key) {
			return l.Target + name
		}
	}
	return ""
}

// reopen opens the same file in the copy.
func (f *fileCopier) reopen(old *vfs.FileDescription) (*vfs.FileDescription, error) {
	name, err := f.path(old)
	if err != nil {
		return nil, err
	}
	flags := old.StatusFlags() &^ (linux.O_CREAT | linux.O_EXCL | linux.O_TRUNC | linux.O_NOCTTY)
	ctx := f.ctx
	if ctlfs.IsControlTree(old) { // It asks who opens it.
		ctx = asTask{ctx, f.creator(old)}
	}
	file, err := f.c.s.k.VFS().OpenAt(ctx, f.c.s.creds, creating(f.to, name), &vfs.OpenOptions{Flags: flags | linux.O_NOCTTY})
	if err != nil {
		return nil, errdefs.New(errdefs.Unsupported, "a file that is open cannot be opened again", errdefs.Op("clone"), errdefs.Resource("%s", name),
			errdefs.Cause(err), errdefs.Fix("have the program close it, and clone the agent then"))
	}
	f.seek(old, file)
	f.c.dst.copyTrigger(old, file)
	return file, nil
}

// asTask is a context in which a task does something that does not run yet.
type asTask struct {
	context.Context
	t *kernel.Task
}

// Value implements context.Context.
func (c asTask) Value(key any) any {
	if key == kernel.CtxTask {
		return c.t
	}
	return c.Context.Value(key)
}

// interests has the copy of an epoll instance wait for what the original does.
func (f *fileCopier) interests(old, file *vfs.FileDescription) error {
	ep, ok := file.Impl().(*vfs.EpollInstance)
	if !ok {
		return nil
	}
	notes, mine := &f.c.src.notes, &f.c.dst.notes
	notes.mu.Lock()
	var want map[interestKey]linux.EpollEvent
	if x := notes.files[old]; x != nil {
		want = make(map[interestKey]linux.EpollEvent, len(x.interests))
		for k, ev := range x.interests {
			want[k] = ev
		}
	}
	notes.mu.Unlock()
	off := func(k interestKey) bool { return want[k].Events&^linux.EP_PRIVATE_BITS == 0 }
	keys := slices.Collect(maps.Keys(want))
	slices.SortFunc(keys, func(a, b interestKey) int { // Those that are off come first.
		switch {
		case off(a) == off(b):
			return int(a.fd - b.fd)
		case off(a):
			return -1
		}
		return 1
	})
	for _, k := range keys {
		ev := want[k]
		to := f.files[k.file]
		if to == nil {
			continue // It is closed.
		}
		if err := ep.AddInterest(to, k.fd, ev); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "wait for a file")
		}
		if off(k) {
			ep.ReadEvents(nil, 1) // Of an end that was told; one to come is told once.
		}
		key := interestKey{to, k.fd}
		mine.mu.Lock()
		x := mine.file(file)
		x.waitFor(key, ev)
		mine.mu.Unlock()
		mine.watchFor(ev)
	}
	return nil
}
