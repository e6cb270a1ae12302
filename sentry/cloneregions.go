package sentry

import (
	"strings"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/sentry/ctlfs"
)

// Regions are shared between a copy and its original, as between any two agents:
// the copy's open files and mappings of one are by its own capability, which is
// derived from the original's, and end with that.

// holderKey is the key of the agent that a context speaks for which is no task's.
type holderKey struct{}

// heldBy speaks for an agent.
type heldBy struct {
	context.Context
	agent string
}

// Value implements context.Context.
func (h heldBy) Value(key any) any {
	if key == (holderKey{}) {
		return h.agent
	}
	return h.Context.Value(key)
}

// isRegion says whether that is the file of a region, as agents see it.
func isRegion(name string) bool { return strings.HasPrefix(name, ctlfs.Mountpoint+"/fabric/") }

// ctxOf is with what a file of that name is opened and mapped for the copy: a
// region as the copy itself would.
func (c *copying) ctxOf(name string) context.Context {
	if isRegion(name) {
		return heldBy{c.ctx, c.dst.id}
	}
	return c.ctx
}
