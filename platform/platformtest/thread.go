package platformtest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/ktime"
)

// switchLimit is how long a Switch may take before the suite interrupts it
// and fails.
const switchLimit = 20 * time.Second

// task stands for the kernel's task. Platforms ask it for the features of the
// CPU, and nothing else that it would have to know.
type task struct{ context.Context }

// Value implements context.Context.
func (t *task) Value(key any) any {
	if key == cpuid.CtxFeatureSet {
		return cpuid.HostFeatureSet()
	}
	return t.Context.Value(key)
}

// thread is a context with the registers it runs with.
type thread struct {
	ctx  context.Context
	c    gvplatform.Context
	regs *arch.Context64
	mm   *space
}

// newThread returns a thread that will begin at codeAddr.
func (f *fixture) newThread(t *testing.T, mm *space) *thread {
	regs := arch.New(arch.AMD64)
	regs.SetIP(uintptr(codeAddr))
	return f.newThreadWith(t, mm, regs)
}

// newThreadWith returns a thread with the given state.
func (f *fixture) newThreadWith(t *testing.T, mm *space, regs *arch.Context64) *thread {
	ctx := &task{context.Background()}
	th := &thread{ctx: ctx, c: f.NewContext(ctx), regs: regs, mm: mm}
	t.Cleanup(func() {
		th.c.PrepareExit()
		th.c.Release()
	})
	return th
}

// outcome is what Switch returned.
type outcome struct {
	info *linux.SignalInfo
	at   hostarch.AccessType
	err  error
}

func (o outcome) String() string {
	if o.err == gvplatform.ErrContextSignal {
		return fmt.Sprintf("signal %d at %#x, access %v", o.info.Signo, o.info.Addr(), o.at)
	}
	if o.err == nil {
		return "system call"
	}
	return o.err.Error()
}

// interrupted reports whether nothing but an interrupt happened, in one of
// the forms that the contract allows.
func (o outcome) interrupted() bool {
	return o.err == gvplatform.ErrContextInterrupt || o.err == gvplatform.ErrContextCPUPreempted ||
		o.err == gvplatform.ErrContextSignal && o.info.Signo == int32(gvplatform.SignalInterrupt)
}

var errHangs = fmt.Errorf("no return from Switch within %v", switchLimit)

// switchOnce enters the program once.
func (th *thread) switchOnce() (outcome, error) {
	late := ktime.Real.AfterFunc(switchLimit, th.c.Interrupt)
	var o outcome
	o.info, o.at, o.err = th.c.Switch(th.ctx, th.mm, th.regs, -1)
	if !late.Stop() {
		return o, errHangs
	}
	return o, nil
}

// run enters the program until something other than an interrupt happens,
// as the kernel does.
func (th *thread) run() (outcome, error) {
	for range 10000 {
		o, err := th.switchOnce()
		if err != nil || !o.interrupted() {
			return o, err
		}
	}
	return outcome{}, errors.New("interrupted 10000 times by nobody")
}

// runToSyscall runs until a system call, which must have the given number.
// It leaves all registers as the program's.
func (th *thread) runToSyscall(number uint64) error {
	o, err := th.run()
	if err != nil {
		return err
	}
	if o.err != nil {
		return fmt.Errorf("%v at RIP %#x, want a system call", o, th.regs.IP())
	}
	if err := th.c.PullFullState(th.mm.as, th.regs); err != nil {
		return fmt.Errorf("PullFullState: %w", err)
	}
	if got := uint64(th.regs.SyscallNo()); got != number {
		return fmt.Errorf("system call %d, want %d", got, number)
	}
	return nil
}

// runToSignal runs until a synchronous signal.
func (th *thread) runToSignal(sig linux.Signal) (outcome, error) {
	o, err := th.run()
	if err != nil {
		return o, err
	}
	if o.err != gvplatform.ErrContextSignal || o.info.Signo != int32(sig) {
		return o, fmt.Errorf("%v at RIP %#x, want signal %d", o, th.regs.IP(), sig)
	}
	return o, nil
}

// runToFault runs until an access to addr faults. A platform that cannot tell
// a write from a read at first must do so when the fault repeats.
func (th *thread) runToFault(addr hostarch.Addr, want hostarch.AccessType) error {
	o, err := th.runToSignal(linux.SIGSEGV)
	if err == nil && want.Write && !o.at.Write {
		o, err = th.runToSignal(linux.SIGSEGV)
	}
	if err != nil {
		return err
	}
	if got := hostarch.Addr(o.info.Addr()); got != addr {
		return fmt.Errorf("fault at %#x, want %#x", got, addr)
	}
	if o.at.Write != want.Write || o.at.Execute != want.Execute || !o.at.Any() {
		return fmt.Errorf("fault by access %v, want %v", o.at, want)
	}
	return nil
}

// must ends the test when err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
