package event

import (
	"math"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"aios.dev/aios/errdefs"
	eventv1 "aios.dev/aios/event/v1"
)

// Event is one thing that happened. It is a value; its payload is shared and
// is not changed after Publish.
type Event struct {
	// Seq counts the events of a source from 1; a number that no subscriber
	// saw was counted as lost.
	Seq uint64
	// Source is the boot of the kernel process or the daemon that made it.
	Source string
	// Wall is unix time and may jump; Mono is the source's monotonic clock.
	// Both are nanoseconds.
	Wall, Mono int64
	// Domain and Agent (an ID) are what it is about, Correlation the request
	// that caused it; "" where there is none.
	Domain, Agent, Correlation string
	Type                       Type
	Severity                   Severity
	// Of the payload, in bytes; see weigh.
	weight uint32
	// Missed is how many events that were for the subscriber are missing right
	// before this one. It is set for who reads a subscription.
	Missed  uint64
	Payload Payload
	// Cursor is the place of the event in a daemon's journal: that of the last
	// kept one for an event that is not kept. It does not travel.
	Cursor uint64
}

// ID is unique among all events ever.
func (e *Event) ID() string { return e.Source + "-" + strconv.FormatUint(e.Seq, 10) }

// Topic is that of the event's type.
func (e *Event) Topic() string { return e.Type.Topic() }

// weigh notes how large the payload is, for bounds of what waits.
func (e *Event) weigh() {
	if e.weight == 0 && e.Payload != nil {
		e.weight = uint32(min(proto.Size(e.Payload), math.MaxInt32))
	}
}

// payloads are the fields of the oneof by the kind of message they hold: it takes the
// descriptors of all messages, which is long for a process that only starts.
var payloads = sync.OnceValue(func() map[protoreflect.FullName]protoreflect.FieldDescriptor {
	m := make(map[protoreflect.FullName]protoreflect.FieldDescriptor)
	fields := payloadOneof().Fields()
	for i := range fields.Len() {
		m[fields.Get(i).Message().FullName()] = fields.Get(i)
	}
	return m
})

var payloadOneof = sync.OnceValue(func() protoreflect.OneofDescriptor {
	return (*eventv1.Event)(nil).ProtoReflect().Descriptor().Oneofs().ByName("payload")
})

// Proto returns the event as it travels. Text that is not valid UTF-8, which
// agents can cause, is repaired.
func (e *Event) Proto() *eventv1.Event {
	m := &eventv1.Event{
		Seq: e.Seq, Source: e.Source, Wall: e.Wall, Mono: e.Mono, Domain: e.Domain, Agent: e.Agent,
		Correlation: e.Correlation, Topic: e.Topic(), Severity: eventv1.Severity(e.Severity),
	}
	if e.Payload != nil {
		p := e.Payload.ProtoReflect()
		if field := payloads()[p.Descriptor().FullName()]; field != nil && p.IsValid() {
			m.ProtoReflect().Set(field, protoreflect.ValueOfMessage(repaired(p)))
		}
	}
	return m
}

// FromProto returns the event that m is; an error when it is of a topic that
// this build does not know.
func FromProto(m *eventv1.Event) (Event, error) {
	t, ok := TypeByTopic(m.GetTopic())
	if !ok {
		return Event{}, errdefs.New(errdefs.ProtocolVersion, "its topic is not known here", errdefs.Op("read event"),
			errdefs.Resource("%s", m.GetTopic()), errdefs.Fix("run aiosctl and aiosd of the same release"))
	}
	e := Event{
		Seq: m.GetSeq(), Source: m.GetSource(), Wall: m.GetWall(), Mono: m.GetMono(), Domain: m.GetDomain(), Agent: m.GetAgent(),
		Correlation: m.GetCorrelation(), Type: t, Severity: Severity(min(max(m.GetSeverity(), 0), eventv1.Severity(Critical))),
	}
	if e.Severity == 0 {
		e.Severity = t.Info().Severity
	}
	r := m.ProtoReflect()
	if field := r.WhichOneof(payloadOneof()); field != nil {
		e.Payload = r.Get(field).Message().Interface()
	}
	return e, nil
}

// Marshal appends the event to b as one eventv1.Event.
func (e *Event) Marshal(b []byte) []byte {
	// It cannot fail: the text is valid, and the message has no required fields.
	out, err := proto.MarshalOptions{}.MarshalAppend(b, e.Proto())
	if err != nil {
		return b
	}
	return out
}
