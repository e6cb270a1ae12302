package box

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// A program is a seccomp filter as bytes, made when AIOS is built and installed
// where it is needed:
//
//	8 bytes   magic
//	32 bytes  key: the digest of the rules it was made from
//	32 bytes  SHA-256 of the rest
//	64 bytes  what made it, padded with zeros
//	8 bytes   per instruction, as the kernel reads them
const (
	programMagic   = "AIOSBPF2"
	programMaker   = 64
	programHeader  = len(programMagic) + 2*sha256.Size + programMaker
	instructionLen = 8
	// maxInstructions is how many the kernel takes.
	maxInstructions = 4096
)

// Values that rules compare with to mean what only the process that installs
// the program knows. No PID, descriptor, flag or command of the kernel is equal
// to one, nor are two halves of them.
const (
	// PIDPlaceholder is the process's own PID.
	PIDPlaceholder = 0x7e41494f
	// ListenPlaceholder is the descriptor to accept connections from.
	ListenPlaceholder = 0x7e414950
	// NicePlaceholder is one more than the process's nice value, in 64 bits.
	NicePlaceholder = nicePlaceholderHigh<<32 | nicePlaceholderLow

	nicePlaceholderLow  = 0x7e414951
	nicePlaceholderHigh = 0x7e414952
)

// opJumpEqual is BPF_JMP | BPF_JEQ | BPF_K.
const opJumpEqual = 0x15

// Program is what is in the bytes of a program.
type Program struct {
	// Key is the digest of the rules.
	Key [sha256.Size]byte
	// Maker names the program that made it, with its version.
	Maker string
	// Instructions are 8 bytes each.
	Instructions []byte
}

// Pack returns the program as bytes.
func (p Program) Pack() ([]byte, error) {
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("pack seccomp program"), errdefs.Fix("%s", fix))
	}
	if n := len(p.Instructions); n == 0 || n%instructionLen != 0 || n > maxInstructions*instructionLen {
		return nil, bad(fmt.Sprintf("a filter of %d bytes cannot be", n), "give 1 to 4096 instructions of 8 bytes")
	}
	if len(p.Maker) > programMaker || strings.Contains(p.Maker, "\x00") {
		return nil, bad(fmt.Sprintf("%q does not fit into the header", p.Maker), "give at most 64 bytes without zeros")
	}
	rest := append(make([]byte, 0, programMaker+len(p.Instructions)), p.Maker...)
	rest = append(rest[:programMaker], p.Instructions...)
	sum := sha256.Sum256(rest)
	return slices.Concat([]byte(programMagic), p.Key[:], sum[:], rest), nil
}

// ReadProgram returns what is in a program if it is whole.
func ReadProgram(program []byte) (Program, error) {
	bad := func(detail string) (Program, error) {
		return Program{}, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("read seccomp program"), errdefs.Fix("build it again with `make generate`"))
	}
	n := len(program) - programHeader
	if n <= 0 || n > maxInstructions*instructionLen || n%instructionLen != 0 {
		return bad(fmt.Sprintf("%d bytes are no program", len(program)))
	}
	rest, ok := bytes.CutPrefix(program, []byte(programMagic))
	if !ok {
		return bad("the magic is wrong")
	}
	p := Program{Key: [sha256.Size]byte(rest)}
	want, rest := rest[sha256.Size:2*sha256.Size], rest[2*sha256.Size:]
	if sum := sha256.Sum256(rest); !bytes.Equal(sum[:], want) {
		return bad("the checksum is wrong")
	}
	p.Maker = string(bytes.TrimRight(rest[:programMaker], "\x00"))
	p.Instructions = rest[programMaker:]
	return p, nil
}

// Values take the place of the placeholders.
type Values struct {
	PID    int
	Listen int // -1: none
	Nice   int
}

// Fill returns a copy of instructions that holds the values.
func (v Values) Fill(instructions []byte) []byte {
	nice := uint64(int64(v.Nice) + 1)
	out := slices.Clone(instructions)
	for i := 0; i+instructionLen <= len(out); i += instructionLen {
		if binary.NativeEndian.Uint16(out[i:]) != opJumpEqual {
			continue
		}
		k := out[i+4 : i+8]
		switch binary.NativeEndian.Uint32(k) {
		case PIDPlaceholder:
			binary.NativeEndian.PutUint32(k, uint32(v.PID))
		case ListenPlaceholder:
			binary.NativeEndian.PutUint32(k, uint32(v.Listen))
		case nicePlaceholderLow:
			binary.NativeEndian.PutUint32(k, uint32(nice))
		case nicePlaceholderHigh:
			binary.NativeEndian.PutUint32(k, uint32(nice>>32))
		}
	}
	return out
}

// InstallProgram closes the last box: from its return on, every thread of the
// process, present and future, may make the calls of the program and no
// others. A call outside of it kills the process. There is no way back. Listen
// is the descriptor that the process accepts connections from, or -1.
//
// The error is not nil when the program itself is damaged. A host without
// seccomp filters is a report.
func InstallProgram(program []byte, listen int) (Report, error) {
	p, err := ReadProgram(program)
	if err != nil {
		return Missing(Seccomp, err.Error()), err
	}
	prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return Missing(Seccomp, err.Error()), errdefs.Wrap(err, errdefs.HostIO, "read the nice value")
	}
	// The system call returns 20 less the nice value.
	instructions := Values{PID: unix.Getpid(), Listen: listen, Nice: 20 - prio}.Fill(p.Instructions)
	filter := make([]unix.SockFilter, len(instructions)/instructionLen)
	for i := range filter {
		b := instructions[i*instructionLen:]
		filter[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(b),
			Jt:   b[2],
			Jf:   b[3],
			K:    binary.NativeEndian.Uint32(b[4:]),
		}
	}
	if err := install(filter); err != nil {
		return Missing(Seccomp, err.Error()), nil
	}
	return Stands(Seccomp), nil
}

func install(filter []unix.SockFilter) error {
	// The two calls have to come from one thread; the second brings all
	// others along.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return errdefs.Wrap(err, errdefs.HostFeature, "prctl(PR_SET_NO_NEW_PRIVS)")
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	tid, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno == unix.ENOSYS, errno == unix.EINVAL:
		return errdefs.New(errdefs.HostFeature, "the host's kernel has no seccomp filters", errdefs.Op("seccomp(2)"), errdefs.Cause(errno))
	case errno != 0:
		return errdefs.Wrap(errno, errdefs.HostFeature, "seccomp(2)")
	case tid != 0:
		return errdefs.New(errdefs.WrongState, "a thread has a filter of its own", errdefs.Op("seccomp(2)"))
	}
	return nil
}
