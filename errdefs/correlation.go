package errdefs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// correlationLen is the length of a correlation ID in characters.
const correlationLen = 16

// NewCorrelation returns a fresh correlation ID: 16 lower-case hexadecimal
// characters. It is a name, not a secret.
func NewCorrelation() string {
	var b [correlationLen / 2]byte
	rand.Read(b[:]) // Never fails: it ends the program rather.
	return hex.EncodeToString(b[:])
}

// ValidCorrelation reports whether id has the form that NewCorrelation gives
// it. What comes from another process has to be checked: it goes into logs.
func ValidCorrelation(id string) bool {
	if len(id) != correlationLen {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

type correlationKey struct{}

// WithCorrelation returns a context that carries id, or ctx itself when id is
// not valid.
func WithCorrelation(ctx context.Context, id string) context.Context {
	if !ValidCorrelation(id) {
		return ctx
	}
	return context.WithValue(ctx, correlationKey{}, id)
}

// CorrelationFrom returns the correlation ID that ctx carries, or "".
func CorrelationFrom(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

// EnsureCorrelation returns a context that carries a correlation ID, a fresh
// one if ctx has none, and that ID.
func EnsureCorrelation(ctx context.Context) (context.Context, string) {
	if id := CorrelationFrom(ctx); id != "" {
		return ctx, id
	}
	id := NewCorrelation()
	return WithCorrelation(ctx, id), id
}
