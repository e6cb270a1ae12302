package fake

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
)

// The instructions, in the encodings that platformtest's assembler emits:
//
//	mov  $imm64, r64        REX.W b8+r
//	mov  r64, r64           REX.W 89 /r
//	mov  (base), r64        REX.W 8b /r      base not rsp, rbp, r12, r13
//	mov  r64, (base)        REX.W 89 /r      likewise
//	mov  %fs:disp32, r64    64 REX.W 8b /r
//	inc  r64                REX.W ff /0
//	test r64, r64           REX.W 85 /r
//	div  r64                REX.W f7 /6      by zero only
//	movq r64, xmm           66 REX.W 0f 6e /r
//	movq xmm, r64           66 REX.W 0f 7e /r
//	jmp, jz rel8            eb, 74
//	syscall, cpuid          0f 05, 0f a2
//	ud2, int3               0f 0b, cc
//
// Anything else is an undefined instruction.

// xmmOffset is where vector registers begin in the saved state.
const xmmOffset = 160

const zeroFlag = 1 << 6

// trap is why the program stopped.
type trap struct {
	syscall bool
	signal  linux.Signal
	addr    hostarch.Addr
	at      hostarch.AccessType
}

// interpreter is the CPU of one thread during one Switch.
type interpreter struct {
	as     *addressSpace
	regs   *arch.Registers
	vector []byte
}

// instruction is a decoded instruction before its operands.
type instruction struct {
	fs, vector      bool // prefixes 64 and 66
	wide, regX, rmX bool // REX.W, REX.R, REX.B
	code            []byte
	position        int // in code
}

func (i *instruction) next() byte {
	if i.position >= len(i.code) {
		return 0
	}
	i.position++
	return i.code[i.position-1]
}

// register returns the general register with that number.
func (m *interpreter) register(n byte) *uint64 {
	r := m.regs
	return [...]*uint64{
		&r.Rax, &r.Rcx, &r.Rdx, &r.Rbx, &r.Rsp, &r.Rbp, &r.Rsi, &r.Rdi,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
	}[n]
}

// step executes one instruction. After a fault RIP is still at it.
func (m *interpreter) step() *trap {
	ip := hostarch.Addr(m.regs.Rip)
	var buf [16]byte
	code, fault := m.fetch(ip, buf[:])
	if fault != nil {
		return fault
	}
	in := &instruction{code: code}
	op := in.prefixes()
	t := m.execute(in, op)
	if t == nil || t.syscall || t.signal == linux.SIGTRAP {
		m.regs.Rip += uint64(in.position)
	}
	if t != nil && t.syscall {
		// What the instruction leaves in the registers on every CPU.
		m.regs.Rcx, m.regs.R11, m.regs.Orig_rax = m.regs.Rip, m.regs.Eflags, m.regs.Rax
	}
	return t
}

// fetch reads an instruction, which may reach into the next page.
func (m *interpreter) fetch(ip hostarch.Addr, buf []byte) ([]byte, *trap) {
	n := 0
	take := func(b []byte) { n += copy(buf[n:], b) }
	if !m.as.access(ip, hostarch.Execute, take) {
		return nil, segv(ip, hostarch.Execute)
	}
	if n < len(buf) {
		m.as.access(ip+hostarch.Addr(n), hostarch.Execute, take)
	}
	return buf[:n], nil
}

// prefixes reads up to and including the first byte of the opcode.
func (i *instruction) prefixes() byte {
	op := i.next()
	for ; op == 0x64 || op == 0x66; op = i.next() {
		i.fs, i.vector = i.fs || op == 0x64, i.vector || op == 0x66
	}
	if op&0xf0 == 0x40 {
		i.wide, i.regX, i.rmX = op&8 != 0, op&4 != 0, op&1 != 0
		op = i.next()
	}
	return op
}

// operands reads the ModRM byte.
func (i *instruction) operands() (mod, reg, rm byte) {
	b := i.next()
	mod, reg, rm = b>>6, b>>3&7, b&7
	if i.regX {
		reg += 8
	}
	if i.rmX {
		rm += 8
	}
	return mod, reg, rm
}

func undefined() *trap { return &trap{signal: linux.SIGILL} }

