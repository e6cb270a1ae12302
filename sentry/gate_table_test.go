package sentry

import (
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"

	"aios.dev/aios/abi"
)

// TestEverySyscallIsClassified compares the table of package abi with
// gVisor's: by number and by name, both ways. When it fails, put the call into
// a group, or take it out, in abi/syscalls_table.go.
func TestEverySyscallIsClassified(t *testing.T) {
	table := linux.AMD64.Table
	for nr, entry := range table {
		switch call, ok := abi.SyscallByNumber(nr); {
		case !ok:
			t.Errorf("gVisor knows %d %s, and nobody has classified it: it is refused with ENOSYS", nr, entry.Name)
		case call.Name != entry.Name:
			t.Errorf("%d is %s to gVisor, and %s in the table", nr, entry.Name, call.Name)
		case call.Group == abi.GroupAbsent && entry.SupportLevel != kernel.SupportUnimplemented:
			t.Errorf("%d %s is there now: it needs a group that fits", nr, entry.Name)
		}
	}
	for _, call := range abi.Syscalls() {
		if _, ok := table[uintptr(call.Nr)]; !ok {
			t.Errorf("%d %s is in the table, and gVisor does not know it", call.Nr, call.Name)
		}
	}
	for addr, nr := range linux.AMD64.Emulate {
		if call, ok := abi.SyscallByNumber(nr); !ok || call.May()&^abi.MaskNone() != 0 {
			t.Errorf("the call behind the vsyscall page at %#x needs a right", addr)
		}
	}
}

// TestMetersAndGuardsNameCalls catches a name that no call has.
func TestMetersAndGuardsNameCalls(t *testing.T) {
	for name := range ioCalls {
		if _, ok := abi.SyscallNamed(name); !ok {
			t.Errorf("there is no call %s", name)
		}
	}
}
