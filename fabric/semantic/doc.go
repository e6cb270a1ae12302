// Package semantic holds the words of semantic memory: what is asked of it, by
// whom, and what it answers. Items of text and vector live in namespaces; they
// are found by the words of their text, by the nearness of their vectors, or by
// both.
//
// Key types: Request is one question, with the Caller, who is told apart by
// whoever passes the question on, never by who asks; Scope what one capability
// of class semantic lets it see and do; Op the operations, and a type of
// parameters and of results for each.
//
// A Scope has a pattern of namespaces, rights, and tags. What does not bear all
// of the tags does not exist for who comes by it, and what is written by it
// bears them. Rights are those of abi.
//
// Units: bytes, pieces, and seconds where JSON says so. Versions are numbers
// that only grow; see store.
//
// The package imports errdefs, abi and capability only. The store itself is in
// package store below it, the graph of nearest neighbours in hnsw.
package semantic
