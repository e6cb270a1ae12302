// Package kdb is what crash dumps and debuggers need that is about formats and
// not about a kernel: ELF cores, the archive that a dump is kept in, and
// snapshots of the goroutines of a kernel process. The protocol of gdb is in
// kdb/gdbserver, the words of the kernel debugger in kdb/command.
//
// Key types: Process (what a core says of a process, its threads and mappings),
// Plan (which memory goes into one that must not grow beyond a limit), Archive
// (several files in one stream), Goroutine (one of a snapshot: state, stack).
//
// Addresses and sizes are in bytes. Nothing here takes a lock, and nothing is
// trusted: snapshots may be cut off anywhere. The package must not import
// gVisor, so that its parsers are fuzzed without a kernel.
package kdb
