package alert

import (
	"math"
	"strconv"

	"github.com/docker/go-units"

	"aios.dev/aios/errdefs"
)

// Number is a limit as it is configured: 0.5, 200, 64M or 1G, in powers of
// 1024.
type Number float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Number) UnmarshalText(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
		*n = Number(f)
		return nil
	}
	b, err := units.RAMInBytes(string(text))
	if err != nil || b < 0 {
		return errdefs.New(errdefs.InvalidArgument, "it is no number",
			errdefs.Fix("write a number, such as 0.5 or 200, or one of bytes with a unit: 64K, 256M, 1G"))
	}
	*n = Number(b)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (n Number) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(n), 'f', -1, 64), nil
}
