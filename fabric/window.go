package fabric

import (
	"slices"

	"aios.dev/aios/errdefs"
)

// The window is where regions with an address are mapped: in the middle of what
// a process has, where neither programs nor their heaps, stacks and libraries
// come to lie, nor what sanitizers shadow memory with.
const (
	WindowStart = 0x2000_0000_0000
	WindowEnd   = 0x3000_0000_0000
	windowAlign = 2 << 20
)

// window gives out addresses, the lowest that is free.
type window struct{ taken []span }

type span struct{ start, end uint64 }

// windowLength is how much of the window a region of that size takes.
func windowLength(size uint64) uint64 { return (size + 2*windowAlign - 1) &^ (windowAlign - 1) }

// take returns an address for so many bytes. A gap is left behind, so that who
// runs over the end of one region is not in the next.
func (w *window) take(size uint64) (uint64, error) {
	at := uint64(WindowStart)
	length := windowLength(size)
	i := 0
	for ; i < len(w.taken); i++ {
		if at+length <= w.taken[i].start {
			break
		}
		at = w.taken[i].end
	}
	if at+length > WindowEnd {
		return 0, errdefs.New(errdefs.MemoryLimit, "there is no room at addresses that are the same for all", errdefs.Op("create region"),
			errdefs.Fix("remove regions that have an address, or make this one without"))
	}
	w.taken = slices.Insert(w.taken, i, span{at, at + length})
	return at, nil
}

// give gives back what take returned; 0 is nothing.
func (w *window) give(addr uint64) {
	w.taken = slices.DeleteFunc(w.taken, func(s span) bool { return s.start == addr })
}
