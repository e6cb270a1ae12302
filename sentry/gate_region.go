package sentry

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// mapByIoctl has AIOS_REGION_MAP, an ioctl, map what its file allows by the call that
// maps files, with all that stands before that one. Both are calls as agents make them.
func (s *Kernel) mapByIoctl(ioctl, mmap kernel.SyscallFn) kernel.SyscallFn {
	request := abi.RegionRequest(abi.RegionMap)
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := ioctl(t, sysno, args)
		if err != nil || args[1].Uint() != request {
			return n, ctrl, err
		}
		var arg abi.RegionArg
		buf := (*[abi.RegionArgSize]byte)(t.CopyScratchBuffer(abi.RegionArgSize))
		if _, err := t.CopyInBytes(args[2].Pointer(), buf[:]); err != nil {
			return 0, nil, linuxerr.EFAULT
		}
		if arg.Decode(abi.RegionMap, buf) != nil { // It has changed meanwhile.
			return 0, nil, linuxerr.EINVAL
		}
		prot, flags := uintptr(unix.PROT_READ), uintptr(unix.MAP_SHARED)
		if arg.Flags&abi.RegionWritable != 0 {
			prot |= unix.PROT_WRITE
		}
		if arg.Expect != 0 {
			flags |= unix.MAP_FIXED_NOREPLACE
		}
		addr, ctrl, err := mmap(t, unix.SYS_MMAP, arch.SyscallArguments{
			{Value: uintptr(arg.Expect)}, {Value: uintptr(arg.New)}, {Value: prot}, {Value: flags}, args[0], {Value: uintptr(arg.Offset)},
		})
		if err != nil {
			return 0, ctrl, err
		}
		arg.Expect = uint64(addr)
		buf = (*[abi.RegionArgSize]byte)(t.CopyScratchBuffer(abi.RegionArgSize))
		arg.Encode(buf)
		if _, err := t.CopyOutBytes(args[2].Pointer(), buf[:]); err != nil {
			return 0, nil, linuxerr.EFAULT // It stays mapped, as what it was asked for.
		}
		return 0, nil, nil
	}
}
