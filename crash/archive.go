package crash

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"aios.dev/aios/errdefs"
)

// ManifestName is the member that describes an archive, if it has one.
const ManifestName = "manifest.json"

// maxManifest bounds what is kept of a manifest.
const maxManifest = 1 << 20

// Add stores a tar that is read from r, and returns its description: c with ID,
// time, size and members filled in. An archive that is cut off, or that exceeds
// the limits, leaves nothing behind.
func (s *Store) Add(c Crash, r io.Reader) (Crash, error) {
	c.ID, c.Time = s.next(), s.clock.Now()
	f, err := os.OpenFile(s.path(c.ID, partSuffix), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return c, diskError(err, "keep dump")
	}
	defer os.Remove(f.Name()) // Has another name by then, if all went well.
	out := &bounded{f: f, most: s.limits.Bytes}
	// Dumps are large and mostly zeros; one core is enough for them.
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		f.Close()
		return c, errdefs.Wrap(err, errdefs.Internal, "compress dump")
	}
	err = s.scan(&c, io.TeeReader(r, z))
	err = errors.Join(err, z.Close())
	err = errors.Join(err, f.Close())
	if out.err != nil {
		err = out.err
	}
	if err != nil {
		return c, diskError(err, "keep dump")
	}
	c.Bytes = out.n
	return c, s.commit(c)
}

// scan reads a tar to its end and notes what is in it.
func (s *Store) scan(c *Crash, r io.Reader) error {
	var content uint64
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.Protocol, "read dump")
		}
		if h.Typeflag != tar.TypeReg || !plainName(h.Name) {
			return errdefs.Newf(errdefs.Protocol, "a dump holds %q, which is not a plain file", h.Name)
		}
		content += uint64(h.Size)
		if content > s.limits.Content || len(c.Members) >= s.limits.Members {
			return errdefs.Newf(errdefs.Protocol, "a dump holds more than %d files or %d bytes", s.limits.Members, s.limits.Content)
		}
		c.Members = append(c.Members, Member{Name: h.Name, Bytes: uint64(h.Size)})
		if h.Name == ManifestName && h.Size <= maxManifest {
			raw, err := io.ReadAll(t)
			if err != nil {
				return errdefs.Wrap(err, errdefs.Protocol, "read dump")
			}
			if json.Valid(raw) {
				c.Manifest = raw
			}
		}
	}
	_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // What pads it.
	return err
}

// plainName reports whether a member has a name that is a file's in any
// directory.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) < 200 && !strings.ContainsAny(name, "/\\\x00")
}

// bounded writes a file up to a size.
type bounded struct {
	f       *os.File
	n, most uint64
	err     error
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.err == nil && b.n+uint64(len(p)) > b.most {
		b.err = errdefs.Newf(errdefs.QuotaExceeded, "the dump is larger than all dumps together may be, which is %d bytes", b.most).
			With(errdefs.Fix("dump less: one process, or with a smaller --limit"))
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.f.Write(p)
	b.n += uint64(n)
	if err != nil {
		b.err = diskError(err, "keep dump")
	}
	return n, err
}

// Open returns the archive of a dump, or one member of it unpacked, and its
// size. The caller closes it.
func (s *Store) Open(id, member string) (io.ReadCloser, uint64, error) {
	c, err := s.Find(id)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.path(id, archiveSuffix))
	if err != nil {
		return nil, 0, diskError(err, "open dump")
	}
	if member == "" {
		return f, c.Bytes, nil
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		f.Close()
		return nil, 0, errdefs.Wrap(err, errdefs.HostIO, "open dump")
	}
	m := &memberReader{Reader: tar.NewReader(z), z: z, f: f}
	for {
		h, err := m.Next()
		switch {
		case err == io.EOF:
			m.Close()
			return nil, 0, errdefs.New(errdefs.NotFound, "the dump has no such member", errdefs.Resource("%q", member),
				errdefs.Fix("`aiosctl crash show %s` lists what is in it", id))
		case err != nil:
			m.Close()
			return nil, 0, errdefs.Wrap(err, errdefs.HostIO, "read dump")
		case h.Name == member:
			return m, uint64(h.Size), nil
		}
	}
}

type memberReader struct {
	*tar.Reader
	z *zstd.Decoder
	f *os.File
}

// Close implements io.Closer.
func (m *memberReader) Close() error {
	m.z.Close()
	return m.f.Close()
}
