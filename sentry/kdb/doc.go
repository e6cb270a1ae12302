// Package kdb is what crash dumps need that is about formats and not about a
// kernel: ELF cores, and the archive that a dump is kept in.
//
// Key types: Process (what a core says of a process, its threads and mappings),
// Plan (which memory goes into one that must not grow beyond a limit), Core
// (one about to be written), Archive (several files in one stream).
//
// Addresses and sizes are in bytes. Nothing here takes a lock. The package must
// not import gVisor, so that its parsers are fuzzed without a kernel.
package kdb
