package fabric

import (
	"cmp"
	"hash/fnv"
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

// window gives out addresses. Which one follows from the name and the size of a
// region, so that it is the same in every domain and whatever else there is; only if
// that place is taken is it the lowest that is free.
type window struct{ taken []span }

type span struct{ start, end uint64 }

// windowLength is how much of the window a region of that size takes.
func windowLength(size uint64) uint64 { return (size + 2*windowAlign - 1) &^ (windowAlign - 1) }

// placeOf is where a region of that name and size is to be.
func placeOf(name string, size uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	places := (WindowEnd-WindowStart-windowLength(size))/windowAlign + 1
	return WindowStart + h.Sum64()%places*windowAlign
}

// take returns an address for a region of that name and so many bytes. A gap is left
// behind, so that who runs over the end of one region is not in the next.
func (w *window) take(name string, size uint64) (uint64, error) {
	if at := placeOf(name, size); w.takeAt(at, size) {
		return at, nil
	}
	at := uint64(WindowStart)
	length := windowLength(size)
	for _, t := range w.taken {
		if at+length <= t.start {
			break
		}
		at = t.end
	}
	if !w.takeAt(at, size) {
		return 0, errdefs.New(errdefs.MemoryLimit, "there is no room at addresses that are the same for all", errdefs.Op("create region"),
			errdefs.Fix("remove regions that have an address, or make this one without"))
	}
	return at, nil
}

// takeAt takes an address, if that place is free and in the window.
func (w *window) takeAt(addr, size uint64) bool {
	if addr < WindowStart || addr > WindowEnd || addr%windowAlign != 0 || windowLength(size) > WindowEnd-addr {
		return false
	}
	end := addr + windowLength(size)
	i, _ := slices.BinarySearchFunc(w.taken, addr, func(t span, addr uint64) int { return cmp.Compare(t.end, addr+1) })
	if i < len(w.taken) && w.taken[i].start < end {
		return false
	}
	w.taken = slices.Insert(w.taken, i, span{addr, end})
	return true
}

// give gives back what take returned; 0 is nothing.
func (w *window) give(addr uint64) {
	w.taken = slices.DeleteFunc(w.taken, func(s span) bool { return s.start == addr })
}
