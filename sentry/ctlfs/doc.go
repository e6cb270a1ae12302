// Package ctlfs holds the doors through which an agent sees and uses its own
// authority: the file system at /aios, and the device /dev/aios.
//
//	/aios/self/id name domain   who the agent is
//	/aios/self/caps             its capabilities, one per line
//	/aios/self/tree             what was derived from them
//	/aios/self/limits           what they allow it to use, in sum
//	/aios/self/stats            its account, as JSON
//	/aios/self/watchdog         to be fed, armed, disarmed
//	/aios/self/hint             what the agent does, for the scheduler
//	/aios/fabric/NAME           regions that it holds a capability to
//	/aios/ctl                   write a command, read the answer
//	/aios/events                write which events, read them as lines of JSON
//	/aios/semantic.sock         semantic memory, by HTTP
//	/aios/help version
//	/dev/aios                   the same by ioctl
//
// Key types: Authority is what the kernel answers; FilesystemType makes one
// instance per agent, so that neither file locks nor inotify tell one agent
// what another does; session is an open file's right to speak for an agent,
// and carries out commands; Watch what an open file of events listens to, and
// stream makes lines of that.
//
// Whose authority. An open file serves the agent whose task opened it, and
// only while a task of that same agent uses it. Passed to another agent, over
// a socket or by inheritance, it answers EPERM, and the refusal is reported:
// otherwise it would carry authority past the derivation tree, from where
// nobody could revoke it. Every process of an agent may use these doors,
// whatever its user: authority is the agent's, not the user's.
//
// Locks: ctlFile.mu and deviceFile.mu guard the last answer of one open file;
// no other lock is taken under them. eventsFile.op is held while one call reads
// or writes, eventsFile.mu while lines are made; under both the locks of the
// Watch are taken, but not the other way about: whom it wakes takes none of
// these. Filters are evaluated by who reads or polls, on its own time, so many
// at once, never by the bus. Commands run with no lock held, neither
// of this package nor of the file system, since what a revocation reaches may
// include the memory and the open files of the very task that asked.
//
// The package is above capability/ and gVisor's VFS; it knows neither tasks
// nor the tables of package sentry, and must not import it.
package ctlfs
