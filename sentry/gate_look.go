package sentry

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// lookFunc decides about a call of an agent that lacks one of the groups that
// the call may need.
//
// What it looks up by a number, the call itself looks up again, and another
// thread may change what the number means in between. So nothing may hang on
// such a look but which of the agent's own objects are used: sockets that the
// agent may not have any more are cut off by the network stack, and files of
// memory cannot be made without the right to execute them.
type lookFunc func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, mask uint64, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error)

// lookFor returns the function for the call's rule.
func (s *Kernel) lookFor(call abi.Syscall) lookFunc {
	// excepted reports whether the call needs none of what is missing after
	// all; what names the thing it is about.
	var excepted func(t *kernel.Task, args arch.SyscallArguments) (bool, string)
	switch call.Rule {
	case abi.RuleMmap, abi.RuleExec:
		return s.lookFile(call)
	case abi.RuleBrk:
		return s.lookBrk(call)
	case abi.RuleSocket:
		return s.lookSocket(call)
	case abi.RuleSignal, abi.RuleSelf:
		excepted = func(t *kernel.Task, args arch.SyscallArguments) (bool, string) {
			return targetsSelf(t, call, args), targetOf(call, args)
		}
	case abi.RuleEndpoint:
		excepted = func(t *kernel.Task, args arch.SyscallArguments) (bool, string) {
			family, _ := socketOf(t, args[0].Int())
			return !isNetwork(family), familyName(family)
		}
	case abi.RuleDatagram:
		excepted = func(t *kernel.Task, args arch.SyscallArguments) (bool, string) {
			family, typ := socketOf(t, args[0].Int())
			return !isNetwork(family) || typ == linux.SOCK_STREAM, familyName(family)
		}
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, mask uint64, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
		missing := call.Needs(raw(args)) &^ mask
		if missing == 0 {
			return inner(t, sysno, args)
		}
		var what string
		if excepted != nil {
			ok, name := excepted(t, args)
			if ok {
				return inner(t, sysno, args)
			}
			what = name
		}
		return s.refuse(t, call, abi.FirstGroup(missing), what)
	}
}

// raw returns the arguments as numbers.
func raw(args arch.SyscallArguments) (out [6]uint64) {
	for i := range out {
		out[i] = args[i].Uint64()
	}
	return out
}

// lookBrk lets an agent give memory back that may not take any.
func (s *Kernel) lookBrk(call abi.Syscall) lookFunc {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, _ uint64, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
		now, _, _ := inner(t, sysno, arch.SyscallArguments{})
		if args[0].Value <= now {
			return inner(t, sysno, args)
		}
		s.refuse(t, call, call.Group, "")
		return now, nil, nil // As Linux does: there is no errno.
	}
}

// lookSocket knows the families.
func (s *Kernel) lookSocket(call abi.Syscall) lookFunc {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, mask uint64, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
		family := args[0].Int()
		if !abi.KnownFamily(family) {
			return 0, nil, linuxerr.EAFNOSUPPORT
		}
		if missing := call.Needs(raw(args)) &^ mask; missing != 0 {
			what := familyName(int(family))
			if linux.SockType(args[1].Int()&0xf) == linux.SOCK_RAW {
				what += ", raw"
			}
			return s.refuse(t, call, abi.FirstGroup(missing), what)
		}
		return inner(t, sysno, args)
	}
}

// lookFile is for calls that make code of a file: mmap, execve, execveat.
func (s *Kernel) lookFile(call abi.Syscall) lookFunc {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, mask uint64, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
		if missing := call.Needs(raw(args)) &^ mask; missing != 0 {
			return s.refuse(t, call, abi.FirstGroup(missing), codeOf(t, call, args))
		}
		if mask&abi.GroupMemExec.Bit() == 0 && isMemory(t, call, args) {
			return s.refuse(t, call, abi.GroupMemExec, "a file of memory")
		}
		return inner(t, sysno, args)
	}
}

// codeOf names what a refused call would have made code of.
func codeOf(t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) string {
	_, addr, _, isExec := execArguments(call, args)
	switch {
	case isExec:
		name, _ := t.CopyInString(addr, objectMax)
		return strings.ToValidUTF8(name, "?")
	case args[2].Int()&linux.PROT_EXEC == 0:
		return ""
	case args[3].Int()&linux.MAP_ANONYMOUS != 0:
		return "anonymous executable memory"
	}
	return "executable and writable memory"
}

// objectMax bounds what a denial says of its object.
const objectMax = 256

// execArguments takes execve and execveat apart.
func execArguments(call abi.Syscall, args arch.SyscallArguments) (dirfd int32, path hostarch.Addr, flags int32, ok bool) {
	switch call.Name {
	case "execve":
		return linux.AT_FDCWD, args[0].Pointer(), 0, true
	case "execveat":
		return args[0].Int(), args[1].Pointer(), args[4].Int(), true
	}
	return 0, 0, 0, false
}

