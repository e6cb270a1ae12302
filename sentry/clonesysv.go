package sentry

import (
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/ipc"
	"gvisor.dev/gvisor/pkg/sentry/kernel/msgqueue"
	"gvisor.dev/gvisor/pkg/sentry/kernel/semaphore"
	"gvisor.dev/gvisor/pkg/sentry/kernel/shm"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/errdefs"
)

// Objects of System V are made anew in the copy's IPC namespace under the same
// numbers. These are given in order and never twice: those between are made and
// removed.

// mostIPC is up to which number objects are made anew.
const mostIPC = 1 << 16

// behalf is a context in which a task does something that does not run yet, as
// somebody.
type behalf struct {
	context.Context
	t     *kernel.Task
	creds *auth.Credentials
}

// Value implements context.Context.
func (c behalf) Value(key any) any {
	if key == auth.CtxCredentials {
		return c.creds
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.t.Value(key)
}

// ipcMaker makes objects of one kind in the copy.
type ipcMaker struct {
	c    *copying
	next ipc.ID
}

// as is the context of who made an object, and of the kernel.
func (c *copying) as(uid auth.KUID, gid auth.KGID) context.Context {
	creds := auth.NewUserCredentials(uid, gid, nil, nil, c.s.creds.UserNamespace)
	return behalf{c.ctx, c.f.head.new, creds}
}

func (c *copying) asKernel() context.Context { return behalf{c.ctx, c.f.head.new, c.s.creds} }

// reach has the next object get the number id; spare makes one and removes it.
func (m *ipcMaker) reach(id ipc.ID, spare func() error) error {
	for ; m.next < id; m.next++ {
		if err := spare(); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "make an object of System V")
		}
	}
	m.next++
	return nil
}

func (m *ipcMaker) check(want, got ipc.ID, err error) error {
	if err == nil && want != got {
		return errdefs.Newf(errdefs.Internal, "object %d of System V has got the number %d in the copy", want, got)
	}
	return errdefs.Wrap(err, errdefs.Internal, "make an object of System V")
}

// tooMany refuses numbers that cannot be made anew.
func (c *copying) tooMany(id ipc.ID) error {
	if id <= mostIPC {
		return nil
	}
	return c.f.refuse(c.f.head.old, "has used more objects of System V than can be made anew")
}

// sysv makes everything of System V anew, but for what is mapped.
func (c *copying) sysv() error {
	for _, step := range []func() error{c.segments, c.semaphores, c.queues} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// segments makes shared memory anew.
func (c *copying) segments() error {
	from, to := c.src.ns.ipc.ShmRegistry(), c.dst.ns.ipc.ShmRegistry()
	c.shm = make(map[uint64]*shm.Shm)
	maker := &ipcMaker{c: c, next: 1}
	if from.ShmInfo().ShmTot == 0 {
		return nil
	}
	for id := ipc.ID(1); id <= ipc.ID(from.ShmInfo().UsedIDs); id++ {
		old := from.FindByID(id)
		if old == nil {
			continue
		}
		err := c.tooMany(id)
		if err == nil {
			err = c.segment(old, to, maker)
		}
		old.DecRef(c.ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) segment(old *shm.Shm, to *shm.Registry, maker *ipcMaker) error {
	ctx := c.asKernel()
	ds, err := old.IPCStat(ctx)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "look at shared memory")
	}
	obj, key := old.Object(), ipc.Key(ds.ShmPerm.Key)
	as := c.as(obj.CreatorUID, obj.CreatorGID)
	if err := maker.reach(old.ID(), func() error {
		spare, err := to.FindOrCreate(ctx, 0, linux.IPC_PRIVATE, 1, 0, true, true, false)
		if err == nil {
			spare.MarkDestroyed(ctx)
			spare.DecRef(ctx)
		}
		return err
	}); err != nil {
		return err
	}
	own, err := to.FindOrCreate(as, ds.ShmCpid, key, ds.ShmSegsz, obj.Mode, key == linux.IPC_PRIVATE, true, true)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "make shared memory")
	}
	c.shm[uint64(old.ID())] = own
	if err := maker.check(old.ID(), own.ID(), own.Set(ctx, ds)); err != nil {
		return err
	}
	return copySegment(ctx, old, own)
}

