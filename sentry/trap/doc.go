// Package trap knows the exceptions of the CPU and what is to be done about
// them: which exception a signal was, what an agent's policies say, and when
// something has happened so often that the answer becomes a harder one.
//
// Key types: Vector (an exception by its number), Raw and Exception (what a
// platform tells of one, and what Classify makes of it), Region (where the
// address lies), Counts (how often, by vector and region), Action and Rule
// (what to do), FaultPolicy and ViolationPolicy (what to do when), Ladder (when
// to do more).
//
// Fault domains nest: a process is part of an agent, that of a domain, that of
// a host. An action names the outermost domain that it touches; a rule that has
// been used too often in a while goes on with an action further out.
//
// Addresses are those of the agent. Counts and Ladder may be used concurrently
// and take no locks; everything else is a value. The package imports errdefs
// and the standard library, so that clients and the daemon read policies with
// the same words as the kernel; it must not import gVisor.
package trap
