package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/lock"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// locks takes the locks in the copy that the original has: those of flock(2) as
// they were noted, those of fcntl(2) as somebody sees them who wants the same.
func (f *fileCopier) locks() error {
	notes := &f.c.src.notes
	seen := make(map[fileID]bool)
	for old, file := range f.files {
		notes.mu.Lock()
		var flock int32
		if x := notes.files[old]; x != nil {
			flock = x.flock
		}
		notes.mu.Unlock()
		if flock != 0 {
			t := lock.ReadLock
			if flock == linux.LOCK_EX {
				t = lock.WriteLock
			}
			if err := file.LockBSD(f.ctx, 0, t, false); err != nil {
				return f.refuse(old, "it is locked, and it is the same file in the copy")
			}
			f.c.dst.notes.note(f.creator(old), file, func(x *fileNote) { x.flock = flock })
		}
		if !old.SupportsLocks() {
			continue
		}
		if id := idOf(f.ctx, old); !seen[id] {
			seen[id] = true
			if err := f.regionLocks(old, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// stranger owns no locks.
type stranger struct{ _ byte }

// regionLocks takes the locks of fcntl(2) of one file.
func (f *fileCopier) regionLocks(old, file *vfs.FileDescription) error {
	type held struct {
		pid int32
		t   lock.LockType
		r   lock.LockRange
	}
	var all []held
	var probe func(uid lock.UniqueID, r lock.LockRange, depth int)
	probe = func(uid lock.UniqueID, r lock.LockRange, depth int) {
		for r.Start < r.End && len(all) < 1<<16 {
			got, err := old.TestPOSIX(f.ctx, uid, lock.WriteLock, r)
			if err != nil || got.Type == linux.F_UNLCK {
				return
			}
			end := uint64(lock.LockEOF)
			if got.Len != 0 {
				end = uint64(got.Start) + uint64(got.Len)
			}
			h := held{pid: got.PID, t: lock.WriteLock, r: lock.LockRange{Start: max(uint64(got.Start), r.Start), End: min(end, r.End)}}
			if got.Type == linux.F_RDLCK {
				h.t = lock.ReadLock
			}
			// What lies before it may be locked, too, if it is not the first.
			if h.r.Start > r.Start {
				probe(uid, lock.LockRange{Start: r.Start, End: h.r.Start}, depth)
			}
			all = append(all, h)
			if table := f.tableOf(h.pid); h.t == lock.ReadLock && table != nil && depth < 8 {
				n := len(all)
				probe(table, h.r, depth+1) // Others may hold it as well.
				for i := n; i < len(all); i++ {
					if all[i].pid == h.pid {
						all = append(all[:i], all[i+1:]...)
						i--
					}
				}
			}
			r.Start = h.r.End
		}
	}
	probe(&stranger{}, lock.LockRange{Start: 0, End: lock.LockEOF}, 0)
	for _, h := range all {
		owner := f.ownerOf(h.pid)
		if owner == nil && h.pid > 0 {
			continue // Another agent's.
		}
		if owner == nil {
			return f.refuse(old, "a part of it is locked by an open file description")
		}
		newPID := int32(owner.new.TGIDInRoot())
		if err := file.LockPOSIX(f.ctx, owner.new.FDTable(), newPID, h.t, h.r, false); err != nil {
			return f.refuse(old, "it is locked, and it is the same file in the copy")
		}
	}
	return nil
}

// ownerOf returns the process of the original with that number in the kernel.
func (f *fileCopier) ownerOf(pid int32) *twin {
	for _, g := range f.c.f.groups {
		if !g.leader.zombie && int32(g.leader.old.TGIDInRoot()) == pid {
			return g.leader
		}
	}
	return nil
}

func (f *fileCopier) tableOf(pid int32) *kernel.FDTable {
	if tw := f.ownerOf(pid); tw != nil {
		return tw.old.FDTable()
	}
	return nil
}
