package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// heapCalls are the calls that can leave something on the kernel's heap that nobody
// finds there, and about how many bytes at most. What has no number of its own is a
// matter of its arguments, below. Calls that only move data through files, and those
// that only look, leave nothing.
var heapCalls = map[string]uint64{
	"sendto": 512, "sendmsg": 512, "sendmmsg": 512, "write": 512, "writev": 512, "msgsnd": 1 << 10,
	"epoll_ctl": 1 << 10, "inotify_add_watch": 2 << 10, "timer_create": 4 << 10, "fcntl": 1 << 10, "flock": 1 << 10,
	"open": 4 << 10, "openat": 4 << 10, "openat2": 4 << 10, "creat": 4 << 10,
	"mkdir": 4 << 10, "mkdirat": 4 << 10, "mknod": 4 << 10, "mknodat": 4 << 10, "link": 4 << 10, "linkat": 4 << 10,
	"symlink": 8 << 10, "symlinkat": 8 << 10, "rename": 4 << 10, "renameat": 4 << 10, "renameat2": 4 << 10,
	"unlink": 1 << 10, "unlinkat": 1 << 10, "rmdir": 1 << 10, "bind": 4 << 10, "connect": 8 << 10,
	"setxattr": 1 << 10, "lsetxattr": 1 << 10, "fsetxattr": 1 << 10,
	"socket": 8 << 10, "socketpair": 16 << 10, "accept": 16 << 10, "accept4": 16 << 10, "pipe": 8 << 10, "pipe2": 8 << 10,
	"eventfd": 4 << 10, "eventfd2": 4 << 10, "signalfd": 4 << 10, "signalfd4": 4 << 10, "timerfd_create": 8 << 10,
	"epoll_create": 4 << 10, "epoll_create1": 4 << 10, "inotify_init": 4 << 10, "inotify_init1": 4 << 10, "memfd_create": 8 << 10,
	"mmap": 1 << 10, "mprotect": 1 << 10, "munmap": 1 << 10, "mremap": 1 << 10, "madvise": 1 << 10, "mlock": 1 << 10, "munlock": 1 << 10,
	"semget": 4 << 10, "semop": 1 << 10, "semtimedop": 1 << 10, "shmget": 4 << 10, "msgget": 4 << 10, "add_key": 4 << 10,
	"io_setup": 64 << 10, "io_submit": 16 << 10, "mount": 64 << 10, "unshare": 256 << 10, "setns": 4 << 10,
	"clone": 256 << 10, "clone3": 256 << 10, "fork": 256 << 10, "vfork": 64 << 10, "seccomp": 64 << 10, "prctl": 0,
	"rt_sigqueueinfo": 512, "rt_tgsigqueueinfo": 512, "kill": 512, "tgkill": 512, "tkill": 512, "setsockopt": 2 << 10, "ioctl": 1 << 10,
	"recvfrom": 0, "recvmsg": 0,
}

// heapFlight is what one descriptor in a message can hold: a pair of sockets with
// full buffers.
const heapFlight = 512 << 10

// heapCall notes what a call can have left on the heap.
func (s *Kernel) heapCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	base, ok := heapCalls[call.Name]
	if !ok {
		return inner
	}
	more := func(*kernel.Task, arch.SyscallArguments, uintptr) uint64 { return 0 }
	switch call.Name {
	case "sendto":
		more = func(_ *kernel.Task, _ arch.SyscallArguments, n uintptr) uint64 { return uint64(n) }
	case "sendmsg":
		more = func(t *kernel.Task, args arch.SyscallArguments, n uintptr) uint64 {
			return uint64(n) + inFlight(t, args[1].Pointer(), 1)
		}
	case "sendmmsg":
		more = func(t *kernel.Task, args arch.SyscallArguments, n uintptr) uint64 {
			return uint64(n)*512 + inFlight(t, args[1].Pointer(), int(n))
		}
	case "msgsnd":
		more = func(_ *kernel.Task, args arch.SyscallArguments, _ uintptr) uint64 { return args[2].Uint64() }
	case "setxattr", "lsetxattr", "fsetxattr":
		more = func(_ *kernel.Task, args arch.SyscallArguments, _ uintptr) uint64 { return args[3].Uint64() }
	case "semget":
		more = func(_ *kernel.Task, args arch.SyscallArguments, _ uintptr) uint64 { return uint64(args[1].Uint()) * 64 }
	case "prctl":
		more = func(_ *kernel.Task, args arch.SyscallArguments, _ uintptr) uint64 {
			if args[0].Int() == linux.PR_SET_SECCOMP {
				return 64 << 10
			}
			return 0
		}
	case "recvfrom", "recvmsg":
		return s.heapReceived(call, inner)
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := inner(t, sysno, args)
		if err == nil {
			if a := s.agentOf(t); a != nil {
				a.made(base + more(t, args, n))
			}
		}
		return n, ctrl, err
	}
}

// heapReceived takes what was received from what was sent: who passes on a lot leaves
// nothing.
func (s *Kernel) heapReceived(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	flags := 2
	if call.Name == "recvfrom" {
		flags = 3
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := inner(t, sysno, args)
		if err == nil && n > 0 && args[flags].Int()&(linux.MSG_PEEK|linux.MSG_TRUNC) == 0 {
			if a := s.agentOf(t); a != nil {
				m := &a.account.memory.made
				if was, took := m.Load(), uint64(n)+512; was > took {
					m.CompareAndSwap(was, was-took)
				}
			}
		}
		return n, ctrl, err
	}
}

// inFlight is how much the descriptors in some messages can hold: as many as there is
// room for in what goes with them.
func inFlight(t *kernel.Task, addr hostarch.Addr, messages int) (bytes uint64) {
	// The length is at 40 of each, and one of many has a length of its own behind it.
	const size, control, header = 64, 40, 16
	for i := range min(messages, 64) {
		n := t.CopyScratchBuffer(8)
		if _, err := t.CopyInBytes(addr+hostarch.Addr(i*size+control), n); err != nil {
			break
		}
		if room := min(hostarch.ByteOrder.Uint64(n), 64<<10); room > header {
			bytes += (room - header + 3) / 4 * heapFlight
		}
	}
	return bytes
}
