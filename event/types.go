package event

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"aios.dev/aios/errdefs"
)

// Type is a kind of event. Its number is of this build alone; what is kept and
// what travels names its topic.
type Type uint16

// TypeInfo is what is known of a type.
type TypeInfo struct {
	Type  Type
	Topic string
	// Severity is what an event of the type has unless its maker says otherwise.
	Severity Severity
	// OnDemand is set of types that are only made while somebody who subscribed
	// to them by name, or to everything, listens: there may be very many.
	OnDemand bool
	// Payload is an empty message of the kind that events of the type carry.
	Payload Payload
	// Doc is one line on what happened.
	Doc string
}

// Payload is what is particular to one event: one of the messages that package
// eventv1 has in Event's payload. Whoever made it does not change it once it
// is published.
type Payload = proto.Message

// byTopic holds every type.
var byTopic = func() map[string]Type {
	m := make(map[string]Type, len(table))
	for t := range table {
		table[t].Type = Type(t)
		if table[t].Topic != "" {
			m[table[t].Topic] = Type(t)
		}
	}
	return m
}()

// Topic is the dotted name of the type, and "" of a number that is none.
func (t Type) Topic() string { return t.Info().Topic }

// Info returns what is known of the type; of a number that is none, nothing.
func (t Type) Info() TypeInfo {
	if int(t) >= len(table) {
		return TypeInfo{}
	}
	return table[t]
}

// Types returns all types, in the order of the documentation.
func Types() []TypeInfo { return slices.Clone(table[1:]) }

// TypeByTopic returns the type of a topic.
func TypeByTopic(topic string) (Type, bool) {
	t, ok := byTopic[topic]
	return t, ok
}

// Match reports whether a pattern stands for a topic: an exact topic, "a.*"
// for everything below a, and "*" for everything.
func Match(pattern, topic string) bool {
	if pattern == "*" || pattern == topic {
		return true
	}
	stem, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasSuffix(stem, ".") && strings.HasPrefix(topic, stem)
}

// Set is a set of types.
type Set [(typeCount + 63) / 64]uint64

// Has reports whether t is in the set.
func (s *Set) Has(t Type) bool { return t < typeCount && s[t/64]&(1<<(t%64)) != 0 }

func (s *Set) add(t Type) { s[t/64] |= 1 << (t % 64) }

// Topics returns the topics of the set, in the order of the documentation.
func (s *Set) Topics() []string {
	var out []string
	for t := range Type(typeCount) {
		if s.Has(t) {
			out = append(out, t.Topic())
		}
	}
	return out
}

// And returns what is in both sets.
func (s Set) And(other Set) Set {
	for i := range s {
		s[i] &= other[i]
	}
	return s
}

// Without returns what is not in the other set.
func (s Set) Without(other Set) Set {
	for i := range s {
		s[i] &^= other[i]
	}
	return s
}

// Or returns what is in either.
func (s Set) Or(other Set) Set {
	s.union(&other)
	return s
}

// Empty reports whether nothing is in the set.
func (s Set) Empty() bool { return s == Set{} }

// SetOf returns a set of types.
func SetOf(types ...Type) (s Set) {
	for _, t := range types {
		s.add(t)
	}
	return s
}

func (s *Set) union(other *Set) {
	for i := range s {
		s[i] |= other[i]
	}
}

// Select returns the types that patterns stand for; no patterns stand for all
// types that are not made on demand. "*" stands for all. A pattern that is for
// no type is an error, which names topics that are like it.
func Select(patterns []string) (Set, error) {
	var set Set
	for _, info := range table[1:] {
		if len(patterns) == 0 && !info.OnDemand {
			set.add(info.Type)
		}
	}
	for _, p := range patterns {
		found := false
		for _, info := range table[1:] {
			if Match(p, info.Topic) {
				set.add(info.Type)
				found = true
			}
		}
		if !found {
			return Set{}, errdefs.New(errdefs.InvalidArgument, "no event has this topic", errdefs.Op("subscribe"),
				errdefs.Resource("%s", p), errdefs.Fix("write %s", like(p)))
		}
	}
	return set, nil
}

// like says what somebody who wrote a pattern for nothing may have meant.
func like(pattern string) string {
	head, _, _ := strings.Cut(pattern, ".")
	var below []string
	groups := make(map[string]bool)
	var all []string
	for _, info := range table[1:] {
		group, _, _ := strings.Cut(info.Topic, ".")
		if group == head {
			below = append(below, info.Topic)
		}
		if !groups[group] {
			groups[group] = true
			all = append(all, group+".*")
		}
	}
	if len(below) > 0 {
		return head + ".*, or one of " + strings.Join(below, ", ")
	}
	return "*, or one of " + strings.Join(all, ", ")
}
