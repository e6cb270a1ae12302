package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// The part of the KVM interface that the probe uses, as in the kernel's
// include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmCheckExtension      = 0xae03
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmRun                 = 0xae80
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmSetTSSAddr          = 0xae47
	kvmGetSupportedCPUID   = 0xc008ae05
	kvmSetCPUID2           = 0x4008ae90
	kvmSetMSRs             = 0x4008ae89
	kvmGetRegs             = 0x8090ae81
	kvmSetRegs             = 0x4090ae82
	kvmSetSRegs            = 0x4138ae84

	apiVersion = 12

	capUserNMI     = 22
	capVCPUEvents  = 41
	capReadonlyMem = 81

	exitHLT           = 5
	exitMMIO          = 6
	exitShutdown      = 8
	exitFailEntry     = 9
	exitInternalError = 17
)

type userMemoryRegion struct {
	slot, flags                  uint32
	guestAddr, length, userspace uint64
}

type registers struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

type segment struct {
	base                           uint64
	limit                          uint32
	selector                       uint16
	typ, present, dpl, db, s, l, g uint8
	avl, unusable, _               uint8
}

type descriptorTable struct {
	base  uint64
	limit uint16
	_     [3]uint16
}

type systemRegisters struct {
	cs, ds, es, fs, gs, ss, tr, ldt segment
	gdt, idt                        descriptorTable
	cr0, cr2, cr3, cr4, cr8, efer   uint64
	apicBase                        uint64
	interrupts                      [4]uint64
}

type modelRegisters struct {
	n, _  uint32
	index uint32
	_     uint32
	data  uint64
}

type cpuidEntry struct {
	function, index, flags uint32
	eax, ebx, ecx, edx     uint32
	_                      [3]uint32
}

// cpuidTable is what KVM offers to guests.
type cpuidTable struct {
	n, _    uint32
	entries [256]cpuidEntry
}

// find returns the entry for a leaf and its subleaf 0, or a zero one.
func (c *cpuidTable) find(leaf uint32) cpuidEntry {
	for _, e := range c.entries[:min(int(c.n), len(c.entries))] {
		if e.function == leaf && e.index == 0 {
			return e
		}
	}
	return cpuidEntry{}
}

// la57 reports whether guests are offered five levels of page tables.
func (c *cpuidTable) la57() bool { return c.find(7).ecx&(1<<16) != 0 }

// runState is the memory that a vCPU shares with its process (struct kvm_run).
type runState struct {
	requestInterruptWindow uint8
	immediateExit          uint8
	_                      [6]uint8
	exitReason             uint32
	_                      [4]uint8
	cr8, apicBase          uint64
	data                   [32]uint64
}

// supportedCPUID asks the device what it offers to guests.
func supportedCPUID(dev int) (*cpuidTable, error) {
	t := &cpuidTable{}
	t.n = uint32(len(t.entries))
	if err := ioctlPtr(dev, kvmGetSupportedCPUID, unsafe.Pointer(t)); err != nil {
		return nil, refused("KVM_GET_SUPPORTED_CPUID", err)
	}
	return t, nil
}

// refused says that the device did not grant a request.
func refused(request string, err error) error {
	return errdefs.Wrap(err, errdefs.PlatformUnusable, request+" failed")
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
