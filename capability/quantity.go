package capability

import (
	"errors"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
)

// units are the suffixes of sizes; all are powers of 1024.
const units = "kmgtp"

var (
	errSize  = errdefs.New(errdefs.CapabilityInvalid, "it is not a size such as 4096, 256M or 1.5G")
	errCount = errdefs.New(errdefs.CapabilityInvalid, "it is not a whole number")
	errMilli = errdefs.New(errdefs.CapabilityInvalid, "it is not a number of processors such as 2 or 0.5, with at most three decimals")
	errMicro = errdefs.New(errdefs.CapabilityInvalid, "it is not a number of processors such as 0.2, with at most six decimals")
	errTime  = errdefs.New(errdefs.CapabilityInvalid, "it is not a time such as 100ms")
	errBig   = errdefs.New(errdefs.CapabilityInvalid, "it is too large")
)

// parseSize reads a size as docker/go-units RAMInBytes does: a decimal number,
// a unit in either case, and an optional "b" or "ib". Beyond that it takes the
// "i" alone, as in "1.5Gi", and never rounds up.
func parseSize(text string) (uint64, error) {
	number := strings.TrimRight(text, "bBiIkKmMgGtTpP")
	suffix := strings.ToLower(text[len(number):])
	shift := 0
	if suffix != "" && suffix != "b" {
		u := strings.IndexByte(units, suffix[0])
		if u < 0 {
			return 0, errSize
		}
		shift = 10 * (u + 1)
		if rest := suffix[1:]; rest != "" && rest != "b" && rest != "i" && rest != "ib" {
			return 0, errSize
		}
	}
	v, err := parseDecimal(strings.TrimSuffix(number, " "), 1<<shift, 9)
	if errors.Is(err, errCount) {
		err = errSize
	}
	return v, err
}

// parseDecimal reads a decimal number with at most so many decimals and
// returns it times mul, rounded down.
func parseDecimal(text string, mul uint64, decimals int) (uint64, error) {
	whole, frac, point := strings.Cut(text, ".")
	if point && (frac == "" || len(frac) > decimals) {
		return 0, errCount
	}
	n, err := parseCount(whole)
	if err != nil {
		return 0, err
	}
	hi, v := bits.Mul64(n, mul)
	if hi != 0 {
		return 0, errBig
	}
	if point {
		f, err := parseCount(frac)
		if err != nil {
			return 0, err
		}
		ten := uint64(1)
		for range len(frac) {
			ten *= 10
		}
		hi, lo := bits.Mul64(f, mul)
		q, _ := bits.Div64(hi, lo, ten) // f < ten, so the quotient is below mul
		var carry uint64
		if v, carry = bits.Add64(v, q, 0); carry != 0 {
			return 0, errBig
		}
	}
	return v, nil
}

// formatSize writes v with the largest unit that divides it.
func formatSize(v uint64) string {
	u := -1
	for u+1 < len(units) && v != 0 && v%1024 == 0 {
		v /= 1024
		u++
	}
	if u < 0 {
		return formatCount(v)
	}
	return formatCount(v) + strings.ToUpper(units[u:u+1])
}

func parseCount(text string) (uint64, error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, errCount
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, errBig
	}
	return v, nil
}

func formatCount(v uint64) string { return strconv.FormatUint(v, 10) }

// parseMilli reads a number of processors.
func parseMicro(text string) (uint64, error) {
	v, err := parseDecimal(text, 1e6, 6)
	if errors.Is(err, errCount) {
		err = errMicro
	}
	return v, err
}

func formatMicro(v uint64) string {
	text := formatCount(v / 1e6)
	if v %= 1e6; v != 0 {
		text += "." + strings.TrimRight(formatCount(1e6 + v)[1:], "0")
	}
	return text
}

func parseTime(text string) (uint64, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, errTime
	}
	return uint64(d), nil
}

func formatTime(v uint64) string { return time.Duration(v).String() }

func parseMilli(text string) (uint64, error) {
	v, err := parseDecimal(text, 1000, 3)
	if errors.Is(err, errCount) {
		err = errMilli
	}
	return v, err
}

func formatMilli(v uint64) string {
	text := formatCount(v / 1000)
	if v %= 1000; v != 0 {
		text += "." + strings.TrimRight(formatCount(1000 + v)[1:], "0")
	}
	return text
}
