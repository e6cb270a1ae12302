package platformtest

import (
	"testing"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
)

func testLimits(t *testing.T, f *fixture) {
	low, high := f.MinUserAddress(), f.MaxUserAddress()
	if low > codeAddr || high < 1<<46 || low != low.RoundDown() || high != high.RoundDown() {
		t.Errorf("user addresses from %#x to %#x", low, high)
	}
	if unit := f.MapUnit(); unit&(unit-1) != 0 || unit%hostarch.PageSize != 0 {
		t.Errorf("MapUnit %#x", unit)
	}
	if n := f.ConcurrencyCount(); n < 1 {
		t.Errorf("ConcurrencyCount %d", n)
	}
	if f.HaveGlobalMemoryBarrier() {
		must(t, f.GlobalMemoryBarrier())
	}
	if f.SeccompInfo().ConfigKey() == "" {
		t.Error("the platform's system calls have no name")
	}
}

// testSyscall checks each register at a system call, and that the result
// reaches the program.
func testSyscall(t *testing.T, f *fixture) {
	values := map[register]uint64{}
	var code []byte
	for r := rax; r <= r15; r++ {
		values[r] = 0xf111_2222_3333_0000 + uint64(r)
		if r == rsp {
			values[r] = 0x7ff0_1234_0000 // Must be an address.
		}
		code = append(code, set(r, values[r])...)
	}
	code = program(code, syscall, move(rdi, rax), set(rax, 2), syscall)
	th := f.newThread(t, f.newSpace(t, code))
	must(t, th.runToSyscall(values[rax]))

	regs := &th.regs.StateData().Regs
	for r, got := range map[register]uint64{
		rbx: regs.Rbx, rdx: regs.Rdx, rsp: regs.Rsp, rbp: regs.Rbp, rsi: regs.Rsi, rdi: regs.Rdi,
		r8: regs.R8, r9: regs.R9, r10: regs.R10, r12: regs.R12, r13: regs.R13, r14: regs.R14, r15: regs.R15,
	} {
		if got != values[r] {
			t.Errorf("register %d is %#x at the system call, want %#x", r, got, values[r])
		}
	}
	args := th.regs.SyscallArgs()
	for i, r := range []register{rdi, rsi, rdx, r10, r8, r9} {
		if got := args[i].Uint64(); got != values[r] {
			t.Errorf("argument %d is %#x, want %#x", i, got, values[r])
		}
	}
	if got, want := hostarch.Addr(th.regs.IP()), codeAddr+hostarch.Addr(16*10+2); got != want {
		t.Errorf("RIP %#x after the system call, want %#x", got, want)
	}

	th.regs.SetReturn(0xfeed)
	must(t, th.runToSyscall(2))
	if got := th.regs.SyscallArgs()[0].Uint64(); got != 0xfeed {
		t.Errorf("the program saw result %#x", got)
	}
	if got := regs.R15; got != values[r15] {
		t.Errorf("r15 is %#x after a system call, want %#x", got, values[r15])
	}
}

// testSyscallAfterPrepare checks that the announcements of sleep and stop
// change nothing for the program.
func testSyscallAfterPrepare(t *testing.T, f *fixture) {
	code := program(set(rax, 1), set(rbx, 7), loop(syscall, increment(rbx), move(rax, rbx)))
	th := f.newThread(t, f.newSpace(t, code))
	must(t, th.runToSyscall(1))
	for i, prepare := range []func(){
		th.c.PrepareSleep, th.c.PrepareSleep, th.c.PrepareUninterruptibleSleep, th.c.PrepareStop,
		func() { th.mm.as.PreFork(); th.mm.as.PostFork() },
	} {
		prepare()
		must(t, th.runToSyscall(uint64(8+i)))
	}
}

// testRegistersOfTwoContexts lets two threads of one space take turns.
func testRegistersOfTwoContexts(t *testing.T, f *fixture) {
	mm := f.newSpace(t, loop(increment(rax), syscall, move(rax, rbx), increment(rbx)))
	a, b := f.newThread(t, mm), f.newThread(t, mm)
	a.regs.StateData().Regs.Rbx, b.regs.StateData().Regs.Rbx = 1000, 2000
	must(t, a.runToSyscall(1))
	must(t, b.runToSyscall(1))
	for i := range uint64(50) {
		must(t, a.runToSyscall(1001+i))
		must(t, b.runToSyscall(2001+i))
	}
}

