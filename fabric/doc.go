// Package fabric is memory between agents: regions that have a name, a size and
// an owner, and are mapped by every agent that holds a capability to them.
//
// Key types: Store has the regions of a domain; Region is one; View is what one
// capability gives of it, and what the memory of agents is mapped to
// (memmap.Mappable). Whoever maps a region through any View maps the same pages.
//
// Pages. A region is divided into chunks of 64 KiB, which come to be when they
// are touched. A tree of them, of persistent nodes, is the contents; a version is
// another reference to its root, so that to make one costs the same for any size.
// A frame, the memory of a chunk, is mapped by the agents of one region at most,
// its home. Before a chunk that versions share is written, the versions get the
// copy and the region keeps the frame: what is mapped need never be told of it.
//
// A version is of one moment: while it is made no View lets anybody write, and
// who faults meanwhile waits (Fence).
//
// Synchronisation. Programs lock, count and wait in words of a region, with
// atomic operations of their own, and ask the kernel when they have to wait or
// somebody does: View.Wait, View.Lock and the rest. What is in the region is
// never believed: see waits and Member.
//
// Locks, the outer first:
//
//	Store.mu             names and addresses
//	Region.change        held while a version is made, rolled back to or sealed
//	  Region.viewsMu     which views there are
//	    View.mu          the memories that map one
//	      (locks of gVisor's memory managers)
//	        waits.mu     members, and who waits
//	          alone.mu   members by task
//	          family.mu  trees and frames; of a region and its forks
//	          (locks of the memory file)
//
// Translate runs under the locks of a memory manager and takes family.mu alone;
// nobody invalidates a mapping with family.mu held. Callbacks of Options are
// called with none of these but where they say so.
//
// Units: bytes; sizes and offsets of pages are multiples of 4096.
//
// The package knows capabilities and gVisor's memory, neither agents nor tasks
// nor the bus, and must not import package sentry.
package fabric
