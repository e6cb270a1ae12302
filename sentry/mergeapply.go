package sentry

import (
	"cmp"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/account"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/threeway"
)

// All that takes room is done first, in a directory of its own beside the files:
// the stage. Then files take their places by renaming, and those that they replace
// or that are deleted take theirs on the stage. Every step notes how it is undone;
// if one fails, those before it are, in reverse.

// stage is where files are before they are put where they belong, and after they
// were taken from there.
type stage struct {
	dir   string
	n     int
	ready map[string]string // by path
	links map[fileID]string // what has several names in the copy, once it is on the stage
	times []dirTimes
	noted map[string]bool
}

// dirTimes are those of a directory in which something is about to change.
type dirTimes struct {
	path         string
	atime, mtime linux.StatxTimestamp
	later        linux.StatxTimestamp // what it is to have then
}

// apply does what was decided, or nothing.
func (m *merging) apply() error {
	err := m.stageAll()
	for _, t := range m.parts {
		if err == nil {
			err = t.commit()
		}
	}
	kept := false
	for i := len(m.undo) - 1; err != nil && i >= 0; i-- {
		if bad := m.undo[i](); bad != nil {
			kept, err = true, errors.Join(err, bad)
		}
	}
	if kept { // What was taken away is still there.
		return errdefs.Wrap(err, errdefs.Internal, "undo a merge that failed; what is missing is in /.aios-merge-"+m.theirs.id, errdefs.Resource("%s", m.ours.id))
	}
	for _, t := range m.parts {
		t.clear(err == nil)
	}
	return m.explain(err)
}

// explain says why a merge failed.
func (m *merging) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case linuxerr.Equals(linuxerr.ENOSPC, err):
		return errdefs.New(errdefs.QuotaExceeded, "the agent's disk has no room for what the copy has changed; nothing was merged", errdefs.Op("merge"),
			errdefs.Resource("%s", m.ours.id), errdefs.Fix("remove files of the agent, or merge less: what is changed needs room beside what is there"))
	case errdefs.CodeOf(err) == errdefs.MemoryLimit:
		return err
	default:
		return errdefs.Wrap(err, errdefs.Internal, "merge files; nothing was merged", errdefs.Resource("%s", m.ours.id))
	}
}

// room is asked before bytes are written. The agent stands still: nobody else writes.
func (m *merging) room(used, limit uint64) func(n int) error {
	return func(n int) error {
		m.staged += uint64(n)
		if limit == account.Unlimited || used+m.staged <= limit {
			return nil
		}
		return errdefs.New(errdefs.MemoryLimit, "the agent's memory has no room for what the copy has changed; nothing was merged", errdefs.Op("merge"),
			errdefs.Resource("%s", m.ours.id), errdefs.Fix("remove files of the agent, or grant it more memory"))
	}
}

