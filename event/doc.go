// Package event is the bus of a kernel process, and of the daemon for what
// happens in itself: typed events, from whoever saw something happen to
// whoever subscribed.
//
// Key types:
//
//   - Type, with a table that says of each its topic, its severity, its payload
//     and what it means. Payloads are the messages of package eventv1.
//   - Event is one event; it becomes protobuf where it leaves the process and a
//     line of CloudEvents JSON where it leaves AIOS.
//   - Bus takes events and gives them to subscriptions in one order. Enabled
//     is one atomic load and tells whether anybody listens to a type: without a
//     listener nobody builds a payload.
//   - Subscription is a bounded queue of what its topics, agents, floor and
//     filter let through, with a policy for when it is full. What it drops is
//     counted where it is missing.
//
// The way of an event: Publish takes a ticket and puts the event into the
// lock-free rings of the CPU that it runs on, one ring for each severity. It
// neither blocks nor allocates. When a CPU holds as many events as it may, the
// oldest of the lowest severity is dropped and counted, which is the new event
// itself if there is none lower. One goroutine, which lives while there are
// subscriptions, takes the events out of all rings, orders them, numbers them
// from 1 and queues them with the subscriptions. What was dropped takes
// numbers as well: the gap is announced by a bus.lost event behind it.
//
// What is promised: if Publish of one event returned before that of another
// was called, the first has the lower number. Every subscription sees
// ascending numbers. Published = merged + lost in rings + waiting; merged and
// wanted by a subscription = delivered + lost + waiting there.
//
// Routes are by type, and by agent for subscriptions to events of some: one
// that is about one agent costs the events of others nothing, neither when
// they are made (EnabledFor) nor when they are given out.
//
// Locks: Bus.merge, then Bus.mu, then Subscription.mu. Filters (Options.Keep)
// and Options.OnReady run with merge held and must neither block nor call the
// bus. Publish takes
// no lock. Times are nanoseconds. The package knows no gVisor, no agent and no
// capability: who may subscribe to what is decided by its callers.
package event
