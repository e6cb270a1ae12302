package persist

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
)

var (
	errCrash = errors.New("the host has crashed")
	errDisk  = errors.New("the disk fails")
)

// disk is a file on a disk that loses, at a crash, some of what was not synced:
// each sector of it by itself. Operations are counted, and it crashes, or fails
// once, at one of them.
type disk struct {
	data   []byte
	dirty  []write
	ops    int
	crash  int // at which operation; 0: never
	fail   int
	rnd    *rand.Rand
	synced int
}

type write struct {
	off int64
	b   []byte
}

const sector = 512

func (d *disk) op() error {
	d.ops++
	if d.crash != 0 && d.ops >= d.crash {
		return errCrash
	}
	if d.ops == d.fail {
		return errDisk
	}
	return nil
}

// ReadAt implements File: who reads sees what was written.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	n := copy(p, d.data[off:])
	for _, w := range d.dirty {
		if from, to := max(w.off, off), min(w.off+int64(len(w.b)), off+int64(n)); from < to {
			copy(p[from-off:to-off], w.b[from-w.off:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements File.
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	err := d.op()
	d.dirty = append(d.dirty, write{off, slices.Clone(p)})
	if grow := off + int64(len(p)) - int64(len(d.data)); grow > 0 {
		d.data = append(d.data, make([]byte, grow)...)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Sync implements File.
func (d *disk) Sync() error {
	if err := d.op(); err != nil {
		return err
	}
	for _, w := range d.dirty {
		copy(d.data[w.off:], w.b)
	}
	d.dirty = nil
	d.synced++
	return nil
}

// after is the disk when the host runs again.
func (d *disk) after() *disk {
	for _, w := range d.dirty {
		for i := 0; i < len(w.b); i += sector {
			if d.rnd.IntN(2) == 0 {
				copy(d.data[w.off+int64(i):], w.b[i:min(i+sector, len(w.b))])
			}
		}
	}
	return &disk{data: d.data, rnd: d.rnd}
}

var _ File = (*disk)(nil)
