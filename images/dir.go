package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/images/mkerofs"
	"golang.org/x/sys/unix"
)

// dirSource reads a directory tree without ever following a symbolic link: each
// directory is opened by one name beneath the directory above it.
type dirSource struct {
	root   int // fd
	limits Limits

	names     int64
	bytes     int64
	links     map[fileID]*mkerofs.Node // files with several names
	xattrs    int64
	sockets   []string
	mounts    []string
	device    uint64 // of the root
	cachedDir int    // fd of cachedAt, or -1
	cachedAt  string
}

type fileID struct{ dev, ino uint64 }

// readDirSource fills src from the directory at dir.
func readDirSource(ctx context.Context, dir, storeDir string, src *source, opts ImportOptions) error {
	if inside(storeDir, dir) {
		return invalid("the image store is inside this directory", "import a directory that does not hold "+storeDir)
	}
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	d := &dirSource{root: root, limits: opts.Limits, links: map[fileID]*mkerofs.Node{}, cachedDir: -1}
	src.onClose(d.close)
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	d.device = st.Dev
	src.root = &mkerofs.Node{}
	setStat(src.root, &st)
	if err := d.scan(ctx, root, ".", src.root, 0); err != nil {
		return err
	}
	if len(d.sockets) > 0 {
		src.warnings = append(src.warnings, fmt.Sprintf("%d sockets left out: %s", len(d.sockets), someOf(d.sockets)))
	}
	if len(d.mounts) > 0 {
		src.warnings = append(src.warnings, fmt.Sprintf("%d directories are other file systems and were imported empty: %s", len(d.mounts), someOf(d.mounts)))
	}
	src.warnLate = func() {
		if d.xattrs > 0 {
			src.warnings = append(src.warnings, xattrWarning(d.xattrs))
		}
	}
	return nil
}

func xattrWarning(n int64) string {
	return fmt.Sprintf("%d files have extended attributes, such as file capabilities, which images do not keep", n)
}

// inside reports whether p is dir or beneath it, symbolic links resolved.
func inside(p, dir string) bool {
	for _, s := range []*string{&p, &dir} {
		if abs, err := filepath.Abs(*s); err == nil {
			*s = abs
		}
		if real, err := filepath.EvalSymlinks(*s); err == nil {
			*s = real
		}
	}
	rel, err := filepath.Rel(dir, p)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func (d *dirSource) close() error {
	if d.cachedDir >= 0 {
		unix.Close(d.cachedDir)
	}
	return unix.Close(d.root)
}

// scan reads the directory fd, which is at, into node.
func (d *dirSource) scan(ctx context.Context, fd int, at string, node *mkerofs.Node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > mkerofs.MaxDepth {
		return limitError("depth", mkerofs.MaxDepth, "/"+at)
	}
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return sourceError("read directory", at, err)
	}
	list := os.NewFile(uintptr(dup), at)
	names, err := list.Readdirnames(-1)
	list.Close()
	if err != nil {
		return sourceError("read directory", at, err)
	}
	if d.names += int64(len(names)); d.names > d.limits.Entries {
		return limitError("entries", d.limits.Entries, "/"+at)
	}
	sort.Strings(names)
	node.Children = make(map[string]*mkerofs.Node, len(names))
	for _, name := range names {
		child, err := d.child(ctx, fd, at, name, depth)
		if err != nil {
			return err
		}
		if child != nil {
			node.Children[name] = child
		}
	}
	return nil
}

