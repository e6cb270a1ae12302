package config

import (
	"strconv"

	"github.com/docker/go-units"

	"aios.dev/aios/errdefs"
)

// Size is a number of bytes, written as 4096, 256M or 1G; units are powers of
// 1024.
type Size uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := units.RAMInBytes(string(text))
	if err != nil || n < 0 {
		return errdefs.Newf(errdefs.InvalidArgument, "%q is no size", clip(string(text))).
			With(errdefs.Fix("write a number of bytes, or one with a unit: 64K, 256M, 1G"))
	}
	*s = Size(n)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) {
	for i, unit := range []string{"G", "M", "K"} {
		if n := uint64(1) << (30 - 10*i); uint64(s) >= n && uint64(s)%n == 0 {
			return []byte(strconv.FormatUint(uint64(s)/n, 10) + unit), nil
		}
	}
	return strconv.AppendUint(nil, uint64(s), 10), nil
}
