package netstack

import (
	"context"
	"sync"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/errdefs"
)

// What of this package is part of a checkpoint: of a port that it is there, as of the
// network protocols (protocols.go). The links, addresses and routes of a stack are made
// anew by Restore; the packets on their way are lost, as any may be.

type contextKey int

// RestoredCreator is the key, in the context of a restore, of a *Creator that has
// what the restoring kernel gives its stacks.
const RestoredCreator contextKey = iota

// Hold keeps timers and packets that were put off from changing any stack, until
// Free is called.
//
// +checklocksignore
func (c *Creator) Hold() { c.still.Lock() }

// Free lets them go on.
//
// +checklocksignore
func (c *Creator) Free() { c.still.Unlock() }

// StateTypeName implements state.Type.
func (*Creator) StateTypeName() string { return "aios/netstack.Creator" }

// StateFields implements state.Type.
func (*Creator) StateFields() []string { return []string{"Clock"} }

// StateSave implements state.SaverLoader.
func (c *Creator) StateSave(m state.Sink) { m.Save(0, &c.Clock) }

// StateLoad implements state.SaverLoader.
func (c *Creator) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &c.Clock)
	if by, ok := ctx.Value(RestoredCreator).(*Creator); ok {
		c.Wheel, c.IDs, c.OnPacket = by.Wheel, by.IDs, by.OnPacket
	}
}

// StateTypeName implements state.Type.
func (*portClock) StateTypeName() string { return "aios/netstack.portClock" }

// StateFields implements state.Type.
func (*portClock) StateFields() []string { return []string{"Clock", "port"} }

// StateSave implements state.SaverLoader.
func (c *portClock) StateSave(m state.Sink) {
	m.Save(0, &c.Clock)
	m.Save(1, &c.p)
}

// StateLoad implements state.SaverLoader.
func (c *portClock) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &c.Clock)
	m.Load(1, &c.p)
}

// StateTypeName implements state.Type.
func (*port) StateTypeName() string { return "aios/netstack.port" }

// StateFields implements state.Type.
func (*port) StateFields() []string { return []string{"creator"} }

// StateSave implements state.SaverLoader.
func (p *port) StateSave(m state.Sink) { m.Save(0, &p.c) }

// StateLoad implements state.SaverLoader.
func (p *port) StateLoad(_ context.Context, m state.Source) { m.Load(0, &p.c) }

func init() {
	state.Register((*Creator)(nil))
	state.Register((*portClock)(nil))
	state.Register((*port)(nil))
}

// Reconfigure gives a stack that was loaded from a checkpoint its interface, its
// addresses and its routes.
func Reconfigure(s inet.Stack) error {
	ns, ok := s.(*gvnetstack.Stack)
	if !ok {
		return errdefs.New(errdefs.NetworkFailed, "it is not a stack of the agent's", errdefs.Op("restore"))
	}
	clock, ok := ns.Stack.Clock().(portClock)
	if !ok {
		return errdefs.New(errdefs.NetworkFailed, "its clock is another's", errdefs.Op("restore"))
	}
	lo := clock.p
	if lo == nil {
		return errdefs.New(errdefs.NetworkFailed, "it has no interface", errdefs.Op("restore"))
	}
	lo.Endpoint.Init(ethernet.New(loopback.New()), lo)
	ns.Stack.ResetConfig()
	if err := renewProtocols(ns.Stack); err != nil {
		return err
	}
	ns.Stack.SetIPTables(netfilter.DefaultLinuxTables(ns.Stack.Clock(), ns.Stack.InsecureRNG()))
	return configure(ns.Stack, lo)
}

// Restore does that with all the stacks of agents, and has their sockets go on. To
// gVisor what is loaded at one time is one: sockets that listen, in any stack, wait
// for the connections of all.
func Restore(stacks []inet.Stack) error {
	for _, s := range stacks {
		if err := Reconfigure(s); err != nil {
			return err
		}
	}
	// Nobody may begin to wait for what another is about to add to.
	tcpip.AsyncLoading.Add(1)
	var begun, done sync.WaitGroup
	for _, s := range stacks {
		ns := s.(*gvnetstack.Stack)
		begun.Add(1)
		ns.Stack.RegisterRestoredEndpoint(lastEndpoint{&begun})
		done.Go(ns.Restore)
	}
	begun.Wait()
	tcpip.AsyncLoading.Done()
	done.Wait()
	return nil
}

// lastEndpoint is told after all endpoints of a stack.
type lastEndpoint struct{ told *sync.WaitGroup }

// Restore implements stack.RestoredEndpoint.
func (e lastEndpoint) Restore(*stack.Stack) { e.told.Done() }
