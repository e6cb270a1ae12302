package grantfs

import (
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// A walk is one operation on a path, from its entry into the gate to its end.
// It asks the inner file system for one component at a time, with the caller's
// credentials, and follows symlinks itself, as the agent's namespace has them.
type walk struct {
	fs   *FS
	ctx  context.Context
	rp   *vfs.ResolvingPath
	op   string
	pass pass
	cur  *vfs.Dentry // where resolution stands, in the inner file system; referenced
}

// walk begins an operation.
func (fs *FS) walk(ctx context.Context, rp *vfs.ResolvingPath, op string) (walk, error) {
	d := rp.Start().Impl().(*dentry)
	w := walk{fs: fs, ctx: ctx, rp: rp, op: op, cur: d.inner, pass: fs.gate.enter(d.hint)}
	w.cur.IncRef()
	if err := fs.allows(anyRight); err != nil {
		err = fs.refuse(op, d.inner, w.rest(), anyRight, err)
		w.end()
		return walk{}, err
	}
	if !fs.belowRoot(w.cur) {
		w.end()
		return walk{}, linuxerr.ENOENT
	}
	return w, nil
}

// end ends it.
func (w *walk) end() {
	w.cur.DecRef(w.ctx)
	w.fs.gate.leave(w.pass)
}

// rest is what is left to resolve.
func (w *walk) rest() string {
	var names []string
	w.rp.GetComponents(false, func(name string) bool {
		names = append(names, name)
		return true
	})
	return strings.Join(names, "/")
}

// need returns an error unless the grant has these rights; name is what they
// are needed for, in w.cur.
func (w *walk) need(right abi.Rights, name string) error {
	if err := w.fs.allows(right); err != nil {
		return w.fs.refuse(w.op, w.cur, name, right, err)
	}
	return nil
}

// change begins a change in, or of, w.cur; the caller calls EndWrite on the
// mount, if there is no error.
func (w *walk) change(right abi.Rights, name string) error {
	if err := w.need(right, name); err != nil {
		return err
	}
	return w.rp.Mount().CheckBeginWrite()
}

// pop is the operation on name in w.cur, or on w.cur if name is empty.
func (w *walk) pop(name string) vfs.PathOperation { return w.fs.pop(w.cur, name) }

// lookup returns what is called name in w.cur, with a reference.
func (w *walk) lookup(name string) (*vfs.Dentry, error) {
	return w.fs.lookup(w.ctx, w.rp.Credentials(), w.cur, name)
}

// lookup returns what is called name in the inner directory dir, with a
// reference.
func (fs *FS) lookup(ctx context.Context, creds *auth.Credentials, dir *vfs.Dentry, name string) (*vfs.Dentry, error) {
	pop := fs.pop(dir, name)
	vd, err := fs.vfs.GetDentryAt(ctx, creds, &pop, &vfs.GetDentryOptions{})
	if err != nil {
		return nil, err
	}
	vd.Mount().DecRef(ctx) // Always fs.mnt.
	return vd.Dentry(), nil
}

// peek returns what is called name in the inner directory dir, with a reference,
// or nil. It is for our books: what the caller may see does not depend on it.
func (fs *FS) peek(ctx context.Context, dir *vfs.Dentry, name string) *vfs.Dentry {
	d, err := fs.lookup(ctx, fs.creds, dir, name)
	if err != nil {
		return nil
	}
	return d
}

// searchable returns an error unless the caller may look into w.cur, a directory.
func (w *walk) searchable() error {
	pop := w.pop("")
	vd, err := w.fs.vfs.GetDentryAt(w.ctx, w.rp.Credentials(), &pop, &vfs.GetDentryOptions{CheckSearchable: true})
	if err == nil {
		vd.DecRef(w.ctx)
	}
	return err
}

// move makes d, whose reference it takes, the current one.
func (w *walk) move(d *vfs.Dentry) {
	w.cur.DecRef(w.ctx)
	w.cur = d
}

// step resolves the next component. If that is a symlink to be followed, w.cur
// remains; err may then be for the VFS to handle.
func (w *walk) step() (followed bool, err error) {
	name := w.rp.Component()
	if name == ".." {
		return false, w.up()
	}
	child, err := w.lookup(name)
	if err != nil {
		return false, err
	}
	if d := w.fs.known(child); d != nil { // Else nothing is mounted there.
		err := w.rp.CheckMount(w.ctx, &d.vfsd)
		d.DecRef(w.ctx)
		if err != nil {
			child.DecRef(w.ctx)
			return false, err
		}
	}
	if w.rp.ShouldFollowSymlink() {
		mode, err := w.fs.mode(w.ctx, child)
		if err == nil && mode.FileType() == linux.ModeSymlink {
			var target string
			pop := w.fs.pop(child, "")
			if target, err = w.fs.vfs.ReadlinkAt(w.ctx, w.rp.Credentials(), &pop); err == nil {
				followed, err = w.rp.HandleSymlink(target)
			}
			child.DecRef(w.ctx)
			return followed, err
		}
		if err != nil {
			child.DecRef(w.ctx)
			return false, err
		}
	}
	w.rp.Advance()
	w.move(child)
	return false, nil
}

// up resolves "..".
func (w *walk) up() error {
	d := w.fs.dentryOf(w.cur)
	defer d.DecRef(w.ctx)
	isRoot, err := w.rp.CheckRoot(w.ctx, &d.vfsd)
	if err != nil {
		return err
	}
	if isRoot || w.cur == w.fs.root {
		w.rp.Advance()
		return nil
	}
	above, err := w.lookup("..")
	if err != nil {
		return err
	}
	if !w.fs.belowRoot(above) { // Moved out of the grant meanwhile.
		above.DecRef(w.ctx)
		return linuxerr.ENOENT
	}
	parent := w.fs.dentryOf(above)
	defer parent.DecRef(w.ctx)
	if err := w.rp.CheckMount(w.ctx, &parent.vfsd); err != nil {
		above.DecRef(w.ctx)
		return err
	}
	w.rp.Advance()
	w.move(above)
	return nil
}

// toParent resolves all components but the last.
func (w *walk) toParent() error {
	for !w.rp.Final() {
		if _, err := w.step(); err != nil {
			return err
		}
	}
	mode, err := w.fs.mode(w.ctx, w.cur)
	if err == nil && !mode.IsDir() {
		err = linuxerr.ENOTDIR
	}
	return err
}

// toFile resolves all components.
func (w *walk) toFile() error {
	for !w.rp.Done() {
		if _, err := w.step(); err != nil {
			return err
		}
	}
	if w.rp.MustBeDir() {
		mode, err := w.fs.mode(w.ctx, w.cur)
		if err == nil && !mode.IsDir() {
			err = linuxerr.ENOTDIR
		}
		return err
	}
	return nil
}

// walkTo begins an operation and resolves its path.
func (fs *FS) walkTo(ctx context.Context, rp *vfs.ResolvingPath, op string) (walk, error) {
	w, err := fs.walk(ctx, rp, op)
	if err != nil {
		return w, err
	}
	if err := w.toFile(); err != nil {
		w.end()
		return walk{}, err
	}
	return w, nil
}

// walkToParent begins an operation and resolves its path but for the last name.
func (fs *FS) walkToParent(ctx context.Context, rp *vfs.ResolvingPath, op string) (walk, error) {
	w, err := fs.walk(ctx, rp, op)
	if err != nil {
		return w, err
	}
	if err := w.toParent(); err != nil {
		w.end()
		return walk{}, err
	}
	return w, nil
}
