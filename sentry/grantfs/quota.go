package grantfs

import (
	"math"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// A ledger limits by how much the files may grow through one grant. A file
// counts with its size, holes and all, a directory or other file as one inode;
// what is removed or cut off by the same grant is given back, whoever had
// written it, but never more than was taken. A removed file that is still open
// through the grant counts until it is closed.
//
// While there is no limit nothing is counted: a limit set later starts at zero.
type ledger struct {
	on atomic.Bool // there is a limit

	mu     sync.Mutex
	bytes  account // +checklocks:mu
	inodes account // +checklocks:mu

	// treeMu is held, while there is a limit, by what gives a file a name or
	// takes it away.
	treeMu sync.Mutex

	nodesMu sync.Mutex
	// Of open regular files.
	nodes map[nodeKey]*node // +checklocks:nodesMu
}

// NoRoom is a limit that leaves room for nothing.
const NoRoom = math.MaxUint64

type account struct {
	limited     bool
	limit, used uint64
}

// set sets the limit; 0 is none.
func (a *account) set(limit uint64) {
	a.limited, a.limit = limit != 0, limit
	if limit == NoRoom {
		a.limit = 0
	}
}

// cede gives up what is taken beyond the limit, or all, and returns how much.
func (a *account) cede(all bool) uint64 {
	n := a.used
	switch {
	case all:
	case a.limited:
		n -= min(n, a.limit)
	default:
		n = 0
	}
	a.used -= n
	return n
}

// take takes up to n, and at least least, or nothing.
func (a *account) take(n, least uint64) uint64 {
	if a.limited {
		n = min(n, a.limit-min(a.used, a.limit))
	}
	if n < least {
		return 0
	}
	a.used += n
	return n
}

func (a *account) give(n uint64) { a.used -= min(n, a.used) }

type nodeKey struct {
	major, minor uint32
	ino          uint64
}

// A node is a regular file that is open through the grant, by whatever name.
type node struct {
	key  nodeKey
	refs int // under ledger.nodesMu

	mu sync.Mutex // held while the size changes, if there is a limit
	// orphan says that the grant removed the last link.
	orphan bool // +checklocks:mu
}

func (l *ledger) init(bytes, inodes uint64) {
	l.nodes = map[nodeKey]*node{} // +checklocksignore: nobody else has it yet.
	l.limit(bytes, inodes)
}

// limit sets the limits.
func (l *ledger) limit(bytes, inodes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes.set(bytes)
	l.inodes.set(inodes)
	if bytes == 0 && inodes == 0 {
		l.bytes.used, l.inodes.used = 0, 0
	}
	l.on.Store(bytes != 0 || inodes != 0)
}

// usage returns what is taken now.
func (l *ledger) usage() (bytes, inodes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.used, l.inodes.used
}

// cede hands what is taken beyond the limits, or all, on to another ledger.
func (l *ledger) cede(all bool, to *ledger) {
	if !l.on.Load() {
		return
	}
	l.mu.Lock()
	bytes, inodes := l.bytes.cede(all), l.inodes.cede(all)
	l.mu.Unlock()
	if !to.on.Load() {
		return
	}
	to.mu.Lock()
	to.bytes.used += bytes
	to.inodes.used += inodes
	to.mu.Unlock()
}

// takeBytes takes up to n bytes, and returns how many.
func (l *ledger) takeBytes(n uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.take(n, 0)
}

// takeAllBytes takes n bytes, or none.
func (l *ledger) takeAllBytes(n uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.take(n, n) == n
}

func (l *ledger) giveBytes(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes.give(n)
}

// takeInodes takes n inodes, or none.
func (l *ledger) takeInodes(n uint64) bool {
	if n == 0 || !l.on.Load() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inodes.take(n, n) == n
}

func (l *ledger) giveInodes(n uint64) {
	if n == 0 || !l.on.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inodes.give(n)
}

// lockTree keeps names from coming and going, if it matters, until the function it
// returns is called.
//
// +checklocksignore: the caller unlocks.
func (l *ledger) lockTree() (unlock func()) {
	if !l.on.Load() {
		return func() {}
	}
	l.treeMu.Lock()
	return l.treeMu.Unlock
}

// node returns the node of a file with a reference. It is fresh if there was
// none: if the file was not open.
func (l *ledger) node(st *linux.Statx) (n *node, fresh bool) {
	key := nodeKey{st.DevMajor, st.DevMinor, st.Ino}
	l.nodesMu.Lock()
	defer l.nodesMu.Unlock()
	n = l.nodes[key]
	if n == nil {
		n, fresh = &node{key: key}, true
		l.nodes[key] = n
	}
	n.refs++
	return n, fresh
}

// put gives a reference back, and reports whether it was the last.
func (l *ledger) put(n *node) (last bool) {
	l.nodesMu.Lock()
	defer l.nodesMu.Unlock()
	n.refs--
	if n.refs == 0 {
		delete(l.nodes, n.key)
	}
	return n.refs == 0
}

// show makes st tell of the limits.
func (l *ledger) show(st *linux.Statfs) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes.limited && st.BlockSize > 0 {
		size := uint64(st.BlockSize)
		left := (l.bytes.limit - min(l.bytes.used, l.bytes.limit)) / size
		st.Blocks = l.bytes.limit / size
		st.BlocksFree, st.BlocksAvailable = min(left, st.BlocksFree), min(left, st.BlocksAvailable)
	}
	if l.inodes.limited {
		st.Files = l.inodes.limit
		st.FilesFree = l.inodes.limit - min(l.inodes.used, l.inodes.limit)
	}
}

