package platform

import (
	"runtime"

	"golang.org/x/sys/unix"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// Start makes the platform of a driver.
//
// With yields, the host threads that execute application code are of SCHED_IDLE,
// as far as the driver forks them when it starts: systrap's are. The host then
// runs the kernel at once when it has something to do, be it to serve a system
// call or to take a CPU from somebody, instead of when a turn of an agent's code
// is over. It is for who has a share of the host's CPUs of its own: within one
// that is shared with others, application code would get what these leave.
func Start(d Driver, opts gvplatform.Options, yields bool) (gvplatform.Platform, error) {
	if !yields {
		return d.New(opts)
	}
	type result struct {
		platform gvplatform.Platform
		err      error
	}
	made := make(chan result)
	go func() {
		// What is forked here has the policy of this thread, and ends with it. A
		// thread without privileges cannot go back to what it was, either.
		runtime.LockOSThread()
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
		p, err := d.New(opts)
		made <- result{p, err}
		if err == nil {
			select {}
		}
	}()
	r := <-made
	return r.platform, r.err
}
