//go:build !cgo

package systrap

// cgo says whether the C runtime may be part of this binary.
const cgo = false
