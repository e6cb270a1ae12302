package ctlfs

import (
	"hash/fnv"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/fabric"
)

// regionsDir is /aios/fabric: a file for each region that the agent which looks
// holds a capability to.
type regionsDir struct{ directory }

var _ kernfs.Inode = (*regionsDir)(nil)

func (fs *filesystem) newRegionsDir(ctx context.Context, e *entry) *regionsDir {
	d := &regionsDir{}
	d.init(ctx, fs, e)
	return d
}

// held returns the regions that the caller's agent can open.
func (d *regionsDir) held(ctx context.Context) []*fabric.Region {
	if agent, ok := d.fs.auth.Holder(ctx); ok {
		return d.fs.auth.Regions(agent)
	}
	return nil
}

// HasChildren implements kernfs.Inode.
func (*regionsDir) HasChildren() bool { return true }

// Lookup implements kernfs.Inode. What is sealed is found by its digest, too.
func (d *regionsDir) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	for _, r := range d.held(ctx) {
		if r.Is(name) {
			return d.fs.newRegionFile(ctx, r), nil
		}
	}
	return nil, linuxerr.ENOENT
}

// IterDirents implements kernfs.Inode.
func (d *regionsDir) IterDirents(ctx context.Context, _ *vfs.Mount, cb vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	held := d.held(ctx)
	if relOffset < 0 || relOffset >= int64(len(held)) {
		return offset, nil
	}
	for _, r := range held[relOffset:] {
		if err := cb.Handle(vfs.Dirent{Name: r.Name(), Type: linux.DT_REG, Ino: regionIno(r), NextOff: offset + 1}); err != nil {
			return offset, err
		}
		offset++
	}
	return offset, nil
}

// regionIno is the inode number of a region: the same in every agent, and beyond
// those of the files that are always there.
func regionIno(r *fabric.Region) uint64 {
	h := fnv.New64a()
	h.Write([]byte(r.Name()))
	return h.Sum64() | 1<<63
}

// regionFile is the file of a region. It is looked up anew every time: the region
// may be gone, and another have its name.
type regionFile struct {
	inode
	region *fabric.Region
}

var _ kernfs.Inode = (*regionFile)(nil)

// regionsPath is where the files are.
const regionsPath = Mountpoint + "/fabric/"

// regionEntry stands for the file of a region, which is in no table.
func regionEntry(name string) *entry { return &entry{name: name, path: regionsPath + name} }

func (fs *filesystem) newRegionFile(ctx context.Context, r *fabric.Region) *regionFile {
	f := &regionFile{region: r}
	f.fs = fs
	f.entry = regionEntry(r.Name())
	f.InodeAttrs.InitWithIDs(ctx, auth.RootKUID, auth.RootKGID, linux.UNNAMED_MAJOR, fs.devMinor, regionIno(r), linux.ModeRegular|0o666)
	return f
}

// Valid implements kernfs.Inode.
func (f *regionFile) Valid(ctx context.Context, _ *kernfs.Dentry, name string) bool {
	if agent, ok := f.fs.auth.Holder(ctx); ok {
		for _, r := range f.fs.auth.Regions(agent) {
			if r == f.region && r.Is(name) {
				return true
			}
		}
	}
	return false
}

// Stat implements kernfs.Inode.
func (f *regionFile) Stat(ctx context.Context, v *vfs.Filesystem, opts vfs.StatOptions) (linux.Statx, error) {
	st, err := f.InodeAttrs.Stat(ctx, v, opts)
	if err == nil {
		st.Mask |= linux.STATX_SIZE | linux.STATX_BLOCKS
		st.Size, st.Blocks = f.region.Size(), f.region.Size()/512
	}
	return st, err
}
