// Package alert decides when rules over events and counters hold.
//
// Key types:
//
//   - Config is what the configuration file says of one rule; Compile examines
//     it and makes a Rule of it.
//   - Engine has rules at work. It is told of events, of samples of counters and
//     of time, and says by a Change when a rule begins to hold for a group and
//     when it holds no longer.
//   - Silence keeps a rule, or a rule for one agent, from being told.
//
// A rule is looked at for each of its groups by itself: for every agent, for
// every domain, or for all together. A group is ok, pending while what is looked
// at is beyond the limit and has not been for long enough, or firing. It fires
// until what is looked at has been within another limit, which may be stricter,
// for long enough.
//
// Three kinds: a threshold is passed by a counter, or by a number in the latest
// event; a rate by how many events there were in a window that slides in steps
// of a twentieth; an absence is that there was no event for a time.
//
// What is promised: transitions have the time at which they were due, however
// late the engine is told of it. There are at most MaxGroups groups of a rule;
// what would need another is counted. A group that has nothing to remember is
// forgotten.
//
// Times are nanoseconds of a clock that does not jump, and the engine is told
// what time it is; it reads none. An Engine takes no locks: one goroutine at a
// time calls it. An event that is for groups that exist makes it allocate
// nothing, apart from what expressions do. What is done about an alert is the
// caller's: the package knows no agent but by name, and imports no gVisor.
package alert
