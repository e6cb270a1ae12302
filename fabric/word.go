package fabric

import (
	"sync/atomic"
	"unsafe"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"

	"aios.dev/aios/abi"
)

// at is where the word at off is in the memory of the kernel: nil if nothing was
// ever written there, and it is not to be.
//
// +checklocks:r.fam.mu
func (r *Region) at(off uint64, write bool) (unsafe.Pointer, error) {
	i, in := off>>chunkBits, off&(chunkSize-1)
	f, _ := r.head.peek(i)
	if write {
		if r.sealed.Load() != nil {
			return nil, r.isSealed()
		}
		var err error
		if f, _, err = r.ours(i, true); err != nil {
			return nil, linuxerr.ENOMEM
		}
	}
	if f == nil {
		return nil, nil
	}
	seq, err := r.fam.bytes(f.fr)
	if err != nil {
		return nil, linuxerr.ENOMEM
	}
	// Pages are whole in it, and so are words.
	return unsafe.Pointer(unsafe.SliceData(seq.DropFirst64(in).Head().ToSlice())), nil
}

// load reads the word of 4 bytes at off.
func (r *Region) load(off uint64) (uint32, error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	p, err := r.at(off, false)
	if p == nil || err != nil {
		return 0, err
	}
	return atomic.LoadUint32((*uint32)(p)), nil
}

// cas changes the word of 4 bytes at off, if it is what it should be.
func (r *Region) cas(off uint64, was, is uint32) (bool, error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	p, err := r.at(off, true)
	if err != nil {
		return false, err
	}
	return atomic.CompareAndSwapUint32((*uint32)(p), was, is), nil
}

// CompareAndSwap changes the word at off, of 8 bytes if it is wide and else of 4,
// to is, if it was was; it returns what it was. It is for programs whose language
// cannot do it.
func (v *View) CompareAndSwap(off uint64, wide bool, was, is uint64) (uint64, error) {
	r := v.r
	n := uint64(4)
	if wide {
		n = 8
	}
	if err := r.hasWord(off, n); err != nil {
		return 0, err
	}
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	if err := v.Err(abi.RegionRead | abi.RegionWrite); err != nil {
		return 0, err
	}
	p, err := r.at(off, true)
	if err != nil {
		return 0, err
	}
	for range casTries {
		if wide {
			now := atomic.LoadUint64((*uint64)(p))
			if now != was || atomic.CompareAndSwapUint64((*uint64)(p), was, is) {
				return now, nil
			}
			continue
		}
		now := atomic.LoadUint32((*uint32)(p))
		if uint64(now) != was || atomic.CompareAndSwapUint32((*uint32)(p), now, uint32(is)) {
			return uint64(now), nil
		}
	}
	return 0, linuxerr.EAGAIN
}
