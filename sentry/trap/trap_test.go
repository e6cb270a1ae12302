package trap

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		name   string
		raw    Raw
		vector Vector
		region Region
	}{
		{"nothing is mapped", Raw{Signal: syscall.SIGSEGV, Code: 1, Addr: 0x1000_0000, Access: Read}, PageFault, RegionData},
		{"a pointer to nothing", Raw{Signal: syscall.SIGSEGV, Code: 1, Addr: 8, Access: Write}, PageFault, RegionNull},
		{"a jump to nothing", Raw{Signal: syscall.SIGSEGV, Code: 1, Access: Execute}, PageFault, RegionNull},
		{"a jump to data", Raw{Signal: syscall.SIGSEGV, Code: 2, Addr: 0x7000_0000, IP: 0x7000_0000, Access: Execute}, PageFault, RegionCode},
		{"a stack that is used up", Raw{Signal: syscall.SIGSEGV, Code: 1, Addr: 0x7ffe_0000_0ff8, SP: 0x7ffe_0000_1000, Access: Write}, PageFault, RegionStack},
		{"an address of the kernel", Raw{Signal: syscall.SIGSEGV, Code: 1, Addr: 0xffff_8000_0000_0000, Access: Read}, PageFault, RegionHigh},
		{"a file that is too short", Raw{Signal: syscall.SIGBUS, Code: 2, Addr: 0x7000_0000, Access: Read}, PageFault, RegionData},
		{"the same, as the host says it", Raw{Signal: syscall.SIGBUS, Code: 2, Addr: 0x7000_0000}, PageFault, RegionData},
		{"a privileged instruction", Raw{Signal: syscall.SIGSEGV, Code: siKernel, Text: []byte{0xf4}, Access: Read}, GeneralProtection, RegionCode},
		{"int 4", Raw{Signal: syscall.SIGSEGV, Code: siKernel, Before: []byte{0x90, 0xcd, 4}}, Overflow, RegionCode},
		{"a stack that no address space has", Raw{Signal: syscall.SIGBUS, Code: siKernel, Text: []byte{0x58}}, StackFault, RegionCode},
		{"a data segment that is not there", Raw{Signal: syscall.SIGBUS, Code: siKernel, Text: []byte{0x8e, 0xd8}}, SegmentNotPresent, RegionCode},
		{"a stack segment that is not there", Raw{Signal: syscall.SIGBUS, Code: siKernel, Text: []byte{0x66, 0x8e, 0xd0}}, StackFault, RegionCode},
		{"a far return", Raw{Signal: syscall.SIGBUS, Code: siKernel, Text: []byte{0x48, 0xcb}}, SegmentNotPresent, RegionCode},
		{"misaligned", Raw{Signal: syscall.SIGBUS, Code: 1, Addr: 1}, AlignmentCheck, RegionCode},
		{"misaligned, without an address", Raw{Signal: syscall.SIGBUS, Code: 2}, AlignmentCheck, RegionCode},
		{"bad memory", Raw{Signal: syscall.SIGBUS, Code: busMCEErrAR, Addr: 0x1000_0000}, MachineCheck, RegionCode},
		{"a division", Raw{Signal: syscall.SIGFPE, Code: 1, Text: []byte{0xf7, 0xf1}}, DivideError, RegionCode},
		{"x87", Raw{Signal: syscall.SIGFPE, Code: 3, Text: []byte{0x9b}}, FloatingPoint, RegionCode},
		{"x87, with a prefix", Raw{Signal: syscall.SIGFPE, Code: 7, Text: []byte{0x66, 0xdd, 0x18}}, FloatingPoint, RegionCode},
		{"SSE", Raw{Signal: syscall.SIGFPE, Code: 3, Text: []byte{0xf2, 0x0f, 0x5e, 0xc1}}, SIMD, RegionCode},
		{"no instruction", Raw{Signal: syscall.SIGILL, Code: 2, Text: []byte{0x0f, 0x0b}}, InvalidOpcode, RegionCode},
		{"int3", Raw{Signal: syscall.SIGTRAP, Code: siKernel, Before: []byte{0xcc}}, Breakpoint, RegionCode},
		{"a step", Raw{Signal: syscall.SIGTRAP, Code: 2, Before: []byte{0xcc}}, Debug, RegionCode},
		{"a return without a call", Raw{Signal: syscall.SIGSEGV, Code: segvCPErr}, ControlProtection, RegionCode},
	} {
		e := Classify(tc.raw)
		if e.Vector != tc.vector || e.Region != tc.region {
			t.Errorf("%s: %v in %v, want %v in %v", tc.name, e.Vector, e.Region, tc.vector, tc.region)
		}
		if e.Vector != PageFault && (e.Access != 0 || e.Addr != tc.raw.IP) {
			t.Errorf("%s: access %q of %#x, but it is no page fault", tc.name, e.Access, e.Addr)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(11, int32(1), uint64(0), uint8(1), []byte{0x90}, []byte{0xcc})
	f.Fuzz(func(t *testing.T, sig int, code int32, addr uint64, access uint8, text, before []byte) {
		e := Classify(Raw{Signal: syscall.Signal(sig), Code: code, Addr: addr, Access: Access(access), Text: text, Before: before})
		if _, ok := e.Vector.Info(); !ok || e.Region >= RegionCount {
			t.Errorf("%+v", e)
		}
	})
}

func TestPoliciesAsText(t *testing.T) {
	p, err := ParseFaults([]string{"kill-process", "#GP=freeze", "page-fault=deliver,20/1s:kill-agent", "alignment-check=ignore"})
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[Vector]string{
		PageFault: "deliver,20/1s:kill-agent", GeneralProtection: "freeze", AlignmentCheck: "ignore",
		InvalidOpcode: "kill-process", DoubleFault: "kill-process", Breakpoint: "deliver", Debug: "deliver",
	} {
		if got := p.Rule(v).String(); got != want {
			t.Errorf("on %v %s, want %s", v, got, want)
		}
	}
	q, err := ParseViolations([]string{"net=kill-agent", "fs=deny,3/10s:quarantine"})
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[Violation]string{ViolatesNet: "kill-agent", ViolatesFS: "deny,3/10s:quarantine", ViolatesExec: "deny"} {
		if got := q.Rule(v).String(); got != want {
			t.Errorf("on a violation of %v %s, want %s", v, got, want)
		}
	}
	var none FaultPolicy
	var refuse ViolationPolicy
	if plain, err := ParseViolations(nil); err != nil || !plain.Plain() || !refuse.Plain() || q.Plain() || !none.Plain() || p.Plain() {
		t.Error("a policy without rules is not the plain one, or one with rules is")
	}
}

// fix is what an error says can be done.
func fix(err error) string {
	var e *errdefs.Error
	errors.As(err, &e)
	return e.Fix
}

func TestWhatIsNoPolicySaysWhy(t *testing.T) {
	for _, tc := range []struct {
		fault bool
		text  string
		want  string
	}{
		{true, "explode", "deliver, ignore, dump"},
		{true, "deny", "deliver, ignore, dump"},
		{false, "deliver", "deny, dump"},
		{true, "nonsense=freeze", "page-fault"},
		{false, "nonsense=freeze", "seccomp"},
		{true, "page-fault=ignore", "use deliver"},
		{true, "ignore", "use deliver"},
		{true, "deliver,20:kill-agent", "COUNT/TIME:ACTION"},
		{true, "deliver,0/1s:kill-agent", "COUNT/TIME:ACTION"},
		{true, "deliver,5/-1s:kill-agent", "COUNT/TIME:ACTION"},
		{true, "kill-agent,5/1s:deliver", "turn them round"},
		{true, "", "deliver"},
	} {
		parse := func() error { _, err := ParseViolations([]string{tc.text}); return err }
		if tc.fault {
			parse = func() error { _, err := ParseFaults([]string{tc.text}); return err }
		}
		if err := parse(); err == nil || !strings.Contains(fix(err), tc.want) {
			t.Errorf("%q: %v, want %q in it", tc.text, err, tc.want)
		}
	}
}

func TestWatchdogRules(t *testing.T) {
	for text, want := range map[string]string{
		"": "kill-agent", "freeze": "freeze", "deliver,2/5m0s:restart": "deliver,2/5m0s:restart", "dump": "dump", "restart": "restart",
	} {
		r, err := ParseWatchdog(text)
		if err != nil || r.String() != want || r.Restarts() != strings.HasSuffix(want, "restart") {
			t.Errorf("%q: %v %v, restarts %v", text, r, err, r.Restarts())
		}
	}
	for _, bad := range []string{"deny", "ignore", "kill-process", "deliver,1:dump", "kill-agent,2/1s:deliver"} {
		if r, err := ParseWatchdog(bad); err == nil || fix(err) == "" {
			t.Errorf("%q: %v %v", bad, r, err)
		}
	}
	faults, _ := ParseFaults([]string{"page-fault=deliver,3/1s:restart"})
	violations, _ := ParseViolations([]string{"restart"})
	plain, _ := ParseFaults([]string{"kill-agent"})
	if !faults.Restarts() || !violations.Restarts() || plain.Restarts() {
		t.Error("which policies may start the agent again")
	}
}

func FuzzPolicies(f *testing.F) {
	f.Add("page-fault=deliver,20/1s:kill-agent")
	f.Add("fs=deny,3/10s:quarantine")
	f.Fuzz(func(t *testing.T, text string) {
		key, _, one := strings.Cut(text, "=")
		if p, err := ParseFaults([]string{text}); err == nil && one {
			v, _ := ParseVector(key)
			again, err := ParseFaults([]string{v.String() + "=" + p.Rule(v).String()})
			if err != nil || again != p {
				t.Errorf("%q reads as %v, that as %v: %v", text, p.Rule(v), again.Rule(v), err)
			}
		}
		ParseViolations([]string{text})
	})
}

// TestLadder compares with a count of every use.
func TestLadder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rule{Deny, rapid.Uint32Range(1, 5).Draw(t, "after"), time.Second, KillAgent}
		var l Ladder
		var now time.Duration
		used := map[time.Duration]uint32{}
		for range rapid.IntRange(1, 50).Draw(t, "uses") {
			now += time.Duration(rapid.Int64Range(0, int64(700*time.Millisecond)).Draw(t, "pause"))
			used[now/r.Within]++
			want := r.Action
			if used[now/r.Within] > r.After {
				want = r.Then
			}
			if got := l.Climb(r, now); got != want {
				t.Fatalf("use %d of the window is %v, want %v", used[now/r.Within], got, want)
			}
		}
	})
}

