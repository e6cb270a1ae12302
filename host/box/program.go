package box

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// A program is a seccomp filter as bytes, made where it is cheap and installed
// where it is needed:
//
//	8 bytes   magic
//	32 bytes  key: the digest of the rules it was made from
//	32 bytes  SHA-256 of the rest
//	8 bytes   per instruction, as the kernel reads them
//
// The process's own PID stands in it as PIDPlaceholder.
const (
	programMagic   = "AIOSBPF1"
	programHeader  = len(programMagic) + 2*sha256.Size
	instructionLen = 8
	// MaxProgram bounds a program in bytes: the kernel takes 4096
	// instructions.
	MaxProgram = programHeader + 4096*instructionLen
)

// PIDPlaceholder is what rules compare with to mean the process's own PID. No
// PID, descriptor, flag or command of the kernel has this value.
const PIDPlaceholder = 0x7e41494f

// opJumpEqual is BPF_JMP | BPF_JEQ | BPF_K.
const opJumpEqual = 0x15

// PackProgram makes a program of the kernel's instructions.
func PackProgram(key [sha256.Size]byte, instructions []byte) ([]byte, error) {
	if n := len(instructions); n == 0 || n%instructionLen != 0 || programHeader+n > MaxProgram {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "a filter of %d bytes cannot be", n).
			With(errdefs.Op("pack seccomp program"), errdefs.Fix("give 1 to 4096 instructions of 8 bytes"))
	}
	sum := sha256.Sum256(instructions)
	return slices.Concat([]byte(programMagic), key[:], sum[:], instructions), nil
}

// CheckProgram returns the instructions of a program if it is whole and was
// made from the rules with that key.
func CheckProgram(program []byte, key [sha256.Size]byte) ([]byte, error) {
	instructions, got, err := unpack(program)
	if err != nil {
		return nil, err
	}
	if got != key {
		return nil, errdefs.New(errdefs.WrongState, "the program was made from other rules", errdefs.Op("read seccomp program"),
			errdefs.Fix("build it again"))
	}
	return instructions, nil
}

func unpack(program []byte) (instructions []byte, key [sha256.Size]byte, err error) {
	bad := func(detail string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("read seccomp program"), errdefs.Fix("build it again"))
	}
	if len(program) <= programHeader || len(program) > MaxProgram || (len(program)-programHeader)%instructionLen != 0 {
		return nil, key, bad(fmt.Sprintf("%d bytes are no program", len(program)))
	}
	if !bytes.HasPrefix(program, []byte(programMagic)) {
		return nil, key, bad("the magic is wrong")
	}
	copy(key[:], program[len(programMagic):])
	instructions = program[programHeader:]
	sum := sha256.Sum256(instructions)
	if !bytes.Equal(sum[:], program[len(programMagic)+sha256.Size:programHeader]) {
		return nil, key, bad("the checksum is wrong")
	}
	return instructions, key, nil
}

// InstallProgram closes the last box: from its return on, every thread of the
// process, present and future, may make the calls of the program and no
// others. A call outside of it kills the process. There is no way back.
//
// The error is not nil when the program itself is damaged. A host without
// seccomp filters is a report.
func InstallProgram(program []byte) (Report, error) {
	instructions, _, err := unpack(program)
	if err != nil {
		return Missing(Seccomp, err.Error()), err
	}
	filter := make([]unix.SockFilter, len(instructions)/instructionLen)
	for i := range filter {
		b := instructions[i*instructionLen:]
		filter[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(b),
			Jt:   b[2],
			Jf:   b[3],
			K:    binary.NativeEndian.Uint32(b[4:]),
		}
		if filter[i].Code == opJumpEqual && filter[i].K == PIDPlaceholder {
			filter[i].K = uint32(unix.Getpid())
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
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	tid, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno == unix.ENOSYS, errno == unix.EINVAL:
		return fmt.Errorf("the host's kernel has no seccomp filters: %w", errno)
	case errno != 0:
		return fmt.Errorf("seccomp(2): %w", errno)
	case tid != 0:
		return errors.New("a thread has a filter of its own")
	}
	return nil
}
