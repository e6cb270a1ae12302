//go:build !cgo

package filter

const withCgo = false
