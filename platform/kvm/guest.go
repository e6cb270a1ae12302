package kvm

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"aios.dev/aios/errdefs"
)

// guestLimit is how long the test guest may take; a real one needs less than
// a millisecond, an emulated one a few.
const guestLimit = 1500 * time.Millisecond

// The guest's memory, mapped one to one. Only pageUser belongs to ring 3.
const (
	guestSize = 16 << 12

	pageLevel5 = 0x1000
	pageLevel4 = 0x2000
	pageLevel3 = 0x3000
	pageLevel2 = 0x4000
	pageLevel1 = 0x5000
	pageCode   = 0x6000
	pageResult = 0x7000
	pageUser   = 0x8000

	resultStage = pageResult      // how far the guest got
	resultSSE   = pageResult + 16 // what ring 0 computed
	resultUser  = pageResult + 32 // what ring 3 computed
)

// inputRing0 and inputRing3 are what the guest computes with.
const (
	inputRing0 = 0x0123456789abcdef
	inputRing3 = 0x1111222233334444
)

// stages says what the guest was doing when it had stored that number; the
// last one means it was done.
var stages = [...]string{
	"before its first instruction",
	"at an SSE instruction",
	"at WRMSR of the system-call registers",
	"between SYSRET to ring 3 and SYSCALL back",
	"at HLT",
}

// codeRing0 starts with RBX = pageResult, RDX = inputRing0, RBP = pageUser.
var codeRing0 = []byte{
	0x48, 0xc7, 0x03, 0x01, 0x00, 0x00, 0x00, //       movq   $1, (%rbx)
	0x66, 0x48, 0x0f, 0x6e, 0xc2, //                   movq   %rdx, %xmm0
	0x66, 0x0f, 0xd4, 0xc0, //                         paddq  %xmm0, %xmm0
	0x66, 0x0f, 0x7f, 0x43, 0x10, //                   movdqa %xmm0, 16(%rbx)
	0x48, 0xc7, 0x03, 0x02, 0x00, 0x00, 0x00, //       movq   $2, (%rbx)
	0xb9, 0x81, 0x00, 0x00, 0xc0, //                   movl   $MSR_STAR, %ecx
	0x31, 0xc0, //                                     xorl   %eax, %eax
	0xba, 0x08, 0x00, 0x18, 0x00, //                   movl   $0x00180008, %edx
	0x0f, 0x30, //                                     wrmsr
	0xb9, 0x82, 0x00, 0x00, 0xc0, //                   movl   $MSR_LSTAR, %ecx
	0x48, 0x8d, 0x05, 0x20, 0x00, 0x00, 0x00, //       leaq   back(%rip), %rax
	0x31, 0xd2, //                                     xorl   %edx, %edx
	0x0f, 0x30, //                                     wrmsr
	0xb9, 0x84, 0x00, 0x00, 0xc0, //                   movl   $MSR_SYSCALL_MASK, %ecx
	0x31, 0xc0, //                                     xorl   %eax, %eax
	0x0f, 0x30, //                                     wrmsr
	0x48, 0xc7, 0x03, 0x03, 0x00, 0x00, 0x00, //       movq   $3, (%rbx)
	0x48, 0x89, 0xe9, //                               movq   %rbp, %rcx
	0x41, 0xbb, 0x02, 0x00, 0x00, 0x00, //             movl   $2, %r11d
	0x48, 0x0f, 0x07, //                               sysretq
	0x48, 0x89, 0x7b, 0x20, //                   back: movq   %rdi, 32(%rbx)
	0x48, 0xc7, 0x03, 0x04, 0x00, 0x00, 0x00, //       movq   $4, (%rbx)
	0xf4, //                                           hlt
}

// codeRing3 starts with RSI = inputRing3 and ring 0's sum in XMM0.
var codeRing3 = []byte{
	0x66, 0x48, 0x0f, 0x6e, 0xce, // movq  %rsi, %xmm1
	0x66, 0x0f, 0xd4, 0xc8, //       paddq %xmm0, %xmm1
	0x66, 0x48, 0x0f, 0x7e, 0xcf, // movq  %xmm1, %rdi
	0x0f, 0x05, //                   syscall
}

// runGuest makes a virtual machine, runs the test guest in it and checks what
// it computed.
func runGuest(dev int, limit time.Duration) error {
	m, err := newMachine(dev)
	defer m.close()
	if err != nil {
		return err
	}
	m.load()
	if err := m.setSystemRegisters(); err != nil {
		return err
	}
	if err := m.setRegisters(); err != nil {
		return err
	}
	if err := m.run(limit); err != nil {
		return m.explain(err)
	}
	return m.check()
}

// load writes page tables and programs into the guest's memory.
func (m *machine) load() {
	const present, write, user = 1, 2, 4
	entry := func(addr, value uint64) { binary.LittleEndian.PutUint64(m.memory[addr:], value) }
	entry(pageLevel5, pageLevel4|present|write|user)
	entry(pageLevel4, pageLevel3|present|write|user)
	entry(pageLevel3, pageLevel2|present|write|user)
	entry(pageLevel2, pageLevel1|present|write|user)
	for page := uint64(0); page < guestSize; page += 0x1000 {
		flags := uint64(present | write)
		if page == pageUser {
			flags = present | user
		}
		entry(pageLevel1+page>>12*8, page|flags)
	}
	copy(m.memory[pageCode:], codeRing0)
	copy(m.memory[pageUser:], codeRing3)
}

