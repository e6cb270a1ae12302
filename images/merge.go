package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"aios.dev/aios/images/mkerofs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // bookkeeping of AUFS

	maxLinks    = 40   // symbolic links in the resolution of one name, as Linux
	maxPath     = 4096 // bytes of a name in a layer, as Linux
	maxDepth    = mkerofs.MaxDepth / 2
	xattrPrefix = "SCHILY.xattr."
)

// layer is the tar of a layer as it is stored, with the digest it must have,
// or "".
type layer struct {
	sec    *io.SectionReader
	digest string
}

// readLayers merges layers into src's tree and takes over the image's config.
func (s *Store) readLayers(ctx context.Context, layers []layer, config []byte, src *source, opts ImportOptions) error {
	c, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return damaged(err, "the image config is damaged")
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != opts.Architecture {
		return invalid(fmt.Sprintf("the image is for %s/%s, not for linux/%s", c.OS, c.Architecture, opts.Architecture), "save the image for linux/"+opts.Architecture)
	}
	if len(c.RootFS.DiffIDs) != len(layers) {
		return invalid(fmt.Sprintf("the config lists %d layers, the manifest %d", len(c.RootFS.DiffIDs), len(layers)), "fetch or save the image again: it is damaged")
	}
	if len(layers) > opts.Limits.Layers {
		return limitError("layers", int64(opts.Limits.Layers), "the image")
	}
	src.config = Config{
		Architecture: c.Architecture, Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
		WorkingDir: c.Config.WorkingDir, User: c.Config.User, StopSignal: c.Config.StopSignal, Labels: c.Config.Labels,
	}
	sp, err := s.spool(src, opts.Limits)
	if err != nil {
		return err
	}
	var done, total int64
	for _, l := range layers {
		total += l.sec.Size()
	}
	t := newTree(sp, opts.Limits)
	for i, l := range layers {
		want := &verify{blob: l.digest, diffID: c.RootFS.DiffIDs[i].String()}
		plain, err := sp.unpack(ctx, l.sec, want, func(n int64) { opts.Progress(PhaseUnpack, done+n, total) })
		if err == nil {
			err = t.apply(ctx, plain)
		}
		if err != nil {
			return damagedLayer(err, i+1)
		}
		done += l.sec.Size()
	}
	src.root = t.root
	if t.xattrs > 0 {
		src.warnings = append(src.warnings, xattrWarning(t.xattrs))
	}
	return nil
}

// tree is the root file system that layers add up to. Names are resolved in it
// as if it were the root of a process; the host is never asked.
type tree struct {
	root    *mkerofs.Node
	sp      *spool
	limits  Limits
	entries int64
	bytes   int64
	xattrs  int64
}

func newTree(sp *spool, limits Limits) *tree {
	return &tree{root: mkerofs.NewDir(0o755), sp: sp, limits: limits}
}

// apply lays one layer, a plain tar, over the tree. Its whiteouts come first,
// wherever they stand in it, as they speak of the layers below only.
func (t *tree) apply(ctx context.Context, sec *io.SectionReader) error {
	if err := scanTar(ctx, sec, func(e tarEntry) error {
		if t.entries++; t.entries > t.limits.Entries {
			return limitError("entries", t.limits.Entries, "all layers")
		}
		if len(e.Name) > maxPath {
			return limitError("path-length", maxPath, fmt.Sprintf("%.80q…", e.Name))
		}
		return t.whiteout(inTree(e.Name))
	}); err != nil {
		return err
	}
	return scanTar(ctx, sec, func(e tarEntry) error {
		name := inTree(e.Name)
		if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
			return nil
		}
		if err := t.add(name, e); err != nil {
			return hostError(err, fmt.Sprintf("entry %.200q", e.Name))
		}
		return nil
	})
}

// whiteout removes what a whiteout speaks of. Unlike other names, those of
// whiteouts are not resolved through symbolic links: a layer that hides
// something in a directory has that directory itself.
func (t *tree) whiteout(name string) error {
	dir, base := path.Split(name)
	if !strings.HasPrefix(base, whiteoutPrefix) || base != opaqueMarker && strings.HasPrefix(base, metaPrefix) {
		return nil
	}
	hidden := base[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return invalid(fmt.Sprintf("the whiteout %.200q hides no name", name), "build the image again")
	}
	n := t.root
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		if part == "" {
			continue
		}
		if n = n.Children[part]; n == nil || !n.IsDir() {
			return nil
		}
	}
	if base == opaqueMarker {
		n.Children = map[string]*mkerofs.Node{}
	} else {
		delete(n.Children, hidden)
	}
	return nil
}

// add puts one entry into the tree.
func (t *tree) add(name string, e tarEntry) error {
	n, err := t.node(e)
	if err != nil {
		return err
	}
	if name == "" {
		if !n.IsDir() {
			return invalid("the root must be a directory", "build the image again")
		}
		n.Children = t.root.Children
		*t.root = *n
		return nil
	}
	dir, base := path.Split(name)
	if err := mkerofs.CheckName(base); err != nil {
		return invalid(err.Error(), "build the image again")
	}
	parent, err := t.dir(dir, true)
	if err != nil {
		return err
	}
	old := parent.Children[base]
	switch {
	case e.Typeflag == tar.TypeLink:
		if n, err = t.linkTarget(inTree(e.Linkname)); err != nil {
			return err
		}
	case n.IsDir() && old != nil && old.IsDir():
		n.Children = old.Children
		*old = *n
		return nil
	}
	parent.Children[base] = n
	return nil
}

