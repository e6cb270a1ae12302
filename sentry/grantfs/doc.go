// Package grantfs is the door of files: a file system per grant, stacked on a
// directory (or a file) of another one, through which an agent reaches that and
// nothing else. The rights of the grant are looked at in every operation, not
// only when a file is opened; what grows is charged to its quota; and it can be
// narrowed or revoked while it is used.
//
// Key types:
//
//   - FS is the file system of one grant (fs.go); revoke.go takes rights away.
//   - gate counts operations under way, so that a revocation can wait for them.
//   - walk is one operation on a path. The inner file system is asked for one
//     component at a time, with the caller's credentials, so that it checks
//     permissions, sees renames and keeps its consistency itself; symlinks,
//     mount points and ".." are resolved here, in the agent's name space.
//   - dentry stands for a dentry of the inner file system, file for an open file
//     description, mapping for what memory is mapped to, link for a connection
//     through a socket file: all that outlives an operation knows its FS.
//   - ledger is the quota.
//
// # Rights
//
//	read    open for reading, list directories, readlink, get extended attributes
//	write   write, truncate, fallocate, chmod, chown, utimes, set extended
//	        attributes, map shared and writable
//	exec    execute, map executable
//	create  create files, directories, links; the target of a rename
//	delete  unlink, rmdir; the source of a rename
//	any     look up, stat, statfs, open a directory, seek, lock, fsync
//
// To connect to a socket file takes read and write. What is not allowed fails
// with EACCES, or, if it would change something and the grant has none of write,
// create and delete, with EROFS. What exceeds the quota fails with EDQUOT. After
// a revocation everything fails with EACCES, and what was mapped raises SIGBUS.
// Device files cannot be opened or made, nor files with a set-user-ID or
// set-group-ID bit, nor file capabilities: outside the kernel they would count.
//
// # Revocation
//
// FS.Revoke changes the state, which each operation looks at after it has entered
// the gate; wakes what is blocked in the inner file system, where operations
// block outside the gate; waits until the gate is empty of operations that may
// have seen the old state; invalidates what was mapped, which cannot be
// translated again; wakes who waits for events; and releases locks, connections
// and watches. It never waits for agent code, but for at most a chunk of bytes
// being read or written, and for one call of the inner file system. Executable
// pages that a process has changed are its own memory: they survive the loss of
// the right to execute, not a revocation.
//
// # Limits
//
//   - Scripts, and programs that load libraries from the grant, need the right to
//     read beside that to execute: what reads them is a program.
//   - A file's memory is shared by all who map it, but futexes in it are shared
//     only among those who map it through the same grant.
//   - inotify tells what is done through the same grant.
//   - A socket that is bound in the grant goes on listening when that is revoked;
//     who connects needs a grant of its own.
//   - Between two chunks of one large read or write, writers by other
//     descriptions may come.
//   - A quota counts sizes, not blocks. What others remove or grow is not seen.
//   - A revocation waits for a call of the inner file system that is under way:
//     where somebody else serves the files, no longer than they take to answer.
//
// # Locks
//
// Outermost first; those of the VFS and of the inner file system are taken
// between file.mu and waitMu, unless noted.
//
//	FS.revokeMu           while rights are taken away
//	  gate.mu             while operations are waited for
//	ledger.treeMu         changes of link counts, if there is a quota
//	  file.mu             the offset of an open file
//	    node.mu           the size of a file, if there is a quota
//	      file.waitMu     who waits for, or holds locks through, an open file
//	        FS.filesMu
//	FS.mapsMu             before mapping.mu
//	  mapping.mu          in the place of a Mappable's lock: before
//	                      mm.MemoryManager.activeMu, which an invalidation takes
//	link.mu               after locks of endpoints; before FS.filesMu
//	FS.dentriesMu, ledger.mu, ledger.nodesMu: leaves, but that inotify's locks
//	                      come after FS.dentriesMu
//
// Entering the gate never blocks, nor does looking at the rights; so both are done
// under any lock, in mapping.Translate even under activeMu. No lock of this
// package is held, but file.mu, node.mu and treeMu, when the inner file system is
// called.
//
// Sizes and quotas are in bytes. The package imports gVisor, abi and errdefs; it
// knows neither agents nor capabilities, which are told of by Options.
//
// The idea of a stack of file systems that asks by path comes from gVisor's
// overlay, that of waiting for readers of an old state from sleepable RCU, that
// of revoking by a layer in between from the membranes of capability systems.
package grantfs