// child returns the node of one name, or nil when images do not keep it.
func (d *dirSource) child(ctx context.Context, fd int, at, name string, depth int) (*mkerofs.Node, error) {
	p := path.Join(at, name)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, sourceError("stat", p, err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	id := fileID{st.Dev, st.Ino}
	if !isDir && st.Nlink > 1 {
		if n := d.links[id]; n != nil {
			return n, nil
		}
	}
	n := &mkerofs.Node{}
	setStat(n, &st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Children = map[string]*mkerofs.Node{}
		if st.Dev != d.device {
			d.mounts = append(d.mounts, "/"+p)
			return n, nil
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, sourceError("open", p, err)
		}
		err = d.scan(ctx, sub, p, n, depth+1)
		unix.Close(sub)
		if err != nil {
			return nil, err
		}
	case unix.S_IFREG:
		if st.Size > d.limits.FileSize {
			return nil, limitError("file-size", d.limits.FileSize, "/"+p)
		}
		if d.bytes += st.Size; d.bytes > d.limits.TotalSize {
			return nil, limitError("total-size", d.limits.TotalSize, "/"+p)
		}
		n.Size = st.Size
		n.Content = &dirFile{src: d, dir: at, name: name, id: id, mtime: st.Mtim, size: st.Size}
	case unix.S_IFLNK:
		target, err := readlinkat(fd, name)
		if err != nil {
			return nil, sourceError("read link", p, err)
		}
		n.Target = target
	case unix.S_IFSOCK:
		d.sockets = append(d.sockets, "/"+p)
		return nil, nil
	}
	if !isDir && st.Nlink > 1 {
		d.links[id] = n
	}
	return n, nil
}

// setStat copies what every node has.
func setStat(n *mkerofs.Node, st *unix.Stat_t) {
	n.Mode, n.UID, n.GID = st.Mode&0o177777, st.Uid, st.Gid
	n.Mtime, n.MtimeNsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
	if t := n.Type(); t == mkerofs.ModeChar || t == mkerofs.ModeBlock {
		n.Rdev = mkerofs.MakeRdev(unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
}

func readlinkat(fd int, name string) (string, error) {
	buf := make([]byte, mkerofs.MaxTargetLen+1)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", err
	}
	if n > mkerofs.MaxTargetLen {
		return "", errdefs.Newf(errdefs.ImageInvalid, "the link's target has more than %d bytes", mkerofs.MaxTargetLen)
	}
	return string(buf[:n]), nil
}

// dirFile is the content of a regular file of a directory tree.
type dirFile struct {
	src       *dirSource
	dir, name string
	id        fileID
	mtime     unix.Timespec
	size      int64
}

// Open opens the file that was seen, and no other.
func (f *dirFile) Open() (io.ReadCloser, error) {
	p := path.Join(f.dir, f.name)
	fd, err := f.src.openat(f.dir, f.name)
	if err != nil {
		return nil, sourceError("open", p, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, sourceError("stat", p, err)
	}
	if (fileID{st.Dev, st.Ino}) != f.id || st.Size != f.size || st.Mtim != f.mtime {
		unix.Close(fd)
		return nil, sourceError("read", p, errChanged)
	}
	f.src.noteXattrs(fd)
	return &fdReader{fd, p}, nil
}

// fdReader reads a regular file. An os.File would do, but asks the host twice
// more for each of very many small files.
type fdReader struct {
	fd   int
	path string
}

// Read reads from the file.
func (r *fdReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(r.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, sourceError("read", r.path, err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Close closes the file.
func (r *fdReader) Close() error { return unix.Close(r.fd) }

// noteXattrs counts a file with attributes that the image loses; a security
// label is the host's and is meant to be lost.
func (d *dirSource) noteXattrs(fd int) {
	var buf [1024]byte
	n, err := unix.Flistxattr(fd, buf[:])
	if err != nil && !errors.Is(err, unix.ERANGE) {
		return
	}
	for name := range strings.SplitSeq(string(buf[:max(n, 0)]), "\x00") {
		if name != "" && name != "security.selinux" {
			d.xattrs++
			return
		}
	}
}

var errChanged = errdefs.New(errdefs.ImageInvalid, "the file changed while it was imported")

// openat opens a file beneath the root, following no symbolic link. It keeps
// the directory open, as the next file is mostly beside this one.
func (d *dirSource) openat(dir, name string) (int, error) {
	fd, err := d.dirfd(dir)
	if err != nil {
		return -1, err
	}
	return unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// dirfd returns the fd of a directory beneath the root, good until the next call.
func (d *dirSource) dirfd(dir string) (int, error) {
	if d.cachedDir >= 0 && d.cachedAt == dir {
		return d.cachedDir, nil
	}
	fd, err := unix.Openat(d.root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, part := range strings.Split(dir, "/") {
		next, err := unix.Openat(fd, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	if d.cachedDir >= 0 {
		unix.Close(d.cachedDir)
	}
	d.cachedDir, d.cachedAt = fd, dir
	return fd, nil
}

// sourceError explains why a name of the source could not be read.
func sourceError(verb, p string, err error) error {
	e := errdefs.New(errdefs.HostIO, "cannot "+verb, errdefs.Resource("/%s", strings.TrimPrefix(p, "./")), errdefs.Cause(err))
	switch {
	case errors.Is(err, errChanged), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return e.With(errdefs.Fix("import a tree that nothing changes meanwhile"))
	case errors.Is(err, fs.ErrPermission):
		e.Code = errdefs.Denied
		return e.With(errdefs.Fix("run the import as a user who may read every file, or take the file out of the tree"))
	}
	return e
}
