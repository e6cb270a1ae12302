package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/images/mkerofs"
	"golang.org/x/sys/unix"
)

const (
	blobSuffix   = ".erofs"
	digestPrefix = "sha256:"
)

// digestHex returns the hexadecimal part of a well-formed digest, else "".
func digestHex(digest string) string {
	h, ok := strings.CutPrefix(digest, digestPrefix)
	if !ok || len(h) != 2*sha256.Size || strings.Trim(h, "0123456789abcdef") != "" {
		return ""
	}
	return h
}

func (s *Store) blobPath(digest string) string {
	return filepath.Join(s.dir, blobsDir, digestHex(digest)+blobSuffix)
}

// openBlob opens the bytes of img. The store is locked.
func (s *Store) openBlob(img Image) (*os.File, error) {
	f, err := os.Open(s.blobPath(img.Digest))
	if err == nil {
		var fi fs.FileInfo
		if fi, err = f.Stat(); err == nil && fi.Size() == img.Size {
			return f, nil
		}
		f.Close()
	}
	return nil, errdefs.New(errdefs.ImageInvalid, "its file in the store is missing or damaged", errdefs.Resource("image %s", img.Name),
		errdefs.Cause(err), errdefs.Fix("remove it with `aiosctl image rm %s` and import it again", img.Name))
}

// dropBlob removes the bytes of a digest unless a record needs them. The store
// is locked.
func (s *Store) dropBlob(digest string) error {
	h := digestHex(digest)
	used, err := s.usedBlobs()
	if h == "" || err != nil || used[h+blobSuffix] {
		return nil // The next sweep decides when a record is damaged.
	}
	if err := os.Remove(s.blobPath(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pending is an image that is written but has no name yet.
type pending struct {
	f      *os.File
	digest string
	stats  mkerofs.Stats
}

// discard forgets the image. It does nothing once the image has its place.
func (p *pending) discard() {
	os.Remove(p.f.Name())
	p.f.Close()
}

// createTemp makes a file in tmp/ that no sweep removes while it is open.
func (s *Store) createTemp(pattern string) (f *os.File, err error) {
	err = s.locked(func() error {
		if f, err = os.CreateTemp(filepath.Join(s.dir, tmpDir), pattern); err != nil {
			return err
		}
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	})
	if err != nil && f != nil {
		os.Remove(f.Name())
		f.Close()
	}
	return f, err
}

// writeBlob writes the image of a tree into tmp/.
func (s *Store) writeBlob(ctx context.Context, root *mkerofs.Node, progress mkerofs.Progress) (*pending, error) {
	f, err := s.createTemp("image-*" + blobSuffix)
	if err != nil {
		return nil, hostError(err, "write image")
	}
	p := &pending{f: f}
	h := newHasher()
	defer h.close()
	p.stats, err = mkerofs.Write(ctx, &teeWriter{f, h}, root, progress)
	if err == nil {
		if err = f.Chmod(0o400); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		p.discard()
		var content *mkerofs.ContentError
		if errors.As(err, &content) {
			return nil, content.Err
		}
		return nil, hostError(err, "write image")
	}
	p.digest = digestOf(h.sum)
	return p, nil
}

// place moves a pending image into blobs/. The store is locked.
func (s *Store) place(p *pending) error {
	to := s.blobPath(p.digest)
	if fi, err := os.Stat(to); err == nil && fi.Size() == p.stats.Bytes {
		return nil // The same image is there; the caller discards this one.
	}
	if err := os.Rename(p.f.Name(), to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// hasher computes SHA-256 beside whatever else is done with the bytes.
type hasher struct {
	sum  hash.Hash
	in   chan []byte
	done chan struct{}
}

func newHasher() *hasher {
	h := &hasher{sum: sha256.New(), in: make(chan []byte), done: make(chan struct{})}
	go func() {
		for p := range h.in {
			h.sum.Write(p)
			h.done <- struct{}{}
		}
	}()
	return h
}

// close ends the goroutine; the sum stays readable.
func (h *hasher) close() { close(h.in) }

// digestOf returns the digest of what was hashed.
func digestOf(h hash.Hash) string { return digestPrefix + hex.EncodeToString(h.Sum(nil)) }

// teeWriter writes to w and hashes at the same time.
type teeWriter struct {
	w io.Writer
	h *hasher
}

// Write returns when both are done with p.
func (t *teeWriter) Write(p []byte) (int, error) {
	t.h.in <- p
	n, err := t.w.Write(p)
	<-t.h.done
	return n, err
}

// hostError gives an error of the host its code. An error that has one keeps it.
func hostError(err error, op string, opts ...errdefs.Option) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errdefs.Wrap(err, errdefs.Cancelled, op, opts...)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		opts = append(opts, errdefs.Fix("free space on the file system of the image store, for instance with `aiosctl image rm`"))
		return errdefs.Wrap(err, errdefs.DiskFull, op, opts...)
	case errors.Is(err, fs.ErrPermission):
		return errdefs.Wrap(err, errdefs.Denied, op, opts...)
	}
	return errdefs.Wrap(err, errdefs.HostIO, op, opts...)
}

// syncDir makes renames in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readAtMost reads all of r, which must not be longer than limit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errdefs.Newf(errdefs.ImageInvalid, "more than %d bytes", limit)
	}
	return b, err
}
