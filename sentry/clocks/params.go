package clocks

import (
	"encoding/binary"
	"math/bits"
)

// Line is how one clock is read: a moment, the count of the CPU's counter then, and
// how often that counts in a second. It is of no use unless it is ready.
type Line struct {
	Ready      uint64
	BaseCycles int64
	BaseRef    int64
	Frequency  uint64
}

// At returns what the clock shows when the counter shows cycles, by the arithmetic of
// the VDSO.
func (l Line) At(cycles int64) int64 {
	if l.Frequency == 0 || cycles < l.BaseCycles {
		return l.BaseRef
	}
	const second = 1_000_000_000
	hi, lo := bits.Mul64(uint64(cycles-l.BaseCycles), second<<32/l.Frequency)
	return l.BaseRef + int64(hi<<32|lo>>32)
}

// ahead returns the line of a clock that shows by more.
func (l Line) ahead(by Shift) Line {
	l.BaseRef = by.Inside(l.BaseRef)
	return l
}

// rated returns the line of a clock that goes by l, at a rate. What is lost of the
// frequency is less than a millionth; the next line begins where it should be.
func (l Line) rated(w Wall) Line {
	l.BaseRef = w.Inside(l.BaseRef)
	l.Frequency = scaled(l.Frequency, Normal, w.rate, true)
	return l
}

// A clock that is to show less than it did goes slower until it is right, for catchUp
// or for twice as long as it is wrong.
const catchUp = 1_000_000_000

// After returns the line of a clock that goes on as l says from when the counter shows
// cycles, and was read by old until then: never backwards.
func (l Line) After(old Line, cycles int64) Line { return l.after(old, cycles, catchUp) }

// after is After of a clock that shows catch more when catchUp has passed.
func (l Line) after(old Line, cycles, catch int64) Line {
	if l.Ready == 0 || old.Ready == 0 || l.Frequency == 0 {
		return l
	}
	is, was := l.At(cycles), old.At(cycles)
	over := was - is
	if over <= 0 {
		return l
	}
	until := max(catch, 2*over)
	hi, lo := bits.Mul64(l.Frequency, uint64(until))
	slower, _ := bits.Div64(hi, lo, uint64(until-over)) // It is at most twice the frequency.
	return Line{Ready: 1, BaseCycles: max(cycles, l.BaseCycles), BaseRef: was, Frequency: slower}
}

// Params is what the VDSO reads: gVisor's kernel/vdso.go has the same.
type Params struct {
	Monotonic, Realtime Line
	// RawAlias says that CLOCK_MONOTONIC_RAW is CLOCK_MONOTONIC.
	RawAlias uint64
	Raw      Line
}

// Bytes is how long Params are in the page, where they follow the eight bytes of a
// sequence count that is odd while they are written.
const Bytes = 13 * 8

// lines are the fields in order, but for RawAlias, which comes before the last.
func (p *Params) lines() [3]*Line { return [3]*Line{&p.Monotonic, &p.Realtime, &p.Raw} }

// Decode reads Params as they are in the page.
func Decode(b []byte) (p Params) {
	next := func() uint64 {
		v := binary.NativeEndian.Uint64(b)
		b = b[8:]
		return v
	}
	for i, l := range p.lines() {
		if i == 2 {
			p.RawAlias = next()
		}
		l.Ready, l.BaseCycles, l.BaseRef, l.Frequency = next(), int64(next()), int64(next()), next()
	}
	return p
}

// Encode writes them as Decode reads them.
func (p Params) Encode(b []byte) {
	put := func(v uint64) {
		binary.NativeEndian.PutUint64(b, v)
		b = b[8:]
	}
	for i, l := range p.lines() {
		if i == 2 {
			put(p.RawAlias)
		}
		put(l.Ready)
		put(uint64(l.BaseCycles))
		put(uint64(l.BaseRef))
		put(l.Frequency)
	}
}

// Own returns what an agent's programs read while others read p, if its CLOCK_REALTIME
// goes as wall says, and its other clocks are ahead of the kernel's by so much.
func (p Params) Own(wall Wall, monotonic Shift) Params {
	if wall.Steady() {
		p.Realtime = p.Monotonic.rated(wall)
	} else {
		p.Realtime = p.Realtime.ahead(Shift(wall.shows))
	}
	p.Monotonic = p.Monotonic.ahead(monotonic)
	p.Raw = p.Raw.ahead(monotonic)
	return p
}

// stepped is how far CLOCK_REALTIME goes back that somebody has set, and that is not
// merely measured better.
const stepped = 1_000_000

// Stepped says whether somebody has set the clock back that others read by p, and by old
// until the counter showed cycles.
func (p Params) Stepped(old Params, cycles int64) bool {
	return old.Realtime.Ready != 0 && old.Realtime.At(cycles)-p.Realtime.At(cycles) >= stepped
}

// After returns p, of which CLOCK_REALTIME goes as wall says, so that no clock runs
// backwards that was read by old until the counter shows cycles: but for CLOCK_REALTIME,
// if it is set.
func (p Params) After(old Params, cycles int64, wall Wall, set bool) Params {
	p.Monotonic, p.Raw = p.Monotonic.After(old.Monotonic, cycles), p.Raw.After(old.Raw, cycles)
	if !set {
		p.Realtime = p.Realtime.after(old.Realtime, cycles, int64(scaled(catchUp, wall.rate, Normal, true)))
	}
	return p
}
