// Package irq is the interrupts of a kernel process: what interrupts it, how
// often, on which CPU, for whom, and what is done about it when.
//
// An interrupt here is a call that comes from outside of what the kernel does
// at that moment: a timer that has expired, a packet, a message of the daemon,
// output of an agent, a signal of the host, a task that another CPU makes
// return to the kernel, and the watchdog.
//
// Key types:
//
//   - Line is a line of interrupts, by its number; a table says what each is.
//   - Source is one that interrupts: an agent, or the domain itself. Raise is
//     the top half: it counts, and says whether the bottom half may go on where
//     it is. It neither blocks nor allocates.
//   - Work is the bottom half of one source on one line, where it can be put
//     off. It runs on the worker of a CPU, which takes the highest priority
//     first, or, if it may wait for others, on a goroutine of its own.
//   - Controller holds all lines: masks, routes, priorities, the bounds beyond
//     which a line is in a storm, and what is known of each.
//
// A bottom half that need not be put off runs where its top half ran, as Linux
// runs a soft interrupt when the hard one returns. It is put off while its line
// is masked, if its line is routed to certain CPUs, and in a storm.
//
// A CPU is one of as many as the domain has. Interrupts count on the one that
// the caller runs on, which is a CPU of the host, folded. Workers are as many,
// one for each; on which CPU of the host one runs is the host's choice. What is
// put off of one source and one line stays in order: it has one worker.
//
// Queues: that of a worker holds queueMax works; when it is full a bottom half
// runs where its top half ran, which is counted. A work is in one queue once,
// however often it is scheduled; what waits for it is bounded by its maker.
//
// Lock order: Controller.mu, then flow.mu, then line.mu, then worker.mu, which
// is a leaf. None is held while a bottom half or a callback runs. Schedule may be
// called with the caller's locks held; it may run the bottom half.
//
// Times are nanoseconds since the controller was made. The package knows no
// gVisor, no agent and no bus.
package irq
