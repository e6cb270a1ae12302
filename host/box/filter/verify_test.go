package filter

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"

	"aios.dev/aios/host/box"
)

// What programs are run with.
const (
	archX86    = unix.AUDIT_ARCH_X86_64
	x32        = 0x40000000
	maxCall    = 600 // more than the kernel has
	lastNumber = 0xffffffff
)

// installed are the values of the process that programs are tried for.
var installed = box.Values{PID: 4711, Listen: 7, Nice: -5}

// resolve puts the values in the place of the placeholders of a table.
func (t Table) resolve(v box.Values) Table {
	out := slices.Clone(t)
	for i, r := range out {
		r.Guards = slices.Clone(r.Guards)
		for j, g := range r.Guards {
			switch g.Value {
			case box.PIDPlaceholder:
				r.Guards[j].Value = uint64(v.PID)
			case box.ListenPlaceholder:
				r.Guards[j].Value = uint64(v.Listen)
			case box.NicePlaceholder:
				r.Guards[j].Value = uint64(int64(v.Nice) + 1)
			}
		}
		out[i] = r
	}
	return out
}

// compiled is a program that can be run.
type compiled struct {
	p    bpf.Program
	code []bpf.Instruction
}

// load takes instructions as a process installs them.
func load(t testing.TB, instructions []byte) compiled {
	t.Helper()
	parsed, err := bpf.ParseBytecode(instructions)
	if err != nil {
		t.Fatal(err)
	}
	p, err := bpf.Compile(parsed, false)
	if err != nil {
		t.Fatal(err)
	}
	return compiled{p, parsed}
}

// run returns what the kernel would do.
func (c compiled) run(t testing.TB, arch, call uint32, args [6]uint64) Answer {
	t.Helper()
	var data [64]byte
	binary.NativeEndian.PutUint32(data[0:], call)
	binary.NativeEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	ret, err := bpf.Exec[bpf.NativeEndian](c.p, data[:])
	if err != nil {
		t.Fatal(err)
	}
	switch ret {
	case unix.SECCOMP_RET_ALLOW:
		return Allow
	case unix.SECCOMP_RET_ERRNO:
		return Skip
	case unix.SECCOMP_RET_KILL_PROCESS:
		return Kill
	}
	t.Fatalf("call %d %x is answered %#x", call, args, ret)
	return Kill
}

// compared returns what a program compares each argument of a call with: it
// follows every way that the program can take for the call.
func (c compiled) compared(t testing.TB, call uint32) (values [6][]uint64) {
	t.Helper()
	type state struct {
		pc     int
		offset uint32 // in seccomp_data, of what A was loaded from
	}
	var halves [6][2][]uint64
	seen := map[state]bool{}
	var follow func(s state)
	follow = func(s state) {
		if seen[s] {
			return
		}
		seen[s] = true
		i := c.code[s.pc]
		yes, no := state{s.pc + 1 + int(i.JumpIfTrue), s.offset}, state{s.pc + 1 + int(i.JumpIfFalse), s.offset}
		switch i.OpCode {
		case bpf.Ret | bpf.K:
		case bpf.Ld | bpf.W | bpf.Abs:
			follow(state{s.pc + 1, i.K})
		case bpf.Jmp | bpf.Ja:
			follow(state{s.pc + 1 + int(i.K), s.offset})
		case bpf.Alu | bpf.And | bpf.K, bpf.Jmp | bpf.Jeq | bpf.K, bpf.Jmp | bpf.Jgt | bpf.K, bpf.Jmp | bpf.Jge | bpf.K, bpf.Jmp | bpf.Jset | bpf.K:
			if s.offset < 16 {
				a := call
				if s.offset == 4 {
					a = archX86
				}
				var holds bool
				switch i.OpCode & 0xf0 {
				case bpf.Jeq:
					holds = a == i.K
				case bpf.Jgt:
					holds = a > i.K
				case bpf.Jge:
					holds = a >= i.K
				default:
					t.Fatalf("instruction %d looks at the number or the architecture in a way of its own", s.pc)
				}
				if holds {
					follow(yes)
				} else {
					follow(no)
				}
				return
			}
			arg, half := (s.offset-16)/8, (s.offset-16)/4%2
			halves[arg][half] = append(halves[arg][half], uint64(i.K))
			if i.OpCode&7 == bpf.Alu {
				follow(state{s.pc + 1, s.offset})
				return
			}
			follow(yes)
			follow(no)
		default:
			t.Fatalf("instruction %d has an unexpected code %#x", s.pc, i.OpCode)
		}
	}
	follow(state{})
	for arg, h := range halves {
		for _, low := range h[0] {
			values[arg] = append(values[arg], low)
			for _, high := range h[1] {
				values[arg] = append(values[arg], high<<32|low, high<<32)
			}
		}
		for _, high := range h[1] {
			values[arg] = append(values[arg], high<<32)
		}
	}
	return values
}

