package sentry

import (
	"encoding/binary"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// pauseTask is the kernel's first process. gVisor makes the first process the
// parent of every orphan of the kernel, so it must never end; agents come
// after it. It also lends its task goroutine and a piece of its stack to calls
// that gVisor allows only a task to make.
type pauseTask struct {
	task *kernel.Task
	// image is what the task was before it ran: its own changes while it runs.
	image *kernel.TaskImage
}

// newPauseTask returns t, which does not run yet, as the first process.
func (s *Kernel) newPauseTask(t *kernel.Task) (*pauseTask, error) {
	img, err := t.TaskImage().Fork(t, s.k, true)
	return &pauseTask{task: t, image: img}, errdefs.Wrap(err, errdefs.Internal, "note the first process")
}

// Where the program is, and how long what is before its code is.
const (
	pauseBase    = 0x400000
	pauseHeader  = 64
	pauseProgram = 56
)

// pauseCode calls pause(2) for ever.
var pauseCode = []byte{
	0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, SYS_pause
	0x0f, 0x05, // syscall
	0xeb, 0xf7, // jmp to the start
}

// pauseELF is a static executable of one page that holds pauseCode, and behind it
// keeperCode, which it never comes to.
func pauseELF() []byte {
	const (
		base   = pauseBase
		header = pauseHeader
		phent  = pauseProgram
	)
	code := append(slices.Clone(pauseCode), keeperCode...)
	b := make([]byte, header+phent, header+phent+len(code))
	le := binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)                 // ET_EXEC
	le.PutUint16(b[18:], 62)                // EM_X86_64
	le.PutUint32(b[20:], 1)                 // EV_CURRENT
	le.PutUint64(b[24:], base+header+phent) // entry
	le.PutUint64(b[32:], header)            // program headers
	le.PutUint16(b[52:], header)            // size of this header
	le.PutUint16(b[54:], phent)             // size of a program header
	le.PutUint16(b[56:], 1)                 // one of them
	p := b[header:]
	size := uint64(header + phent + len(code))
	le.PutUint32(p[0:], 1)       // PT_LOAD
	le.PutUint32(p[4:], 5)       // readable, executable
	le.PutUint64(p[16:], base)   // virtual address
	le.PutUint64(p[24:], base)   // physical address
	le.PutUint64(p[32:], size)   // bytes in the file
	le.PutUint64(p[40:], size)   // bytes in memory
	le.PutUint64(p[48:], 0x1000) // alignment
	return append(b, code...)
}

func (s *Kernel) startPause() error {
	ns := s.rootNamespaces()
	ctx := s.context(ns, s.creds, 0)
	v := s.k.VFS()
	mntns, err := v.NewMountNamespace(ctx, s.creds, "", tmpfs.Name, &vfs.MountOptions{}, s.k)
	if err != nil {
		return err
	}
	ns.mnt = mntns
	root := mntns.Root(ctx)
	defer root.DecRef(ctx)
	f, err := v.OpenAt(ctx, s.creds, at(root, "pause"), &vfs.OpenOptions{Flags: linux.O_CREAT | linux.O_WRONLY, Mode: 0o755})
	if err != nil {
		return err
	}
	elf := pauseELF()
	n, err := f.Write(ctx, usermem.BytesIOSequence(elf), vfs.WriteOptions{})
	f.DecRef(ctx)
	if err != nil || n != int64(len(elf)) {
		return errdefs.Newf(errdefs.Internal, "wrote %d of %d bytes: %v", n, len(elf), err)
	}
	fds := s.k.NewFDTable()
	defer fds.DecRef(ctx)
	tg, err := s.newThreadGroup(ctx, ns, program{path: "/pause", argv: []string{"pause"}, cwd: "/", creds: s.creds, fds: fds})
	if err != nil {
		return err
	}
	if s.pause, err = s.newPauseTask(tg.Leader()); err != nil {
		return err
	}
	return s.k.Start()
}

// taskWork runs a function on a task's goroutine.
type taskWork struct {
	f    func(t *kernel.Task) error
	done chan error
}

// TaskWork implements kernel.TaskWorker.
func (w *taskWork) TaskWork(t *kernel.Task) { w.done <- w.f(t) }

// onPause runs f on the pause process's goroutine and waits for it.
func (s *Kernel) onPause(f func(t *kernel.Task) error) error {
	w := &taskWork{f: f, done: make(chan error, 1)}
	t := s.pause.task
	t.RegisterWork(w)
	// An external stop takes the task out of pause(2); on its way back to
	// the program it does the work.
	t.BeginExternalStop()
	t.EndExternalStop()
	return <-w.done
}

// ioctl calls ioctl(2) on file as task t would, with arg copied to t's stack
// and back. It must run on t's goroutine, while t runs no program code.
func ioctl(t *kernel.Task, file *vfs.FileDescription, cmd uint32, arg []byte) error {
	// Below the stack and the red zone that compiled code may use.
	const below = 256
	addr := hostarch.Addr(t.Arch().Stack()) - below - hostarch.Addr(len(arg))
	if _, err := t.CopyOutBytes(addr, arg); err != nil {
		return err
	}
	if _, err := file.Ioctl(t, t.MemoryManager(), 16 /* SYS_ioctl */, arch.SyscallArguments{
		{Value: ^uintptr(0)}, {Value: uintptr(cmd)}, {Value: uintptr(addr)},
	}); err != nil {
		return err
	}
	_, err := t.CopyInBytes(addr, arg)
	return err
}
