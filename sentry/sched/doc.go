// Package sched shares the CPUs of a domain among the tasks of its agents.
//
// Code of an agent executes only while its task has a CPU. A task asks for one
// before it enters application code, keeps it while the kernel works for it, and
// leaves it when it sleeps, stops or ends. Who has one and is to give it up is
// told (Runner.Preempt) and asks again at its next return from application code.
// The package knows no agent: what shares a weight, a quota or a reservation is
// a Group.
//
// Key types:
//
//   - Scheduler holds the CPUs, the clock, and who waits.
//   - Group is what is accounted for together; Task is a thread of one.
//   - Runner is how a task is told that it may run, or should not any more.
//   - Params of a group, and Attr of a task, are what they may ask for.
//
// # Classes
//
// A reservation comes first: runtime in every period, by the earliest deadline
// (EDF), in a constant-bandwidth server each (Abeni and Buttazzo, "Integrating
// Multimedia Applications in Hard Real-Time Systems", 1998), so that who overruns
// its budget harms itself only. Admitted is what a test for global EDF on m CPUs
// guarantees (Goossens, Funk and Baruah, "Priority-driven scheduling of periodic
// task systems on multiprocessors", 2003).
//
// Then the fair class: EEVDF (Stoica and Abdel-Wahab, "Earliest Eligible Virtual
// Deadline First", 1995; Linux 6.6 has it too), first among groups by weight,
// then among the tasks of the one that was chosen, by niceness. What a task asks
// for at once is estimated from how long it ran before it last slept: who needs
// little is due soon, and gains no share by it. Who sleeps saves, up to savedMax,
// what it leaves to others, against debts: a turn in which the host ran something
// else is charged like any other, and who uses little need not wait for it.
//
// Then the idle class: the same among those that only take what nobody wants.
//
// # One queue
//
// All CPUs are served from one queue; there is another for each CPU with what
// may run there and not everywhere. A queue for each CPU, as Linux has, makes
// shares as good as its load balancing, and single tasks of unlike weights cannot
// be balanced over CPUs at all. With one, the average that everybody is compared
// with is that of all, and shares are exact to a request. What it costs is one
// lock, which is taken when a task sleeps or wakes or its time is over, and not
// for a system call.
//
// # Bandwidth
//
// A quota is for a period of real time, over which it may be used at any pace by
// any number of tasks. What one period uses too much, the next has less; what it
// leaves may be saved up to a burst. If the host tells what it has counted in all
// (Config.Besides), groups with a quota pay for what that is more than what tasks
// were served, or get back what it is less: a period late, in proportion.
//
// Lock order: Scheduler.mu is a leaf, taken with locks of the kernel held.
// Runner.Granted is called with it held, Runner.Preempt without. A task is told
// through a call to its CPU (smp.Calls), whose locks are not held while it is.
//
// Times are nanoseconds since the scheduler was made.
package sched
