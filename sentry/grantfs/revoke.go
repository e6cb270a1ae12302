package grantfs

import (
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
)

// Revoke ends the grant. When it returns, no operation through it succeeds, none
// that was under way still has an effect, no memory is mapped through it, and
// who was blocked in one has been woken to learn so.
func (fs *FS) Revoke() {
	fs.revokeMu.Lock()
	defer fs.revokeMu.Unlock()
	fs.state.Or(dead)
	fs.enforce()
	ctx := context.Background()
	fs.visit(func(f *file) { f.unlockAll(ctx) })
	fs.endWatches(ctx)
}

// SetRights takes away all rights but r, at once: from open files, too, and from
// memory that is mapped.
func (fs *FS) SetRights(r abi.Rights) {
	fs.revokeMu.Lock()
	defer fs.revokeMu.Unlock()
	fs.state.And(uint32(r) | dead)
	fs.enforce()
}

// Rights returns the rights the grant has now; none when it is revoked.
func (fs *FS) Rights() abi.Rights {
	s := fs.state.Load()
	if s&dead != 0 {
		return 0
	}
	return abi.Rights(s)
}

// SetQuota sets the limits; 0 is none, NoRoom a limit of nothing. What was taken
// before counts, if there was a limit then; more than the limit is kept, but does
// not grow.
func (fs *FS) SetQuota(bytes, inodes uint64) { fs.quota.limit(bytes, inodes) }

// Cede has another grant answer for what was taken through this one beyond its
// limits, or, when it is revoked, for everything: the files are still there. A
// removed file that is open counts until the other's limits end.
func (fs *FS) Cede(to *FS) { fs.quota.cede(fs.state.Load()&dead != 0, &to.quota) }

// Usage returns by how much the files have grown through the grant, in bytes and
// inodes; nothing is counted while there is no limit.
func (fs *FS) Usage() (bytes, inodes uint64) { return fs.quota.usage() }

// enforce makes what the state says true of everything that began before.
func (fs *FS) enforce() {
	fs.changed.Notify(waiter.EventHUp)
	fs.gate.drain()
	fs.mapsMu.Lock()
	for _, m := range fs.maps {
		m.invalidate()
	}
	fs.mapsMu.Unlock()
	fs.visit((*file).wake)
	if fs.allows(connects) != nil {
		fs.closeLinks()
	}
}

// visit calls do for the files that somebody waits for or holds locks through.
func (fs *FS) visit(do func(f *file)) {
	fs.filesMu.Lock()
	files := make([]*file, 0, len(fs.files))
	for f := range fs.files {
		if f.vfsfd.TryIncRef() { // Else it is just being closed.
			files = append(files, f)
		}
	}
	fs.filesMu.Unlock()
	for _, f := range files {
		do(f)
		f.vfsfd.DecRef(context.Background())
	}
}
