package platformtest

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"

	"aios.dev/aios/ktime"
)

// testFaultOnRead checks that a read of nothing faults, and succeeds once
// the page is there: demand paging.
func testFaultOnRead(t *testing.T, f *fixture) {
	mm := f.newSpace(t, program(set(rbx, uint64(dataAddr)+8), load(rax, rbx), syscall))
	th := f.newThread(t, mm)
	must(t, th.runToFault(dataAddr+8, hostarch.Read))
	if got, want := hostarch.Addr(th.regs.IP()), codeAddr+10; got != want {
		t.Errorf("RIP %#x at the fault, want %#x", got, want)
	}
	page := mm.mapNew(t, dataAddr, 0, hostarch.Read)
	f.bytes(t, page)[8] = 5
	must(t, th.runToSyscall(5))
}

// testFaultOnWrite checks writes to nothing and to a read-only page, and the
// upgrade of the page that copy-on-write makes.
func testFaultOnWrite(t *testing.T, f *fixture) {
	code := program(set(rbx, uint64(dataAddr)), set(rcx, 42), store(rbx, rcx), set(rax, 3), syscall)
	mm := f.newSpace(t, code)
	th := f.newThread(t, mm)
	must(t, th.runToFault(dataAddr, hostarch.Write))
	page := mm.mapNew(t, dataAddr, 41, hostarch.Read)
	must(t, th.runToFault(dataAddr, hostarch.Write))
	if got := f.word(t, page); got != 41 {
		t.Errorf("a read-only page was written: %d", got)
	}
	mm.mapPage(t, dataAddr, page, hostarch.ReadWrite)
	must(t, th.runToSyscall(3))
	if got := f.word(t, page); got != 42 {
		t.Errorf("the page holds %d after the write", got)
	}
}

// testFaultOnExecute checks jumps to nothing and to data, by two threads
// because a repeated fault may be taken for a write.
func testFaultOnExecute(t *testing.T, f *fixture) {
	mm := f.newSpace(t, nil)
	a, b := f.newThread(t, mm), f.newThread(t, mm)
	a.regs.SetIP(uintptr(dataAddr))
	b.regs.SetIP(uintptr(dataAddr))
	must(t, a.runToFault(dataAddr, hostarch.Execute))
	page := f.newPage(t, program(set(rax, 4), syscall))
	mm.mapPage(t, dataAddr, page, hostarch.ReadWrite)
	must(t, b.runToFault(dataAddr, hostarch.Execute))
	mm.mapPage(t, dataAddr, page, hostarch.ReadExecute)
	must(t, a.runToSyscall(4))
	must(t, b.runToSyscall(4))
}

// testExceptions checks the signals that instructions raise, that the thread
// is where Linux would leave it, and that it can go on.
func testExceptions(t *testing.T, f *fixture) {
	for _, tc := range []struct {
		name        string
		instruction []byte
		signal      linux.Signal
		after       bool // RIP is behind the instruction
	}{
		{"undefined instruction", ud2, linux.SIGILL, false},
		{"breakpoint", int3, linux.SIGTRAP, true},
		{"division by zero", divide(rcx), linux.SIGFPE, false},
	} {
		prefix := program(set(rax, 1), set(rcx, 0))
		th := f.newThread(t, f.newSpace(t, program(prefix, tc.instruction, set(rax, 6), syscall)))
		if _, err := th.runToSignal(tc.signal); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		at, behind := uintptr(codeAddr)+uintptr(len(prefix)), uintptr(codeAddr)+uintptr(len(prefix)+len(tc.instruction))
		want := at
		if tc.after {
			want = behind
		}
		if got := th.regs.IP(); got != want {
			t.Errorf("%s: RIP %#x, want %#x", tc.name, got, want)
		}
		if err := th.c.PullFullState(th.mm.as, th.regs); err != nil {
			t.Errorf("%s: PullFullState: %v", tc.name, err)
		}
		th.regs.SetIP(behind)
		th.c.FullStateChanged()
		if err := th.runToSyscall(6); err != nil {
			t.Errorf("%s, going on: %v", tc.name, err)
		}
	}
}

// testInterruptRunning interrupts a thread that never leaves by itself.
func testInterruptRunning(t *testing.T, f *fixture) {
	th := f.newThread(t, f.newSpace(t, forever))
	for i := range 20 {
		timer := ktime.Real.AfterFunc(time.Duration(i)*time.Millisecond, th.c.Interrupt)
		o, err := th.switchOnce()
		timer.Stop()
		must(t, err)
		if !o.interrupted() {
			t.Fatalf("%v after Interrupt", o)
		}
	}
}

// testInterruptPending interrupts a thread that is not running: the next
// Switch, or this one, must not enter the endless loop for good.
func testInterruptPending(t *testing.T, f *fixture) {
	th := f.newThread(t, f.newSpace(t, forever))
	for range 20 {
		th.c.Interrupt()
		o, err := th.switchOnce()
		must(t, err)
		if !o.interrupted() {
			t.Fatalf("%v after Interrupt", o)
		}
	}
}

// testInterruptKeepsState interrupts a thread in the middle of a computation:
// it must go on where it was.
func testInterruptKeepsState(t *testing.T, f *fixture) {
	count := whileZero(rax, increment(rsi), load(rax, rbx))
	mm := f.newSpace(t, program(set(rbx, uint64(dataAddr)), set(rsi, 0), set(rdx, 0xd0d0), count, syscall))
	flag := mm.mapNew(t, dataAddr, 0, hostarch.Read)
	th := f.newThread(t, mm)
	regs := &th.regs.StateData().Regs
	last := uint64(0)
	wait := 2 * time.Millisecond
	for range 10 {
		timer := ktime.Real.AfterFunc(wait, th.c.Interrupt)
		o, err := th.switchOnce()
		timer.Stop()
		must(t, err)
		must(t, th.c.PullFullState(mm.as, th.regs))
		began := regs.Rsi > 0 // Before it, the registers may not be set yet.
		if !o.interrupted() || regs.Rsi < last || began && regs.Rdx != 0xd0d0 {
			t.Fatalf("%v: the count went from %d to %d, rdx is %#x", o, last, regs.Rsi, regs.Rdx)
		}
		if regs.Rsi == last {
			wait *= 2 // A slow host: the interrupt came before the program ran.
		}
		last = regs.Rsi
	}
	if last == 0 {
		t.Error("the program never ran")
	}
	f.bytes(t, flag)[0] = 0x77
	must(t, th.runToSyscall(0x77))
	if regs.Rsi < last || regs.Rdx != 0xd0d0 {
		t.Errorf("the count went from %d to %d, rdx is %#x", last, regs.Rsi, regs.Rdx)
	}
}

// testInterruptAtAnyTime interrupts a thread that makes system calls, from
// another goroutine without any order, and checks that no call is lost or
// made twice.
func testInterruptAtAnyTime(t *testing.T, f *fixture) {
	th := f.newThread(t, f.newSpace(t, program(set(rax, 1), set(rbx, 1), loop(syscall, increment(rbx), move(rax, rbx)))))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				th.c.Interrupt()
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for i := range uint64(500) {
		must(t, th.runToSyscall(i+1))
	}
}
