// Package klog is the log of a kernel process and of the daemon: structured
// records that code makes with log/slog, kept in a ring in shared memory that
// is still there when the process that wrote it is not.
//
// Key types:
//
//   - Log is one log: it makes loggers for subsystems and passes records on to
//     the ring, to a writer, and to whoever else wants them.
//   - Record is one entry, as it is kept, shown and sent.
//   - Ring is where records are kept, written by one process; Read reads it,
//     also while it is written, and after its writer was killed at any byte.
//   - Secret is a value that no log shows.
//
// # Levels
//
// Every subsystem has a level of its own, which may be changed at any time.
// Names nest: "daemon/images" has the level of "daemon" until it is given one.
// A call below its subsystem's level costs an atomic load; with
// slog.Logger.LogAttrs it allocates nothing.
//
// # What is never written
//
// Attributes whose key looks like that of a secret, values of the environment,
// and whatever in a text looks like a bearer token, a key or a password is
// replaced before a record is made (redact.go). The ring, the writer and the
// hook see the same record.
//
// # Bounds
//
// A call site may write so many records at once and then so many per second,
// and so may a subsystem; what is above that is counted, and the next record
// from there tells the number. A record has at most MaxRecord bytes; longer
// ones are cut. The ring drops its oldest record for a new one. Critical
// records are not limited in number.
//
// Lock order: Log.mu, for changes of levels alone; then Ring.mu and Log.outMu,
// leaves. Nothing is called under them but the writer. Times are nanoseconds:
// wall by the Unix epoch, mono since the log was opened.
//
// The package imports neither gVisor nor anything that knows agents.
package klog
