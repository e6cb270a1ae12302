package platform

import (
	"runtime"

	"golang.org/x/sys/unix"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// Start makes the platform of a driver.
//
// Before that, yield is called, unless nil, on the thread that makes it, which does
// nothing else. What the driver forks when it starts, and what that forks, inherits what
// yield has done to the thread: of systrap these are all host threads that execute
// application code. The host then runs the kernel at once when it has something
// to do, be it to serve a system call or to take a CPU from somebody, instead of when
// a turn of an agent's code is over. It is for who has a share of the host's CPUs of
// its own: within one that is shared with others, application code would get what these
// leave.
func Start(d Driver, opts gvplatform.Options, yield func()) (gvplatform.Platform, error) {
	if yield == nil {
		return d.New(opts)
	}
	type result struct {
		platform gvplatform.Platform
		err      error
	}
	made := make(chan result)
	go func() {
		// What is forked here ends with this thread. One without privileges cannot go
		// back to what it was, either.
		runtime.LockOSThread()
		yield()
		p, err := d.New(opts)
		made <- result{p, err}
		if err == nil {
			select {}
		}
	}()
	r := <-made
	return r.platform, r.err
}

// YieldThread has the calling thread be of SCHED_IDLE. Where the host refuses, it is
// not.
func YieldThread() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