// stageAll makes all that is new, where nobody sees it.
func (m *merging) stageAll() error {
	m.s.watch.refresh(m.ours)
	room := m.room(memoryOf(m.ours), m.ours.memoryLimit())
	for _, t := range m.parts {
		if len(t.plan.Steps) == 0 {
			continue
		}
		t.stage = stage{dir: "/.aios-merge-" + m.theirs.id, ready: make(map[string]string), links: make(map[fileID]string), noted: make(map[string]bool)}
		if err := t.noteTimes(); err != nil {
			t.stage.dir = ""
			return err
		}
		if err := m.s.k.VFS().MkdirAt(m.ctx, m.s.creds, inTree(t.ours, t.stage.dir), &vfs.MkdirOptions{Mode: 0o700}); err != nil {
			t.stage.dir = ""
			return err
		}
		t.hold(t.stage.dir)
		c := m.s.newTreeCopier(m.ctx, t.theirs, t.ours)
		c.room, c.whole = room, true
		for _, s := range t.plan.Steps {
			if s.Op != threeway.Put && s.Op != threeway.PutTree {
				continue
			}
			name := t.spare()
			t.stage.ready[s.Path] = name
			if err := t.make(c, s.Path, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold keeps what is known of a directory until the merge is over.
func (t *mergeTree) hold(p string) {
	vd, err := t.m.s.k.VFS().GetDentryAt(t.m.ctx, t.m.s.creds, inTree(t.ours, p), &vfs.GetDentryOptions{})
	if err == nil {
		t.held = append(t.held, vd)
	}
}

// spare is a name on the stage.
func (t *mergeTree) spare() string {
	t.stage.n++
	return t.stage.dir + "/" + strconv.Itoa(t.stage.n)
}

// make copies a file of theirs, or a directory with all that is in it, to the stage.
func (t *mergeTree) make(c *treeCopier, from, to string) error {
	v, s := t.m.s.k.VFS(), t.m.s
	stat, source, err := t.sourceOf(from)
	if err != nil {
		return err
	}
	kind := stat.Mode & linux.S_IFMT
	if kind == linux.S_IFSOCK {
		return nil
	}
	id := fileID{uint64(stat.DevMajor)<<32 | uint64(stat.DevMinor), stat.Ino}
	if kind != linux.S_IFDIR && stat.Nlink > 1 {
		other := t.stage.links[id]
		if other == "" {
			other = t.anchors[from]
		}
		if other != "" {
			return v.LinkAt(t.m.ctx, s.creds, inTree(t.ours, other), inTree(t.ours, to))
		}
		t.stage.links[id] = to
	}
	x := &treeNode{stat: stat, names: []string{from}}
	if x.xattrs, err = s.xattrsAt(t.m.ctx, inTree(source, from), &stat); err != nil {
		return err
	}
	if err := c.make(x, inTree(source, from), inTree(t.ours, to)); err != nil {
		return err
	}
	if kind == linux.S_IFDIR {
		names, err := s.listDir(t.m.ctx, t.theirs, from)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := t.make(c, from+"/"+name, to+"/"+name); err != nil {
				return err
			}
		}
	}
	if kind == linux.S_IFREG && len(x.xattrs) == 0 {
		return nil // It has them.
	}
	return c.attributes(inTree(t.ours, to), x)
}

// sourceOf returns what theirs is at a path, and the tree from which it is read:
// plain files are those of the upper layer, if it has them, where they are found
// sooner.
func (t *mergeTree) sourceOf(p string) (stat linux.Statx, root vfs.VirtualDentry, err error) {
	for _, root = range []vfs.VirtualDentry{t.theirUpper, t.theirs} {
		stat, err = t.m.s.k.VFS().StatAt(t.m.ctx, t.m.s.creds, inTree(root, p), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
		if err == nil && stat.Mode&linux.S_IFMT == linux.S_IFREG {
			break
		}
	}
	return stat, root, err
}

// did notes how a step is undone. In tests it may fail instead.
func (m *merging) did(undo func() error) error {
	m.undo = append(m.undo, undo)
	m.steps++
	if f := m.s.failMerge; f != nil {
		return f(m.steps)
	}
	return nil
}

// commit puts what is on the stage where it belongs.
func (t *mergeTree) commit() error {
	for _, s := range t.plan.Steps {
		var err error
		switch s.Op {
		case threeway.Put:
			err = t.put(t.stage.ready[s.Path], s.Path, s.Was)
		case threeway.PutTree:
			err = t.move(t.stage.ready[s.Path], s.Path)
		case threeway.Remove:
			err = t.remove(s.Path)
		case threeway.Say:
			err = t.say(s.Path)
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "change", errdefs.Resource("%s", t.target+s.Path))
		}
	}
	return nil
}

func (t *mergeTree) rename(from, to string, flags uint32) error {
	return t.m.s.k.VFS().RenameAt(t.m.ctx, t.m.s.creds, inTree(t.ours, from), inTree(t.ours, to), &vfs.RenameOptions{Flags: flags})
}

// move renames what nothing is in the way of.
func (t *mergeTree) move(from, to string) error {
	if err := t.rename(from, to, linux.RENAME_NOREPLACE); err != nil {
		return err
	}
	return t.m.did(func() error { return t.rename(to, from, linux.RENAME_NOREPLACE) })
}

// put makes what is on the stage take the place of what is there, if anything is.
func (t *mergeTree) put(from, to string, was threeway.Entry) error {
	switch {
	case was.Kind == threeway.Absent || was.Kind == threeway.Dir: // That was removed.
		return t.move(from, to)
	case was.Lower:
		if err := t.rename(from, to, 0); err != nil {
			return err
		}
		return t.m.did(func() error {
			if err := t.rename(to, from, linux.RENAME_NOREPLACE); err != nil {
				return err
			}
			return t.unwhite(to)
		})
	}
	stat, _, err := t.inUpper(to)
	if err != nil {
		return err
	}
	if err := t.rename(from, to, linux.RENAME_EXCHANGE); err != nil {
		return err
	}
	return t.m.did(func() error {
		if err := t.rename(to, from, linux.RENAME_EXCHANGE); err != nil {
			return err
		}
		return t.redate(to, &stat)
	})
}

// redate has a file that was renamed, and is back, not look as if it had changed.
func (t *mergeTree) redate(p string, stat *linux.Statx) error {
	return t.m.s.k.VFS().SetStatAt(t.m.ctx, t.m.s.creds, inTree(t.upper, p), &vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_CTIME, Ctime: stat.Ctime}})
}

// inUpper returns what the upper layer itself has at a path.
func (t *mergeTree) inUpper(p string) (stat linux.Statx, there bool, err error) {
	stat, err = t.m.s.k.VFS().StatAt(t.m.ctx, t.m.s.creds, inTree(t.upper, p), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if linuxerr.Equals(linuxerr.ENOENT, err) {
		return stat, false, nil
	}
	white := t.lower != nil && stat.Mode&linux.S_IFMT == linux.S_IFCHR && stat.RdevMajor == 0 && stat.RdevMinor == 0
	return stat, err == nil && !white, err
}

// unwhite takes away a whiteout that was just made. The overlay has forgotten what
// was there, and looks again.
func (t *mergeTree) unwhite(p string) error {
	err := t.m.s.k.VFS().UnlinkAt(t.m.ctx, t.m.s.creds, inTree(t.upper, p))
	if linuxerr.Equals(linuxerr.ENOENT, err) {
		return nil
	}
	return err
}

// remove takes away a file, or a directory with all that is in it.
func (t *mergeTree) remove(p string) error {
	v, s := t.m.s.k.VFS(), t.m.s
	stat, err := v.StatAt(t.m.ctx, s.creds, inTree(t.ours, p), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return err
	}
	own, upper, err := t.inUpper(p)
	if err != nil {
		return err
	}
	dir := stat.Mode&linux.S_IFMT == linux.S_IFDIR
	low, err := t.Stat(p)
	switch {
	case err != nil:
		return err
	case upper && (!dir || low.Kind == threeway.Absent):
		to := t.spare()
		if err := t.rename(p, to, linux.RENAME_NOREPLACE); err != nil {
			return err
		}
		return t.m.did(func() error {
			if err := t.rename(to, p, linux.RENAME_NOREPLACE); err != nil {
				return err
			}
			return t.redate(p, &own)
		})
	case !dir:
		if err := v.UnlinkAt(t.m.ctx, s.creds, inTree(t.ours, p)); err != nil {
			return err
		}
		return t.m.did(func() error { return t.unwhite(p) })
	}
	if err := t.noteTime(p); err != nil {
		return err
	}
	names, err := s.listDir(t.m.ctx, t.ours, p)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.remove(p + "/" + name); err != nil {
			return err
		}
	}
	return t.rmdir(p)
}

// rmdir takes away a directory in which nothing is left but whiteouts.
func (t *mergeTree) rmdir(p string) error {
	v, s := t.m.s.k.VFS(), t.m.s
	stat, upper, err := t.inUpper(p)
	if err != nil {
		return err
	}
	x := &treeNode{stat: stat}
	var white []string
	if upper {
		if x.xattrs, err = s.xattrsAt(t.m.ctx, inTree(t.upper, p), &stat); err != nil {
			return err
		}
		if white, err = s.listDir(t.m.ctx, t.upper, p); err != nil {
			return err
		}
	}
	if err := v.RmdirAt(t.m.ctx, s.creds, inTree(t.ours, p)); err != nil {
		return err
	}
	return t.m.did(func() error {
		if err := t.unwhite(p); err != nil || !upper {
			return err
		}
		if err := v.MkdirAt(t.m.ctx, s.creds, inTree(t.upper, p), &vfs.MkdirOptions{Mode: linux.FileMode(stat.Mode & 0o7777)}); err != nil {
			return err
		}
		for _, name := range white {
			if err := overlay.CreateWhiteout(t.m.ctx, v, s.creds, inTree(t.upper, p+"/"+name)); err != nil {
				return err
			}
		}
		return s.newTreeCopier(t.m.ctx, t.upper, t.upper).attributes(inTree(t.upper, p), x)
	})
}

// say has a directory get the mode, owner and attributes of theirs.
func (t *mergeTree) say(p string) error {
	from, err := t.said(t.theirs, p)
	if err != nil {
		return err
	}
	was, err := t.said(t.ours, p)
	if err != nil {
		return err
	}
	if err := t.m.did(func() error { return t.setSaid(p, from, was) }); err != nil {
		return err
	}
	return t.setSaid(p, was, from)
}

func (t *mergeTree) said(root vfs.VirtualDentry, p string) (*treeNode, error) {
	stat, err := t.m.s.k.VFS().StatAt(t.m.ctx, t.m.s.creds, inTree(root, p), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if err != nil {
		return nil, err
	}
	x := &treeNode{stat: stat}
	x.xattrs, err = t.m.s.xattrsAt(t.m.ctx, inTree(root, p), &stat)
	return x, err
}

// setSaid has of was become what is said of x.
func (t *mergeTree) setSaid(p string, was, x *treeNode) error {
	for name := range was.xattrs {
		if _, stays := x.xattrs[name]; stays {
			continue
		}
		err := t.m.s.k.VFS().RemoveXattrAt(t.m.ctx, t.m.s.creds, inTree(t.ours, p), name)
		if err != nil && !linuxerr.Equals(linuxerr.ENODATA, err) {
			return err
		}
	}
	return t.m.s.newTreeCopier(t.m.ctx, t.theirs, t.ours).attributes(inTree(t.ours, p), x)
}

// noteTimes notes the times of directories in which something will change. One has,
// when it is merged, the later of the times that both sides have.
func (t *mergeTree) noteTimes() error {
	for _, step := range t.plan.Steps {
		for dir := step.Path; dir != ""; { // An overlay that copies one up changes the one above.
			dir = strings.TrimSuffix(path.Dir(dir), "/")
			if err := t.noteTime(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *mergeTree) noteTime(p string) error {
	if t.stage.noted[p] {
		return nil
	}
	t.stage.noted[p] = true
	t.hold(p)
	stat := func(root vfs.VirtualDentry) (linux.Statx, error) {
		return t.m.s.k.VFS().StatAt(t.m.ctx, t.m.s.creds, inTree(root, p), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	}
	o, err := stat(t.ours)
	if linuxerr.Equals(linuxerr.ENOENT, err) || linuxerr.Equals(linuxerr.ENOTDIR, err) {
		return nil // It is made.
	}
	if err != nil {
		return err
	}
	d := dirTimes{p, o.Atime, o.Mtime, o.Mtime}
	if th, err := stat(t.theirs); err == nil && th.Mtime.ToNsec() > o.Mtime.ToNsec() {
		d.later = th.Mtime
	}
	t.stage.times = append(t.stage.times, d)
	return nil
}

// clear takes the stage away, and sets the times of directories.
func (t *mergeTree) clear(done bool) {
	if t.stage.dir != "" {
		t.discard(t.stage.dir, true)
	}
	slices.SortFunc(t.stage.times, func(x, y dirTimes) int { return -cmp.Compare(x.path, y.path) })
	for _, d := range t.stage.times {
		m := d.mtime
		if done {
			m = d.later
		}
		t.m.s.k.VFS().SetStatAt(t.m.ctx, t.m.s.creds, inTree(t.ours, d.path), &vfs.SetStatOptions{Stat: linux.Statx{
			Mask: linux.STATX_ATIME | linux.STATX_MTIME, Atime: d.atime, Mtime: m,
		}}) // It may be one that was deleted.
	}
}

// discard deletes what is on the stage. What is open stays until it is closed.
func (t *mergeTree) discard(p string, dir bool) {
	v, s := t.m.s.k.VFS(), t.m.s
	if !dir {
		v.UnlinkAt(t.m.ctx, s.creds, inTree(t.ours, p))
		return
	}
	all, _ := s.dirents(t.m.ctx, t.ours, p)
	for _, e := range all {
		t.discard(p+"/"+e.Name, e.Type == linux.DT_DIR)
	}
	v.RmdirAt(t.m.ctx, s.creds, inTree(t.ours, p))
}
