package grantfs

import (
	"strings"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Watches see what is done through the same grant, and end with it: IN_IGNORED.

// parentOf returns the directory that inner is in, and its name there, if
// somebody refers to that directory, hence may watch it.
func (fs *FS) parentOf(ctx context.Context, inner *vfs.Dentry) (*dentry, string) {
	path, ok := fs.relative(inner)
	if !ok || path == "" {
		return nil, ""
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	pop := fs.pop(fs.root, dir)
	vd, err := fs.vfs.GetDentryAt(ctx, fs.creds, &pop, &vfs.GetDentryOptions{})
	if err != nil {
		return nil, ""
	}
	defer vd.DecRef(ctx)
	return fs.known(vd.Dentry()), name
}

// notify tells those who watch the inner directory dir of an event about what is
// called name there.
func (fs *FS) notify(ctx context.Context, dir *vfs.Dentry, name string, events uint32) {
	if !fs.watched.Load() {
		return
	}
	if d := fs.known(dir); d != nil {
		d.watches.Notify(ctx, name, events, 0, vfs.InodeEvent, false)
		d.DecRef(ctx)
	}
}

// notifyRename tells those who watch moved, or a directory concerned.
func (fs *FS) notifyRename(ctx context.Context, moved, oldDir, newDir *vfs.Dentry, oldName, newName string) {
	watches := func(inner *vfs.Dentry) (*vfs.Watches, func()) {
		d := fs.known(inner)
		if d == nil {
			return nil, func() {}
		}
		return &d.watches, func() { d.DecRef(ctx) }
	}
	self, done := watches(moved)
	defer done()
	from, done := watches(oldDir)
	defer done()
	to, done := watches(newDir)
	defer done()
	mode, err := fs.mode(ctx, moved)
	vfs.InotifyRename(ctx, self, from, to, oldName, newName, err == nil && mode.IsDir())
}

// endWatches ends every watch.
func (fs *FS) endWatches(ctx context.Context) {
	if !fs.watched.Load() {
		return
	}
	fs.dentriesMu.Lock()
	var all []*dentry
	for _, d := range fs.dentries {
		d.refs.Add(1)
		all = append(all, d)
	}
	fs.dentriesMu.Unlock()
	for _, d := range all {
		d.watches.HandleDeletion(ctx)
		d.DecRef(ctx)
	}
}
