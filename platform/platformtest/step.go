package platformtest

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"

	"aios.dev/aios/platform"
)

// tracing is what a debugger has the suite's threads do.
type tracing struct {
	order platform.Order
	left  []bool // what Left was told
}

func (tr *tracing) enter(context.Context, *arch.Context64) platform.Order { return tr.order }

func (tr *tracing) leave(_ context.Context, _ *arch.Context64, called bool) {
	tr.left = append(tr.left, called)
}

// trace has the fixture's threads step until the test ends.
func (f *fixture) trace(t *testing.T, order platform.Order) *tracing {
	f.tracing = tracing{order: order}
	f.crowd.Trace(true)
	t.Cleanup(func() { f.crowd.Trace(false) })
	return &f.tracing
}

// stepOnce executes one instruction that must not leave the program, and
// returns where the thread is then.
func (th *thread) stepOnce(t *testing.T) hostarch.Addr {
	t.Helper()
	o, err := th.runToSignal(linux.SIGTRAP)
	must(t, err)
	if o.info.Code != linux.TRAP_TRACE {
		t.Errorf("the trap has the code %d, want that of a step", o.info.Code)
	}
	if th.regs.SingleStep() {
		t.Error("the program has the flag that asks for steps")
	}
	return hostarch.Addr(th.regs.IP())
}

// testStep steps through a program: one instruction each time, also the first
// one, those after a system call, and those of a thread that others run beside.
func testStep(t *testing.T, f *fixture) {
	parts := [][]byte{set(rax, 0x501), set(rbx, 7), move(rcx, rbx), increment(rcx)}
	code := program(program(parts...), syscall, set(rdx, 9), increment(rdx), set(rax, 0x502), syscall)
	th := f.newThread(t, f.newSpace(t, code))
	other := f.newThread(t, f.newSpace(t, forever))
	f.trace(t, platform.Step)
	regs := &th.regs.StateData().Regs
	for round := range 50 {
		th.regs.SetIP(uintptr(codeAddr))
		regs.Rcx, regs.Rdx = 0, 0
		at := codeAddr
		for i, p := range parts {
			at += hostarch.Addr(len(p))
			if got := th.stepOnce(t); got != at {
				t.Fatalf("round %d: RIP %#x after step %d, want %#x", round, got, i, at)
			}
			if i%2 == 1 { // Another context has its place meanwhile.
				other.stepOnce(t)
			}
		}
		if regs.Rbx != 7 || regs.Rcx != 8 {
			t.Fatalf("rbx %d, rcx %d, want 7 and 8", regs.Rbx, regs.Rcx)
		}
		must(t, th.runToSyscall(0x501))
		if regs.R11&arch.X86TrapFlag != 0 {
			t.Error("the flag that asks for steps is in r11")
		}
		at += hostarch.Addr(len(syscall) + len(set(rdx, 9)))
		if got := th.stepOnce(t); got != at || regs.Rdx != 9 {
			t.Fatalf("RIP %#x and rdx %d after a system call and a step, want %#x and 9", got, regs.Rdx, at)
		}
		f.tracing.order = platform.Run
		must(t, th.runToSyscall(0x502))
		if regs.Rdx != 10 {
			t.Errorf("rdx %d after running on, want 10", regs.Rdx)
		}
		f.tracing.order = platform.Step
	}
}

// testStepFaults steps over an instruction that faults first, and into
// exceptions.
func testStepFaults(t *testing.T, f *fixture) {
	first := program(set(rbx, uint64(dataAddr)))
	mm := f.newSpace(t, program(first, load(rcx, rbx), int3, ud2))
	th := f.newThread(t, mm)
	f.trace(t, platform.Step)
	th.stepOnce(t)
	must(t, th.runToFault(dataAddr, hostarch.Read))
	if th.regs.SingleStep() {
		t.Error("the program has the flag that asks for steps after a fault")
	}
	mm.mapNew(t, dataAddr, 5, hostarch.Read)
	at := codeAddr + hostarch.Addr(len(first)+len(load(rcx, rbx)))
	if got := th.stepOnce(t); got != at || th.regs.StateData().Regs.Rcx != 5 {
		t.Errorf("RIP %#x and rcx %d after the fault, want %#x and 5", got, th.regs.StateData().Regs.Rcx, at)
	}
	o, err := th.runToSignal(linux.SIGTRAP)
	must(t, err)
	if got := hostarch.Addr(th.regs.IP()); got != at+1 || o.info.Code == linux.TRAP_TRACE {
		t.Errorf("a breakpoint with the code %d, RIP %#x, want %#x", o.info.Code, got, at+1)
	}
	_, err = th.runToSignal(linux.SIGILL)
	must(t, err)
}

// testStay checks that a thread that is to stay executes nothing, and what Left
// is told.
func testStay(t *testing.T, f *fixture) {
	th := f.newThread(t, f.newSpace(t, program(set(rax, 3), syscall)))
	tr := f.trace(t, platform.Stay)
	for range 3 {
		if o, err := th.switchOnce(); err != nil || !o.interrupted() {
			t.Fatalf("%v, %v from a thread that is to stay", o, err)
		}
	}
	if got := hostarch.Addr(th.regs.IP()); got != codeAddr || len(tr.left) != 0 {
		t.Errorf("RIP %#x, left %v", got, tr.left)
	}
	tr.order = platform.Run
	must(t, th.runToSyscall(3))
	if n := len(tr.left); n == 0 || !tr.left[n-1] {
		t.Errorf("left %v, the last must be by a system call", tr.left)
	}
}