const nodeMask = linux.STATX_TYPE | linux.STATX_INO | linux.STATX_SIZE | linux.STATX_NLINK

// stat looks at an inner file, which may be removed.
func (fs *FS) stat(ctx context.Context, inner *vfs.Dentry) (linux.Statx, error) {
	pop := fs.pop(inner, "")
	st, err := fs.vfs.StatAt(ctx, fs.creds, &pop, &vfs.StatOptions{Mask: nodeMask})
	if err != nil { // Who serves the files may know no removed ones.
		st, err = fs.vfs.StatAt(ctx, fs.creds, &pop, &vfs.StatOptions{Mask: nodeMask, Sync: linux.AT_STATX_DONT_SYNC})
	}
	return st, err
}

func regular(st *linux.Statx) bool { return linux.FileMode(st.Mode).FileType() == linux.ModeRegular }

// resize makes the size of an inner file what do makes it, and charges it.
func (fs *FS) resize(ctx context.Context, inner *vfs.Dentry, size uint64, do func() error) error {
	if !fs.quota.on.Load() {
		return do()
	}
	st, err := fs.stat(ctx, inner)
	if err != nil {
		return err
	}
	n, fresh := fs.quota.node(&st)
	defer fs.putNode(ctx, n, inner)
	n.mu.Lock()
	defer n.mu.Unlock()
	if st, err = fs.stat(ctx, inner); err != nil {
		return err
	}
	if fresh && removed(inner, &st) && !n.orphan {
		return linuxerr.ENOENT // See openNode.
	}
	more := size - min(size, st.Size)
	if !fs.quota.takeAllBytes(more) {
		return fs.refuse("truncate", inner, "", anyRight, linuxerr.EDQUOT)
	}
	if err := do(); err != nil {
		fs.quota.giveBytes(more)
		return err
	}
	fs.quota.giveBytes(st.Size - min(size, st.Size))
	return nil
}

// lastLink reports whether the removal of inner frees it: whether it has one
// link. The caller has the tree locked.
func (fs *FS) lastLink(ctx context.Context, inner *vfs.Dentry) bool {
	if !fs.quota.on.Load() {
		return false
	}
	st, err := fs.stat(ctx, inner)
	return err == nil && (linux.FileMode(st.Mode).IsDir() || st.Nlink == 1)
}

// unlinked gives back what a removed file took, if that was its last link; at
// once, or when it is closed.
func (fs *FS) unlinked(ctx context.Context, inner *vfs.Dentry, last bool) {
	if !last {
		return
	}
	st, err := fs.stat(ctx, inner)
	if err != nil {
		return
	}
	if !regular(&st) {
		fs.quota.giveInodes(1)
		return
	}
	n, _ := fs.quota.node(&st)
	n.mu.Lock()
	n.orphan = true
	n.mu.Unlock()
	fs.putNode(ctx, n, inner)
}

// removed reports whether an inner file has no name any more, as far as can be
// told: who serves the files may count links no more once there are none.
func removed(inner *vfs.Dentry, st *linux.Statx) bool { return st.Nlink == 0 || inner.IsDead() }

// openNode returns the node of a regular file that is to be opened. A removed file
// that nobody has open is given back, and cannot be opened any more: it would
// grow for nothing.
func (fs *FS) openNode(ctx context.Context, inner *vfs.Dentry, st *linux.Statx) (*node, error) {
	n, fresh := fs.quota.node(st)
	if !fresh || !fs.quota.on.Load() {
		return n, nil
	}
	now, err := fs.stat(ctx, inner)
	if err == nil && removed(inner, &now) {
		n.mu.Lock()
		if !n.orphan { // Else it was removed since.
			err = linuxerr.ENOENT
		}
		n.mu.Unlock()
	}
	if err != nil {
		fs.putNode(ctx, n, inner)
		return nil, err
	}
	return n, nil
}

// putNode gives back a reference to the node of inner.
func (fs *FS) putNode(ctx context.Context, n *node, inner *vfs.Dentry) {
	if !fs.quota.put(n) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.orphan {
		return
	}
	if st, err := fs.stat(ctx, inner); err == nil {
		fs.quota.giveBytes(st.Size)
	}
	fs.quota.giveInodes(1)
}
