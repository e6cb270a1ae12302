// Package sentry is the kernel process of a domain: it boots gVisor's kernel
// as a library and runs agents in it.
//
// Key types:
//
//   - Kernel is the booted kernel: the file systems it knows, the agents it
//     runs, and the answers to the daemon's requests (Handlers).
//   - Agent is a process tree with its own PID, mount, UTS, IPC and network
//     namespace and a copy-on-write root. It lives from Spawn until its first
//     process has ended, and is remembered until Forget.
//   - process is one program the daemon asked for: an agent's first, or one
//     started in it later by Exec. console is its standard input and output.
//
// How a request becomes a process: server.go decodes it, shell.go has
// namespaces ready or makes them, root.go puts the root directory together,
// agent.go makes an agent of both, process.go loads the program, console.go
// carries its output to the log and to whoever is attached.
//
// Lock order, outermost first:
//
//	Agent.lifeMu         spawn, exec, pause, resume and end of one agent
//	  Agent.clearMu      a mount of a grant that has ended goes
//	  Kernel.mu          the tables of agents and file systems
//	    memoryAccount.mu a look at what one agent has
//	      Agent.mu       what is known of one agent
//	        console.mu   streams and state of one process's console
//
// debugger.mu is taken on its own, by hooks too; gVisor's locks of tasks, signals
// and memory are taken under it.
//
// Leaves, under which no other lock of this package is taken: shellPool.mu,
// memoryWatch.mu, orphans.mu, output.mu, agentLog.mu, lazyProcRoot.mu,
// denials.mu, clearing.mu. Those of timers, in package ktime, are below all.
//
// No lock of this package is held across a read or write of a stream, and
// of them only leaves are taken by code that gVisor calls with its own locks
// held: output.mu by a pipe that becomes readable, lazyProcRoot.mu by a look
// into /proc, orphans.mu by the hooks of package platform.
//
// Memory is in bytes, time is wall time from ktime. The package is above
// platform/, netstack/ and control/, and must not import the daemon, images/
// or host/: a kernel process opens nothing by itself, it is handed files.
package sentry
