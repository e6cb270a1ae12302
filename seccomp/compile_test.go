package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"
	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// program is a profile's program, as the kernel runs it.
func program(t testing.TB, code []byte) bpf.Program {
	t.Helper()
	parsed, err := bpf.ParseBytecode(code)
	if err != nil {
		t.Fatal(err)
	}
	p, err := bpf.Compile(parsed, true)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func run(t testing.TB, p bpf.Program, arch, call uint32, args [6]uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.NativeEndian.PutUint32(data[0:], call)
	binary.NativeEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	ret, err := bpf.Exec[bpf.NativeEndian](p, data[:])
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

// same wants a program to do with a call what its profile says.
func same(t testing.TB, profile *Profile, p bpf.Program, call uint32, args [6]uint64) {
	t.Helper()
	want := answer(profile.Verdict(call, args)).k
	if got := run(t, p, unix.AUDIT_ARCH_X86_64, call, args); got != want {
		t.Fatalf("call %d %x: the program says %#x, the profile %#x", call, args, got, want)
	}
}

// around are numbers of calls and values of arguments where profiles change
// their minds.
func (p *Profile) around() (calls []uint32, values []uint64) {
	calls, values = []uint32{0, 599, 1 << 30, 1<<32 - 1}, []uint64{0, 1, 1<<32 - 1, 1 << 32, 1<<64 - 1}
	for call, rules := range p.rules {
		calls = append(calls, call, call+1, call-1)
		for _, r := range rules {
			for _, c := range r.Conditions {
				values = append(values, c.Value, c.Value+1, c.Value-1, c.Value^1<<32, c.Mask, ^c.Mask|c.Value)
			}
		}
	}
	return calls, values
}

var callNames = []string{"read", "write", "open", "close", "stat", "mmap", "ioctl", "clone", "execve", "openat", "clone3", "futex", "nonsense"}

// drawn makes a profile's text.
func drawn(t *rapid.T) string {
	action := func() string {
		return rapid.Map(rapid.Uint8Max(uint8(KillProcess)), func(a uint8) string { return Action(a).String() }).Draw(t, "action")
	}
	var entries []string
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		var args []string
		for range rapid.IntRange(0, 4).Draw(t, "args") {
			value := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 4), rapid.Just[uint64](1<<32), rapid.Just[uint64](5<<32|7))
			args = append(args, fmt.Sprintf(`{"index": %d, "value": %d, "valueTwo": %d, "op": "SCMP_CMP_%s"}`,
				rapid.IntRange(0, 5).Draw(t, "index"), value.Draw(t, "value"), value.Draw(t, "two"),
				rapid.SampledFrom([]string{"EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"}).Draw(t, "op")))
		}
		entries = append(entries, fmt.Sprintf(`{"names": ["%s"], "action": %q, "args": [%s]}`,
			strings.Join(rapid.SliceOfN(rapid.SampledFrom(callNames), 1, 4).Draw(t, "names"), `", "`), action(), strings.Join(args, ", ")))
	}
	return fmt.Sprintf(`{"defaultAction": %q, "syscalls": [%s]}`, action(), strings.Join(entries, ",\n"))
}

func TestProgramsDoWhatProfilesSay(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		profile := mustParse(t, drawn(r))
		code, err := profile.Compile()
		if err != nil {
			t.Fatal(err)
		}
		p := program(t, code)
		calls, values := profile.around()
		for range 300 {
			var args [6]uint64
			for i := range args {
				args[i] = rapid.SampledFrom(values).Draw(r, "argument")
			}
			same(t, profile, p, rapid.SampledFrom(calls).Draw(r, "call"), args)
		}
		for call := range uint32(600) {
			same(t, profile, p, call, [6]uint64{})
			if v, ok := profile.Always(call); ok && v != profile.Verdict(call, [6]uint64{1, 2, 3, 4, 5, 6}) {
				t.Fatalf("call %d is said to be always %+v", call, v)
			}
		}
		for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, 0} {
			if got := run(t, p, arch, 0, [6]uint64{}); got != unix.SECCOMP_RET_KILL_THREAD {
				t.Fatalf("a call of architecture %#x is answered %#x", arch, got)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW",
		"args": [{"index": 0, "value": 2114060288, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}], "includes": {"caps": ["CAP_CHOWN"], "arches": ["amd64"], "minKernel": "4.8"}}]}`))
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}], "flags": [],
		"syscalls": [{"name": "kill", "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"caps": ["CAP_KILL"]}}]}`))
	f.Add([]byte(`{"defaultAction": null, "syscalls": [null]} x`))
	f.Fuzz(func(t *testing.T, text []byte) {
		profile, err := Parse(text, here)
		if err != nil {
			if !errors.Is(err, errdefs.SeccompInvalid) || errdefs.FixOf(err) == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		code, err := profile.Compile()
		if err != nil {
			if !errors.Is(err, errdefs.SeccompInvalid) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		p := program(t, code)
		calls, values := profile.around()
		for i, call := range calls[:min(len(calls), 32)] {
			var args [6]uint64
			for j := range args {
				args[j] = values[(i*7+j*3)%len(values)]
			}
			same(t, profile, p, call, args)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	profile := mustParse(b, `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["`+strings.Join(callNames, `", "`)+`"], "action": "SCMP_ACT_ALLOW"}]}`)
	for b.Loop() {
		if _, err := profile.Compile(); err != nil {
			b.Fatal(err)
		}
	}
}
