package control

// Events of the bus travel as EventEvents, which the kernel process pushes: the
// oldest first, as many as have come together. The kernel process keeps them
// until they are acknowledged; a daemon that connects asks for what it has not
// acknowledged yet.
const (
	EventEvents      = "events"      // EventBatch
	MethodEventsPull = "events.pull" // sends everything again that waits
	MethodEventsAck  = "events.ack"  // EventsAck
	MethodEventsWant = "events.want" // EventsWant
)

// EventBatch is events in a row, each an eventv1.Event.
type EventBatch struct {
	// First numbers the first of them among all that were ever queued here.
	First uint64 `json:"first"`
	// Lost is how many were dropped since the last batch, for want of room.
	Lost   uint64   `json:"lost,omitempty"`
	Events [][]byte `json:"events"`
}

// EventsAck acknowledges everything up to a number.
type EventsAck struct {
	Last uint64 `json:"last"`
}

// EventsWant names the topics that are made on demand and that somebody outside
// wants at present.
type EventsWant struct {
	Topics []string `json:"topics"`
}
