// Package smp is the processors of a domain: how many there are, what they
// share, and which of them may be used.
//
// Key types:
//
//   - Set is a set of CPUs by number, as programs write it ("0-3,8").
//   - Topology is some CPUs and what they share: cores, caches, packages, nodes.
//   - Watch tells when the host allows the process other CPUs.
//   - Load is how many tasks want a CPU on average.
//   - Calls is how CPUs call each other; a Poker is what it needs for that.
//
// A CPU of a domain is a place where one task at a time executes. Which CPU of
// the host that happens on is the host's choice, among those it allows the
// kernel process.
//
// The package knows no gVisor, no task and no agent.
package smp