func segv(addr hostarch.Addr, at hostarch.AccessType) *trap {
	return &trap{signal: linux.SIGSEGV, addr: addr, at: at}
}

func (m *interpreter) execute(in *instruction, op byte) *trap {
	switch {
	case op == 0x0f:
		return m.executeTwoByte(in, in.next())
	case op == 0xcc:
		return &trap{signal: linux.SIGTRAP}
	case op == 0xeb, op == 0x74:
		offset := uint64(int8(in.next()))
		if op == 0xeb || m.regs.Eflags&zeroFlag != 0 {
			m.regs.Rip += offset
		}
		return nil
	case !in.wide:
		return undefined()
	case op&0xf8 == 0xb8:
		n := op & 7
		if in.rmX {
			n += 8
		}
		var imm [8]byte
		for i := range imm {
			imm[i] = in.next()
		}
		*m.register(n) = binary.LittleEndian.Uint64(imm[:])
		return nil
	}
	mod, reg, rm := in.operands()
	switch {
	case op == 0x89 && mod == 3:
		*m.register(rm) = *m.register(reg)
	case op == 0x89 && mod == 0 && plainBase(rm):
		return m.store(hostarch.Addr(*m.register(rm)), *m.register(reg))
	case op == 0x8b && mod == 0 && plainBase(rm):
		return m.load(m.register(reg), hostarch.Addr(*m.register(rm)))
	case op == 0x8b && mod == 0 && rm == 4 && in.fs && in.next() == 0x25:
		var disp [4]byte
		for i := range disp {
			disp[i] = in.next()
		}
		offset := uint64(int32(binary.LittleEndian.Uint32(disp[:])))
		return m.load(m.register(reg), hostarch.Addr(m.regs.Fs_base+offset))
	case op == 0x85 && mod == 3:
		m.setZero(*m.register(reg)&*m.register(rm) == 0)
	case op == 0xff && mod == 3 && reg&7 == 0:
		*m.register(rm)++
		m.setZero(*m.register(rm) == 0)
	case op == 0xf7 && mod == 3 && reg&7 == 6 && *m.register(rm) == 0:
		return &trap{signal: linux.SIGFPE, addr: hostarch.Addr(m.regs.Rip)}
	default:
		return undefined()
	}
	return nil
}

// plainBase reports whether a ModRM operand without displacement means just
// the register.
func plainBase(rm byte) bool { return rm&7 != 4 && rm&7 != 5 }

func (m *interpreter) executeTwoByte(in *instruction, op byte) *trap {
	switch op {
	case 0x05:
		return &trap{syscall: true}
	case 0xa2:
		return segv(0, hostarch.NoAccess) // The platform emulates it.
	case 0x6e, 0x7e:
		mod, reg, rm := in.operands()
		if mod != 3 || !in.vector || !in.wide {
			return undefined()
		}
		xmm := m.vector[xmmOffset+16*int(reg):][:16]
		if op == 0x6e {
			binary.LittleEndian.PutUint64(xmm, *m.register(rm))
			clear(xmm[8:])
		} else {
			*m.register(rm) = binary.LittleEndian.Uint64(xmm)
		}
		return nil
	default:
		return undefined()
	}
}

func (m *interpreter) setZero(zero bool) {
	m.regs.Eflags &^= zeroFlag
	if zero {
		m.regs.Eflags |= zeroFlag
	}
}

// load and store access a word within one page; across two pages they fault.
func (m *interpreter) load(to *uint64, addr hostarch.Addr) *trap {
	ok := false
	m.as.access(addr, hostarch.Read, func(b []byte) {
		if ok = len(b) >= 8; ok {
			*to = binary.LittleEndian.Uint64(b)
		}
	})
	if !ok {
		return segv(addr, hostarch.Read)
	}
	return nil
}

func (m *interpreter) store(addr hostarch.Addr, value uint64) *trap {
	ok := false
	m.as.access(addr, hostarch.Write, func(b []byte) {
		if ok = len(b) >= 8; ok {
			binary.LittleEndian.PutUint64(b, value)
		}
	})
	if !ok {
		return segv(addr, hostarch.Write)
	}
	return nil
}
