package sentry

import "io"

// random asks the host for randomness in pieces. Go cannot interrupt the call
// that asks, and whenever all goroutines are to stand still the kernel would wait
// for it: for seconds, if an agent reads a quarter of a gigabyte at once.
type random struct{ io.Reader }

// randomPiece is how much is asked for at a time, in bytes.
const randomPiece = 64 << 10

// Read implements io.Reader.Read.
func (r random) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Reader.Read(p[n:min(len(p), n+randomPiece)])
		n += m
	}
	return n, err
}
