package sentry

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/version"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/seccomp"
	"aios.dev/aios/sentry/trap"
)

// An agent's seccomp profile is enforced by gVisor's kernel, as a filter that
// the first task of each program gets before it starts and hands to everything
// that it makes: /proc shows it, programs can add to it and not take away. What
// it refuses does not reach the gate. So that refusals are seen all the same,
// each call of such an agent is looked up in the profile when it returns from
// application code; that costs a bit test for calls that are always allowed.
//
// A call that seccomp ends the process for ends it here: gVisor ends the thread
// only.

// seccompObject begins what a refusal by a profile is recorded to be about.
const seccompObject = "seccomp profile: "

// seccompFilter is an agent's profile, ready for use.
type seccompFilter struct {
	profile *seccomp.Profile
	program bpf.Program
	free    [16]uint64 // calls that are allowed whatever their arguments are
}

// agentSurroundings are what an agent's profile may depend on.
var agentSurroundings = sync.OnceValue(func() seccomp.Surroundings {
	var s seccomp.Surroundings
	for c := linux.Capability(0); c <= linux.CAP_LAST_CAP; c++ {
		if agentCapabilities&auth.CapabilitySetOf(c) != 0 {
			s.Capabilities = append(s.Capabilities, c.String())
		}
	}
	major, rest, _ := strings.Cut(version.LinuxRelease(), ".")
	minor, _, _ := strings.Cut(rest, ".")
	s.Kernel[0], _ = strconv.Atoi(major)
	s.Kernel[1], _ = strconv.Atoi(minor)
	return s
})

// newSeccompFilter reads a profile. It returns nil for an empty text.
func newSeccompFilter(text []byte) (*seccompFilter, error) {
	if len(text) == 0 {
		return nil, nil
	}
	profile, err := seccomp.Parse(text, agentSurroundings())
	if err != nil {
		return nil, err
	}
	code, err := profile.Compile()
	if err != nil {
		return nil, err
	}
	parsed, err := bpf.ParseBytecode(code)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "compile seccomp profile")
	}
	f := &seccompFilter{profile: profile}
	if f.program, err = bpf.Compile(parsed, true); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "compile seccomp profile")
	}
	for call := range uint32(64 * len(f.free)) {
		if v, ok := profile.Always(call); ok && v.Action == seccomp.Allow {
			f.free[call/64] |= 1 << (call % 64)
		}
	}
	return f, nil
}

// setSeccomp gives the agent its profile. Nothing may run in it yet.
func (a *Agent) setSeccomp(f *seccompFilter) {
	if f != nil {
		a.seccomp = f
		a.crowd.WatchCalls()
	}
}

// applySeccomp puts a task that was not started under the profile of its agent.
func (s *Kernel) applySeccomp(t *kernel.Task) {
	if a := s.agentOf(t); a != nil && a.seccomp != nil {
		// It fails for programs that are too long, which Compile refuses.
		if err := t.AppendSyscallFilter(a.seccomp.program, false); err != nil {
			panic(fmt.Sprintf("a checked filter of %d instructions: %v", a.seccomp.program.Length(), err))
		}
		a.notes.addFilter(t, a.seccomp.program)
	}
}

// taskCalls is a hook: a task of an agent with a profile makes a system call.
func (s *Kernel) taskCalls(task context.Context, ac *arch.Context64) {
	t, ok := task.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	if a == nil || a.seccomp == nil || a.spec.Headed && t.ThreadGroup().IsInitIn(a.ns.pid()) {
		return
	}
	call := ac.SyscallNo()
	f := a.seccomp
	if call < uintptr(64*len(f.free)) && f.free[call/64]>>(call%64)&1 == 1 {
		return
	}
	var args [6]uint64
	for i, arg := range ac.SyscallArgs() {
		args[i] = arg.Uint64()
	}
	v := f.profile.Verdict(uint32(call), args)
	if v.Action == seccomp.Allow {
		return
	}
	s.gate.denials.note(Denial{
		Agent: a.id, Operation: callName(call), Object: seccompObject + v.Action.String(), Errno: seccompErrno(v),
	})
	if a.faults.strict && v.Action != seccomp.Log {
		a.violated(t, trap.ViolatesSeccomp, callName(call))
	}
	if v.Action == seccomp.KillProcess {
		t.PrepareGroupExit(linux.WaitStatusTerminationSignal(linux.SIGSYS))
	}
}

// seccompErrno is what the program gets to see, or 0.
func seccompErrno(v seccomp.Verdict) unix.Errno {
	switch v.Action {
	case seccomp.Errno:
		return unix.Errno(v.Data)
	case seccomp.Trace:
		return unix.ENOSYS
	}
	return 0
}

func callName(nr uintptr) string {
	if call, ok := abi.SyscallByNumber(nr); ok {
		return call.Name
	}
	return strconv.FormatUint(uint64(nr), 10)
}
