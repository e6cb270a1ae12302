package netstack

import (
	"gvisor.dev/gvisor/pkg/sentry/inet"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
)

// Cut ends every flow of a stack: connections are reset, listeners and bound
// sockets closed, and whoever waits on one returns with an error. New sockets
// are not affected; who may make them is decided elsewhere. It returns how
// many endpoints it ended. A stack that is not ours has none.
func Cut(s inet.Stack) int {
	ns, ok := s.(*gvnetstack.Stack)
	if !ok {
		return 0
	}
	n := 0
	for _, e := range ns.Stack.RegisteredEndpoints() {
		e.Abort()
		n++
	}
	return n
}
