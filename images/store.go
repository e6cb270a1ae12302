package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"golang.org/x/sys/unix"
)

const (
	blobsDir = "blobs"
	namesDir = "names"
	hostDir  = "host"
	tmpDir   = "tmp"

	recordVersion = 1
	maxRecord     = 4 << 20
)

// Store is a directory of images. Its methods are safe for concurrent use, by
// goroutines and by processes.
type Store struct {
	dir   string
	clock ktime.Clock

	mu   sync.Mutex // held with the flock
	lock *os.File
}

// record is the form of names/NAME.json and host/KEY.json.
type record struct {
	Version int   `json:"version"`
	Image   Image `json:"image"`
	// Host is of a skeleton.
	Host *hostRecord `json:"host,omitempty"`
}

// OpenStore opens the store in dir, making it if there is none, and sweeps what
// interrupted imports left. The clock stamps images.
func OpenStore(dir string, clock ktime.Clock) (*Store, error) {
	for _, d := range []string{dir, filepath.Join(dir, blobsDir), filepath.Join(dir, namesDir), filepath.Join(dir, hostDir), filepath.Join(dir, tmpDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, hostError(err, "open image store")
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, hostError(err, "open image store")
	}
	s := &Store{dir: dir, clock: clock, lock: lock}
	if err := s.locked(s.sweep); err != nil {
		lock.Close()
		return nil, hostError(err, "open image store", errdefs.Resource("%s", dir))
	}
	return s, nil
}

// Close ends the use of the store. Files from Open stay usable.
func (s *Store) Close() error { return s.lock.Close() }

// locked runs f while no one else changes the store.
func (s *Store) locked(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return errdefs.Wrap(err, errdefs.HostIO, "lock", errdefs.Resource("%s", s.lock.Name()))
		}
	}
	defer unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)
	return f()
}

// List returns the images by name. An image whose record cannot be read is left
// out and named in the error, which comes beside the others.
func (s *Store) List() ([]Image, error) {
	var out []Image
	err := s.locked(func() error {
		names, err := s.records(namesDir)
		if err != nil {
			return hostError(err, "list images")
		}
		var errs []error
		for _, name := range names {
			img, err := s.read(name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			out = append(out, img)
		}
		return errors.Join(errs...)
	})
	return out, err
}

// Get returns what is known of the named image.
func (s *Store) Get(name string) (Image, error) {
	if err := checkName(name); err != nil {
		return Image{}, err
	}
	var img Image
	err := s.locked(func() (err error) {
		img, err = s.read(name)
		return err
	})
	return img, err
}

// Open opens the named image for reading. The file stays good when the image is
// removed or replaced; the caller closes it.
func (s *Store) Open(name string) (*os.File, Image, error) {
	if err := checkName(name); err != nil {
		return nil, Image{}, err
	}
	var img Image
	var f *os.File
	err := s.locked(func() (err error) {
		if img, err = s.read(name); err != nil {
			return err
		}
		f, err = s.openBlob(img)
		return err
	})
	if err != nil {
		return nil, Image{}, err
	}
	return f, img, nil
}

// Remove removes the named image, and its bytes unless another name has them
// too. It asks inUse, with the store locked, who uses the image, and refuses
// with IMAGE_IN_USE when anybody does; inUse must not call the store.
func (s *Store) Remove(name string, inUse func(Image) []string) error {
	const op = "remove image"
	if err := checkName(name); err != nil {
		return err
	}
	return s.locked(func() error {
		img, err := s.read(name)
		switch {
		case errors.Is(err, errdefs.ImageNotFound):
			return err
		case err != nil: // A damaged record can still be removed.
			img = Image{Name: name}
		}
		if inUse != nil {
			if users := inUse(img); len(users) > 0 {
				return errdefs.New(errdefs.ImageInUse, "used by "+someOf(users), errdefs.Op(op), errdefs.Resource("%s", name),
					errdefs.Fix("end and remove these agents first"))
			}
		}
		if err := os.Remove(s.recordPath(namesDir, name)); err != nil {
			return hostError(err, op, errdefs.Resource("%s", name))
		}
		if err := syncDir(filepath.Join(s.dir, namesDir)); err != nil {
			return hostError(err, op, errdefs.Resource("%s", name))
		}
		return hostError(s.dropBlob(img.Digest), op, errdefs.Resource("%s", name))
	})
}

// someOf lists up to five of names.
func someOf(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

func (s *Store) recordPath(dir, name string) string {
	return filepath.Join(s.dir, dir, name+".json")
}

// records returns the names in a directory of records, sorted.
func (s *Store) records(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out, nil
}

// read returns the record of a name. The store is locked.
func (s *Store) read(name string) (Image, error) {
	r, err := readRecord(s.recordPath(namesDir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Image{}, errdefs.New(errdefs.ImageNotFound, "no image has this name", errdefs.Resource("%s", name),
			errdefs.Fix("see `aiosctl image ls`, or import it with `aiosctl image import %s SOURCE`", name))
	case err != nil:
		return Image{}, errdefs.New(errdefs.ImageInvalid, "its record in the store is damaged", errdefs.Resource("image %s", name),
			errdefs.Cause(err), errdefs.Fix("remove it with `aiosctl image rm %s` and import it again", name))
	}
	r.Image.Name = name
	return r.Image, nil
}

func readRecord(path string) (record, error) {
	f, err := os.Open(path)
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	b, err := readAtMost(f, maxRecord)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if r.Version != recordVersion {
		return record{}, errdefs.Newf(errdefs.ImageInvalid, "%s has version %d, this program reads version %d", path, r.Version, recordVersion)
	}
	if digestHex(r.Image.Digest) == "" || r.Image.Size <= 0 {
		return record{}, errdefs.Newf(errdefs.ImageInvalid, "%s names no blob", path)
	}
	return r, nil
}

// writeRecord writes a record atomically. The store is locked.
func (s *Store) writeRecord(dir, name string, r record) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "record-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // Fails once it is renamed.
	defer f.Close()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.recordPath(dir, name)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, dir))
}

// sweep removes what interrupted imports left. The store is locked.
func (s *Store) sweep() error {
	tmp := filepath.Join(s.dir, tmpDir)
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(tmp, e.Name())
		f, err := os.Open(p)
		if err != nil {
			continue // Gone, or not ours to judge.
		}
		// The writer of a live import holds the lock until its file is renamed.
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(p)
		}
		f.Close()
	}
	used, err := s.usedBlobs()
	if err != nil {
		return nil // A record is damaged: rather keep too much.
	}
	blobs, err := os.ReadDir(filepath.Join(s.dir, blobsDir))
	if err != nil {
		return err
	}
	for _, e := range blobs {
		if !used[e.Name()] {
			os.Remove(filepath.Join(s.dir, blobsDir, e.Name()))
		}
	}
	return nil
}

// usedBlobs returns the file names in blobs/ that a record needs.
func (s *Store) usedBlobs() (map[string]bool, error) {
	used := map[string]bool{}
	for _, dir := range []string{namesDir, hostDir} {
		names, err := s.records(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			r, err := readRecord(s.recordPath(dir, name))
			if err != nil {
				return nil, err
			}
			used[digestHex(r.Image.Digest)+blobSuffix] = true
		}
	}
	return used, nil
}
