package sentry

import (
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/fasync"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// owner has the copy of a file send its signals (F_SETOWN of fcntl(2), O_ASYNC) to
// the copy of who gets the original's.
func (f *fileCopier) owner(old, file *vfs.FileDescription) {
	was, ok := old.AsyncHandler().(*fasync.FileAsync)
	if !ok {
		return
	}
	h, err := file.SetAsyncHandler(fasync.New(f.number(old)))
	if err != nil {
		return // It can send none.
	}
	now, t := h.(*fasync.FileAsync), f.creator(old)
	now.SetSignal(was.Signal())
	task, tg, pg := was.Owner()
	switch {
	case task != nil:
		if tw := f.c.f.of[task]; tw != nil && tw.new != nil {
			now.SetOwnerTask(t, tw.new)
		}
	case tg != nil:
		if tw := f.c.f.of[tg.Leader()]; tw != nil && tw.new != nil {
			now.SetOwnerThreadGroup(t, tw.group.new)
		}
	case pg != nil:
		pid := f.c.dst.ns.pid()
		if g := pid.ProcessGroupWithID(f.c.src.ns.pid().IDOfProcessGroup(pg)); g != nil {
			now.SetOwnerProcessGroup(t, g)
		}
	}
}

// number is a descriptor by which a file is open; which one it was that a program has
// asked for signals by is not told.
func (f *fileCopier) number(file *vfs.FileDescription) (fd int) {
	fd = -1
	f.src(file).FDTable().ForEach(f.ctx, func(n int32, o *vfs.FileDescription, _ kernel.FDFlags) bool {
		if o == file {
			fd = int(n)
		}
		return fd < 0
	})
	return fd
}
