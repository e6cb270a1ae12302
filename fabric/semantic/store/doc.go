// Package store is semantic memory itself: items in an SQLite file, their words
// and vectors in indexes in memory, and the service that answers for them.
//
// Key types: Store answers a semantic.Request with Do; space is the index of one
// namespace, terms its words, and package hnsw its vectors; change is what a
// transaction does to it.
//
// What is kept. The file is the truth: a write is answered when its transaction
// is on the disk. Indexes follow what was committed. They are saved now and then;
// when the store is opened, their versions are compared with those of the items, and
// what has changed since is read. What is missing in a graph of neighbours is
// compared one by one until it is linked. Nobody loses anything by a lost index but
// time.
//
// Ranking by words is BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
// Framework", 2009) with k1 1.2 and b 0.75, counted over the items that the caller
// may see, so that what it may not see leaves no trace in scores. Both rankings
// are made one by reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009) with
// k 60.
//
// A version is the time of its commit in microseconds, or one more than the last
// version of the store, whichever is greater: no two are the same, and what was
// removed and came again is told apart.
//
// Locks: Store.mu guards the indexes and the accounts; the one writer goroutine
// takes it when a transaction has been committed, and nobody holds it while the
// file is read or written.
//
// The package knows neither agents nor capabilities but by the Scopes of a
// Request; it imports semantic, hnsw, blocks, errdefs, abi, ktime and internal/safefile.
package store
