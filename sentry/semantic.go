package sentry

import (
	"encoding/json"
	"slices"
	"sync"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/sentry/ctlfs"
)

// The door of semantic memory. The service is a process of the daemon's, and
// knows of an agent what is told of it here: who it is, and what the capabilities
// that it holds at that moment let it see and do. Questions go by way of the
// daemon, and carry nothing that the agent says of itself.

// opUse is in the audit trail when a connection uses a capability for the first
// time.
const opUse = "use"

// memoryLink is semantic memory as one connection may ask it. A connection asks
// one question at a time.
type memoryLink struct {
	s     *Kernel
	agent string
	// used are the capabilities that questions went by.
	used []*capability.Capability
}

// Memory implements ctlfs.Authority.Memory.
func (c ctlAuthority) Memory(agent string) ctlfs.Memory { return &memoryLink{s: c.s, agent: agent} }

// question is one that is under way. It is the Door of the capabilities that it
// goes by: whoever takes one back waits until what it writes has been written, and
// what it reads is not answered.
type question struct {
	done chan struct{} // closed when it has its answer; nil for one that only reads

	mu     sync.Mutex
	stale  bool // +checklocks:mu
	gone   *capability.Capability
	caps   []*capability.Capability
	scopes []semantic.Scope
}

var _ capability.Narrower = (*question)(nil)

// Revoke implements capability.Door.
func (q *question) Revoke(c *capability.Capability) {
	q.mu.Lock()
	if q.gone == nil {
		q.gone = c
	}
	q.mu.Unlock()
	if q.done != nil {
		<-q.done
	}
}

// Narrowed implements capability.Narrower.
func (q *question) Narrowed(*capability.Capability) {
	q.mu.Lock()
	q.stale = true
	q.mu.Unlock()
	if q.done != nil {
		<-q.done
	}
}

// begin finds the capabilities that a question goes by.
func (m *memoryLink) begin(op string) *question {
	q := &question{}
	if semantic.Writes(op) {
		q.done = make(chan struct{})
	}
	for _, c := range m.s.space.List(m.agent) {
		if len(q.caps) == semantic.MaxScopes {
			break
		}
		if c.Object().Class == abi.ClassSemantic && c.Attach(q) {
			q.caps = append(q.caps, c)
			q.scopes = append(q.scopes, semantic.ScopeOf(c))
		}
	}
	return q
}

// end lets go of the capabilities. It says whether one of them was taken back or
// narrowed meanwhile.
func (q *question) end() (gone *capability.Capability, stale bool) {
	if q.done != nil {
		close(q.done)
	}
	for _, c := range q.caps {
		c.Detach(q)
		if !c.Live() {
			gone = c
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone != nil {
		gone = q.gone
	}
	return gone, q.stale
}

// Ask implements ctlfs.Memory.
func (m *memoryLink) Ask(op string, body []byte) (json.RawMessage, error) {
	reply, err := m.ask(op, body)
	if err != nil {
		m.denied(op, err)
		return nil, err
	}
	m.tell(op, reply)
	return reply.Body, nil
}

func (m *memoryLink) ask(op string, body []byte) (*semantic.Reply, error) {
	if len(body) > 0 && !json.Valid(body) {
		return nil, errdefs.New(errdefs.InvalidArgument, "the body of the question is not JSON", errdefs.Op("memory"), errdefs.Fix("send one JSON object"))
	}
	if !slices.Contains(semantic.Ops(), op) {
		return nil, errdefs.New(errdefs.InvalidArgument, "there is no such operation", errdefs.Op("memory"), errdefs.Resource("%.40q", op),
			errdefs.Fix("GET /v1/stats, or read docs/semantic-memory.md"))
	}
	// What this connection has asked by is gone: it is told once.
	for i, c := range m.used {
		if err := c.Err(); err != nil {
			m.used = slices.Delete(m.used, i, i+1)
			return nil, err
		}
	}
	for {
		q := m.begin(op)
		if len(q.caps) == 0 {
			q.end()
			return nil, semantic.Refusal(op, "*", abi.SemanticRead)
		}
		ans, err := m.s.ask(control.Ask{
			Kind: control.AskMemory, Agent: m.agent, Actor: control.Actor{Name: m.agent},
			Memory: &semantic.Request{Caller: m.caller(q.scopes), Op: op, Body: body},
		})
		gone, stale := q.end()
		switch {
		case gone != nil && (q.done == nil || err != nil):
			m.used = slices.DeleteFunc(m.used, func(c *capability.Capability) bool { return c == gone })
			return nil, gone.Err()
		case err != nil:
			return nil, err
		case stale && q.done == nil:
			continue // It was answered for more than there is now.
		case ans.Memory == nil:
			return nil, errdefs.New(errdefs.Protocol, "the daemon answered nothing", errdefs.Op("memory "+op))
		}
		m.note(q.caps)
		return ans.Memory, nil
	}
}

func (m *memoryLink) caller(scopes []semantic.Scope) semantic.Caller {
	name, domain := ctlAuthority{m.s}.Self(m.agent)
	return semantic.Caller{Agent: m.agent, Name: name, Domain: domain, Scopes: scopes}
}

// note remembers what was used, and has what is new in the audit trail.
func (m *memoryLink) note(caps []*capability.Capability) {
	for _, c := range caps {
		if slices.Contains(m.used, c) {
			continue
		}
		m.used = append(m.used, c)
		m.s.trail.add(capability.Record{Op: opUse, Actor: m.agent, Agent: m.agent, Cap: c.ID(), Spec: c.Spec().String(), Target: ctlfs.SemanticSocket})
	}
}

// denied reports what was refused for want of authority.
func (m *memoryLink) denied(op string, err error) {
	if errdefs.InfoOf(errdefs.CodeOf(err)).Escalation&errdefs.TellAudit == 0 {
		return
	}
	object := ""
	if e, ok := err.(*errdefs.Error); ok {
		object = e.Resource
	}
	ctlAuthority{m.s}.Denied(m.agent, "memory "+op, object, err)
}

// tell publishes what was done, and keeps the account.
func (m *memoryLink) tell(op string, reply *semantic.Reply) {
	a := m.s.findAgent(m.agent)
	if a == nil {
		return
	}
	a.remembered.items.Store(reply.Usage.Items)
	a.remembered.bytes.Store(reply.Usage.Bytes)
	t := event.SemanticRead
	switch {
	case op == semantic.OpDelete:
		t = event.SemanticDelete
	case semantic.Writes(op):
		t = event.SemanticWrite
	case reply.Namespace == "":
		return // It was about no items.
	}
	m.s.publish(event.Event{Type: t, Agent: m.agent, Payload: &eventv1.Semantic{
		Op: op, Namespace: event.Text(reply.Namespace), Items: uint32(reply.Seen + reply.Changed), By: m.agent,
		HeldItems: reply.Usage.Items, HeldBytes: reply.Usage.Bytes,
	}})
}
