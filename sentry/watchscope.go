package sentry

import (
	"cmp"
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/sentry/ctlfs/command"
)

// withheld are the types that an agent is never told of when they are about
// itself, whatever it holds: what the operator's watch has noticed and which
// policy decided, by which a hostile program could learn to stay below it, and
// what the kernel looks like inside. Another agent may be told, unless it has
// the capability from that very agent.
var withheld = event.SetOf(
	event.SecurityViolation, event.FaultVerdict,
	event.KernelPanic, event.KernelDump, event.KernelLog,
)

// watchScope is what a subscription hears: what is in any of its parts. It does
// not change.
type watchScope struct {
	reader string
	parts  []watchPart
	types  event.Set // of all parts
	agents []string  // that it is about; none for all
}

// watchPart is what is heard through one capability of one thing that was asked
// for.
type watchPart struct {
	through *capability.Capability
	object  capability.Object // of it, when it was asked
	types   event.Set
	whose   string // an agent's ID, or "" for all of the domain
	// owner is whose authority it was to begin with.
	owner string
}

// admits reports whether an event is heard. The bus asks it.
func (sc *watchScope) admits(e *event.Event) bool {
	for i := range sc.parts {
		p := &sc.parts[i]
		if p.types.Has(e.Type) && (p.whose == "" || p.whose == e.Agent) && !p.withholds(sc.reader, e.Type, e.Agent) && p.through.Live() {
			return true
		}
	}
	return false
}

// withholds reports whether a type is not told about an agent.
func (p *watchPart) withholds(reader string, t event.Type, about string) bool {
	return about != "" && (about == p.owner || about == reader) && withheld.Has(t)
}

// seesLost reports whether it hears what the bus says of its own losses.
func (sc *watchScope) seesLost() bool {
	return sc.admits(&event.Event{Type: event.BusLost})
}

// watchScope finds out what the agent hears of what it wants. It is refused if
// there is something of which it may hear nothing.
func (a *Agent) watchScope(want *command.Watch) (*watchScope, error) {
	sc := &watchScope{reader: a.id}
	held := a.eventCapabilities()
	if len(want.Topics) == 0 {
		types, err := event.Select(nil)
		if err != nil {
			return nil, err
		}
		if !sc.add(held, types, capability.Object{Class: abi.ClassEvent, Name: "*"}) {
			return nil, a.mayNotHear(capability.Object{Class: abi.ClassEvent, Name: "*@self"}, false)
		}
	}
	for _, asked := range want.Topics {
		topic, whose := asked.Topic()
		types, err := event.Select([]string{topic})
		if err != nil {
			return nil, err
		}
		object := asked
		if whose == "self" {
			object.Name = topic + "@" + a.id
		} else if named, err := a.s.ofAgent(asked); err == nil {
			object = named
		} // Else nobody has a capability to it.
		if !sc.add(held, types, object) {
			_, whose := object.Topic()
			return nil, a.mayNotHear(asked, whose == a.id || whose == "")
		}
	}
	sc.finish()
	return sc, nil
}

// eventCapabilities returns the live capabilities to events, by handle.
func (a *Agent) eventCapabilities() []*capability.Capability {
	return slices.DeleteFunc(a.s.space.List(a.id), func(c *capability.Capability) bool {
		return !isEvents(c.Object()) || !c.Allows(abi.EventSubscribe)
	})
}

func isEvents(o capability.Object) bool { return o.Class == abi.ClassEvent }

// isName reports whether what follows '@' in an object is the name of an agent.
func isName(whose string) bool { return whose != "" && whose != "self" && !abi.IsAgentID(whose) }

// add adds what is asked for, as far as something that is held gives it: through
// one capability if that gives all of it, otherwise through every one that
// gives a part. It reports whether anything was.
func (sc *watchScope) add(held []*capability.Capability, types event.Set, asked capability.Object) bool {
	_, whose := asked.Topic()
	var parts []watchPart
	for _, c := range held {
		p := watchPart{through: c, object: c.Object(), owner: ownerOf(c)}
		pattern, of := p.object.Topic()
		if of != "" && whose != "" && of != whose {
			continue
		}
		p.whose = cmp.Or(of, whose)
		allowed, err := event.Select([]string{pattern})
		if err != nil { // Nothing has this topic.
			continue
		}
		p.types = types.And(allowed)
		if p.withholds(sc.reader, event.SecurityViolation, p.whose) {
			p.types = p.types.Without(withheld)
		}
		if p.types == types && p.object.Contains(asked) {
			parts = []watchPart{p}
			break
		}
		if !p.types.Empty() {
			parts = append(parts, p)
		}
	}
	sc.parts = append(sc.parts, parts...)
	return len(parts) > 0
}

// ownerOf returns who held what c was derived from to begin with.
func ownerOf(c *capability.Capability) string {
	for p := c.Parent(); p != nil; p = p.Parent() {
		c = p
	}
	return c.Holder()
}

// finish sums up the parts.
func (sc *watchScope) finish() {
	every := false
	for _, p := range sc.parts {
		sc.types = sc.types.Or(p.types)
		every = every || p.whose == ""
		if !slices.Contains(sc.agents, p.whose) {
			sc.agents = append(sc.agents, p.whose)
		}
	}
	if every {
		sc.agents = nil
	}
}

// mayNotHear is the refusal of what was asked for. Whether there is such an
// agent it does not tell.
func (a *Agent) mayNotHear(asked capability.Object, ofItself bool) error {
	topic, _ := asked.Topic()
	detail, fix := "the agent holds no capability to these events", "ask whoever may give it for "+asked.String()
	if types, err := event.Select([]string{topic}); err == nil && ofItself && types.Without(withheld).Empty() {
		detail = "an agent is not told these about itself, and holds no capability to those of others"
		fix = "ask for those of another agent: event:" + topic + "@AGENT"
	}
	return errdefs.New(errdefs.CapabilityDenied, detail, errdefs.Op("subscribe"), errdefs.Resource("%s", asked),
		errdefs.Fix("%s", fix))
}

// explainWatch says whether the agent may hear of a topic.
func (a *Agent) explainWatch(topic string) (Explanation, error) {
	want, err := command.ParseWatch("topics=" + topic)
	if err != nil || len(want.Topics) != 1 {
		return Explanation{}, errdefs.New(errdefs.InvalidArgument, "it does not name a topic of events", errdefs.Op("explain"), errdefs.Resource("%.80q", topic),
			errdefs.Fix("write subscribe TOPIC[@AGENT], such as agent.exit@worker"))
	}
	sc, err := a.watchScope(want)
	if err != nil {
		return Explanation{Why: err.Error(), Missing: want.Topics[0].String(), Errno: errdefs.Errno(err)}, nil
	}
	e := Explanation{Allowed: true}
	var ids, texts []string
	for _, p := range sc.parts {
		ids, texts = append(ids, string(p.through.ID())), append(texts, p.object.String())
	}
	e.Capability = strings.Join(ids, " ")
	e.Why = "the agent has " + strings.Join(texts, ", and ")
	return e, nil
}
