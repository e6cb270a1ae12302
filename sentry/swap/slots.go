package swap

import (
	"cmp"
	"slices"

	"aios.dev/aios/errdefs"
)

// SlabSize is how much of a tier is taken and given back at once.
const SlabSize = 64 << 10

// grain is what lengths are rounded up to, within a slab.
const grain = 128

// A Tier is where blobs are kept: slabs that are taken when they are needed and
// given back when nothing is in them any more. A Store calls it with one call at a
// time for each slab, and reads and writes only slabs that it has taken.
type Tier interface {
	// Take makes slab n usable. Its contents do not matter.
	Take(n uint32) error
	// Give ends what Take began.
	Give(n uint32)
	// Write writes p at off of slab n.
	Write(n uint32, off int, p []byte) error
	// Read reads into p from off of slab n.
	Read(n uint32, off int, p []byte) error
}

// slab is where blobs of about the same length are.
type slab struct {
	number uint32
	size   int // of each place
	free   []uint16
	used   int
	listed bool // among those with room
}

// slots says which place of a tier is whose. It is guarded by the Store's mutex.
type slots struct {
	tier Tier
	max  int // of slabs
	live map[uint32]*slab
	room map[int][]*slab // by size of their places, those that have a free one
	gone []uint32        // numbers to be used again
	next uint32
}

func newSlots(t Tier, bytes uint64) *slots {
	return &slots{tier: t, max: int(min(bytes/SlabSize, 1<<31)), live: make(map[uint32]*slab), room: make(map[int][]*slab)}
}

// held is how many bytes of the tier are taken.
func (s *slots) held() uint64 { return uint64(len(s.live)) * SlabSize }

func places(n int) int { return (n + grain - 1) &^ (grain - 1) }

// take returns a place for n bytes.
func (s *slots) take(n int) (number uint32, off int, err error) {
	size := places(n)
	list := s.room[size]
	if len(list) == 0 {
		sl, err := s.more(size)
		if err != nil {
			return 0, 0, err
		}
		list = append(list, sl)
	}
	sl := list[len(list)-1]
	place := sl.free[len(sl.free)-1]
	sl.free = sl.free[:len(sl.free)-1]
	sl.used++
	if len(sl.free) == 0 {
		sl.listed = false
		list = list[:len(list)-1]
	}
	s.room[size] = list
	return sl.number, int(place) * size, nil
}

// more takes a slab with places of size bytes.
func (s *slots) more(size int) (*slab, error) {
	if len(s.live) >= s.max {
		return nil, errdefs.New(errdefs.SwapFull, "there is no more room for pages that are swapped out")
	}
	n := s.next
	if k := len(s.gone); k > 0 {
		n, s.gone = s.gone[k-1], s.gone[:k-1]
	} else {
		s.next++
	}
	if err := s.tier.Take(n); err != nil {
		s.gone = append(s.gone, n)
		return nil, err
	}
	sl := &slab{number: n, size: size, listed: true}
	for i := SlabSize/size - 1; i >= 0; i-- {
		sl.free = append(sl.free, uint16(i))
	}
	s.live[n] = sl
	return sl, nil
}

// give frees a place that take returned.
func (s *slots) give(number uint32, off int) {
	sl := s.live[number]
	sl.free = append(sl.free, uint16(off/sl.size))
	sl.used--
	list := s.room[sl.size]
	switch {
	case sl.used == 0:
		if sl.listed {
			s.room[sl.size] = slices.DeleteFunc(list, func(o *slab) bool { return o == sl })
		}
		delete(s.live, number)
		s.gone = append(s.gone, number)
		s.tier.Give(number)
	case !sl.listed:
		sl.listed = true
		s.room[sl.size] = append(list, sl)
	case len(list) > 1:
		// Those that are emptiest are taken from last, so that they become empty.
		last := len(list) - 1
		if cmp.Less(list[last].used, sl.used) {
			if i := slices.Index(list, sl); i >= 0 {
				list[i], list[last] = list[last], list[i]
			}
		}
	}
}