// node makes the inode of an entry; a hard link's is found elsewhere.
func (t *tree) node(e tarEntry) (*mkerofs.Node, error) {
	n := &mkerofs.Node{
		Mode: uint32(e.Mode) & 0o7777, UID: uint32(e.Uid), GID: uint32(e.Gid),
		Mtime: e.ModTime.Unix(), MtimeNsec: uint32(e.ModTime.Nanosecond()),
	}
	if e.Uid < 0 || e.Gid < 0 || int64(e.Uid) != int64(n.UID) || int64(e.Gid) != int64(n.GID) {
		return nil, invalid(fmt.Sprintf("its owner %d:%d is out of range", e.Uid, e.Gid), "build the image again")
	}
	for key := range e.PAXRecords {
		if strings.HasPrefix(key, xattrPrefix) && key != xattrPrefix+"security.selinux" {
			t.xattrs++
			break
		}
	}
	switch e.Typeflag {
	case tar.TypeReg:
		n.Mode |= mkerofs.ModeRegular
		return n, t.content(n, e)
	case tar.TypeDir:
		n.Mode |= mkerofs.ModeDir
		n.Children = map[string]*mkerofs.Node{}
	case tar.TypeSymlink:
		n.Mode |= mkerofs.ModeSymlink | 0o777
		n.Target = e.Linkname
		if n.Target == "" || len(n.Target) > mkerofs.MaxTargetLen || strings.Contains(n.Target, "\x00") {
			return nil, invalid(fmt.Sprintf("a symbolic link cannot lead to %.80q", n.Target), "build the image again")
		}
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= mkerofs.ModeChar
		if e.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^mkerofs.ModeType | mkerofs.ModeBlock
		}
		n.Rdev = mkerofs.MakeRdev(uint32(e.Devmajor), uint32(e.Devminor))
	case tar.TypeFifo:
		n.Mode |= mkerofs.ModeFIFO
	case tar.TypeLink:
	default:
		return nil, invalid(fmt.Sprintf("entries of type %q are not known", e.Typeflag), "build the image again with a common tool")
	}
	return n, nil
}

// content gives a regular file its bytes.
func (t *tree) content(n *mkerofs.Node, e tarEntry) error {
	if e.Size > t.limits.FileSize {
		return limitError("file-size", t.limits.FileSize, fmt.Sprintf("%.200q", e.Name))
	}
	if t.bytes += e.Size; t.bytes > t.limits.TotalSize {
		return limitError("total-size", t.limits.TotalSize, "all files")
	}
	n.Size = e.Size
	if e.data == nil {
		n.Content = sectionContent{e.sec, e.off, e.Size}
		return nil
	}
	start := t.sp.size
	if _, err := io.CopyN(t.sp, e.data, e.Size); err != nil {
		return damaged(err, "the sparse file is damaged")
	}
	n.Content = sectionContent{t.sp.section(start), 0, e.Size}
	return nil
}

// linkTarget returns the inode that a hard link names.
func (t *tree) linkTarget(name string) (*mkerofs.Node, error) {
	dir, base := path.Split(name)
	parent, err := t.dir(dir, false)
	if err != nil {
		return nil, err
	}
	if parent != nil {
		if n := parent.Children[base]; n != nil && !n.IsDir() {
			return n, nil
		}
	}
	return nil, invalid(fmt.Sprintf("it is a hard link to %.200q, which is no file of the image", name), "build the image again")
}

// dir finds the directory of a name, following symbolic links inside the tree.
// It makes what is missing, or returns nil.
func (t *tree) dir(name string, create bool) (*mkerofs.Node, error) {
	at := []*mkerofs.Node{t.root} // from the root to here
	todo := strings.Split(name, "/")
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		here := at[len(at)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		next := here.Children[part]
		if next == nil {
			if !create {
				return nil, nil
			}
			if err := mkerofs.CheckName(part); err != nil {
				return nil, invalid(err.Error(), "build the image again")
			}
			if t.entries++; t.entries > t.limits.Entries {
				return nil, limitError("entries", t.limits.Entries, "all layers")
			}
			next = mkerofs.NewDir(0o755)
			here.Children[part] = next
		}
		switch next.Type() {
		case mkerofs.ModeDir:
			if at = append(at, next); len(at) > maxDepth {
				return nil, limitError("depth", maxDepth, fmt.Sprintf("%.80q…", name))
			}
		case mkerofs.ModeSymlink:
			if links++; links > maxLinks {
				return nil, invalid("its directory is behind too many symbolic links", "build the image again")
			}
			if strings.HasPrefix(next.Target, "/") {
				at = at[:1]
			}
			todo = append(strings.Split(next.Target, "/"), todo...)
		default:
			return nil, invalid(fmt.Sprintf("%.80q on its way is not a directory", part), "build the image again")
		}
	}
	return at[len(at)-1], nil
}

// sectionContent is the content of a file in a plain tar.
type sectionContent struct {
	tar       io.ReaderAt
	off, size int64
}

// Open reads the file.
func (c sectionContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(c.tar, c.off, c.size)), nil
}
