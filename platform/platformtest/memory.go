package platformtest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"

	"aios.dev/aios/ktime"
)

// reader is a program that reads dataAddr again and again, and passes what it
// found as the number of a system call.
func reader() []byte { return program(set(rbx, uint64(dataAddr)), loop(load(rax, rbx), syscall)) }

// testUnmap checks that an unmapped page faults and its neighbour does not.
func testUnmap(t *testing.T, f *fixture) {
	mm := f.newSpace(t, program(set(rbx, uint64(dataAddr)), set(rdx, uint64(dataAddr)+hostarch.PageSize),
		loop(load(rax, rdx), syscall, load(rax, rbx), syscall)))
	mm.mapNew(t, dataAddr, 10, hostarch.ReadWrite)
	mm.mapNew(t, dataAddr+hostarch.PageSize, 20, hostarch.ReadWrite)
	th := f.newThread(t, mm)
	must(t, th.runToSyscall(20))
	must(t, th.runToSyscall(10))
	mm.unmap(dataAddr)
	must(t, th.runToSyscall(20))
	must(t, th.runToFault(dataAddr, hostarch.Read))
	mm.unmap(dataAddr) // Nothing is there: allowed.
	mm.mapNew(t, dataAddr, 30, hostarch.Read)
	must(t, th.runToSyscall(30))
	must(t, th.runToSyscall(20))
}

// testUnmapWhileRunning takes a page away from a thread that is using it: the
// thread must notice without ever leaving by itself.
func testUnmapWhileRunning(t *testing.T, f *fixture) {
	mm := f.newSpace(t, program(set(rbx, uint64(dataAddr)), loop(load(rax, rbx))))
	for i := range 5 {
		mm.mapNew(t, dataAddr, 1, hostarch.Read)
		th := f.newThread(t, mm)
		unmapped := make(chan struct{})
		ktime.Real.AfterFunc(time.Duration(2*i)*time.Millisecond, func() {
			defer close(unmapped)
			mm.unmap(dataAddr)
		})
		err := th.runToFault(dataAddr, hostarch.Read)
		<-unmapped
		must(t, err)
	}
}

// testMapReplaces checks that mapping over a page takes the old one away.
func testMapReplaces(t *testing.T, f *fixture) {
	mm := f.newSpace(t, reader())
	th := f.newThread(t, mm)
	for i := range uint64(10) {
		mm.mapNew(t, dataAddr, 100+i, hostarch.Read)
		must(t, th.runToSyscall(100+i))
	}
}

// testSpacesAreIsolated has different pages at one address of two spaces.
func testSpacesAreIsolated(t *testing.T, f *fixture) {
	x, y := f.newSpace(t, reader()), f.newSpace(t, reader())
	x.mapNew(t, dataAddr, 1, hostarch.Read)
	inX, inY := f.newThread(t, x), f.newThread(t, y)
	must(t, inX.runToSyscall(1))
	must(t, inY.runToFault(dataAddr, hostarch.Read))
	y.mapNew(t, dataAddr, 2, hostarch.Read)
	for range 3 {
		must(t, inX.runToSyscall(1))
		must(t, inY.runToSyscall(2))
	}
	x.unmap(dataAddr)
	must(t, inX.runToFault(dataAddr, hostarch.Read))
	must(t, inY.runToSyscall(2))
}

// testSpacesShareMemory has one page in two spaces, at different addresses.
func testSpacesShareMemory(t *testing.T, f *fixture) {
	x := f.newSpace(t, program(set(rbx, uint64(dataAddr)), set(rcx, 33), store(rbx, rcx), set(rax, 1), syscall))
	y := f.newSpace(t, program(set(rbx, uint64(2*dataAddr)), load(rax, rbx), syscall))
	page := x.mapNew(t, dataAddr, 0, hostarch.ReadWrite)
	y.mapPage(t, 2*dataAddr, page, hostarch.Read)
	must(t, f.newThread(t, x).runToSyscall(1))
	must(t, f.newThread(t, y).runToSyscall(33))
	if got := f.word(t, page); got != 33 {
		t.Errorf("the kernel sees %d", got)
	}
}

// testContextMovesToNewSpace moves a thread to another space, as execve does.
func testContextMovesToNewSpace(t *testing.T, f *fixture) {
	x, y := f.newSpace(t, reader()), f.newSpace(t, reader())
	x.mapNew(t, dataAddr, 1, hostarch.Read)
	y.mapNew(t, dataAddr, 2, hostarch.Read)
	th := f.newThread(t, x)
	for i := range 6 {
		th.mm = [...]*space{x, y}[i%2]
		must(t, th.runToSyscall(uint64(1+i%2)))
		th.c.PrepareExecve()
		th.c.FullStateChanged()
	}
}

// testManyContexts runs more threads than there are CPUs, in two spaces, each
// with registers, vector registers and memory of its own.
func testManyContexts(t *testing.T, f *fixture) {
	const threads, rounds = 24, 40
	code := program(toXMM(3, rcx), set(rax, 1), syscall,
		loop(fromXMM(rax, 3), increment(rax), toXMM(3, rax), store(rbx, rax), syscall))
	spaces := [...]*space{f.newSpace(t, code), f.newSpace(t, code)}
	var running sync.WaitGroup
	for i := range threads {
		mm := spaces[i%len(spaces)]
		addr := dataAddr + hostarch.Addr(i)*hostarch.PageSize
		page := mm.mapNew(t, addr, 0, hostarch.ReadWrite)
		th := f.newThread(t, mm)
		base := uint64(i) << 32
		regs := &th.regs.StateData().Regs
		regs.Rbx, regs.Rcx = uint64(addr), base
		running.Go(func() {
			err := th.runToSyscall(1)
			for round := uint64(1); err == nil && round <= rounds; round++ {
				if err = th.runToSyscall(base + round); err == nil && f.word(t, page) != base+round {
					err = fmt.Errorf("memory holds %#x, want %#x", f.word(t, page), base+round)
				}
				th.c.PrepareSleep()
			}
			if err != nil {
				t.Errorf("thread %d: %v", i, err)
			}
		})
	}
	running.Wait()
}

// testManySpaces makes and releases spaces in turn; each must be empty when
// it is new.
func testManySpaces(t *testing.T, f *fixture) {
	for i := range uint64(20) {
		t.Run("", func(t *testing.T) {
			mm := f.newSpace(t, reader())
			th := f.newThread(t, mm)
			must(t, th.runToFault(dataAddr, hostarch.Read))
			mm.mapNew(t, dataAddr, 1+i, hostarch.Read)
			must(t, th.runToSyscall(1+i))
		})
	}
}

// testRelease releases contexts that never ran, contexts that ran, and twice.
func testRelease(t *testing.T, f *fixture) {
	mm := f.newSpace(t, reader())
	mm.mapNew(t, dataAddr, 1, hostarch.Read)
	f.NewContext(&task{context.Background()}).Release()
	for range 50 {
		th := f.newThread(t, mm)
		must(t, th.runToSyscall(1))
		th.c.PrepareExit()
		th.c.Release()
		th.c.Release()
		th.c.Interrupt() // Late, from one who does not know yet.
	}
	must(t, f.newThread(t, mm).runToSyscall(1))
}
