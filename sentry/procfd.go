package sentry

import (
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// A file of memory, which was never written to any file system, has no path but
// through /proc: PID/fd/N and PID/exe. By such a path it could be named where
// the gate does not look, as the interpreter of a script or of a program. So
// whoever lacks the right to make memory executable cannot follow them, as it
// cannot make such files; it may have some from before, or from others.

// procFDs is the directory "fd".
type procFDs struct {
	kernfs.Inode
	s *Kernel
}

// Lookup implements kernfs.Inode.Lookup.
func (p *procFDs) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	found, err := p.Inode.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return &procLink{found, p.s}, nil
}

// procLink is a link to an open file.
type procLink struct {
	kernfs.Inode
	s *Kernel
}

// Getlink implements kernfs.Inode.Getlink.
func (p *procLink) Getlink(ctx context.Context, mnt *vfs.Mount) (vfs.VirtualDentry, string, error) {
	vd, target, err := p.Inode.Getlink(ctx, mnt)
	if err != nil || !vd.Ok() || vd.Mount() != p.s.k.ShmMount() {
		return vd, target, err
	}
	t := kernel.TaskFromContext(ctx)
	if ctx.Value(gateLooks) != nil || t != nil && p.s.maskOf(t)&abi.GroupMemExec.Bit() != 0 {
		return vd, target, nil
	}
	vd.DecRef(ctx)
	if t != nil {
		p.s.deny(t, "open", abi.GroupMemExec, "a file of memory through /proc")
	}
	return vfs.VirtualDentry{}, "", linuxerr.EACCES
}

// gateLook is the context of the gate when it looks what a path leads to. It
// follows such links, to refuse the call itself.
type gateLook struct{ context.Context }

type contextKey int

// gateLooks is the key of a value that a gateLook has.
const gateLooks contextKey = iota

// Value implements context.Context.Value.
func (g gateLook) Value(key any) any {
	if key == gateLooks {
		return true
	}
	return g.Context.Value(key)
}
