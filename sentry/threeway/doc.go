// Package threeway decides how two trees of files that were once one become one
// again. Of each of the two, and of what they were, it knows a layer: what was made
// or changed above a tree that all three are laid over and that never changes, with
// whiteouts where something of that was deleted, as an overlay file system has them.
//
// Merge compares and decides; it reads no file unless both sides have changed it,
// and changes nothing. What is to be done is a list of steps, for whoever can do
// them: Ours is the side that is changed, Theirs the one that is folded in.
//
// It imports nothing but package errdefs, and has no state.
package threeway
