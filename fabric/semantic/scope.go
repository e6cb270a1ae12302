package semantic

import (
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// Scope is what one capability gives.
type Scope struct {
	// Cap is the ID of the capability; "" is an operator's.
	Cap string `json:"cap,omitempty"`
	// Pattern is of namespaces: NAME, NAME/* or *.
	Pattern string     `json:"pattern"`
	Tags    []string   `json:"tags,omitempty"`
	Rights  abi.Rights `json:"rights"`
	// Items and Bytes are how much there may be that was written by it; 0 is no
	// limit.
	Items uint64 `json:"items,omitempty"`
	Bytes uint64 `json:"bytes,omitempty"`
}

// ScopeOf returns what a live capability of class semantic gives.
func ScopeOf(c *capability.Capability) Scope {
	spec := c.Spec()
	s := Scope{Cap: string(c.ID()), Rights: spec.Rights}
	s.Pattern, s.Tags = spec.Object.Namespace()
	// A limit of which nothing is left is not none.
	if n, limited := c.Left(capability.KindCount); limited {
		s.Items = max(n, 1)
		if n == 0 {
			s.Rights &^= abi.SemanticWrite
		}
	}
	if n, limited := c.Left(capability.KindBytes); limited {
		s.Bytes = max(n, 1)
	}
	return s
}

// Operator is the scope of whoever may do everything.
func Operator() Scope { return Scope{Pattern: "*", Rights: abi.ClassSemantic.All()} }

// Covers says whether a namespace is one of the scope's.
func (s *Scope) Covers(namespace string) bool {
	return capability.NamespaceCovers(s.Pattern, namespace)
}

// Shows says whether an item with these tags is there for the scope.
func (s *Scope) Shows(tags []string) bool {
	for _, t := range s.Tags {
		if !slices.Contains(tags, t) {
			return false
		}
	}
	return true
}

// Caller is who asks. Whoever passes the question on has made sure of it.
type Caller struct {
	// Agent is its ID, "" for an operator; Name is what it is called.
	Agent  string  `json:"agent,omitempty"`
	Name   string  `json:"name,omitempty"`
	Domain string  `json:"domain,omitempty"`
	Scopes []Scope `json:"scopes"`
}

// Operates says whether the caller is an operator.
func (c *Caller) Operates() bool { return c.Agent == "" }

// May returns a scope for a namespace with the rights; if there is none, the
// error says what to ask for.
func (c *Caller) May(op, namespace string, want abi.Rights) ([]Scope, error) {
	var out []Scope
	for _, s := range c.Scopes {
		if s.Rights.Has(want) && s.Covers(namespace) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, Refusal(op, namespace, want)
	}
	return out, nil
}

// Refusal says that nobody gave the caller the right.
func Refusal(op, namespace string, want abi.Rights) error {
	right := want.Format(abi.ClassSemantic)
	return errdefs.New(errdefs.CapabilityDenied, "the agent holds no capability to the namespace with the right "+right, errdefs.Op("memory "+op),
		errdefs.Resource("semantic:%s", namespace), errdefs.Fix("ask for semantic:%s:%s", namespace, right))
}

// CheckNamespace refuses what is no name of a namespace.
func CheckNamespace(name string) error {
	if !capability.ValidNamespace(name) || strings.HasSuffix(name, "*") {
		return errdefs.New(errdefs.InvalidArgument, "it is not the name of a namespace", errdefs.Resource("%.80q", name),
			errdefs.Fix("write parts of letters, digits, '.', '_' and '-' with '/' between them, as in notes/today"))
	}
	return nil
}