func TestCounts(t *testing.T) {
	var c Counts
	c.Add(PageFault, RegionNull)
	c.Add(PageFault, RegionNull)
	c.Add(SIMD, RegionCode)
	c.Add(200, RegionCode)
	got := c.List()
	if len(got) != 2 || got[0] != (Count{PageFault, RegionNull, 2}) || got[1] != (Count{SIMD, RegionCode, 1}) || c.Total() != 4 {
		t.Errorf("%+v, %d", got, c.Total())
	}
	if n := testing.AllocsPerRun(100, func() { c.Add(PageFault, RegionStack) }); n != 0 {
		t.Errorf("counting allocates %v times", n)
	}
}

// TestLockupsHaveARuleOfTheirOwn: what is said of all exceptions is not said of
// the watchdog, which may do anything but ignore.
func TestLockupsHaveARuleOfTheirOwn(t *testing.T) {
	p, err := ParseFaults([]string{"kill-agent"})
	if err != nil || p.Rule(NMI).Action != Deliver || p.Exceptionless() {
		t.Errorf("%v, %v", p.Rule(NMI), err)
	}
	for _, name := range []string{"lockup", "NMI", "#NMI"} {
		p, err := ParseFaults([]string{name + "=deliver,3/1h:kill-domain"})
		if err != nil || p.Rule(NMI).String() != "deliver,3/1h0m0s:kill-domain" || p.Plain() || !p.Exceptionless() {
			t.Errorf("%s: %v, %v", name, p.Rule(NMI), err)
		}
	}
	if _, err := ParseFaults([]string{"lockup=ignore"}); err == nil {
		t.Error("lockups can be ignored")
	}
}
