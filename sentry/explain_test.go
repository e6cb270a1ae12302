package sentry

import (
	"strings"
	"syscall"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

func TestExplain(t *testing.T) {
	held := []HeldCapability{
		{"c000000000001", abi.Held{Class: abi.ClassMem, Object: "self", Rights: abi.MemMap}},
		{"c000000000002", abi.Held{Class: abi.ClassProc, Object: "self", Rights: abi.ProcSpawn | abi.ProcExec}},
		{"c000000000003", abi.Held{Class: abi.ClassNet, Object: "loopback", Rights: abi.NetConnect}},
		{"c000000000004", abi.Held{Class: abi.ClassAgent, Object: "worker", Rights: abi.AgentSignal}},
		{"c000000000005", abi.Held{Class: abi.ClassSvc, Object: "db", Rights: abi.SvcConnect}},
		{"c000000000007", abi.Held{Class: abi.ClassSemantic, Object: "notes/*@animals", Rights: abi.SemanticRead}},
		{"c000000000008", abi.Held{Class: abi.ClassRegion, Object: "table", Rights: abi.RegionRead}},
	}
	plain := make([]abi.Held, len(held))
	for i := range held {
		plain[i] = held[i].Held
	}
	lookup := func(path string, want abi.Rights) (syscall.Errno, string, string) {
		switch {
		case strings.HasPrefix(path, "/data/") && want == abi.FSRead:
			return 0, path + " is on the mount of fs:/data", "c000000000006"
		case strings.HasPrefix(path, "/bin/"):
			return 0, path + " is the agent's own", ""
		}
		return syscall.EACCES, "the mount of " + path + " does not give " + want.Format(abi.ClassFS), ""
	}
	for _, test := range []struct {
		op         string
		allowed    bool
		capability string
		missing    string
		errno      syscall.Errno
		why        string // part of it
	}{
		{"getpid", true, "", "", 0, "needs no capability"},
		{"connect /run/x.sock", true, "", "", 0, "needs no capability"},
		{"mmap", true, "c000000000001", "", 0, "mem:self:map from c000000000001"},
		{"mmap exec", false, "", "mem:self:exec", syscall.EACCES, "mem:self:exec"},
		{"fork", true, "c000000000002", "", 0, "proc:self:spawn"},
		{"kill 12", false, "", "proc:self:signal", syscall.EPERM, "not for the calling process itself"},
		{"kill self", true, "", "", 0, ""},
		{"kill worker", true, "c000000000004", "", 0, "agent:worker:signal"},
		{"kill other", false, "", "agent:other:signal", syscall.EPERM, "does not hold"},
		{"pause worker", false, "", "agent:worker:pause", syscall.EPERM, "does not hold"},
		{"connect 127.0.0.1:80", true, "c000000000003", "", 0, "net:loopback"},
		{"connect example.org:80", false, "", "net:*:connect", syscall.ENETUNREACH, "net:*:connect"},
		{"bind :80", false, "", "net:loopback:bind", syscall.EACCES, "net:loopback:bind"},
		{"socket inet raw", false, "", "", syscall.EPERM, "no agent is given"},
		{"mount", false, "", "sys:mount", syscall.EPERM, "sys:mount"},
		{"syscall reboot", false, "", "", syscall.EPERM, "admin"},
		{"call db", true, "c000000000005", "", 0, "svc:db"},
		{"call other", false, "", "svc:other", syscall.EACCES, ""},
		{"memory notes/a@animals", true, "c000000000007", "", 0, "semantic:notes/a@animals:read from c000000000007"},
		{"memory notes/a@animals+cats read", true, "c000000000007", "", 0, ""},
		{"memory notes/a", false, "", "semantic:notes/a:read", syscall.EACCES, "does not hold"},
		{"memory notes/a@animals write", false, "", "semantic:notes/a@animals:write", syscall.EACCES, "does not hold"},
		{"region table", true, "c000000000008", "", 0, "region:table:read"},
		{"region table write", false, "", "region:table:write", syscall.EPERM, "does not hold"},
		{"region other", false, "", "region:other:read", syscall.ENOENT, ""},
		{"open /data/x", true, "c000000000006", "", 0, "mount of fs:/data"},
		{"open /data/x w", false, "", "fs:/data/x:write", syscall.EACCES, "does not give write"},
		{"exec /bin/sh", true, "c000000000002", "", 0, "own"},
		{"exec /data/sh", false, "", "fs:/data/sh:exec", syscall.EACCES, "does not give exec"},
	} {
		got, err := Explain(test.op, abi.MaskFor(plain), held, lookup)
		if err != nil {
			t.Errorf("%s: %v", test.op, err)
			continue
		}
		if got.Allowed != test.allowed || got.Capability != test.capability || got.Missing != test.missing || got.Errno != test.errno || !strings.Contains(got.Why, test.why) {
			t.Errorf("%s: %+v", test.op, got)
		}
	}
	_, err := Explain("do something", 0, nil, lookup)
	wantCode(t, err, errdefs.InvalidArgument)
}

// TestExplainAgreesWithTheGate asks about every system call by its name, with
// one group missing at a time.
func TestExplainAgreesWithTheGate(t *testing.T) {
	for _, c := range abi.Syscalls() {
		for _, g := range abi.Groups() {
			mask := abi.MaskAll()&^g.Group.Bit() | abi.MaskNone()
			got, err := Explain("syscall "+c.Name, mask, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := c.Group.Bit()&^mask == 0; got.Allowed != want {
				t.Errorf("%s without %s: allowed %v", c.Name, g.Name, got.Allowed)
			}
			if !got.Allowed && got.Errno != c.Group.Info().Errno {
				t.Errorf("%s without %s: %v", c.Name, g.Name, got.Errno)
			}
		}
	}
}
