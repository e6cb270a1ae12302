package sentry

import (
	"testing"

	"pgregory.net/rapid"
)

// No two devices are told by one number, and those that were seen keep theirs.
func TestDeviceNumbersArePermuted(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		is := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 30), 0, 12, rapid.ID).Draw(r, "what they are")
		said := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 30), len(is), len(is), rapid.ID).Draw(r, "what was said")
		d := make(deviceNumbers)
		for i, n := range is {
			d[n] = said[i]
		}
		p, by := d.permutation(), make(map[uint32]uint32)
		for n := range uint32(40) {
			told := p.told(n)
			if want, ok := d[n]; ok && told != want {
				r.Fatalf("%d is told for %d, which was %d", told, n, want)
			}
			if other, ok := by[told]; ok {
				r.Fatalf("%d is told for %d and %d", told, n, other)
			}
			by[told] = n
		}
	})
}
