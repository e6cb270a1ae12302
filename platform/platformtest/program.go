package platformtest

import (
	"encoding/binary"
	"slices"
)

// register is a general-purpose register by its number in an instruction.
type register byte

const (
	rax register = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
	r8
	r9
	r10
	r11
	r12
	r13
	r14
	r15
)

// program joins instructions.
func program(instructions ...[]byte) []byte { return slices.Concat(instructions...) }

// Instructions without operands.
var (
	syscall = []byte{0x0f, 0x05}
	ud2     = []byte{0x0f, 0x0b}
	int3    = []byte{0xcc}
	cpuID   = []byte{0x0f, 0xa2}
	// forever jumps to itself.
	forever = []byte{0xeb, 0xfe}
)

// rexW returns the prefix of a 64-bit instruction with the operands reg and
// rm of its ModRM byte.
func rexW(reg, rm register) byte { return 0x48 | byte(reg>>3)<<2 | byte(rm>>3) }

func modRM(mod byte, reg, rm register) byte { return mod<<6 | byte(reg&7)<<3 | byte(rm&7) }

// set loads a constant.
func set(r register, value uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{rexW(0, r), 0xb8 | byte(r&7)}, value)
}

// move copies a register.
func move(to, from register) []byte {
	return []byte{rexW(from, to), 0x89, modRM(3, from, to)}
}

// load reads the memory at base, which must not be rsp, rbp, r12 or r13:
// those have other encodings.
func load(to, base register) []byte {
	return []byte{rexW(to, base), 0x8b, modRM(0, to, base)}
}

// store writes the memory at base; the same restriction holds.
func store(base, from register) []byte {
	return []byte{rexW(from, base), 0x89, modRM(0, from, base)}
}

// loadThread reads the memory that FS points at into rax.
func loadThread() []byte {
	return []byte{0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}
}

// increment adds one.
func increment(r register) []byte { return []byte{rexW(0, r), 0xff, modRM(3, 0, r)} }

// divide divides rdx:rax.
func divide(by register) []byte { return []byte{rexW(0, by), 0xf7, modRM(3, 6, by)} }

// toXMM and fromXMM copy between a vector register (0 to 7) and another.
func toXMM(x byte, from register) []byte {
	return []byte{0x66, rexW(0, from), 0x0f, 0x6e, modRM(3, register(x), from)}
}

func fromXMM(to register, x byte) []byte {
	return []byte{0x66, rexW(0, to), 0x0f, 0x7e, modRM(3, register(x), to)}
}

// loop repeats the body for ever.
func loop(body ...[]byte) []byte {
	p := program(body...)
	return append(p, 0xeb, byte(-len(p)-2))
}

// whileZero repeats the body, at most 120 bytes, until r is not zero.
func whileZero(r register, body ...[]byte) []byte {
	p := append(program(body...), rexW(r, r), 0x85, modRM(3, r, r))
	return append(p, 0x74, byte(-len(p)-2))
}
