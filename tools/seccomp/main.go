// Command seccomp compiles the seccomp programs of package filter with
// libseccomp and writes them where package filter embeds them:
//
//	seccomp [-check] DIRECTORY
//
// With -check it writes nothing and fails when a file is not what its table
// says.
//
// It is the only thing in the tree that links C, and a module of its own, so
// that neither C nor libseccomp can get into what AIOS installs. `make
// generate` runs it; what is checked in is enough to build AIOS.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
	"aios.dev/aios/host/box/filter"
)

// apiLevel is the set of features that libseccomp may use, whatever this host
// has: 3 knows how to kill a process.
const apiLevel = 3

func main() {
	check := flag.Bool("check", false, "compare, write nothing")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: seccomp [-check] DIRECTORY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, "seccomp:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	if err := seccomp.SetAPI(apiLevel); err != nil {
		return fmt.Errorf("libseccomp: %w", err)
	}
	specs := filter.Specs()
	var names []string
	for _, spec := range specs {
		program, err := compile(spec)
		if err != nil {
			return fmt.Errorf("%s: %w", spec.Name, err)
		}
		path := filepath.Join(dir, spec.Name+".bpf")
		names = append(names, path)
		old, err := os.ReadFile(path)
		if err == nil && same(old, program) {
			continue
		}
		if check {
			return fmt.Errorf("%s is not what its table says; run: make generate", path)
		}
		if err := os.WriteFile(path, program, 0o644); err != nil {
			return err
		}
	}
	return others(dir, names, check)
}

// others removes, or complains about, programs that no table is there for.
func others(dir string, names []string, check bool) error {
	found, err := filepath.Glob(filepath.Join(dir, "*.bpf"))
	if err != nil {
		return err
	}
	for _, path := range found {
		switch {
		case slices.Contains(names, path):
		case check:
			return fmt.Errorf("%s has no table; run: make generate", path)
		default:
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// same reports whether two programs come from the same rules and are equal. One
// that another version of libseccomp made of the same rules may differ: that
// it does what the table says is for the tests of package filter to find out.
func same(old, program []byte) bool {
	a, err := box.ReadProgram(old)
	if err != nil {
		return false
	}
	b, err := box.ReadProgram(program)
	if err != nil || a.Key != b.Key {
		return false
	}
	return a.Maker != b.Maker || bytes.Equal(old, program)
}

// compile makes the program of one table.
func compile(spec filter.Spec) ([]byte, error) {
	kill := seccomp.ActKillProcess
	f, err := seccomp.NewFilter(kill)
	if err != nil {
		return nil, err
	}
	defer f.Release()
	if err := f.SetBadArchAction(kill); err != nil {
		return nil, err
	}
	if err := f.AddArch(seccomp.ArchAMD64); err != nil {
		return nil, err
	}
	var unnamed []uint32
	for _, r := range spec.Table {
		if int32(r.Call) < 0 {
			if len(r.Guards) > 0 || r.Skip {
				return nil, fmt.Errorf("call %#x is no number that libseccomp takes, and has guards", r.Call)
			}
			unnamed = append(unnamed, r.Call)
			continue
		}
		if err := add(f, r); err != nil {
			return nil, fmt.Errorf("rule %+v: %w", r, err)
		}
	}
	for i, call := range spec.First {
		if err := f.SetSyscallPriority(seccomp.ScmpSyscall(call), uint8(255-i)); err != nil {
			return nil, err
		}
	}
	code, err := export(f)
	if err != nil {
		return nil, err
	}
	return box.Program{
		Key:          spec.Table.Digest(),
		Maker:        maker(),
		Instructions: append(prefix(unnamed), code...),
	}.Pack()
}

// export returns the instructions of a filter. libseccomp writes them to a file;
// to memory it does so only since 2.6.
func export(f *seccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "filter")
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
}

// add adds one rule.
func add(f *seccomp.ScmpFilter, r filter.Rule) error {
	action := seccomp.ActAllow
	if r.Skip {
		action = seccomp.ActErrno.SetReturnCode(0)
	}
	if len(r.Guards) == 0 {
		return f.AddRuleExact(seccomp.ScmpSyscall(r.Call), action)
	}
	var conditions []seccomp.ScmpCondition
	for _, g := range r.Guards {
		c := seccomp.ScmpCondition{Argument: uint(g.Arg), Operand1: g.Value}
		switch g.Op {
		case filter.Equal:
			c.Op = seccomp.CompareEqual
		case filter.NotEqual:
			c.Op = seccomp.CompareNotEqual
		case filter.Greater:
			c.Op = seccomp.CompareGreater
		case filter.Masked:
			c.Op, c.Operand1, c.Operand2 = seccomp.CompareMaskedEqual, g.Mask, g.Value
		default:
			return fmt.Errorf("no such comparison: %d", g.Op)
		}
		conditions = append(conditions, c)
	}
	return f.AddRuleConditionalExact(seccomp.ScmpSyscall(r.Call), action, conditions)
}

// prefix allows calls whose numbers libseccomp takes for its own: it goes
// before a program, which begins by loading what it looks at.
func prefix(calls []uint32) []byte {
	if len(calls) == 0 {
		return nil
	}
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		number, arch = 0, 4 // offsets in struct seccomp_data
	)
	var out []byte
	put := func(code uint16, jt, jf uint8, k uint32) {
		out = binary.NativeEndian.AppendUint16(out, code)
		out = append(out, jt, jf)
		out = binary.NativeEndian.AppendUint32(out, k)
	}
	n := uint8(len(calls))
	put(load, 0, 0, arch)
	put(equal, 0, 1+2*n, unix.AUDIT_ARCH_X86_64)
	put(load, 0, 0, number)
	for _, c := range calls {
		put(equal, 0, 1, c)
		put(answer, 0, 0, unix.SECCOMP_RET_ALLOW)
	}
	return out
}

// maker names what compiles.
func maker() string {
	major, minor, micro := seccomp.GetLibraryVersion()
	binding := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/seccomp/libseccomp-golang" {
				binding = m.Version
			}
		}
	}
	return fmt.Sprintf("libseccomp %d.%d.%d, libseccomp-golang %s", major, minor, micro, binding)
}
