package clocks

import (
	"strconv"
	"strings"
)

// Rate is how fast a clock goes, in billionths of how fast the kernel's go.
type Rate int64

// The rates that a clock can have. Faster, what the kernel's clocks are wrong by would be
// seen; slower, nothing is left of a nanosecond.
const (
	Normal  Rate = 1_000_000_000
	Slowest      = Normal / 1000
	Fastest      = Normal * 1000
)

// Valid says whether a clock can go so fast.
func (r Rate) Valid() bool { return Slowest <= r && r <= Fastest }

// Float is the rate as a number: 1 is as fast as the kernel's.
func (r Rate) Float() float64 { return float64(r) / float64(Normal) }

// String is what ParseRate reads.
func (r Rate) String() string { return strconv.FormatFloat(r.Float(), 'f', -1, 64) }

// decimals is how many places after the point a rate may have.
const decimals = 9

// ParseRate reads a decimal number, exactly. If it is no rate, it says why.
func ParseRate(text string) (r Rate, why string) {
	const stands = "a clock neither stands still nor runs backwards"
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		if _, err := strconv.ParseFloat(rest, 64); err == nil {
			return 0, stands
		}
	}
	whole, part, point := strings.Cut(text, ".")
	if !digits(whole) || point && !digits(part) {
		return 0, "not a number such as 60 or 1.0005"
	}
	part = strings.TrimRight(part, "0")
	if len(part) > decimals {
		return 0, "finer than a billionth"
	}
	n, err := strconv.ParseInt(whole+part+strings.Repeat("0", decimals-len(part)), 10, 64)
	switch r = Rate(n); {
	case err != nil || r > Fastest:
		return 0, "more than 1000 times as fast"
	case r == 0:
		return 0, stands
	case r < Slowest:
		return 0, "less than 0.001 times as fast"
	}
	return r, ""
}

// digits says whether s is a number without more.
func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
