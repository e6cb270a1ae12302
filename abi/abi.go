// Package abi holds the words that processes of AIOS exchange: agent IDs,
// names, states, and the version of the protocols between them.
//
// Everything here is a value; nothing locks, blocks or allocates beyond the
// strings it returns. The package imports only the standard library and
// errdefs.
package abi

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// ProtocolVersion is the version of the protocol between the daemon and a
// kernel process. A daemon refuses to adopt a domain of another version.
const ProtocolVersion = 1

// Version is the version of AIOS. The linker may set it.
var Version = "0.1.0-dev"

// AgentID names an agent for ever: "a" and twelve hexadecimal digits. It never
// changes and is never given twice.
type AgentID string

// NewAgentID returns a fresh, random ID.
func NewAgentID() AgentID {
	var b [6]byte
	rand.Read(b[:]) // Never fails since Go 1.24.
	return AgentID("a" + hex.EncodeToString(b[:]))
}

// IsAgentID reports whether s has the form of an agent ID.
func IsAgentID(s string) bool {
	if len(s) != 13 || s[0] != 'a' {
		return false
	}
	return strings.Trim(s[1:], "0123456789abcdef") == ""
}

// MaxNameLen is the longest name of an agent, a domain or an image, in bytes.
const MaxNameLen = 63

// ValidName reports whether s may name an agent, a domain or an image: one to
// 63 characters of a-z, A-Z, 0-9, '.', '_' and '-', starting with a letter or
// digit, and not of the form of an agent ID.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxNameLen || IsAgentID(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// State is where an agent is in its life.
type State string

// The states. Running and Paused alternate; Exited and Lost are final.
const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	// StateTemplate is an agent that stands still for good: others begin as
	// copies of it.
	StateTemplate State = "template"
	StateExited   State = "exited"
	// StateLost is an agent whose domain died beneath it.
	StateLost State = "lost"
)

// Final reports whether an agent in this state will never run again.
func (s State) Final() bool { return s == StateExited || s == StateLost }

// Bounds of the timeout of an agent's watchdog.
const (
	MinWatchdog = time.Second
	MaxWatchdog = 24 * time.Hour
)

// SignalCloned is SIGAIOSCLONE, SIGRTMIN+10 of the C library: a copy gets it in
// those processes that have asked for it.
const SignalCloned = 44

// Bounds of the time that a template has to become warm.
const (
	MinWarmUp     = 10 * time.Millisecond
	DefaultWarmUp = time.Minute
	MaxWarmUp     = time.Hour
)

// How many copies of a template are ready before anybody asks: usually, and at most.
const (
	DefaultAhead = 2
	MaxAhead     = 64
)

// ChaosEnv names the environment variable that, when it is 1 for a daemon, lets
// agents inject failures into the domains that it starts: for tests, and for
// nothing else.
const ChaosEnv = "AIOS_CHAOS"
