package ctlfs

import (
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/fabric"
)

// Ioctl implements vfs.FileDescriptionImpl: the synchronisation in a region.
func (f *regionFD) Ioctl(ctx context.Context, _ usermem.IO, _ uintptr, args arch.SyscallArguments) (uintptr, error) {
	call, ok := abi.RegionCallOf(args[1].Uint())
	t, isTask := ctx.(*kernel.Task)
	if !ok || !isTask {
		return 0, linuxerr.ENOTTY
	}
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	buf := (*[abi.RegionArgSize]byte)(t.CopyScratchBuffer(abi.RegionArgSize))
	addr := args[2].Pointer()
	if _, err := t.CopyInBytes(addr, buf[:]); err != nil {
		return 0, linuxerr.EFAULT
	}
	var arg abi.RegionArg
	err := arg.Decode(call, buf)
	if err == nil && answers(call) {
		// What cannot be answered must not be done.
		if _, err := t.CopyOutBytes(addr, buf[:]); err != nil {
			return 0, linuxerr.EFAULT
		}
	}
	if err == nil {
		err = f.synchronise(t, call, &arg)
	}
	if err != nil {
		f.session.report("ioctl", f.inode.entry.path, err)
		return 0, linuxerr.ConvertIntr(errnoOf(err), linuxerr.ERESTARTSYS)
	}
	if answers(call) {
		arg.Encode(buf)
		if _, err := t.CopyOutBytes(addr, buf[:]); err != nil {
			return 0, linuxerr.EFAULT
		}
	}
	return 0, nil
}

// answers says whether a call changes its argument.
func answers(call int) bool {
	return call == abi.RegionMap || call == abi.RegionJoin || call == abi.RegionWake || call == abi.RegionCas || call == abi.RegionCommit
}

// synchronise carries out a call, and fills in what it answers. A file that was
// opened to be read changes nothing.
func (f *regionFD) synchronise(t *kernel.Task, call int, a *abi.RegionArg) (err error) {
	v, c := f.view, fabric.Caller{Task: t, Space: t.MemoryManager()}
	reads := call == abi.RegionWait || call == abi.RegionAlive || call == abi.RegionMap && a.Flags&abi.RegionWritable == 0
	if !reads && !(f.vfsfd.IsReadable() && f.vfsfd.IsWritable()) {
		return linuxerr.EBADF
	}
	if !f.vfsfd.IsReadable() {
		return linuxerr.EBADF
	}
	switch call {
	case abi.RegionJoin:
		a.ID, err = v.Join(c, a.Flags&abi.RegionProcess == 0)
	case abi.RegionLeave:
		err = v.Leave(c, a.ID)
	case abi.RegionAlive:
		err = v.Alive(a.ID)
	case abi.RegionWait:
		if a.Expect>>32 != 0 {
			return linuxerr.EINVAL
		}
		err = v.Wait(c, a.Offset, uint32(a.Expect), fabric.Until(a.Deadline))
	case abi.RegionWake:
		a.Count, err = v.Wake(a.Offset, a.Count)
	case abi.RegionLock:
		err = v.Lock(c, a.ID, a.Offset, a.Flags&abi.RegionTry != 0, fabric.Until(a.Deadline))
	case abi.RegionUnlock:
		err = v.Unlock(c, a.ID, a.Offset)
	case abi.RegionCommit:
		var reply control.FabricReply
		auth := f.session.auth
		reply, err = auth.Fabric(t, auth.Actor(f.session.agent), &control.FabricRequest{Op: control.FabricCommit, Name: v.Region().Name()})
		for _, v := range reply.Stored {
			a.Expect = v.Number
		}
	case abi.RegionMap:
		// It is mapped by the kernel's way to map files, when this has answered. A
		// length of 0 is the rest.
		size := v.Region().Size()
		if a.Offset >= size || a.New > size-a.Offset {
			return linuxerr.EINVAL
		}
		if a.New == 0 {
			a.New = size - a.Offset
		}
	case abi.RegionCas:
		a.Expect, err = v.CompareAndSwap(a.Offset, a.Flags&abi.RegionWide != 0, a.Expect, a.New)
	}
	return err
}
