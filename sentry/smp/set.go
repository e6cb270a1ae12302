package smp

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
)

// MaxCPUs is how many CPUs a Set can tell apart.
const MaxCPUs = 1024

// Set is a set of CPUs by number. The zero value is empty. Sets are values:
// they can be compared, and copied.
type Set [MaxCPUs / 64]uint64

// Of returns the set of those CPUs. Numbers that no Set has are left out.
func Of(cpus ...int) (s Set) {
	for _, c := range cpus {
		s.Add(c)
	}
	return s
}

// First returns the set of the first n CPUs.
func First(n int) (s Set) {
	for c := range min(max(n, 0), MaxCPUs) {
		s.Add(c)
	}
	return s
}

// Add adds a CPU.
func (s *Set) Add(cpu int) {
	if cpu >= 0 && cpu < MaxCPUs {
		s[cpu/64] |= 1 << (cpu % 64)
	}
}

// Remove takes a CPU out.
func (s *Set) Remove(cpu int) {
	if cpu >= 0 && cpu < MaxCPUs {
		s[cpu/64] &^= 1 << (cpu % 64)
	}
}

// Has reports whether the CPU is in the set.
func (s Set) Has(cpu int) bool {
	return cpu >= 0 && cpu < MaxCPUs && s[cpu/64]>>(cpu%64)&1 != 0
}

// Empty reports whether no CPU is in the set.
func (s Set) Empty() bool { return s == Set{} }

// Len returns how many CPUs are in the set.
func (s Set) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// And returns the CPUs that are in both.
func (s Set) And(o Set) Set {
	for i := range s {
		s[i] &= o[i]
	}
	return s
}

// Or returns the CPUs that are in either.
func (s Set) Or(o Set) Set {
	for i := range s {
		s[i] |= o[i]
	}
	return s
}

// Minus returns the CPUs of s that are not in o.
func (s Set) Minus(o Set) Set {
	for i := range s {
		s[i] &^= o[i]
	}
	return s
}

// Next returns the first CPU of the set from cpu on, or -1.
func (s Set) Next(cpu int) int {
	for cpu = max(cpu, 0); cpu < MaxCPUs; cpu = (cpu/64 + 1) * 64 {
		if w := s[cpu/64] >> (cpu % 64); w != 0 {
			return cpu + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// All calls f for each CPU in ascending order, until it returns false.
func (s Set) All(f func(cpu int) bool) {
	for c := s.Next(0); c >= 0 && f(c); c = s.Next(c + 1) {
	}
}

// String returns the set as Linux writes it: "0-3,8"; "" if it is empty.
func (s Set) String() string {
	var b strings.Builder
	for from := s.Next(0); from >= 0; {
		to := from
		for s.Has(to + 1) {
			to++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(from))
		if to > from {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(to))
		}
		from = s.Next(to + 1)
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Set) UnmarshalText(text []byte) (err error) {
	*s, err = Parse(string(text))
	return err
}

// Parse reads what String writes, in any order.
func Parse(text string) (s Set, err error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := parseCPU(first, text)
		to := from
		if err == nil && isRange {
			to, err = parseCPU(last, text)
		}
		if err == nil && to < from {
			err = badSet(text, "%s runs backwards", part)
		}
		if err != nil {
			return Set{}, err
		}
		for c := from; c <= to; c++ {
			s.Add(c)
		}
	}
	return s, nil
}

func parseCPU(digits, text string) (int, error) {
	n, err := strconv.ParseUint(digits, 10, 32)
	switch {
	case err != nil:
		return 0, badSet(text, "%q is no number", digits)
	case n >= MaxCPUs:
		return 0, badSet(text, "there is no CPU %d, the last is %d", n, MaxCPUs-1)
	}
	return int(n), nil
}

func badSet(text, format string, args ...any) error {
	return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf(format, args...), errdefs.Op("read a set of CPUs"), errdefs.Resource("%q", text),
		errdefs.Fix("write numbers and ranges, such as 0-3,8"))
}
