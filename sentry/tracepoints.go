package sentry

import (
	"path"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// Where agents' events come from: gVisor's own trace points for new programs,
// processes and threads; for files and sockets a look at a system call that
// has succeeded, in the table that the gate makes. A call whose types nobody
// listens to costs one atomic load more.

// pointSink gets what gVisor's trace points see. It must not fail: gVisor
// would fail the call.
type pointSink struct {
	seccheck.SinkDefaults
	s *Kernel
}

// tracePoints enables gVisor's trace points.
func (s *Kernel) tracePoints() error {
	pointsKnown()
	seccheck.Global.AppendSink(&pointSink{s: s}, []seccheck.PointReq{
		{Pt: seccheck.PointExecve}, {Pt: seccheck.PointClone},
	})
	return nil
}

// Name implements seccheck.Sink.
func (*pointSink) Name() string { return "aios" }

// Execve implements seccheck.Sink.
func (p *pointSink) Execve(ctx context.Context, _ seccheck.FieldSet, info *pb.ExecveInfo) error {
	t, ok := ctx.(*kernel.Task)
	if !ok || !p.s.events.Enabled(event.AgentExec) {
		return nil
	}
	if a := p.s.agentOf(t); a != nil {
		p.s.emit(a, event.AgentExec, &eventv1.AgentExec{
			Process: processOf(t), Path: event.Text(info.GetBinaryPath()), Args: event.Args(info.GetArgv()),
		})
	}
	return nil
}

// Clone implements seccheck.Sink. It is called before the new task runs.
func (p *pointSink) Clone(ctx context.Context, _ seccheck.FieldSet, info *pb.CloneInfo) error {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return nil
	}
	typ := event.AgentFork
	if info.GetFlags()&linux.CLONE_THREAD != 0 {
		typ = event.AgentThread
	}
	if !p.s.events.Enabled(typ) {
		return nil
	}
	a := p.s.agentOf(t)
	if a != nil && !p.s.events.EnabledFor(typ, a.id) {
		return nil
	}
	made := p.s.k.TaskSet().Root.TaskWithID(kernel.ThreadID(info.GetCreatedThreadId()))
	if a == nil || made == nil {
		return nil
	}
	tid := int32(a.ns.pid().IDOfTask(made))
	if typ == event.AgentThread {
		p.s.emit(a, typ, &eventv1.AgentThread{Process: processOf(t), Tid: tid})
	} else {
		p.s.emit(a, typ, &eventv1.AgentFork{Parent: processOf(t), Pid: tid})
	}
	return nil
}

// traced is a call that makes events.
type traced struct {
	types []event.Type
	// before, when set, looks at what will be gone; what it returns goes to tell.
	before func(s *Kernel, t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) string
	// tell is called after the call, on the task's goroutine.
	tell func(s *Kernel, c traceCall)
}

// traceCall is one call that was made.
type traceCall struct {
	t    *kernel.Task
	a    *Agent
	call abi.Syscall
	args arch.SyscallArguments
	n    uintptr
	err  error
	// What before returned.
	seen string
}

// traceCall lets events be made of a call.
func (s *Kernel) traceCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	tr, ok := tracedCalls[call.Name]
	if !ok {
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		wanted := false
		for _, typ := range tr.types {
			wanted = wanted || s.events.Enabled(typ)
		}
		if !wanted {
			return inner(t, sysno, args)
		}
		a := s.agentOf(t)
		if a == nil || !slices.ContainsFunc(tr.types, func(typ event.Type) bool { return s.events.EnabledFor(typ, a.id) }) {
			return inner(t, sysno, args)
		}
		var seen string
		if tr.before != nil {
			seen = tr.before(s, t, call, args)
		}
		n, ctrl, err := inner(t, sysno, args)
		tr.tell(s, traceCall{t, a, call, args, n, err, seen})
		return n, ctrl, err
	}
}

// atArgs says where a call has its path, and the directory that the path
// starts at; -1 for none.
func atArgs(name string) (dir, text int) {
	switch name {
	case "openat", "openat2", "mkdirat", "mknodat", "unlinkat", "renameat", "renameat2":
		return 0, 1
	case "symlinkat":
		return 1, 2
	case "symlink", "link":
		return -1, 1
	case "linkat":
		return 2, 3
	}
	return -1, 0
}

// pathArg returns the path that an argument names, from the root of the task.
// It is what the program said: links in it are not followed.
func pathArg(t *kernel.Task, args arch.SyscallArguments, dir, text int) string {
	name, err := t.CopyInString(args[text].Pointer(), linux.PATH_MAX)
	if err != nil {
		return ""
	}
	if path.IsAbs(name) {
		return event.Text(path.Clean(name))
	}
	base := ""
	if dir >= 0 && args[dir].Int() != linux.AT_FDCWD {
		base = pathOfFD(t, args[dir].Int())
	} else {
		root, cwd := t.FSContext().RootDirectory(), t.FSContext().WorkingDirectory()
		base, _ = t.Kernel().VFS().PathnameWithDeleted(t, root, cwd)
		cwd.DecRef(t)
		root.DecRef(t)
	}
	return event.Text(path.Join(base, name))
}

// pathOfFD returns the path of an open file, "" if there is none.
func pathOfFD(t *kernel.Task, fd int32) string {
	file := t.GetFile(fd)
	if file == nil {
		return ""
	}
	defer file.DecRef(t)
	return pathOfFile(t, file)
}

func pathOfFile(t *kernel.Task, file *vfs.FileDescription) string {
	root := t.FSContext().RootDirectory()
	defer root.DecRef(t)
	name, err := t.Kernel().VFS().PathnameWithDeleted(t, root, file.VirtualDentry())
	if err != nil {
		return ""
	}
	return event.Text(name)
}

// modeAt returns the type and mode of what a path names, 0 if it is not there.
func modeAt(t *kernel.Task, name string) uint16 {
	if name == "" {
		return 0
	}
	root := t.FSContext().RootDirectory()
	defer root.DecRef(t)
	st, err := t.Kernel().VFS().StatAt(t, t.Credentials(), &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)},
		&vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_MODE})
	if err != nil {
		return 0
	}
	return st.Mode
}

// modeOfFD returns the type and mode of an open file.
func modeOfFD(t *kernel.Task, fd int32) (st linux.Statx) {
	file := t.GetFile(fd)
	if file == nil {
		return st
	}
	defer file.DecRef(t)
	st, _ = file.Stat(t, vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_MODE})
	return st
}

// errnoOf names the error of a call, "" for none.
func errnoOf(err error) string {
	if err == nil {
		return ""
	}
	if errno := errnoFrom(err); errno != 0 {
		return abi.ErrnoName(errno)
	}
	return err.Error()
}

// openFlags returns the flags of a call of the open family.
func openFlags(t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) uint32 {
	switch call.Name {
	case "open":
		return args[1].Uint()
	case "creat":
		return linux.O_CREAT | linux.O_WRONLY | linux.O_TRUNC
	case "openat2":
		var how [8]byte
		if _, err := t.CopyInBytes(args[2].Pointer(), how[:]); err == nil {
			return uint32(hostarch.ByteOrder.Uint64(how[:]))
		}
		return 0
	}
	return args[2].Uint()
}