// copySegment copies what is in shared memory, but for what is nothing.
func copySegment(ctx context.Context, from, to *shm.Shm) error {
	buf := make([]byte, copyChunk)
	move := func(s *shm.Shm, at uint64, p []byte, write bool) error {
		r := memmap.MappableRange{Start: at, End: at + uint64(len(p))}
		all, err := s.Translate(ctx, r, r, hostarch.ReadWrite)
		if err != nil {
			return err
		}
		for _, t := range all {
			mem, err := t.File.MapInternal(t.FileRange(), hostarch.ReadWrite)
			if err != nil {
				return err
			}
			mine := safemem.BlockSeqOf(safemem.BlockFromSafeSlice(p[t.Source.Start-at : t.Source.End-at]))
			if write {
				_, err = safemem.CopySeq(mem, mine)
			} else {
				_, err = safemem.CopySeq(mine, mem)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for at := uint64(0); at < from.EffectiveSize(); at += uint64(len(buf)) {
		p := buf[:min(uint64(len(buf)), from.EffectiveSize()-at)]
		err := move(from, at, p, false)
		if err == nil && !zero(p) {
			err = move(to, at, p, true)
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "copy shared memory")
		}
	}
	return nil
}

// isSegment reports whether a mapping is of shared memory.
func (c *copying) isSegment(x mapping) bool {
	return strings.HasPrefix(x.path, "SYSV") && c.shm[x.id.ino] != nil
}

// mapSegment maps the copy's own.
func (c *copying) mapSegment(t *kernel.Task, m *mm.MemoryManager, x mapping) error {
	own := c.shm[x.id.ino]
	opts := memmap.MMapOpts{
		Length: uint64(x.addr.Length()), Offset: x.offset, Addr: x.addr.Start, Fixed: true, Unmap: true, Perms: x.perms, MaxPerms: hostarch.AnyAccess,
		Mappable: own, MappingIdentity: own,
	}
	opts.MaxPerms.Write = x.perms.Write
	_, err := m.MMap(behalf{c.ctx, t, c.s.creds}, opts)
	return errdefs.Wrap(err, errdefs.Internal, "map shared memory")
}

// keepSegments has those that are to be removed stay only as long as they are
// mapped, and gives back the others.
func (c *copying) keepSegments() {
	from, ctx := c.src.ns.ipc.ShmRegistry(), c.asKernel()
	for id, own := range c.shm {
		if old := from.FindByID(ipc.ID(id)); old != nil {
			if ds, err := old.IPCStat(ctx); err == nil && ds.ShmPerm.Mode&linux.SHM_DEST != 0 {
				own.MarkDestroyed(ctx)
			}
			old.DecRef(c.ctx)
		}
		own.DecRef(ctx)
	}
	c.shm = nil
}

// semaphores makes sets of semaphores anew.
func (c *copying) semaphores() error {
	from, to := c.src.ns.ipc.SemaphoreRegistry(), c.dst.ns.ipc.SemaphoreRegistry()
	left, ctx := int(from.SemInfo().SemUsz), c.asKernel()
	maker := &ipcMaker{c: c, next: 1}
	for id := ipc.ID(1); left > 0; id++ {
		if err := c.tooMany(id); err != nil {
			return err
		}
		old := from.FindByID(id)
		if old == nil {
			continue
		}
		left--
		if err := maker.reach(id, func() error {
			spare, err := to.FindOrCreate(ctx, linux.IPC_PRIVATE, 1, 0, true, true, false)
			if err == nil {
				err = to.Remove(spare.ID(), c.s.creds)
			}
			return err
		}); err != nil {
			return err
		}
		obj := old.Object()
		own, err := to.FindOrCreate(c.as(obj.CreatorUID, obj.CreatorGID), obj.Key, int32(old.Size()), obj.Mode, obj.Key == linux.IPC_PRIVATE, true, true)
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "make semaphores")
		}
		if err := maker.check(id, own.ID(), c.likeSet(ctx, old, own)); err != nil {
			return err
		}
	}
	return nil
}

// likeSet gives a set of semaphores what another has.
func (c *copying) likeSet(ctx context.Context, old, own *semaphore.Set) error {
	ds, err := old.GetStatAny(c.s.creds)
	if err != nil {
		return err
	}
	if ds.SemOTime != 0 && old.Size() > 0 { // Programs look whether a set was ever used.
		if _, _, err := own.ExecuteOps(ctx, []linux.Sembuf{{SemOp: 1}, {SemOp: -1}}, c.s.creds, 0); err != nil {
			return err
		}
	}
	for i := range int32(old.Size()) {
		val, err := old.GetVal(i, c.s.creds)
		if err != nil {
			return err
		}
		pid, err := old.GetPID(i, c.s.creds)
		if err != nil {
			return err
		}
		if err := own.SetVal(ctx, i, val, c.s.creds, pid); err != nil {
			return err
		}
	}
	return own.Set(ctx, ds)
}

// queues makes message queues anew.
func (c *copying) queues() error {
	from, to := c.src.ns.ipc.MsgqueueRegistry(), c.dst.ns.ipc.MsgqueueRegistry()
	ctx := c.asKernel()
	left := int(from.MsgInfo(ctx).MsgPool)
	maker := &ipcMaker{c: c, next: 1}
	for id := ipc.ID(1); left > 0; id++ {
		if err := c.tooMany(id); err != nil {
			return err
		}
		old, err := from.FindByID(id)
		if err != nil {
			continue
		}
		left--
		if err := maker.reach(id, func() error {
			spare, err := to.FindOrCreate(ctx, linux.IPC_PRIVATE, 0, true, true, false)
			if err == nil {
				err = to.Remove(spare.ID(), c.s.creds)
			}
			return err
		}); err != nil {
			return err
		}
		obj := old.Object()
		own, err := to.FindOrCreate(c.as(obj.CreatorUID, obj.CreatorGID), obj.Key, obj.Mode, obj.Key == linux.IPC_PRIVATE, true, true)
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "make a message queue")
		}
		if err := maker.check(id, own.ID(), likeQueue(ctx, old, own)); err != nil {
			return err
		}
	}
	return nil
}

// likeQueue gives a message queue what is in another, which keeps it.
func likeQueue(ctx context.Context, old, own *msgqueue.Queue) error {
	ds, err := old.StatAny(ctx)
	if err != nil {
		return err
	}
	if err := own.Set(ctx, ds); err != nil {
		return err
	}
	for i := range ds.MsgQnum {
		m, err := old.Receive(ctx, int64(i), linux.MSGMAX, linux.MSG_COPY|linux.IPC_NOWAIT, ds.MsgLrpid)
		if err != nil {
			return err
		}
		if err := own.Send(ctx, msgqueue.Message{Type: m.Type, Text: append([]byte(nil), m.Text...)}, false, ds.MsgLspid); err != nil {
			return err
		}
	}
	return nil
}
