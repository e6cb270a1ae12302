package ctlfs

import (
	"strings"

	"aios.dev/aios/capability"
	"aios.dev/aios/sentry/ctlfs/command"
)

// caps is the text of /aios/self/caps.
func (s *session) caps() ([]byte, error) {
	var b strings.Builder
	for _, c := range s.auth.Space().List(s.agent) {
		b.WriteString(command.Line(c, s.agent) + "\n")
	}
	return []byte(b.String()), nil
}

// tree is the text of /aios/self/tree: the agent's capabilities and what was
// derived from them, each below what it was derived from and indented by one
// blank more.
func (s *session) tree() ([]byte, error) {
	var b strings.Builder
	for _, c := range s.auth.Space().List(s.agent) {
		if !s.derivedFromOwn(c.Parent()) {
			s.subtree(&b, c, 0)
		}
	}
	return []byte(b.String()), nil
}

// derivedFromOwn reports whether c or what it was derived from is the agent's.
func (s *session) derivedFromOwn(c *capability.Capability) bool {
	for ; c != nil; c = c.Parent() {
		if c.Holder() == s.agent && c.Live() {
			return true
		}
	}
	return false
}

// subtree writes c and what was derived from it. How deep a tree may be is
// bounded where it grows.
func (s *session) subtree(b *strings.Builder, c *capability.Capability, depth int) {
	b.WriteString(strings.Repeat(" ", depth) + command.Line(c, s.agent) + "\n")
	for _, child := range s.auth.Space().Children(c) {
		s.subtree(b, child, depth+1)
	}
}

// limits is the text of /aios/self/limits.
func (s *session) limits() ([]byte, error) {
	return []byte(command.LimitsText(s.auth.Space().Effective(s.agent))), nil
}

// help is the text of /aios/help.
func (s *session) help() ([]byte, error) { return []byte(command.Help()), nil }