// testThreadPointer checks that FS is the thread's own.
func testThreadPointer(t *testing.T, f *fixture) {
	mm := f.newSpace(t, loop(loadThread(), syscall))
	mm.mapNew(t, dataAddr, 111, hostarch.Read)
	mm.mapNew(t, dataAddr+hostarch.PageSize, 222, hostarch.Read)
	a, b := f.newThread(t, mm), f.newThread(t, mm)
	if !a.regs.SetTLS(uintptr(dataAddr)) || !b.regs.SetTLS(uintptr(dataAddr+hostarch.PageSize)) {
		t.Fatal("SetTLS refuses")
	}
	for range 10 {
		must(t, a.runToSyscall(111))
		must(t, b.runToSyscall(222))
	}
}

// vectorProgram keeps rbx in a vector register, and passes that register as
// the number of every second system call; the first one is 1.
func vectorProgram() []byte {
	return program(set(rax, 1), toXMM(5, rbx), syscall, loop(fromXMM(rax, 5), syscall))
}

// testFloatingPoint checks that vector registers are the thread's own.
func testFloatingPoint(t *testing.T, f *fixture) {
	mm := f.newSpace(t, vectorProgram())
	a, b := f.newThread(t, mm), f.newThread(t, mm)
	a.regs.StateData().Regs.Rbx, b.regs.StateData().Regs.Rbx = 0xaaaa_0000_0001, 0xbbbb_0000_0001
	must(t, a.runToSyscall(1))
	must(t, b.runToSyscall(1))
	for range 10 {
		must(t, a.runToSyscall(0xaaaa_0000_0001))
		must(t, b.runToSyscall(0xbbbb_0000_0001))
	}
}

// testFloatingPointFork starts a thread with a copy of another one's state,
// as clone does, and lets the original go on.
func testFloatingPointFork(t *testing.T, f *fixture) {
	mm := f.newSpace(t, vectorProgram())
	a := f.newThread(t, mm)
	a.regs.StateData().Regs.Rbx = 0xcccc
	must(t, a.runToSyscall(1))
	b := f.newThreadWith(t, mm, a.regs.Fork())
	for range 3 {
		must(t, b.runToSyscall(0xcccc))
		must(t, a.runToSyscall(0xcccc))
	}
}

// testKernelChangesState sends a thread somewhere else, as a signal handler
// or execve does.
func testKernelChangesState(t *testing.T, f *fixture) {
	before := program(set(rax, 1), set(rbx, 2), syscall, ud2)
	mm := f.newSpace(t, program(before, move(rax, rbx), move(rdi, rsp), syscall))
	th := f.newThread(t, mm)
	must(t, th.runToSyscall(1))
	regs := &th.regs.StateData().Regs
	regs.Rbx, regs.Rsp = 77, 0x12340
	th.regs.SetIP(uintptr(codeAddr) + uintptr(len(before)))
	th.c.FullStateChanged()
	must(t, th.runToSyscall(77))
	if got := th.regs.SyscallArgs()[0].Uint64(); got != 0x12340 {
		t.Errorf("the program's stack is %#x", got)
	}
}

// testCPUID checks that a program learns about the CPU what the kernel knows,
// whether the platform traps the instruction or not.
func testCPUID(t *testing.T, f *fixture) {
	th := f.newThread(t, f.newSpace(t, program(set(rax, 0), set(rcx, 0), cpuID, move(rdi, rcx), set(rax, 9), syscall)))
	must(t, th.runToSyscall(9))
	want := cpuid.HostFeatureSet().Function.Query(cpuid.In{})
	regs := &th.regs.StateData().Regs
	if uint32(regs.Rbx) != want.Ebx || uint32(regs.Rdi) != want.Ecx || uint32(regs.Rdx) != want.Edx {
		t.Errorf("vendor %#x %#x %#x, want %#x %#x %#x", regs.Rbx, regs.Rdx, regs.Rdi, want.Ebx, want.Edx, want.Ecx)
	}
}