// isMemory reports whether the call would make code of a file that is memory:
// a memfd, or what lies behind shared anonymous mappings.
func isMemory(t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) bool {
	dirfd, addr, flags, isExec := execArguments(call, args)
	if !isExec {
		if args[2].Int()&linux.PROT_EXEC == 0 {
			return false
		}
		file := t.GetFile(args[4].Int())
		if file == nil {
			return false // The call says EBADF.
		}
		defer file.DecRef(t)
		return file.Mount() == t.Kernel().ShmMount()
	}
	name, err := t.CopyInString(addr, linux.PATH_MAX)
	if err != nil {
		return false // The call says EFAULT.
	}
	path := fspath.Parse(name)
	root := t.FSContext().RootDirectory()
	defer root.DecRef(t)
	start := root
	switch {
	case path.Absolute:
	case dirfd == linux.AT_FDCWD:
		start = t.FSContext().WorkingDirectory()
		defer start.DecRef(t)
	default:
		dir := t.GetFile(dirfd)
		if dir == nil {
			return false
		}
		defer dir.DecRef(t)
		start = dir.VirtualDentry()
	}
	found, err := t.Kernel().VFS().GetDentryAt(gateLook{t}, t.Credentials(), &vfs.PathOperation{
		Root: root, Start: start, Path: path, FollowFinalSymlink: flags&linux.AT_SYMLINK_NOFOLLOW == 0,
	}, &vfs.GetDentryOptions{})
	if err != nil {
		return false
	}
	defer found.DecRef(t)
	return found.Mount() == t.Kernel().ShmMount()
}

// targetsSelf reports whether the call is aimed at the process that makes it.
func targetsSelf(t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) bool {
	id, thread, ok := call.TargetOf(raw(args))
	if !ok {
		return false
	}
	ns := t.PIDNamespace()
	if thread {
		other := ns.TaskWithID(kernel.ThreadID(id))
		return other != nil && other.ThreadGroup() == t.ThreadGroup()
	}
	return ns.IDOfThreadGroup(t.ThreadGroup()) == kernel.ThreadID(id)
}

// targetOf names who a call is aimed at.
func targetOf(call abi.Syscall, args arch.SyscallArguments) string {
	switch id, thread, ok := call.TargetOf(raw(args)); {
	case !ok:
		return "processes"
	case thread:
		return fmt.Sprintf("thread %d", id)
	default:
		return fmt.Sprintf("process %d", id)
	}
}

// socketOf returns what kind of socket a descriptor is; the family of one that
// is none is 0.
func socketOf(t *kernel.Task, fd int32) (family int, typ linux.SockType) {
	file := t.GetFile(fd)
	if file == nil {
		return 0, 0
	}
	defer file.DecRef(t)
	sock, ok := file.Impl().(socket.Socket)
	if !ok {
		return 0, 0
	}
	family, typ, _ = sock.Type()
	return family, typ
}

func isNetwork(family int) bool { return family == linux.AF_INET || family == linux.AF_INET6 }

func familyName(family int) string {
	switch family {
	case linux.AF_UNIX:
		return "AF_UNIX"
	case linux.AF_INET:
		return "AF_INET"
	case linux.AF_INET6:
		return "AF_INET6"
	case linux.AF_NETLINK:
		return "AF_NETLINK"
	case linux.AF_PACKET:
		return "AF_PACKET"
	}
	return fmt.Sprintf("family %d", family)
}

// gateClone3 reads what clone3 is to do once, so that another thread cannot
// change it after it was checked. Agents that may make namespaces are spared
// that.
func (s *Kernel) gateClone3(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if s.maskOf(t)&abi.GroupNamespace.Bit() != 0 {
			return inner(t, sysno, args)
		}
		size := args[1].Uint64()
		if size < linux.CLONE_ARGS_SIZE_VER0 || size > linux.CLONE_ARGS_SIZE_VER2 {
			return 0, nil, linuxerr.EINVAL
		}
		var what linux.CloneArgs
		if _, err := what.CopyInN(t, args[0].Pointer(), int(size)); err != nil {
			return 0, nil, err
		}
		if abi.Clone3Needs(what.Flags) != 0 {
			return s.refuse(t, call, abi.GroupNamespace, "")
		}
		if what.Flags&linux.CLONE_DETACHED != 0 ||
			what.Flags&(linux.CLONE_THREAD|linux.CLONE_PARENT) != 0 && what.ExitSignal != 0 {
			return 0, nil, linuxerr.EINVAL
		}
		tid, ctrl, err := t.Clone(&what)
		if err != nil {
			return 0, nil, err
		}
		return uintptr(tid), ctrl, nil
	}
}
