package sentry

import (
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// BenchmarkGate measures what the gate adds to a system call: at most 20 ns
// and no allocation. "bare" is the call of an empty function as gVisor makes
// it; the rest is to be compared with it.
func BenchmarkGate(b *testing.B) {
	p := newProbe(b)
	task := p.agent.ns.pid().Tasks()[0]
	bare := kernel.SyscallFn(func(*kernel.Task, uintptr, arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		return 0, nil, nil
	})
	call := func(name string) uintptr {
		c, ok := abi.SyscallNamed(name)
		if !ok {
			b.Fatal(name)
		}
		return uintptr(c.Nr)
	}
	gated := func(name string) kernel.SyscallFn { return theKernel.gateCall(call(name), bare) }
	mprotect := arch.SyscallArguments{{Value: 4096}, {Value: 4096}, {Value: 1}}
	for _, c := range []struct {
		name string
		fn   kernel.SyscallFn
		mask uint64
		args arch.SyscallArguments
	}{
		{"bare", bare, abi.MaskAll(), arch.SyscallArguments{}},
		{"free getpid", gated("getpid"), abi.MaskAll(), arch.SyscallArguments{}},
		{"plain", gated("keyctl"), abi.MaskAll(), arch.SyscallArguments{}},
		{"with a rule", gated("mprotect"), abi.MaskAll(), mprotect},
		{"with a rule that is needed", gated("mprotect"), abi.MaskNone(), mprotect},
		{"metered, without a meter", gated("read"), abi.MaskAll(), arch.SyscallArguments{}},
		{"guarded, without a guard", gated("mmap"), abi.MaskAll(), arch.SyscallArguments{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			p.agent.setMask(c.mask)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.fn(task, 0, c.args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("crowded index", func(b *testing.B) {
		// Another agent has taken the place: the way is by the map.
		p.agent.setMask(abi.MaskAll())
		slot := theKernel.gate.index.slot(p.agent.id)
		fn := gated("keyctl")
		other := &Agent{id: "another"}
		b.ReportAllocs()
		for b.Loop() {
			slot.Store(other)
			if _, _, err := fn(task, 0, arch.SyscallArguments{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestGateAllocatesNothing holds the part of the figures that does not hang on
// the machine.
func TestGateAllocatesNothing(t *testing.T) {
	p := newProbe(t)
	task := p.agent.ns.pid().Tasks()[0]
	bare := kernel.SyscallFn(func(*kernel.Task, uintptr, arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		return 0, nil, nil
	})
	for _, name := range []string{"keyctl", "mprotect", "mmap", "read", "socket"} {
		c, _ := abi.SyscallNamed(name)
		fn := theKernel.gateCall(uintptr(c.Nr), bare)
		args := arch.SyscallArguments{{Value: 2}, {Value: 1}}
		if n := testing.AllocsPerRun(100, func() { fn(task, uintptr(c.Nr), args) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
