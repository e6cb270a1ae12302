// Package lifecycle calls hooks before and after what is done to agents.
//
// Key types:
//
//   - Op is an operation, such as spawn; a table says what each is, and whether
//     it can be refused. Operation is one of them about to be done to an agent.
//   - Hook hears of operations. Before it is done, it is asked and may refuse;
//     after it, it is told what became of it.
//   - Registry has hooks in their order. Begin asks them; the Call that it
//     returns tells them.
//   - Config is what the configuration file says of a hook that is a program.
//
// What is promised: hooks are asked one after the other, by their order and then
// by name. The first that refuses ends that: those after it are not asked, the
// operation is not done, and those that had agreed are told that it is not, the
// last first. If nobody refuses, everybody who wants to hear of it afterwards
// does so once, in the same order, also if the operation failed; whoever agreed
// and does not want to hear of it afterwards is told if it failed.
//
// A hook that does not answer in its time, fails or panics has not refused:
// whether the operation is done is then as its policy says. An operation that is
// Settled is told and not asked about.
//
// A Registry does not change: to have other hooks, another is made, and calls
// that have begun keep to theirs. It holds no lock while a hook runs. Without
// hooks there is none: the methods of a nil Registry and a nil Call do nothing.
// The package knows no daemon and no kernel, and imports no gVisor.
package lifecycle
