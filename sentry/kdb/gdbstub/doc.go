// Package gdbstub speaks the protocol by which gdb debugs programs from afar:
// the stub's side of it, for any program that a Target stands for, and as much
// of gdb's side as a command line and tests need.
//
// Key types:
//
//   - Target is what is debugged: threads of amd64, their registers and memory.
//     A kernel implements it.
//   - Serve lets one client debug a Target, until the client leaves.
//   - Client is the other side.
//   - packetReader takes the byte stream apart; everything in it is untrusted.
//
// All threads stop when one does, and go on when the client says so. Signals
// have the numbers of Linux in Go and those of gdb on the wire. Addresses and
// sizes are in bytes.
//
// A session has two goroutines, one that reads and one that works; they share
// nothing but channels, so there are no locks. What is queued is bounded: by one
// packet of PacketSize in each direction, and what a Target holds.
//
// The package must not import gVisor: its parsers are fuzzed without a kernel.
package gdbstub
