package sentry

import (
	"strconv"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
)

// /proc/PID/mem is ptrace by another name: it reads and writes memory whatever
// its protection. It is asked for the same rights at every use, so that one
// that was opened earlier is worth no more: debug for the memory of another
// process, and memory-exec to write, because code can be written to. Both are
// about the agent's own processes: another agent's memory is never shown.

// procTask is the directory of a process or thread, or the directory "task"
// in it.
type procTask struct {
	kernfs.Inode
	s     *Kernel
	pidns *kernel.PIDNamespace
	id    kernel.ThreadID // 0 for "task"
	// thread says that it is a thread's: "task", or below it.
	thread bool
}

// gateProc returns what the root of a procfs found under name, with the gate
// before what is below it.
func (s *Kernel) gateProc(found kernfs.Inode, pidns *kernel.PIDNamespace, name string, thread bool) kernfs.Inode {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil || id <= 0 {
		return found
	}
	return &procTask{found, s, pidns, kernel.ThreadID(id), thread}
}

// Lookup implements kernfs.Inode.Lookup.
func (p *procTask) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	found, err := p.Inode.Lookup(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case p.id == 0:
		return p.s.gateProc(found, p.pidns, name, true), nil
	case name == "task":
		return &procTask{found, p.s, p.pidns, 0, true}, nil
	case name == "stat":
		return &taskStat{found, p.s, p.pidns, p.id, !p.thread}, nil
	case name == "oom_score":
		return p.s.newViewFile(ctx, linux.PROC_SUPER_MAGIC, oomScoreText(p.pidns, p.id)), nil
	case name == "mem":
		return &procMem{found, p.s, p.pidns, p.id}, nil
	case name == "fd":
		return &procFDs{found, p.s}, nil
	case name == "exe":
		return &procLink{found, p.s}, nil
	}
	return found, nil
}

// procMem is the file "mem".
type procMem struct {
	kernfs.Inode
	s     *Kernel
	pidns *kernel.PIDNamespace
	id    kernel.ThreadID
}

// Open implements kernfs.Inode.Open.
func (p *procMem) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	target := p.pidns.TaskWithID(p.id)
	if target == nil {
		return nil, linuxerr.ESRCH
	}
	f := &procMemFD{s: p.s, agent: target.ContainerID(), mm: addressSpaceOf(target)}
	if err := f.check(ctx, "open", opts.Flags&linux.O_ACCMODE != linux.O_RDONLY); err != nil {
		return nil, err
	}
	inner, err := p.Inode.Open(ctx, rp, d, opts)
	if err != nil {
		return nil, err
	}
	f.inner = inner
	// It is known for sure whose memory the file shows only if that did not
	// change meanwhile.
	if addressSpaceOf(target) != f.mm {
		inner.DecRef(ctx)
		return nil, linuxerr.EACCES
	}
	if err := f.vfsfd.Init(f, opts.Flags, rp.Credentials(), rp.Mount(), d.VFSDentry(), &vfs.FileDescriptionOptions{}); err != nil {
		inner.DecRef(ctx)
		return nil, err
	}
	return &f.vfsfd, nil
}

func addressSpaceOf(t *kernel.Task) (m *mm.MemoryManager) {
	t.WithMuLocked(func(t *kernel.Task) { m = t.MemoryManager() })
	return m
}

// procMemFD is an open "mem".
type procMemFD struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.NoLockFD

	s     *Kernel
	inner *vfs.FileDescription
	agent string            // whose memory it is
	mm    *mm.MemoryManager // only compared
}

var _ vfs.FileDescriptionImpl = (*procMemFD)(nil)

// check asks for the rights to use the file.
func (f *procMemFD) check(ctx context.Context, operation string, write bool) error {
	t := kernel.TaskFromContext(ctx)
	if t == nil {
		return linuxerr.EACCES // A transfer in the background has no task.
	}
	if t.ContainerID() != f.agent {
		f.s.gate.denials.note(Denial{Agent: t.ContainerID(), Operation: operation, Object: "/proc/PID/mem of another agent", Errno: unix.EPERM})
		return linuxerr.EPERM
	}
	mask := f.s.maskOf(t)
	needs := uint64(0)
	if t.MemoryManager() != f.mm {
		needs |= abi.GroupDebug.Bit()
	}
	if write {
		needs |= abi.GroupMemExec.Bit()
	}
	if missing := needs &^ mask; missing != 0 {
		return f.s.deny(t, operation, abi.FirstGroup(missing), "/proc/PID/mem")
	}
	return nil
}

// Release implements vfs.FileDescriptionImpl.Release.
func (f *procMemFD) Release(ctx context.Context) { f.inner.DecRef(ctx) }

// PRead implements vfs.FileDescriptionImpl.PRead.
func (f *procMemFD) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	if err := f.check(ctx, "read", false); err != nil {
		return 0, err
	}
	return f.inner.Impl().PRead(ctx, dst, offset, opts)
}

// Read implements vfs.FileDescriptionImpl.Read.
func (f *procMemFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if err := f.check(ctx, "read", false); err != nil {
		return 0, err
	}
	return f.inner.Impl().Read(ctx, dst, opts)
}

// PWrite implements vfs.FileDescriptionImpl.PWrite.
func (f *procMemFD) PWrite(ctx context.Context, src usermem.IOSequence, offset int64, opts vfs.WriteOptions) (int64, error) {
	if err := f.check(ctx, "write", true); err != nil {
		return 0, err
	}
	return f.inner.Impl().PWrite(ctx, src, offset, opts)
}

// Write implements vfs.FileDescriptionImpl.Write.
func (f *procMemFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	if err := f.check(ctx, "write", true); err != nil {
		return 0, err
	}
	return f.inner.Impl().Write(ctx, src, opts)
}

// Seek implements vfs.FileDescriptionImpl.Seek.
func (f *procMemFD) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	return f.inner.Impl().Seek(ctx, offset, whence)
}

// Stat implements vfs.FileDescriptionImpl.Stat.
func (f *procMemFD) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	return f.inner.Impl().Stat(ctx, opts)
}

// SetStat implements vfs.FileDescriptionImpl.SetStat.
func (f *procMemFD) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	return f.inner.Impl().SetStat(ctx, opts)
}
