package abi

import (
	"slices"
	"testing"
)

func TestTableIsInOrder(t *testing.T) {
	last := -1
	names := map[string]bool{}
	for _, c := range Syscalls() {
		if int(c.Nr) <= last {
			t.Errorf("%d %s comes after %d", c.Nr, c.Name, last)
		}
		last = int(c.Nr)
		if names[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		names[c.Name] = true
		if c.Group >= groupCount || c.Rule >= ruleCount {
			t.Errorf("%s: group %d, rule %d", c.Name, c.Group, c.Rule)
		}
		if got, ok := SyscallByNumber(uintptr(c.Nr)); !ok || got != c {
			t.Errorf("SyscallByNumber(%d) = %v, %v", c.Nr, got, ok)
		}
		if got, ok := SyscallNamed(c.Name); !ok || got != c {
			t.Errorf("SyscallNamed(%s) = %v, %v", c.Name, got, ok)
		}
	}
	for _, nr := range []uintptr{335, 423, 999, 1 << 16, 1<<64 - 1} {
		if c, ok := SyscallByNumber(nr); ok {
			t.Errorf("SyscallByNumber(%d) = %v", nr, c)
		}
	}
}

func TestGroupsAreWhole(t *testing.T) {
	for i, g := range Groups() {
		if g.Group != Group(i) || g.Name == "" || g.Meaning == "" {
			t.Errorf("group %d: %+v", i, g)
		}
		_, known := g.Needs.Class.Info()
		switch {
		case g.Free && g.Never, g.Free != (g.Errno == 0), (g.Free || g.Never) == known:
			t.Errorf("%s: contradicts itself: %+v", g.Name, g)
		case known && !g.Needs.Class.All().Has(g.Needs.Rights):
			t.Errorf("%s: rights that the class does not have", g.Name)
		case known && g.Needs.Class == ClassSys && g.Needs.Object != g.Name:
			t.Errorf("%s: is asked for as sys:%s", g.Name, g.Needs.Object)
		}
		if g.Errno != 0 && ErrnoName(g.Errno) == g.Errno.Error() {
			t.Errorf("%s: its errno has no name", g.Name)
		}
		used := slices.ContainsFunc(Syscalls(), func(c Syscall) bool { return c.May()&g.Group.Bit() != 0 })
		if !used {
			t.Errorf("%s: no call is of the group", g.Name)
		}
	}
	if groupCount > 64 {
		t.Error("more groups than bits")
	}
}

func TestMaskFor(t *testing.T) {
	self := func(c Class, r Rights) Held { return Held{c, "self", r} }
	for _, test := range []struct {
		name string
		held []Held
		want uint64
	}{
		{"nothing", nil, 0},
		{"memory", []Held{self(ClassMem, MemMap)}, GroupMap.Bit()},
		{"memory, executable", []Held{self(ClassMem, MemMap|MemExec)}, GroupMap.Bit() | GroupMemExec.Bit()},
		{"processes", []Held{self(ClassProc, ProcSpawn|ProcExec), self(ClassProc, ProcSignal)}, GroupSpawn.Bit() | GroupExec.Bit() | GroupSignal.Bit()},
		{"debug", []Held{self(ClassProc, ProcDebug)}, GroupDebug.Bit()},
		{"connect", []Held{{ClassNet, "loopback", NetConnect}}, GroupSocket.Bit() | GroupConnect.Bit()},
		{"bind", []Held{{ClassNet, "*", NetBind}}, GroupSocket.Bit() | GroupBind.Bit()},
		{"one of sys", []Held{{ClassSys, "mount", SysUse}}, GroupMount.Bit()},
		{"all of sys", []Held{{ClassSys, "*", SysUse}}, GroupMount.Bit() | GroupNamespace.Bit() | GroupKeys.Bit() | GroupIntrospect.Bit() | GroupAsync.Bit() | GroupClock.Bit()},
		{"the clock", []Held{{ClassSys, "clock", SysUse}}, GroupClock.Bit()},
		{"no rights", []Held{self(ClassMem, 0), {ClassSys, "mount", 0}}, 0},
		{"files", []Held{{ClassFS, "/", ClassFS.All()}}, 0},
	} {
		if got := MaskFor(test.held); got != test.want|MaskNone() {
			t.Errorf("%s: %s", test.name, FormatGroups(got&^MaskNone()))
		}
	}
	var all []Held
	for _, c := range Classes() {
		all = append(all, Held{c.Class, "*", c.Class.All()})
	}
	if MaskFor(all) != MaskAll() {
		t.Errorf("whoever has all rights has %s", FormatGroups(MaskFor(all)))
	}
	for _, g := range Groups() {
		if i, ok := g.Group.OpenedBy(all); ok != (!g.Free && !g.Never) || ok && all[i].Class != g.Needs.Class {
			t.Errorf("%s is opened by %d, %v", g.Name, i, ok)
		}
		if open := MaskAll()&g.Group.Bit() != 0; open == g.Never {
			t.Errorf("%s: in MaskAll: %v", g.Name, open)
		}
	}
}

func TestHeldAsText(t *testing.T) {
	for want, h := range map[string]Held{
		"net:loopback:connect": {ClassNet, "loopback", NetConnect},
		"net:loopback":         {ClassNet, "loopback", NetConnect | NetBind},
		"mem:self:map":         {ClassMem, "self", MemMap},
		"sys:mount":            {ClassSys, "mount", SysUse},
	} {
		if h.String() != want {
			t.Errorf("%q, want %q", h, want)
		}
	}
}

func TestNeeds(t *testing.T) {
	const none = uint64(0)
	for _, test := range []struct {
		call string
		args [6]uint64
		want uint64
	}{
		{"mmap", [6]uint64{0, 4096, 3, 0x22}, GroupMap.Bit()},
		{"mmap", [6]uint64{0, 4096, 5, 0x2, 3}, GroupMap.Bit()}, // What a loader does.
		{"mmap", [6]uint64{0, 4096, 5, 0x22}, GroupMap.Bit() | GroupMemExec.Bit()},
		{"mmap", [6]uint64{0, 4096, 7, 0x2, 3}, GroupMap.Bit() | GroupMemExec.Bit()},
		{"mmap", [6]uint64{0, 4096, 1<<32 | 4, 1<<40 | 0x21}, GroupMap.Bit() | GroupMemExec.Bit()},
		{"mprotect", [6]uint64{0, 4096, 3}, none},
		{"mprotect", [6]uint64{0, 4096, 5}, GroupMemExec.Bit()},
		{"mprotect", [6]uint64{0, 4096, 0x01000004}, GroupMemExec.Bit()},
		{"brk", [6]uint64{0}, none},
		{"brk", [6]uint64{1 << 20}, GroupMap.Bit()},
		{"shmat", [6]uint64{1, 0, 0o10000}, GroupMap.Bit()},
		{"shmat", [6]uint64{1, 0, 0o100000}, GroupMap.Bit() | GroupMemExec.Bit()},
		{"munmap", [6]uint64{}, GroupBase.Bit()},
		{"fork", [6]uint64{}, GroupSpawn.Bit()},
		{"clone", [6]uint64{17}, GroupSpawn.Bit()},
		{"clone", [6]uint64{0x80 | 17}, GroupSpawn.Bit()}, // A signal, no flag.
		{"clone", [6]uint64{0x3d0f00}, GroupSpawn.Bit()},  // A thread of glibc's.
		{"clone", [6]uint64{0x10000000 | 17}, GroupSpawn.Bit() | GroupNamespace.Bit()},
		{"clone", [6]uint64{1<<63 | 0x20000 | 17}, GroupSpawn.Bit() | GroupNamespace.Bit()},
		{"unshare", [6]uint64{0x200}, none},
		{"unshare", [6]uint64{0x80}, GroupNamespace.Bit()},
		{"unshare", [6]uint64{0x40000000}, GroupNamespace.Bit()},
		{"setns", [6]uint64{3, 0}, GroupNamespace.Bit()},
		{"kill", [6]uint64{12, 0}, none},
		{"kill", [6]uint64{12, 9}, GroupSignal.Bit()},
		{"kill", [6]uint64{12, 1 << 32}, none},
		{"tgkill", [6]uint64{12, 9, 0}, none},
		{"tgkill", [6]uint64{12, 0, 9}, GroupSignal.Bit()},
		{"rt_tgsigqueueinfo", [6]uint64{12, 0, 9}, GroupSignal.Bit()},
		{"pidfd_send_signal", [6]uint64{3, 9}, GroupSignal.Bit()},
		{"socket", [6]uint64{1, 1}, none},
		{"socket", [6]uint64{1, 3}, none}, // Linux takes it for a datagram socket.
		{"socket", [6]uint64{2, 1 | 0o2000000}, GroupSocket.Bit()},
		{"socket", [6]uint64{10, 2}, GroupSocket.Bit()},
		{"socket", [6]uint64{16, 3}, GroupSocket.Bit()},
		{"socket", [6]uint64{2, 3, 1}, GroupRaw.Bit()},
		{"socket", [6]uint64{2, 3 | 0o4000, 1}, GroupRaw.Bit()},
		{"socket", [6]uint64{17, 2}, GroupRaw.Bit()},
		{"socket", [6]uint64{2, 10}, GroupRaw.Bit()},
		{"socket", [6]uint64{1<<32 | 2, 1}, GroupSocket.Bit()},
		{"mknod", [6]uint64{0, 0o100644}, GroupFile.Bit()},
		{"mknod", [6]uint64{0, 0o010644}, GroupFile.Bit()},
		{"mknod", [6]uint64{0, 0o020644}, GroupFile.Bit() | GroupAdmin.Bit()},
		{"mknodat", [6]uint64{0, 0, 0o060644}, GroupFile.Bit() | GroupAdmin.Bit()},
		{"reboot", [6]uint64{}, GroupAdmin.Bit()},
	} {
		c, ok := SyscallNamed(test.call)
		if !ok {
			t.Fatalf("no %s", test.call)
		}
		if got := c.Needs(test.args); got != test.want {
			t.Errorf("%s%#x needs %s, want %s", test.call, test.args, FormatGroups(got), FormatGroups(test.want))
		}
	}
}

func TestClone3Needs(t *testing.T) {
	for flags, want := range map[uint64]uint64{
		0: 0, 0x3d0f00: 0, 1 << 32: 0,
		0x80: GroupNamespace.Bit(), 0x10000000: GroupNamespace.Bit(), 1 << 33: GroupNamespace.Bit(),
	} {
		if got := Clone3Needs(flags); got != want {
			t.Errorf("%#x needs %s", flags, FormatGroups(got))
		}
	}
}

func TestTargetOf(t *testing.T) {
	for _, test := range []struct {
		call       string
		args       [6]uint64
		id         int32
		thread, ok bool
	}{
		{"kill", [6]uint64{7, 9}, 7, false, true},
		{"kill", [6]uint64{1<<64 - 1, 9}, -1, false, false},
		{"kill", [6]uint64{0, 9}, 0, false, false},
		{"kill", [6]uint64{1<<32 | 7, 9}, 7, false, true},
		{"tkill", [6]uint64{7, 9}, 7, true, true},
		{"tgkill", [6]uint64{7, 8, 9}, 7, false, true},
		{"process_vm_readv", [6]uint64{7}, 7, false, true},
		{"pidfd_send_signal", [6]uint64{7, 9}, 7, false, false},
	} {
		c, _ := SyscallNamed(test.call)
		if id, thread, ok := c.TargetOf(test.args); id != test.id || thread != test.thread || ok != test.ok {
			t.Errorf("%s%v: %d %v %v", test.call, test.args, id, thread, ok)
		}
	}
}

// FuzzNeeds looks for arguments with which a call needs what May does not
// say, or gets away with less than its neighbours in value.
func FuzzNeeds(f *testing.F) {
	f.Add(uint16(9), uint64(0), uint64(4096), uint64(7), uint64(0x22), uint64(3), uint64(0))
	f.Add(uint16(41), uint64(2), uint64(3), uint64(1), uint64(0), uint64(0), uint64(0))
	f.Add(uint16(56), uint64(0x10000011), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, nr uint16, a0, a1, a2, a3, a4, a5 uint64) {
		c, ok := SyscallByNumber(uintptr(nr))
		if !ok {
			return
		}
		args := [6]uint64{a0, a1, a2, a3, a4, a5}
		needs := c.Needs(args)
		if needs&^c.May() != 0 {
			t.Fatalf("%s%#x needs %s, but may need %s only", c.Name, args, FormatGroups(needs), FormatGroups(c.May()))
		}
		if info := c.Group.Info(); info.Never && needs&c.Group.Bit() == 0 {
			t.Fatalf("%s%#x escapes from %s", c.Name, args, c.Group)
		}
		// The kernel takes these for 32-bit numbers: what lies above must not
		// matter.
		switch c.Rule {
		case RuleMmap, RuleClone, RuleUnshare, RuleSocket, RuleSignal, RuleProtect:
			low := args
			for i := range low {
				low[i] = uint64(uint32(low[i]))
			}
			if c.Needs(low) != needs {
				t.Fatalf("%s: %#x needs %s, %#x %s", c.Name, args, FormatGroups(needs), low, FormatGroups(c.Needs(low)))
			}
		}
		if locked := needs &^ MaskNone(); locked != 0 && FirstGroup(locked).Info().Errno == 0 {
			t.Fatalf("%s%#x is refused with success", c.Name, args)
		}
	})
}
