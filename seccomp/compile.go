package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// MaxInstructions is how long a program may be.
const MaxInstructions = 4096

// instruction is one of a BPF program.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Codes of instructions.
const (
	opLoad    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGreater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opJump    = unix.BPF_JMP | unix.BPF_JA
	opReturn  = unix.BPF_RET | unix.BPF_K
)

// Offsets in struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// Compile returns the profile as a BPF program, of 8 bytes an instruction in
// the byte order of this machine, as seccomp(2) takes it. A call that is logged
// is allowed by the program; KillProcess is left to who runs it. What is made
// for another architecture than x86-64 ends the thread.
func (p *Profile) Compile() ([]byte, error) {
	code := []instruction{
		{code: opLoad, k: offsetArch},
		{code: opEqual, k: unix.AUDIT_ARCH_X86_64, jt: 1},
		{code: opReturn, k: unix.SECCOMP_RET_KILL_THREAD},
		{code: opLoad, k: offsetNumber},
	}
	code = append(code, tree(p.spans())...)
	if len(code) > MaxInstructions {
		return nil, refuse("profile", fmt.Sprintf("it makes a program of %d instructions", len(code)),
			fmt.Sprintf("use fewer conditions on arguments: at most %d instructions can be", MaxInstructions))
	}
	out := make([]byte, 0, 8*len(code))
	for _, i := range code {
		out = binary.NativeEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	return out, nil
}

// span is calls that are answered alike, from first to the next span's first.
type span struct {
	first uint32
	code  []instruction
}

// spans returns what becomes of every number, in order. The number is loaded
// when its code runs.
func (p *Profile) spans() []span {
	calls := make([]uint32, 0, len(p.rules))
	for call := range p.rules {
		calls = append(calls, call)
	}
	slices.Sort(calls)
	fallback := []instruction{answer(p.fallback)}
	out := []span{{0, fallback}}
	put := func(first uint32, code []instruction) {
		last := &out[len(out)-1]
		switch {
		case last.first == first:
			last.code = code
		case slices.Equal(last.code, code):
			return
		default:
			out = append(out, span{first, code})
			return
		}
		if n := len(out); n > 1 && slices.Equal(out[n-2].code, code) {
			out = out[:n-1]
		}
	}
	for _, call := range calls {
		put(call, p.body(call))
		put(call+1, fallback)
	}
	return out
}

// body returns the code that answers one call.
func (p *Profile) body(call uint32) []instruction {
	var out []instruction
	for _, r := range p.rules[call] {
		out = append(out, r.code()...)
		if len(r.Conditions) == 0 {
			return out
		}
	}
	return append(out, answer(p.fallback))
}

// code answers if the rule matches, and else goes on behind itself.
func (r Rule) code() []instruction {
	out := []instruction{answer(r.Verdict)}
	// From the last condition to the first, since each has to know how far it
	// is to the end.
	for _, c := range slices.Backward(r.Conditions) {
		out = append(c.code(uint8(len(out))), out...)
	}
	return out
}

// code goes on behind itself if the condition holds, and else past the skip
// instructions that follow.
func (c Condition) code(skip uint8) []instruction {
	const low, high = 0, 4
	load := func(half uint32) instruction {
		return instruction{code: opLoad, k: offsetArgs + 8*uint32(c.Arg) + half}
	}
	vh, vl := uint32(c.Value>>32), uint32(c.Value)
	switch c.Op {
	case Equal:
		return []instruction{
			load(high), {opEqual, 0, skip + 2, vh},
			load(low), {opEqual, 0, skip, vl},
		}
	case NotEqual:
		return []instruction{
			load(high), {opEqual, 0, 2, vh},
			load(low), {opEqual, skip, 0, vl},
		}
	case MaskedEqual:
		return []instruction{
			load(high), {opAnd, 0, 0, uint32(c.Mask >> 32)}, {opEqual, 0, skip + 3, vh},
			load(low), {opAnd, 0, 0, uint32(c.Mask)}, {opEqual, 0, skip, vl},
		}
	}
	// The order of the high halves decides, unless they are equal.
	lastOp := uint16(opGreater) // of the low halves
	if c.Op == GreaterEqual || c.Op == Less {
		lastOp = opAtLeast
	}
	out := []instruction{load(high), {opGreater, 3, 0, vh}, {opEqual, 0, skip + 2, vh}, load(low), {lastOp, 0, skip, vl}}
	if c.Op == Less || c.Op == LessEqual {
		out[1].jt = skip + 3
		out[2].jf = 2
		out[4].jt, out[4].jf = skip, 0
	}
	return out
}

// answer returns from the program.
func answer(v Verdict) instruction {
	ret := map[Action]uint32{
		Allow:       unix.SECCOMP_RET_ALLOW,
		Log:         unix.SECCOMP_RET_ALLOW,
		Errno:       unix.SECCOMP_RET_ERRNO,
		Trace:       unix.SECCOMP_RET_TRACE,
		Trap:        unix.SECCOMP_RET_TRAP,
		KillThread:  unix.SECCOMP_RET_KILL_THREAD,
		KillProcess: unix.SECCOMP_RET_KILL_PROCESS,
	}[v.Action]
	return instruction{code: opReturn, k: ret | uint32(v.Data)}
}

// tree finds the span that a number is in and runs its code.
func tree(spans []span) []instruction {
	if len(spans) == 1 {
		return spans[0].code
	}
	mid := len(spans) / 2
	left, right := tree(spans[:mid]), tree(spans[mid:])
	out := []instruction{
		{opAtLeast, 0, 1, spans[mid].first},
		{code: opJump, k: uint32(len(left))},
	}
	return append(append(out, left...), right...)
}
