package sentry

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/threeway"
)

// mergeTree is one file system of two agents that is merged: the root, a layer that
// is laid over it, or /tmp. What is mounted on it is out of its sight: grants, /proc,
// /dev. Paths begin with a slash, below its root.
type mergeTree struct {
	m      *merging
	top    string // its part of the upper layers
	target string // where agents see it, "" for the root
	// What agents see, without what is mounted there.
	ours, theirs vfs.VirtualDentry
	// The same, of the upper layers alone.
	upper, theirUpper vfs.VirtualDentry
	// Directories in which something changes: an overlay forgets what nobody holds,
	// and looks for it in all layers again.
	held []vfs.VirtualDentry
	// Where theirs is seen, to know what is mounted on it.
	seen *vfs.Mount
	// What both are laid over; nil: nothing.
	lower *vfs.Mount

	plan    threeway.Plan
	anchors map[string]string // names that are added to files that stay
	stage   stage
}

// errCovered says that something else is mounted over a file system.
var errCovered = errdefs.New(errdefs.WrongState, "something is mounted over it")

// trees opens the file systems that can be merged.
func (m *merging) trees() error {
	root := m.ours.ns.root
	type part struct{ top, target, key string }
	parts := []part{{"root", "", root.Base}}
	for i, l := range root.Layers {
		if !l.ReadOnly {
			parts = append(parts, part{fmt.Sprintf("layer%d", i), l.Target, l.Key})
		}
	}
	if root.tmp {
		parts = append(parts, part{"tmp", "/tmp", ""})
	}
	for _, p := range parts {
		t := &mergeTree{m: m, top: p.top, target: p.target}
		if err := t.open(p.key); err != nil {
			t.close()
			if err == errCovered {
				continue
			}
			return errdefs.Wrap(err, errdefs.Internal, "open for a merge", errdefs.Resource("%s/", p.target))
		}
		m.parts = append(m.parts, t)
	}
	return nil
}

func (t *mergeTree) open(key string) (err error) {
	s := t.m.s
	for _, side := range []struct {
		a  *Agent
		vd *vfs.VirtualDentry
	}{{t.m.ours, &t.ours}, {t.m.theirs, &t.theirs}} {
		root := side.a.ns.mnt.Root(t.m.ctx)
		vd, err := s.k.VFS().GetDentryAt(t.m.ctx, s.creds, inTree(root, t.target), &vfs.GetDentryOptions{})
		root.DecRef(t.m.ctx)
		if err != nil {
			return err
		}
		mnt := s.k.VFS().NewDisconnectedMount(vd.Mount().Filesystem(), vd.Dentry(), &vfs.MountOptions{})
		*side.vd = vfs.MakeVirtualDentry(mnt, mnt.Root())
		t.seen = vd.Mount() // It stays: its agent stands still.
		own := vd.Mount().Filesystem().FilesystemType().Name() == overlay.Name
		if key == "" {
			own = vd.Mount().Filesystem() == side.a.ns.upper.Filesystem()
		}
		vd.DecRef(t.m.ctx)
		if !own {
			return errCovered
		}
	}
	if key != "" {
		if t.lower, err = s.mount(key); err != nil {
			return err
		}
	}
	for _, side := range []struct {
		a  *Agent
		vd *vfs.VirtualDentry
	}{{t.m.ours, &t.upper}, {t.m.theirs, &t.theirUpper}} {
		mnt := side.a.ns.upper
		*side.vd, err = s.k.VFS().GetDentryAt(t.m.ctx, s.creds, inTree(vfs.MakeVirtualDentry(mnt, mnt.Root()), t.top), &vfs.GetDentryOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *mergeTree) close() {
	for _, vd := range []vfs.VirtualDentry{t.ours, t.theirs} {
		if vd.Ok() {
			vd.Mount().DecRef(t.m.ctx)
		}
	}
	for _, vd := range append(t.held, t.upper, t.theirUpper) {
		if vd.Ok() {
			vd.DecRef(t.m.ctx)
		}
	}
	if t.lower != nil {
		t.lower.DecRef(t.m.ctx)
	}
}

// Stat implements threeway.Lower.
func (t *mergeTree) Stat(path string) (threeway.Entry, error) {
	if t.lower == nil {
		return threeway.Entry{}, nil
	}
	s := t.m.s
	at := inTree(vfs.MakeVirtualDentry(t.lower, t.lower.Root()), path)
	stat, err := s.k.VFS().StatAt(t.m.ctx, s.creds, at, &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if linuxerr.Equals(linuxerr.ENOENT, err) || linuxerr.Equals(linuxerr.ENOTDIR, err) {
		return threeway.Entry{}, nil
	}
	if err != nil {
		return threeway.Entry{}, err
	}
	x := &treeNode{stat: stat}
	if x.xattrs, err = s.xattrsAt(t.m.ctx, at, &stat); err != nil {
		return threeway.Entry{}, err
	}
	e := nodeOf(x, true).Entry
	e.Version = 0
	return e, nil
}

// List implements threeway.Lower.
func (t *mergeTree) List(path string) ([]string, error) {
	if t.lower == nil {
		return nil, nil
	}
	return t.m.s.listDir(t.m.ctx, vfs.MakeVirtualDentry(t.lower, t.lower.Root()), path)
}

// decide compares what both sides have with what they had.
func (t *mergeTree) decide(ours, theirs []*treeNode) (err error) {
	base := t.m.theirs.ns.base.files
	o, mine := t.m.marked(t.m.ours, ours, -1)
	th, others := t.m.marked(t.m.theirs, theirs, -2)
	in := threeway.Input{
		Base: layer(base, t.top), Ours: layer(o, t.top), Theirs: layer(th, t.top), Lower: t,
		Same: t.same, TakeTheirs: t.m.req.Conflicts == "theirs",
	}
	for _, side := range []struct {
		root  vfs.VirtualDentry
		tree  *threeway.Node
		nodes []*treeNode
	}{{t.ours, in.Ours, ours}, {t.theirs, in.Theirs, theirs}} {
		if err := t.copiedUp(in.Base, side.root, side.tree, side.nodes); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "compare", errdefs.Resource("%s/", t.target))
		}
	}
	if err := t.unmark(in, append(mine, others...)); err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "compare", errdefs.Resource("%s/", t.target))
	}
	if t.plan, err = threeway.Merge(in); err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "compare", errdefs.Resource("%s/", t.target))
	}
	t.skipMounts()
	t.anchor(in, theirs)
	return nil
}

