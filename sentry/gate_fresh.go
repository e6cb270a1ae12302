package sentry

import (
	"io"
	"math"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
)

// A single read can make as much memory resident as it is long, and nobody looks
// before it is done. So one that could take an agent over its limit is done in
// pieces, with a look after each: of files, which are read to the end that was asked for
// all the same; anything else may return less than that anyway, and does.

// pieceLeast is the least length of a piece.
const pieceLeast = 1 << 20

// readPieces has calls that read done in pieces if need be.
func (s *Kernel) readPieces(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	at := call.Name == "pread64"
	switch call.Name {
	case "read", "pread64":
	case "readv", "preadv", "preadv2":
		return s.vectorPieces(call, inner)
	case "getrandom":
		return s.randomPieces(inner)
	default:
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		size := args[2].SizeT()
		if size <= pieceLeast {
			return inner(t, sysno, args)
		}
		a := s.agentOf(t)
		if a == nil {
			return inner(t, sysno, args)
		}
		most := a.piece()
		if uint64(size) <= most {
			return inner(t, sysno, args)
		}
		whole := isWhole(t, args[0].Int())
		var done uintptr
		for {
			n := min(uint64(size)-uint64(done), most)
			args[2].Value = uintptr(n)
			got, ctrl, err := inner(t, sysno, args)
			if err != nil || ctrl != nil {
				if done > 0 && ctrl == nil {
					return done, nil, nil
				}
				return got, ctrl, err
			}
			done += got
			if uint64(got) < n || !whole || done >= uintptr(size) {
				return done, nil, nil
			}
			a.grow(int64(got))
			if a.dying.Load() || t.Interrupted() {
				return done, nil, nil
			}
			args[1].Value += got
			if at {
				args[3].Value += got
			}
			most = a.piece()
		}
	}
}

// randomPieces is for getrandom(2).
func (s *Kernel) randomPieces(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		size := uint64(min(args[1].SizeT(), math.MaxInt32))
		a := s.agentOf(t)
		if a == nil {
			return inner(t, sysno, args)
		}
		var done uintptr
		for {
			n := min(size-uint64(done), a.piece())
			args[1].Value = uintptr(n)
			got, ctrl, err := inner(t, sysno, args)
			if err != nil || ctrl != nil {
				if done > 0 && ctrl == nil {
					return done, nil, nil
				}
				return got, ctrl, err
			}
			a.grow(int64(got))
			done += got
			if uint64(got) < n || uint64(done) >= size || a.dying.Load() || t.Interrupted() {
				return done, nil, nil
			}
			args[0].Value += got
		}
	}
}

// vectorPieces is for readv(2) and its kind.
func (s *Kernel) vectorPieces(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if a == nil || a.account.memory.room.Load() == math.MaxInt64 || call.Name == "preadv2" && args[5].Int() != 0 {
			return inner(t, sysno, args)
		}
		dst, err := t.IovecsIOSequence(args[1].Pointer(), int(args[2].Int()), usermem.IOOpts{})
		if err != nil || dst.NumBytes() <= pieceLeast || uint64(dst.NumBytes()) <= a.piece() || !isWhole(t, args[0].Int()) {
			return inner(t, sysno, args) // Whatever is wrong, it says so.
		}
		file := t.GetFile(args[0].Int())
		if file == nil {
			return inner(t, sysno, args)
		}
		defer file.DecRef(t)
		offset, at := args[3].Int64(), call.Name == "preadv" || call.Name == "preadv2" && args[3].Int64() != -1
		if at && offset < 0 {
			return inner(t, sysno, args)
		}
		var done int64
		for dst.NumBytes() > 0 {
			piece, got := dst.TakeFirst64(int64(a.piece())), int64(0)
			if at {
				got, err = file.PRead(t, piece, offset+done, vfs.ReadOptions{})
			} else {
				got, err = file.Read(t, piece, vfs.ReadOptions{})
			}
			done += got
			dst = dst.DropFirst64(got)
			a.grow(got)
			if err != nil || got < piece.NumBytes() || a.dying.Load() || t.Interrupted() {
				break
			}
		}
		if done > 0 || err == io.EOF {
			return uintptr(done), nil, nil
		}
		return 0, nil, err
	}
}

// piece is how much the agent may read at once.
func (a *Agent) piece() uint64 {
	m := &a.account.memory
	room := m.room.Load()
	if room == math.MaxInt64 {
		return math.MaxInt64
	}
	return uint64(max(room-m.growth.Load(), pieceLeast)) &^ (hostarch.PageSize - 1)
}

// isWhole reports whether a read of what fd is returns all that was asked for and
// is there, however long that takes.
func isWhole(t *kernel.Task, fd int32) bool {
	file := t.GetFile(fd)
	if file == nil {
		return false
	}
	defer file.DecRef(t)
	st, err := file.Stat(t, vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return false
	}
	const memoryDevices = 1 // /dev/zero and others like it
	switch uint32(st.Mode) & linux.S_IFMT {
	case linux.S_IFREG, linux.S_IFBLK:
		return true
	case linux.S_IFCHR:
		return st.RdevMajor == memoryDevices
	}
	return false
}

// mayPopulate reports whether the agent may have so many bytes more that are
// all made at once.
func (a *Agent) mayPopulate(bytes uint64) bool {
	m := &a.account.memory
	if m.room.Load() == math.MaxInt64 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := a.memoryLimit()
	used := a.countLocked()
	return used <= limit && bytes <= limit-used
}

// guardLock is for mlock(2) and its kind, which make what they lock.
func (s *Kernel) guardLock(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		const onFault = 1 // MLOCK_ONFAULT
		if call.Name == "mlock2" && args[2].Uint()&onFault != 0 {
			return inner(t, sysno, args)
		}
		a, m := s.agentOf(t), t.MemoryManager()
		if a == nil || m == nil {
			return inner(t, sysno, args)
		}
		bytes := args[1].Uint64()
		if call.Name == "mlockall" {
			bytes = m.VirtualMemorySize()
		}
		// What is resident already is not made anew.
		if have := m.ResidentSetSize(); bytes > have && !a.mayPopulate(bytes-have) {
			s.overLimit(t, call, moreMemory)
			return 0, nil, linuxerr.ENOMEM
		}
		return inner(t, sysno, args)
	}
}

// guardFallocate is for fallocate(2), which makes what it allocates where files
// are memory.
func (s *Kernel) guardFallocate(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		const frees = linux.FALLOC_FL_PUNCH_HOLE | linux.FALLOC_FL_COLLAPSE_RANGE
		a := s.agentOf(t)
		if a == nil || args[1].Int()&frees != 0 || !isInMemory(t, args[0].Int()) {
			return inner(t, sysno, args)
		}
		if !a.mayPopulate(args[3].Uint64()) {
			s.overLimit(t, call, moreMemory)
			return 0, nil, linuxerr.ENOSPC
		}
		n, ctrl, err := inner(t, sysno, args)
		if err == nil {
			a.moved(args[3].Uint64())
		}
		return n, ctrl, err
	}
}

// isInMemory reports whether what is written to a file is kept in memory, as are
// those of the agent's own layer.
func isInMemory(t *kernel.Task, fd int32) bool {
	file := t.GetFile(fd)
	if file == nil {
		return false
	}
	defer file.DecRef(t)
	switch file.Mount().Filesystem().FilesystemType().Name() {
	case tmpfs.Name, overlay.Name:
		return true
	}
	return false
}
