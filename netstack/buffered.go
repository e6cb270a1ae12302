package netstack

import (
	"gvisor.dev/gvisor/pkg/sentry/inet"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Buffered returns about how many bytes wait in the sockets of a stack. What waits
// to be received in a stream is known; a datagram socket in which something waits,
// and the sending side of a stream that takes no more, count with their whole
// buffers. A stack that is not ours has none.
func Buffered(s inet.Stack) (bytes uint64) {
	ns, ok := s.(*gvnetstack.Stack)
	if !ok {
		return 0
	}
	for _, e := range ns.Stack.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		waits := 0
		if n, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
			waits = max(n, 0)
		}
		if _, stream := e.(*tcp.Endpoint); !stream {
			if waits > 0 {
				bytes += uint64(max(ep.SocketOptions().GetReceiveBufferSize(), int64(waits)))
			}
			continue
		}
		bytes += uint64(waits)
		if tcp.EndpointState(ep.State()) == tcp.StateEstablished && ep.Readiness(waiter.WritableEvents) == 0 {
			bytes += uint64(max(ep.SocketOptions().GetSendBufferSize(), 0))
		}
	}
	return bytes
}
