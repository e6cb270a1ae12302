package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/images/mkerofs"
)

// source is what an importer read: a tree whose contents stay readable until
// close, and what goes with it.
type source struct {
	kind     Kind
	root     *mkerofs.Node
	config   Config
	warnings []string
	warnLate func() // adds warnings that are known once contents were read
	closers  []func() error
}

func (s *source) onClose(f func() error) { s.closers = append(s.closers, f) }

func (s *source) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// Import makes an image of the source at path and gives it the name.
func (s *Store) Import(ctx context.Context, name, path string, opts ImportOptions) (Image, error) {
	const op = "import image"
	opts = opts.withDefaults()
	if err := checkName(name); err != nil {
		return Image{}, err
	}
	if err := s.locked(func() error { return s.checkFree(name, opts.Replace) }); err != nil {
		return Image{}, errdefs.Wrap(err, errdefs.ImageExists, op)
	}
	img, err := s.importSource(ctx, name, path, opts)
	return img, hostError(err, op, errdefs.Resource("%s from %s", name, path))
}

func (s *Store) importSource(ctx context.Context, name, path string, opts ImportOptions) (Image, error) {
	src, err := s.openSource(ctx, path, opts)
	if err != nil {
		return Image{}, err
	}
	defer src.close()
	p, err := s.writeBlob(ctx, src.root, func(done, total int64) { opts.Progress(PhaseWrite, done, total) })
	if err != nil {
		return Image{}, err
	}
	defer p.discard()
	if src.warnLate != nil {
		src.warnLate()
	}
	img := Image{
		Name: name, Digest: p.digest, Size: p.stats.Bytes, Files: p.stats.Inodes, Created: s.clock.Now().UTC(),
		Kind: src.kind, Source: path, Config: src.config, Warnings: src.warnings,
	}
	return img, s.locked(func() error {
		if err := s.checkFree(name, opts.Replace); err != nil {
			return err
		}
		old, _ := s.read(name) // Absent or damaged: nothing to drop.
		if err := s.place(p); err != nil {
			return err
		}
		if err := s.writeRecord(namesDir, name, record{Image: img}); err != nil {
			s.dropBlob(img.Digest)
			return err
		}
		if old.Digest != "" && old.Digest != img.Digest {
			return s.dropBlob(old.Digest)
		}
		return nil
	})
}

// checkFree returns an error when the name is taken. The store is locked.
func (s *Store) checkFree(name string, replace bool) error {
	if replace {
		return nil
	}
	if _, err := os.Lstat(s.recordPath(namesDir, name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errdefs.New(errdefs.ImageExists, "an image has this name", errdefs.Resource("%s", name),
		errdefs.Fix("choose another name, replace it with --replace, or remove it with `aiosctl image rm %s`", name))
}

// openSource finds out what path is and reads its tree.
func (s *Store) openSource(ctx context.Context, path string, opts ImportOptions) (*source, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.New(errdefs.NotFound, "no such file or directory", errdefs.Fix("give the path of a directory, an OCI layout or an image archive"))
	} else if err != nil {
		return nil, err
	}
	src := &source{}
	ok := false
	defer func() {
		if !ok {
			src.close()
		}
	}()
	kind := opts.Kind
	switch {
	case fi.IsDir():
		if kind == KindAuto {
			kind = KindDir
			if isLayout(path) {
				kind = KindOCILayout
			}
		}
		if kind == KindDir {
			err = readDirSource(ctx, path, s.dir, src, opts)
			break
		}
		if kind != KindOCILayout {
			return nil, invalid("it is a directory, not an archive", "leave out the kind, or name the archive file")
		}
		var l *layoutDir
		if l, err = openLayoutDir(path); err == nil {
			src.onClose(l.close)
			err = s.readOCI(ctx, l, src, opts)
		}
	case fi.Mode().IsRegular():
		if kind != KindAuto && kind != KindOCIArchive && kind != KindDockerArchive {
			return nil, invalid("it is a file, not a directory", "leave out the kind, or name a directory")
		}
		kind, err = s.readArchiveSource(ctx, path, kind, src, opts)
	default:
		return nil, invalid("it is neither a directory nor a regular file", "give the path of a directory, an OCI layout or an image archive")
	}
	if err != nil {
		return nil, err
	}
	src.kind = kind
	ok = true
	return src, nil
}

func isLayout(dir string) bool {
	for _, name := range []string{layoutFile, indexFile} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || !fi.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// readArchiveSource reads a tar with an image, which may be compressed.
func (s *Store) readArchiveSource(ctx context.Context, path string, kind Kind, src *source, opts ImportOptions) (Kind, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	src.onClose(f.Close)
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	plain := io.NewSectionReader(f, 0, fi.Size())
	head := make([]byte, 4)
	if n, _ := plain.ReadAt(head, 0); compressionOf(head[:n]) != plainTar {
		sp, err := s.spool(src, opts.Limits)
		if err != nil {
			return "", err
		}
		if plain, err = sp.unpack(ctx, plain, nil, func(done int64) { opts.Progress(PhaseUnpack, done, fi.Size()) }); err != nil {
			return "", err
		}
	}
	a, err := indexArchive(ctx, plain, opts.Limits)
	if err != nil {
		return "", err
	}
	_, hasLayout := a.files[layoutFile]
	_, hasIndex := a.files[indexFile]
	_, hasManifest := a.files[dockerManifest]
	switch {
	case hasLayout && hasIndex && kind != KindDockerArchive:
		return KindOCIArchive, s.readOCI(ctx, a, src, opts)
	case hasManifest && kind != KindOCIArchive:
		return KindDockerArchive, s.readDocker(ctx, a, src, opts)
	}
	detail := fmt.Sprintf("no image in it: looked for %s and %s (an OCI archive) and for %s (docker save)", layoutFile, indexFile, dockerManifest)
	fix := "make it with 'skopeo copy … oci-archive:FILE' or 'docker save -o FILE IMAGE'"
	for _, top := range []string{"etc", "usr", "bin"} {
		if a.tops[top] {
			fix = "it looks like the tar of a root file system: unpack it and import the directory"
		}
	}
	return "", invalid(detail, fix)
}

// invalid is the error for a source that cannot be imported as it is.
func invalid(detail, fix string) error {
	return errdefs.New(errdefs.ImageInvalid, detail, errdefs.Fix("%s", fix))
}

// limitError says which limit a source exceeds.
func limitError(limit string, max int64, where string) error {
	return errdefs.New(errdefs.ImageInvalid, fmt.Sprintf("more than the limit %s = %d", limit, max), errdefs.Resource("%s", where),
		errdefs.Fix("import a smaller image, or raise the limit %s", limit))
}
