package sentry

import (
	"cmp"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// Watches of inotify(7) are noted when they are made, and made anew in the copy,
// under the same numbers. Whether one is still there is asked of what it watches.

// watchNote is a watch. It holds no reference: what is watched stays as long as it
// is, and is not touched when it is not.
type watchNote struct {
	at   vfs.VirtualDentry
	mask uint32
}

// mostWatches is up to which number watches are made anew.
const mostWatches = 1 << 16

// noteWatch notes what a call of inotify_add_watch(2) has made.
func (s *Kernel) noteWatch(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		wd, ctrl, err := inner(t, sysno, args)
		a := s.agentOf(t)
		if err != nil || a == nil {
			return wd, ctrl, err
		}
		f := t.GetFile(args[0].Int())
		if f == nil {
			return wd, ctrl, nil
		}
		defer f.DecRef(t)
		mask := args[2].Uint()
		at := watched(t, args)
		a.notes.note(t, f, func(x *fileNote) {
			if x.watches == nil {
				x.watches = make(map[int32]watchNote)
			}
			if was, ok := x.watches[int32(wd)]; ok && mask&linux.IN_MASK_ADD != 0 && was.at == at {
				mask |= was.mask
			}
			x.watches[int32(wd)] = watchNote{at, mask}
		})
		return wd, ctrl, nil
	}
}

// forgetWatch follows inotify_rm_watch(2).
func forgetWatch(a *Agent, t *kernel.Task, args arch.SyscallArguments) {
	if f := t.GetFile(args[0].Int()); f != nil {
		a.notes.note(t, f, func(x *fileNote) { delete(x.watches, args[1].Int()) })
		f.DecRef(t)
	}
}

// watched returns what the arguments of inotify_add_watch(2) name; nothing if that
// is not there any more.
func watched(t *kernel.Task, args arch.SyscallArguments) (vd vfs.VirtualDentry) {
	name, err := t.CopyInString(args[1].Pointer(), linux.PATH_MAX)
	if err != nil {
		return vd
	}
	root, start := t.FSContext().RootDirectory(), t.FSContext().WorkingDirectory()
	defer root.DecRef(t)
	defer start.DecRef(t)
	from, p := start, fspath.Parse(name)
	if p.Absolute {
		from = root
	}
	vd, err = t.Kernel().VFS().GetDentryAt(t, t.Credentials(), &vfs.PathOperation{
		Root: root, Start: from, Path: p, FollowFinalSymlink: args[2].Uint()&linux.IN_DONT_FOLLOW == 0,
	}, &vfs.GetDentryOptions{})
	if err != nil {
		return vfs.VirtualDentry{}
	}
	vd.DecRef(t)
	return vd
}

// copyInotify makes the watches of an inotify descriptor anew.
func (f *fileCopier) copyInotify(old *vfs.FileDescription, impl *vfs.Inotify) (_ *vfs.FileDescription, err error) {
	type watch struct {
		wd int32
		watchNote
	}
	var all []watch
	notes := &f.c.src.notes
	notes.mu.Lock()
	if x := notes.files[old]; x != nil {
		for wd, w := range x.watches {
			all = append(all, watch{wd, w})
		}
	}
	notes.mu.Unlock()
	slices.SortFunc(all, func(x, y watch) int { return cmp.Compare(x.wd, y.wd) })
	file, err := vfs.NewInotifyFD(f.ctx, f.c.s.k.VFS(), anonFlags(old)&linux.O_NONBLOCK)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make an inotify descriptor")
	}
	defer func() {
		if err != nil {
			file.DecRef(f.ctx)
		}
	}()
	made := file.Impl().(*vfs.Inotify)
	kept := make(map[int32]watchNote)
	for _, w := range all {
		got := f.watching(impl, w.watchNote)
		if got != w.wd {
			if !slices.ContainsFunc(all, func(o watch) bool { return o.wd == got }) && got > 0 {
				impl.RmWatch(f.ctx, got) // It was made by asking.
			}
			continue // It has ended.
		}
		if w.wd > mostWatches {
			return nil, f.refuse(old, "more was watched by inotify than can be made anew")
		}
		at, err := f.find(w.at)
		if err != nil {
			return nil, err
		}
		err = f.watch(made, w.wd, at, w.mask)
		at.DecRef(f.ctx)
		if err != nil {
			return nil, err
		}
		kept[w.wd] = watchNote{at, w.mask}
	}
	mine := &f.c.dst.notes
	mine.mu.Lock()
	mine.file(file).watches = kept
	mine.mu.Unlock()
	return file, nil
}

// watching returns the number of the watch of what w watches, or 0. One that is there
// stays as it is; if there is none but that of another descriptor, one is made.
func (f *fileCopier) watching(i *vfs.Inotify, w watchNote) int32 {
	if !w.at.Ok() {
		return 0
	}
	set := w.at.Dentry().Watches()
	if set == nil || set.Size() == 0 {
		return 0
	}
	return i.AddWatch(w.at.Dentry(), w.mask|linux.IN_MASK_ADD)
}

// watch makes a watch of that number. Those before are used up.
func (f *fileCopier) watch(i *vfs.Inotify, wd int32, at vfs.VirtualDentry, mask uint32) error {
	for {
		got := i.AddWatch(at.Dentry(), mask&^linux.IN_MASK_ADD)
		if got == wd {
			return nil
		}
		if err := i.RmWatch(f.ctx, got); err != nil || got > wd {
			return errdefs.Newf(errdefs.Internal, "watch %d of the copy has got the number %d", wd, got)
		}
	}
}

// watchers returns the inotify descriptors of the agent that watch anything, to be
// given back.
func (a *Agent) watchers() (all []*vfs.FileDescription) {
	a.notes.mu.Lock()
	defer a.notes.mu.Unlock()
	for file, x := range a.notes.files {
		if len(x.watches) > 0 && file.TryIncRef() {
			all = append(all, file)
		}
	}
	return all
}

// toldUnread reports whether inotify has told the agent what it has not read.
func (a *Agent) toldUnread() (unread bool) {
	for _, file := range a.watchers() {
		if _, ok := file.Impl().(*vfs.Inotify); ok && file.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0 {
			unread = true
		}
		file.DecRef(a.ctx)
	}
	return unread
}

// readTold reads what copying has told an agent that stands still and had read
// everything: files are opened by that, and read.
func (a *Agent) readTold() {
	buf := make([]byte, 64<<10)
	for _, file := range a.watchers() {
		if i, ok := file.Impl().(*vfs.Inotify); ok {
			for {
				if n, err := i.Read(a.ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{}); n <= 0 || err != nil {
					break
				}
			}
		}
		file.DecRef(a.ctx)
	}
}
