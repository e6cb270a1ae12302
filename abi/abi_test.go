package abi

import (
	"strings"
	"testing"
)

func TestAgentIDs(t *testing.T) {
	seen := map[AgentID]bool{}
	for range 1000 {
		id := NewAgentID()
		if !IsAgentID(string(id)) {
			t.Fatalf("%q is not an agent ID", id)
		}
		if seen[id] {
			t.Fatalf("%q came twice", id)
		}
		seen[id] = true
	}
	for _, s := range []string{"", "a", "a12345678901", "b123456789012", "a12345678901g", "A123456789012"} {
		if IsAgentID(s) {
			t.Errorf("%q passes as an agent ID", s)
		}
	}
}

func TestValidName(t *testing.T) {
	for s, want := range map[string]bool{
		"web": true, "a.b-c_9": true, "9lives": true, strings.Repeat("x", 63): true,
		"": false, "-x": false, ".x": false, "a/b": false, "a b": false, "é": false,
		strings.Repeat("x", 64): false, string(NewAgentID()): false, "..": false,
	} {
		if ValidName(s) != want {
			t.Errorf("ValidName(%q) = %v", s, !want)
		}
	}
}
