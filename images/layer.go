package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"aios.dev/aios/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

type compression int

const (
	plainTar compression = iota
	gzipped
	zstandard
)

// maxZstdWindow is the most memory that a stream may ask for.
const maxZstdWindow = 128 << 20

// compressionOf tells by the first bytes, as media types are often wrong.
func compressionOf(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}): // A skippable frame comes first.
		return zstandard
	}
	return plainTar
}

// decompress returns a reader of what r holds.
func decompress(r io.Reader, c compression) (io.ReadCloser, error) {
	switch c {
	case gzipped:
		return gzip.NewReader(r)
	case zstandard:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// spool is an unnamed file in the store that holds what was decompressed while
// an import runs.
type spool struct {
	f      *os.File
	size   int64
	limits Limits
}

// spool returns a fresh one that ends with src.
func (s *Store) spool(src *source, limits Limits) (*spool, error) {
	f, err := s.createTemp("spool-*")
	if err != nil {
		return nil, err
	}
	src.onClose(f.Close)
	return &spool{f: f, limits: limits}, os.Remove(f.Name())
}

// Write appends to the spool.
func (sp *spool) Write(p []byte) (int, error) {
	if sp.size+int64(len(p)) > sp.limits.TotalSize {
		return 0, limitError("total-size", sp.limits.TotalSize, "uncompressed layers")
	}
	n, err := sp.f.WriteAt(p, sp.size)
	sp.size += int64(n)
	return n, err
}

// section returns what was appended since off.
func (sp *spool) section(off int64) *io.SectionReader {
	return io.NewSectionReader(sp.f, off, sp.size-off)
}

// verify are the digests that a layer must have; either may be empty.
type verify struct {
	blob   string // of the bytes as they are stored
	diffID string // of the plain tar
}

// unpack decompresses in, checks its digests and returns the plain bytes. What
// is not compressed stays where it is. done hears of the bytes read.
func (sp *spool) unpack(ctx context.Context, in *io.SectionReader, want *verify, done func(int64)) (*io.SectionReader, error) {
	if want == nil {
		want = &verify{}
	}
	head := make([]byte, 4)
	n, _ := in.ReadAt(head, 0)
	kind := compressionOf(head[:n])
	stored := sha256.New()
	raw := &meteredReader{ctx: ctx, r: in, h: stored, done: done}

	out, start := in, sp.size
	plain := stored // What is not compressed is hashed once.
	if kind == plainTar {
		if want.blob != "" || want.diffID != "" {
			if _, err := io.CopyBuffer(discard{}, raw, make([]byte, 1<<20)); err != nil {
				return nil, err
			}
		}
	} else {
		h := newHasher()
		defer h.close()
		plain = h.sum
		z, err := decompress(raw, kind)
		if err == nil {
			_, err = io.CopyBuffer(&teeWriter{sp, h}, onlyReader{z}, make([]byte, 1<<20))
			z.Close()
		}
		if err == nil { // Bytes behind the stream belong to the digest.
			_, err = io.Copy(discard{}, raw)
		}
		if err != nil {
			return nil, damaged(err, "the compressed stream is damaged")
		}
		out = sp.section(start)
	}
	for _, c := range []struct{ what, want, got string }{
		{"digest", want.blob, digestOf(stored)},
		{"uncompressed digest", want.diffID, digestOf(plain)},
	} {
		if c.want != "" && c.want != c.got {
			return nil, invalid(fmt.Sprintf("the layer has the %s %s, not %s", c.what, c.got, c.want), "fetch or save the image again: it is damaged")
		}
	}
	return out, nil
}

// damaged gives errors of parsers a code; those of the host and of the caller
// keep their own.
func damaged(err error, detail string) error {
	var path *os.PathError
	if errdefs.CodeOf(err) != errdefs.Internal || errors.As(err, &path) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errdefs.New(errdefs.ImageInvalid, detail, errdefs.Cause(err), errdefs.Fix("fetch or save the image again"))
}

// damagedLayer says in which layer something was wrong.
func damagedLayer(err error, number int) error {
	return hostError(err, fmt.Sprintf("layer %d", number))
}

// discard and onlyReader make io.CopyBuffer use the buffer it is given.
type (
	discard    struct{}
	onlyReader struct{ io.Reader }
)

// Write does nothing.
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// meteredReader hashes and counts what is read, and stops with its context.
type meteredReader struct {
	ctx  context.Context
	r    io.Reader
	h    hash.Hash
	n    int64
	done func(int64)
}

// Read reads and hashes.
func (m *meteredReader) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.h.Write(p[:n])
	m.n += int64(n)
	m.done(m.n)
	return n, err
}

// tarEntry is a header and where its data begins.
type tarEntry struct {
	*tar.Header
	sec *io.SectionReader // the tar
	off int64
	// data, of a sparse file only, reads the file, as its bytes are not simply
	// those at off.
	data io.Reader
}

// isSparse reports whether a file was stored with its holes left out.
func isSparse(hdr *tar.Header) bool {
	return hdr.Typeflag == tar.TypeGNUSparse || hdr.PAXRecords["GNU.sparse.map"] != "" ||
		hdr.PAXRecords["GNU.sparse.major"] != "" || hdr.PAXRecords["GNU.sparse.numblocks"] != ""
}

// scanTar calls f with each entry of a tar, in order.
func scanTar(ctx context.Context, sec *io.SectionReader, f func(tarEntry) error) error {
	r := io.NewSectionReader(sec, 0, sec.Size())
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err, "the tar is damaged")
		}
		off, _ := r.Seek(0, io.SeekCurrent)
		e := tarEntry{Header: hdr, sec: sec, off: off}
		if isSparse(hdr) {
			e.data = tr
		}
		switch hdr.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeCont, tar.TypeGNUSparse:
			hdr.Typeflag = tar.TypeReg
		}
		if hdr.Size < 0 || hdr.Typeflag == tar.TypeReg && e.data == nil && hdr.Size > sec.Size()-off {
			return invalid(fmt.Sprintf("the tar ends inside %.100q", hdr.Name), "fetch or save the image again: it is damaged")
		}
		if err := f(e); err != nil {
			return err
		}
	}
}
