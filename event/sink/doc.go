// Package sink sends events to receivers outside: to a web server, or to NATS.
//
// Key types:
//
//   - Config is what the configuration file says of one sink; Compile examines
//     it, reads the files that it names, and makes a Spec of it.
//   - Sink is one sink at work: a durable subscription to the hub, and whoever
//     sends what it gives.
//   - Status is how a sink is, for people.
//
// What is promised: an event is acknowledged when the receiver has said that it
// took it. So it is sent at least once, whoever is killed in between, and those
// of one source in their order. While the receiver is away events wait in the
// journal, which is bounded; what is deleted there before it was sent is
// counted, and told by a bus.lost event. In memory a sink has one batch.
//
// A receiver that fails is asked again after a while, as package errdefs/retry
// and a circuit breaker say. When the breaker opens the sink has failed, which
// is an event; when it closes it is restored. So there are two events for an
// outage, however long it is and however many events wait: a sink that sends
// what happens to itself does not feed itself.
//
// Credentials are in files that the configuration names. They are in no error,
// no event and no log; of a URL no more is shown than where it leads.
//
// Locks: Sink.mu is a leaf; nothing is sent and no file is touched under it.
// The package imports neither gVisor nor anything that knows agents.
package sink
