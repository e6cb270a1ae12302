package images

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// files is where the parts of an image are: a directory or a tar.
type files interface {
	// file returns the named file for reading at random, or fs.ErrNotExist.
	file(name string) (*io.SectionReader, error)
}

// layoutDir is an OCI layout in a directory. Links that lead out of it are
// refused.
type layoutDir struct {
	root *os.Root
	open []*os.File
}

func openLayoutDir(dir string) (*layoutDir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &layoutDir{root: root}, nil
}

func (l *layoutDir) close() error {
	for _, f := range l.open {
		f.Close()
	}
	return l.root.Close()
}

func (l *layoutDir) file(name string) (*io.SectionReader, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // A FIFO must not block us.
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = invalid(name+" in the layout is not a regular file", "make the layout again")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	l.open = append(l.open, f)
	return io.NewSectionReader(f, 0, fi.Size()), nil
}

// archive is an index of a tar: where its regular files are.
type archive struct {
	tar   *io.SectionReader
	files map[string]extent
	links map[string]string // symbolic and hard links, to cleaned names
	tops  map[string]bool   // first path components
}

type extent struct{ off, size int64 }

// indexArchive reads the headers of a tar.
func indexArchive(ctx context.Context, sec *io.SectionReader, limits Limits) (*archive, error) {
	a := &archive{tar: sec, files: map[string]extent{}, links: map[string]string{}, tops: map[string]bool{}}
	entries := int64(0)
	err := scanTar(ctx, sec, func(e tarEntry) error {
		if entries++; entries > limits.Entries {
			return limitError("entries", limits.Entries, "the archive")
		}
		name := inTree(e.Name)
		if first, _, ok := strings.Cut(name, "/"); ok || e.Typeflag == tar.TypeDir {
			a.tops[first] = true
		}
		switch e.Typeflag {
		case tar.TypeReg:
			delete(a.links, name)
			a.files[name] = extent{e.off, e.Size}
		case tar.TypeSymlink: // Old docker save links equal layers.
			a.links[name] = inTree(path.Join("/", path.Dir(name), e.Linkname))
		case tar.TypeLink:
			a.links[name] = inTree(e.Linkname)
		}
		return nil
	})
	if err != nil && entries == 0 && !errors.Is(err, ctx.Err()) {
		return nil, invalid("it is not a tar archive, compressed or not, and not a directory", "give a directory, an OCI layout, an OCI archive or the output of docker save")
	}
	return a, err
}

func (a *archive) file(name string) (*io.SectionReader, error) {
	name = inTree(name)
	for range 10 {
		if e, ok := a.files[name]; ok {
			return io.NewSectionReader(a.tar, e.off, e.size), nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// inTree returns a name as a clean path beneath a root, without a leading
// slash; the root itself is "".
func inTree(name string) string { return path.Clean("/" + name)[1:] }