// copiedUp finds files that are in a side's upper layer and are still as they are in
// the lower one: it is enough that a program maps one to be shared. Those that look
// alike are compared.
func (t *mergeTree) copiedUp(base *threeway.Node, root vfs.VirtualDentry, tree *threeway.Node, nodes []*treeNode) error {
	if t.lower == nil {
		return nil
	}
	v, s := t.m.s.k.VFS(), t.m.s
	low := vfs.MakeVirtualDentry(t.lower, t.lower.Root())
	for _, x := range nodes {
		p, here := strings.CutPrefix(x.names[0], t.top+"/")
		if !here || len(x.names) > 1 || x.stat.Mode&linux.S_IFMT != linux.S_IFREG || base.At(p) != nil {
			continue
		}
		stat, err := v.StatAt(t.m.ctx, s.creds, inTree(low, p), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
		if err != nil || stat.Mode != x.stat.Mode || stat.Size != x.stat.Size || stat.Mtime.ToNsec() != x.stat.Mtime.ToNsec() {
			continue
		}
		e, err := t.Stat("/" + p)
		n := tree.At(p)
		if err != nil || n == nil || e.Meta != n.Meta {
			continue
		}
		same, err := t.compare(low, root, p)
		if err != nil {
			return err
		}
		if same {
			e.Lower = true
			n.Entry = e
		}
	}
	return nil
}

// unmark has files that were marked, and are the same in both, be as they were.
func (t *mergeTree) unmark(in threeway.Input, names []string) error {
	for _, name := range names {
		p, here := strings.CutPrefix(name, t.top+"/")
		b, o, th := in.Base.At(p), in.Ours.At(p), in.Theirs.At(p)
		if !here || b == nil || o == nil || th == nil || b.Kind != threeway.File || o.Kind != threeway.File || th.Kind != threeway.File || o.Size != th.Size {
			continue
		}
		same, err := t.compare(t.ours, t.theirs, p)
		if err != nil {
			return err
		}
		if same {
			o.Version, th.Version = b.Version, b.Version
			o.Lower, th.Lower = b.Lower, b.Lower
		}
	}
	return nil
}

// marked returns the files of a side. Those that may have been changed through
// mappings are of a version of their own, and named.
func (m *merging) marked(a *Agent, nodes []*treeNode, version int64) (files []layerFile, names []string) {
	files = layerFiles(nodes, math.MaxInt)
	if !a.mapped.on.Load() {
		return files, nil
	}
	inos := make(map[string]*treeNode)
	for _, x := range nodes {
		for _, name := range x.names {
			if a.mapped.has(a.ns.root.lowerName("/" + name)) {
				for _, n := range x.names {
					inos[n] = x
				}
				break
			}
		}
	}
	for i := range files {
		if f := &files[i]; inos[f.name] != nil && f.node.Kind == threeway.File {
			f.node.Version = version
			names = append(names, f.name)
		}
	}
	return files, names
}

// skipMounts drops directories that were made because something is mounted there.
func (t *mergeTree) skipMounts() {
	root := t.m.theirs.ns.mnt.Root(t.m.ctx)
	defer root.DecRef(t.m.ctx)
	kept := t.plan.Steps[:0]
	for _, s := range t.plan.Steps {
		if s.Op == threeway.PutTree {
			vd, err := t.m.s.k.VFS().GetDentryAt(t.m.ctx, t.m.s.creds, inTree(root, t.target+s.Path), &vfs.GetDentryOptions{})
			if err == nil {
				mounted := vd.Mount() != t.seen
				vd.DecRef(t.m.ctx)
				if mounted {
					continue
				}
			}
		}
		kept = append(kept, s)
	}
	t.plan.Steps = kept
}

// anchor finds names that the copy has added to files that nobody has changed.
func (t *mergeTree) anchor(in threeway.Input, theirs []*treeNode) {
	for _, x := range theirs {
		if len(x.names) < 2 {
			continue
		}
		stays := ""
		var added []string
		for _, name := range x.names {
			if len(name) <= len(t.top) || name[:len(t.top)+1] != t.top+"/" {
				continue
			}
			p := name[len(t.top):]
			b, o, th := in.Base.At(p), in.Ours.At(p), in.Theirs.At(p)
			switch {
			case b != nil && o != nil && th != nil && b.Entry == o.Entry && o.Entry == th.Entry:
				stays = p
			case b == nil || b.Whiteout:
				added = append(added, p)
			}
		}
		for _, p := range added {
			if stays != "" {
				if t.anchors == nil {
					t.anchors = make(map[string]string)
				}
				t.anchors[p] = stays
			}
		}
	}
}

// same reports whether both sides have the same content at a path.
func (t *mergeTree) same(path string) (bool, error) {
	v, s := t.m.s.k.VFS(), t.m.s
	stat, err := v.StatAt(t.m.ctx, s.creds, inTree(t.ours, path), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return false, err
	}
	switch stat.Mode & linux.S_IFMT {
	case linux.S_IFLNK:
		x, err := v.ReadlinkAt(t.m.ctx, s.creds, inTree(t.ours, path))
		if err != nil {
			return false, err
		}
		y, err := v.ReadlinkAt(t.m.ctx, s.creds, inTree(t.theirs, path))
		return x == y, err
	case linux.S_IFREG:
	default:
		return true, nil // The number of a device was compared.
	}
	return t.compare(t.ours, t.theirs, path)
}

// compare reports whether two plain files have the same in them.
func (t *mergeTree) compare(x, y vfs.VirtualDentry, path string) (same bool, err error) {
	var files [2]*vfs.FileDescription
	for i, root := range []vfs.VirtualDentry{x, y} {
		files[i], err = t.m.s.k.VFS().OpenAt(t.m.ctx, t.m.s.creds, inTree(root, path), &vfs.OpenOptions{Flags: linux.O_RDONLY})
		if err != nil {
			return false, err
		}
		defer files[i].DecRef(t.m.ctx)
	}
	return sameBytes(t.m.ctx, files[0], files[1])
}

// sameBytes compares two files of one length.
func sameBytes(ctx context.Context, x, y *vfs.FileDescription) (bool, error) {
	bx, by := make([]byte, copyChunk), make([]byte, copyChunk)
	for at := int64(0); ; {
		n, err := x.PRead(ctx, usermem.BytesIOSequence(bx), at, vfs.ReadOptions{})
		if n <= 0 {
			return n == 0, readEnd(err)
		}
		for have := int64(0); have < n; {
			k, err := y.PRead(ctx, usermem.BytesIOSequence(by[have:n]), at+have, vfs.ReadOptions{})
			if k <= 0 {
				return false, readEnd(err)
			}
			have += k
		}
		if !bytes.Equal(bx[:n], by[:n]) {
			return false, nil
		}
		at += n
	}
}

// readEnd is what is wrong about the end of a file: nothing.
func readEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
