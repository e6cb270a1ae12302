// Package persist keeps the pages of one region in a file, in versions. What was
// committed last is there again after a crash at any point, and whole.
//
// Key types: Store is an open file; Tx is what is to be committed; File is what a
// store needs of a file.
//
// # The file
//
// It consists of blocks of 4096 bytes. The first two are headers, of which the one
// with the higher number counts, if its checksum is right. A header points to the
// description of the region (Meta), which names the root of each version that is
// kept. A version is a tree of blocks: nodes of 256 pointers, and pages at their
// ends. A pointer is where a block is, and the checksum of what is in it, so that a
// header vouches for all that can be reached from it.
//
// # Commit
//
// Nothing that a kept version needs is ever written over. A commit writes, in this
// order: the pages that have changed, and the nodes above them, to blocks that
// nobody uses; the description; fsync; the header that does not count, with the
// next number; fsync. Before the second header is whole the old version counts, and
// after that the new one. The blocks of versions that are not kept any more are
// used again from the next commit on, when no header points to them that could
// come to count.
//
// Which blocks are free is written nowhere: it is found out from the trees when the
// file is opened, with every node's checksum; those of pages are looked at when
// they are loaded. What does not add up is REGION_BROKEN, and nothing is done with
// the file.
//
// After a failure to write, a store takes no more commits: it must be opened anew.
//
// Locks: Store.turn is whose turn it is to read or write the file, and is held across
// its I/O; callers must not hold locks that others wait for. Store.mu, below it, is not:
// who asks what is committed waits for nobody.
//
// The package knows neither gVisor nor who uses the pages.
package persist