// Control-register bits.
const (
	cr0     = 1<<0 | 1<<4 | 1<<5 | 1<<18 | 1<<31 // PE ET NE AM PG
	cr4     = 1<<4 | 1<<5 | 1<<7 | 1<<9 | 1<<10  // PSE PAE PGE OSFXSR OSXMMEXCPT
	efer    = 1<<0 | 1<<8 | 1<<10 | 1<<11        // SCE LME LMA NXE
	cr4LA57 = 1 << 12
)

// optionalCR4 lists the bits that gVisor's kernel sets when the guest's CPU
// is offered the feature.
func (m *machine) optionalCR4() (bits []uint64, names []string) {
	leaf1, leaf7 := m.offered.find(1), m.offered.find(7)
	for _, f := range []struct {
		offered uint32
		bit     uint64
		name    string
	}{
		{leaf7.ecx & (1 << 2), 1 << 11, "UMIP"},
		{leaf7.ecx & (1 << 16), cr4LA57, "LA57"},
		{leaf7.ebx & (1 << 0), 1 << 16, "FSGSBASE"},
		{leaf1.ecx & (1 << 17), 1 << 17, "PCID"},
		{leaf1.ecx & (1 << 26), 1 << 18, "XSAVE"},
		{leaf7.ebx & (1 << 7), 1 << 20, "SMEP"},
		{leaf7.ebx & (1 << 20), 1 << 21, "SMAP"},
	} {
		if f.offered != 0 {
			bits, names = append(bits, f.bit), append(names, f.name)
		}
	}
	return bits, names
}

// setSystemRegisters puts the CPU into 64-bit mode as gVisor would. When KVM
// refuses, it finds the feature that KVM offered but did not mean.
func (m *machine) setSystemRegisters() error {
	code := segment{limit: 0xffffffff, selector: 8, typ: 11, present: 1, s: 1, l: 1, g: 1}
	data := segment{limit: 0xffffffff, selector: 16, typ: 3, present: 1, s: 1, db: 1, g: 1}
	task := segment{limit: 0x67, selector: 24, typ: 11, present: 1}
	set := func(cr4 uint64) error {
		s := systemRegisters{
			cs: code, ds: data, es: data, fs: data, gs: data, ss: data, tr: task, ldt: segment{unusable: 1},
			cr0: cr0, cr3: pageLevel4, cr4: cr4, efer: efer,
		}
		if cr4&cr4LA57 != 0 {
			s.cr3 = pageLevel5
		}
		return ioctlPtr(m.cpu, kvmSetSRegs, unsafe.Pointer(&s))
	}
	all := uint64(cr4)
	bits, names := m.optionalCR4()
	for _, b := range bits {
		all |= b
	}
	err := set(all)
	if err == nil {
		return nil
	}
	for i, b := range bits {
		if set(all&^b) == nil {
			return errdefs.Wrap(err, errdefs.PlatformUnusable, fmt.Sprintf("KVM_SET_SREGS refused %s, which KVM offers to guests", names[i]))
		}
	}
	return refused("KVM_SET_SREGS for 64-bit mode", err)
}

// setRegisters puts the CPU at the start of codeRing0.
func (m *machine) setRegisters() error {
	start := registers{
		rip: pageCode, rflags: 2, rbx: pageResult,
		rdx: inputRing0, rsi: inputRing3, rbp: pageUser,
	}
	if err := ioctlPtr(m.cpu, kvmSetRegs, unsafe.Pointer(&start)); err != nil {
		return refused("KVM_SET_REGS", err)
	}
	return nil
}

// explain adds to err how far the guest got.
func (m *machine) explain(err error) error {
	stage := binary.LittleEndian.Uint64(m.memory[resultStage:])
	where := stages[min(stage, uint64(len(stages)-1))]
	var regs registers
	if ioctlPtr(m.cpu, kvmGetRegs, unsafe.Pointer(&regs)) == nil {
		where += fmt.Sprintf(" (RIP %#x)", regs.rip)
	}
	return errdefs.Wrap(err, errdefs.PlatformUnusable, fmt.Sprintf("the guest stopped %s", where))
}

// check verifies that the guest halted having computed the right values.
func (m *machine) check() error {
	state := m.state()
	switch state.exitReason {
	case exitHLT:
	case exitInternalError:
		return m.explain(errdefs.Newf(errdefs.PlatformUnusable, "KVM_INTERNAL_ERROR %d", uint32(state.data[0])))
	case exitShutdown:
		return m.explain(errdefs.New(errdefs.PlatformUnusable, "KVM_EXIT_SHUTDOWN (triple fault)"))
	case exitFailEntry:
		return m.explain(errdefs.Newf(errdefs.PlatformUnusable, "KVM_EXIT_FAIL_ENTRY %#x", state.data[0]))
	case exitMMIO:
		return m.explain(errdefs.Newf(errdefs.PlatformUnusable, "KVM_EXIT_MMIO at %#x", state.data[0]))
	default:
		return m.explain(errdefs.Newf(errdefs.PlatformUnusable, "KVM exit reason %d", state.exitReason))
	}
	const ring0, ring3 = 2 * inputRing0, 2*inputRing0 + inputRing3
	read := func(addr int) uint64 { return binary.LittleEndian.Uint64(m.memory[addr:]) }
	if read(resultStage) != uint64(len(stages)-1) || read(resultSSE) != ring0 || read(resultUser) != ring3 {
		return m.explain(errdefs.Newf(errdefs.PlatformUnusable, "it computed %#x and %#x instead of %#x and %#x",
			read(resultSSE), read(resultUser), uint64(ring0), uint64(ring3)))
	}
	return nil
}
