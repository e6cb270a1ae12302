package trap

import "syscall"

// Access is what an instruction wanted of memory.
type Access uint8

// Kinds of access. A platform that cannot tell reading from writing says Read.
const (
	Read Access = 1 << iota
	Write
	Execute
)

// String names the gravest of them: "execute", "write", "read", or "".
func (a Access) String() string {
	switch {
	case a&Execute != 0:
		return "execute"
	case a&Write != 0:
		return "write"
	case a&Read != 0:
		return "read"
	}
	return ""
}

// Raw is what a platform tells of an exception: the signal that Linux makes of
// it, and what there is in memory and registers.
type Raw struct {
	Signal syscall.Signal
	Code   int32 // si_code
	Addr   uint64
	// Access is set for page faults, and by some platforms for every SIGSEGV.
	Access Access
	IP, SP uint64
	// Text is the instruction at IP, as much of it as can be read; Before is
	// what comes before it.
	Text, Before []byte
}

// Exception is what happened.
type Exception struct {
	Vector Vector
	// Addr is the address that was accessed, or that of the instruction.
	Addr   uint64
	Access Access // of a page fault
	Region Region
	IP, SP uint64
	Signal syscall.Signal
	Code   int32
}

// Codes of signals that tell exceptions apart, as in signal(7) and sigaction(2).
const (
	siKernel    = 0x80
	segvCPErr   = 10
	busAdrAln   = 1
	busAdrErr   = 2
	busMCEErrAR = 4
	busMCEErrAO = 5
	fpeIntDiv   = 1
	fpeIntOvf   = 2
)

// Classify says which exception a signal was. The CPU's number does not reach
// user space: it follows from the signal, its code and, where Linux makes the
// same of two exceptions, from the instruction.
func Classify(r Raw) Exception {
	e := Exception{Addr: r.Addr, IP: r.IP, SP: r.SP, Signal: r.Signal, Code: r.Code}
	e.Vector = vectorOf(r)
	switch e.Vector {
	case PageFault:
		e.Access = r.Access
	default:
		e.Addr = r.IP
	}
	e.Region = regionOf(&e)
	return e
}

func vectorOf(r Raw) Vector {
	switch r.Signal {
	case syscall.SIGSEGV:
		return segvVector(r)
	case syscall.SIGBUS:
		return busVector(r)
	case syscall.SIGFPE:
		return fpeVector(r)
	case syscall.SIGILL:
		return InvalidOpcode
	case syscall.SIGTRAP:
		// The instructions INT3 and INT 3; a step and the debug registers
		// have codes of their own.
		if r.Code == siKernel || endsWith(r.Before, 0xcc) && r.Code <= 1 || endsWith(r.Before, 0xcd, 3) {
			return Breakpoint
		}
		return Debug
	}
	return GeneralProtection
}

func segvVector(r Raw) Vector {
	switch {
	case r.Code == segvCPErr:
		return ControlProtection
	case r.Code == siKernel && endsWith(r.Before, 0xcd, 4):
		return Overflow
	case r.Code == siKernel:
		return GeneralProtection
	}
	return PageFault
}

func busVector(r Raw) Vector {
	switch {
	case r.Access != 0:
		return PageFault // Of a file that has become too short.
	case r.Code == busAdrAln, r.Code == busAdrErr && r.Addr == 0:
		return AlignmentCheck
	case r.Code == busMCEErrAR, r.Code == busMCEErrAO:
		return MachineCheck
	case r.Code == siKernel && loadsSegment(r.Text):
		return SegmentNotPresent
	case r.Code == siKernel:
		return StackFault
	}
	return PageFault
}

func fpeVector(r Raw) Vector {
	switch op := opcode(r.Text); {
	case r.Code == fpeIntDiv:
		return DivideError
	case r.Code == fpeIntOvf:
		// Of INT 4 elsewhere; Linux makes it of a division, too, by emulators.
		return Overflow
	case op >= 0xd8 && op <= 0xdf, op == 0x9b:
		return FloatingPoint
	}
	return SIMD
}

// endsWith reports whether the code before the instruction ends with these
// bytes: of an exception that comes after the instruction that raised it.
func endsWith(code []byte, tail ...byte) bool {
	if len(code) < len(tail) {
		return false
	}
	return string(code[len(code)-len(tail):]) == string(tail)
}

// opcode returns the first byte of an instruction that is no prefix, or 0.
func opcode(text []byte) byte {
	for _, b := range text {
		switch b {
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3:
			continue
		}
		if b >= 0x40 && b <= 0x4f { // REX
			continue
		}
		return b
	}
	return 0
}

// loadsSegment reports whether an instruction loads a segment register other
// than that of the stack, from a descriptor that may not be there.
func loadsSegment(text []byte) bool {
	switch opcode(text) {
	case 0xca, 0xcb, 0xcf, 0xea, 0xff: // far returns, jumps and calls
		return true
	case 0x8e: // mov to a segment register, which the byte after it names
		for i, b := range text {
			if b == 0x8e && i+1 < len(text) {
				return text[i+1]>>3&7 != 2
			}
		}
	}
	return false
}