// probes are values of an argument at and around what rules compare it with.
func probes(values []uint64) []uint64 {
	slices.Sort(values)
	values = slices.Compact(values)
	out := []uint64{0, 1, 1 << 31, 1 << 32, ^uint64(0), 0xffffffff}
	for _, v := range values {
		out = append(out, v, v-1, v+1, v^1<<31, v^1<<32, v^1<<63, ^v)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// guarded returns, for each argument of a call, what the table compares it
// with.
func (t Table) guarded(call uint32) (values [6][]uint64) {
	for _, r := range t {
		if r.Call != call {
			continue
		}
		for _, g := range r.Guards {
			values[g.Arg] = append(values[g.Arg], g.Value, g.Value|^g.Mask)
			for bit := range 64 {
				if g.Op == Masked && g.Mask>>bit&1 == 1 {
					values[g.Arg] = append(values[g.Arg], g.Value^1<<bit)
				}
			}
		}
	}
	return values
}

// tries calls f with every combination of the probes of the guarded arguments.
// Other arguments are filled with something that must not matter.
func tries(values [6][]uint64, f func(args [6]uint64)) {
	var args [6]uint64
	var all [6][]uint64
	for i, v := range values {
		if len(v) > 0 {
			all[i] = probes(v)
		}
	}
	var at func(i int)
	at = func(i int) {
		if i == len(args) {
			f(args)
			return
		}
		if len(all[i]) == 0 { // Nothing looks at it.
			args[i] = 0xdeadbeefdeadbeef * uint64(i&1)
			at(i + 1)
			return
		}
		for _, v := range all[i] {
			args[i] = v
			at(i + 1)
		}
	}
	at(0)
}

// allCalls are the numbers that programs are tried with.
func allCalls() []uint32 {
	calls := []uint32{lastNumber, lastNumber - 1, 1 << 31, x32 - 1}
	for call := range uint32(maxCall) {
		calls = append(calls, call)
	}
	return calls
}

// differences runs a program beside its table and returns where they part.
func differences(t testing.TB, p compiled, table Table, calls ...uint32) (out []string, runs int) {
	t.Helper()
	look := func(arch, call uint32, args [6]uint64, want Answer) {
		runs++
		if got := p.run(t, arch, call, args); got != want && len(out) < 10 {
			out = append(out, fmt.Sprintf("call %d of architecture %#x with %x: the program says %d, the table %d", call, arch, args, got, want))
		}
	}
	for _, call := range calls {
		values := table.guarded(call)
		for i, v := range p.compared(t, call) {
			values[i] = append(values[i], v...)
		}
		tries(values, func(args [6]uint64) {
			look(archX86, call, args, table.Answer(call, args))
		})
		for _, args := range [][6]uint64{{}, {1, 1, 1, 1, 1, 1}, {4711, 4711, 0, 0, 0, 0}} {
			if call != lastNumber {
				look(archX86, call|x32, args, Kill)
			}
			for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0, archX86 ^ 1, lastNumber} {
				look(arch, call, args, Kill)
			}
		}
	}
	return out, runs
}

// TestProgramsAreWhatTheirTablesSay runs every checked-in program with every
// call there is.
func TestProgramsAreWhatTheirTablesSay(t *testing.T) {
	for _, spec := range Specs() {
		t.Run(spec.Name, func(t *testing.T) {
			raw, err := read(spec.Name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := box.ReadProgram(raw)
			if err != nil {
				t.Fatal(err)
			}
			if p.Key != spec.Table.Digest() {
				t.Error("the table has changed since; run: make generate")
			}
			found, runs := differences(t, load(t, installed.Fill(p.Instructions)), spec.Table.resolve(installed), allCalls()...)
			for _, d := range found {
				t.Error(d)
			}
			t.Logf("%d rules, %d instructions by %s, %d runs", len(spec.Table), len(p.Instructions)/8, p.Maker, runs)
		})
	}
}

// TestADifferenceIsFound changes every rule of some tables, one at a time, and
// expects the comparison to notice: the other tables are made of the same
// rules.
func TestADifferenceIsFound(t *testing.T) {
	for _, spec := range Specs() {
		if slices.Contains([]string{"kernel-systrap-files", "kernel-kvm-compute", "gofer-keep"}, spec.Name) {
			t.Run(spec.Name, func(t *testing.T) { changeEveryRule(t, spec) })
		}
	}
}

func changeEveryRule(t *testing.T, spec Spec) {
	raw, err := read(spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := box.ReadProgram(raw)
	if err != nil {
		t.Fatal(err)
	}
	code := load(t, installed.Fill(p.Instructions))
	table := spec.Table.resolve(installed)
	for i, r := range table {
		changed := slices.Delete(slices.Clone(table), i, i+1)
		if found, _ := differences(t, code, changed, r.Call); len(found) == 0 {
			t.Errorf("without rule %+v nothing differs", r)
		}
		for j := range r.Guards {
			changed := slices.Clone(table)
			changed[i].Guards = slices.Clone(r.Guards)
			changed[i].Guards[j].Value ^= 2
			if found, _ := differences(t, code, changed, r.Call); len(found) == 0 {
				t.Errorf("with guard %d of rule %+v changed nothing differs", j, r)
			}
		}
	}
	for _, call := range allCalls() {
		if slices.ContainsFunc(table, func(r Rule) bool { return r.Call == call }) {
			continue
		}
		if found, _ := differences(t, code, append(slices.Clone(table), Rule{Call: call}), call); len(found) == 0 {
			t.Errorf("with call %d allowed nothing differs", call)
		}
	}
}

// TestTablesAreWhatLibseccompTakes checks what Table promises.
func TestTablesAreWhatLibseccompTakes(t *testing.T) {
	for _, spec := range Specs() {
		free := map[uint32]bool{}
		for _, r := range spec.Table {
			if len(r.Guards) == 0 {
				free[r.Call] = true
			}
			var seen [6]bool
			for _, g := range r.Guards {
				if seen[g.Arg] {
					t.Errorf("%s: two guards of argument %d: %+v", spec.Name, g.Arg, r)
				}
				seen[g.Arg] = true
				if g.Op == Masked && g.Value&^g.Mask != 0 {
					t.Errorf("%s: it never holds: %+v", spec.Name, g)
				}
			}
		}
		for _, r := range spec.Table {
			if len(r.Guards) > 0 && free[r.Call] {
				t.Errorf("%s: another rule of the call allows everything: %+v", spec.Name, r)
			}
			if !r.Skip {
				continue
			}
			for _, o := range spec.Table {
				if o.Call == r.Call && !o.Skip {
					tries(spec.Table.guarded(r.Call), func(args [6]uint64) {
						if r.Matches(r.Call, args) && o.Matches(r.Call, args) {
							t.Errorf("%s: %x is both skipped and allowed", spec.Name, args)
						}
					})
				}
			}
		}
	}
}

// BenchmarkKernel is what a process does to get its program, short of
// installing it.
func BenchmarkKernel(b *testing.B) {
	for b.Loop() {
		raw, err := Kernel("systrap", Files)
		if err != nil {
			b.Fatal(err)
		}
		p, err := box.ReadProgram(raw)
		if err != nil {
			b.Fatal(err)
		}
		installed.Fill(p.Instructions)
	}
}
