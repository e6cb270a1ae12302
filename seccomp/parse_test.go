package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

var here = Surroundings{Capabilities: []string{"CAP_CHOWN", "CAP_SYS_CHROOT"}, Kernel: [2]int{5, 10}}

func mustParse(t testing.TB, text string) *Profile {
	t.Helper()
	p, err := Parse([]byte(text), here)
	if err != nil {
		t.Fatalf("%v; %s", err, errdefs.FixOf(err))
	}
	return p
}

func TestRulesInTheOrderOfTheFile(t *testing.T) {
	p := mustParse(t, `{
		"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
		"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
		"syscalls": [
			{"names": ["read", "write", "chown32", "reed"], "action": "SCMP_ACT_ALLOW"},
			{"names": ["read"], "action": "SCMP_ACT_KILL"},
			{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
			{"names": ["personality"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_GE"}]},
			{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
			{"name": "getpid", "action": "SCMP_ACT_LOG"},
			{"names": ["kill"], "action": "SCMP_ACT_ERRNO"},
			{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errno": "ENOSYS"},
			{"names": ["umount2"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
			{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [
				{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]},
			{"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": [
				{"index": 0, "value": 1, "op": "SCMP_CMP_LT"}, {"index": 1, "value": 2, "op": "SCMP_CMP_NE"}]},
			{"names": ["exit"], "action": "SCMP_ACT_KILL_PROCESS"}
		]}`)
	allow, refused := Verdict{Action: Allow}, Verdict{Errno, 38}
	for _, c := range []struct {
		call uint32
		args [6]uint64
		want Verdict
	}{
		{unix.SYS_READ, [6]uint64{}, allow},
		{unix.SYS_WRITE, [6]uint64{1, 2, 3}, allow},
		{unix.SYS_OPEN, [6]uint64{}, refused},
		{9999, [6]uint64{}, refused},
		{unix.SYS_PERSONALITY, [6]uint64{8}, allow},
		{unix.SYS_PERSONALITY, [6]uint64{7}, refused},
		{unix.SYS_PERSONALITY, [6]uint64{9}, Verdict{Action: Trap}},
		{unix.SYS_PERSONALITY, [6]uint64{8 | 1<<32}, Verdict{Action: Trap}},
		{unix.SYS_CLONE, [6]uint64{unix.CLONE_VM}, allow},
		{unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER}, refused},
		{unix.SYS_GETPID, [6]uint64{}, Verdict{Action: Log}},
		{unix.SYS_KILL, [6]uint64{}, Verdict{Errno, uint16(unix.EPERM)}},
		{unix.SYS_MOUNT, [6]uint64{}, Verdict{Errno, uint16(unix.ENOSYS)}},
		{unix.SYS_UMOUNT2, [6]uint64{}, Verdict{Trace, 7}},
		{unix.SYS_IOCTL, [6]uint64{0, 2}, allow},
		{unix.SYS_IOCTL, [6]uint64{9, 3}, allow},
		{unix.SYS_IOCTL, [6]uint64{0, 3}, refused},
		{unix.SYS_DUP2, [6]uint64{0, 3}, allow},
		{unix.SYS_DUP2, [6]uint64{0, 2}, refused},
		{unix.SYS_DUP2, [6]uint64{1, 3}, refused},
		{unix.SYS_EXIT, [6]uint64{}, Verdict{Action: KillProcess}},
	} {
		if got := p.Verdict(c.call, c.args); got != c.want {
			t.Errorf("call %d %v: %+v, want %+v", c.call, c.args, got, c.want)
		}
	}
	if got := p.Unknown(); !slices.Equal(got, []string{"chown32", "reed"}) {
		t.Errorf("unknown are %v", got)
	}
	if v, ok := p.Always(unix.SYS_READ); !ok || v != allow {
		t.Errorf("read is always %v, %v", v, ok)
	}
	if v, ok := p.Always(unix.SYS_OPEN); !ok || v != refused {
		t.Errorf("open is always %v, %v", v, ok)
	}
	if _, ok := p.Always(unix.SYS_CLONE); ok {
		t.Error("clone does not depend on its arguments")
	}
}

func TestDockersDialect(t *testing.T) {
	p := mustParse(t, `{
		"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 1,
		"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
		"syscalls": [
			{"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {"caps": ["CAP_SYS_CHROOT"]}, "excludes": {}},
			{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
			{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}},
			{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
			{"names": ["chown"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}},
			{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
			{"names": ["vfork"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.11"}},
			{"names": ["fork"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.10"}},
			{"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
			{"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
			{"names": ["getppid"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}}
		]}`)
	for call, want := range map[uint32]Verdict{
		unix.SYS_CHROOT: {Action: Allow}, unix.SYS_PTRACE: {Action: Allow}, unix.SYS_ARCH_PRCTL: {Action: Allow},
		unix.SYS_CLONE3: {Errno, uint16(unix.ENOSYS)},
		unix.SYS_MOUNT:  {Errno, 1}, unix.SYS_CLONE: {Errno, 1}, unix.SYS_CHOWN: {Errno, 1}, unix.SYS_VFORK: {Errno, 1},
		unix.SYS_FORK: {Errno, 1}, unix.SYS_GETPID: {Errno, 1}, unix.SYS_GETPPID: {Errno, 1},
	} {
		if got := p.Verdict(call, [6]uint64{}); got != want {
			t.Errorf("call %d: %+v, want %+v", call, got, want)
		}
	}
}

func TestBadProfilesAreRefusedByPlace(t *testing.T) {
	rule := func(s string) string {
		return `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, ` + s + `]}`
	}
	args := func(s string) string {
		return rule(`{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "SCMP_CMP_EQ"}, ` + s + `]}`)
	}
	many := func(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	for text, place := range map[string]string{
		"":                             "line 1, column 0",
		"null":                         "profile",
		"[]":                           "line 1",
		"{}":                           "defaultAction",
		"{\n \"defaultAction\": oops}": "line 2, column 19",
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\"}\n x":                                                                               "line 2",
		`{"defaultAction": "SCMP_ACT_ALLOW"} {}`:                                                                                    "line 1",
		`{"defaultAction": "ALLOW"}`:                                                                                                "defaultAction",
		`{"defaultAction": "SCMP_ACT_NOTIFY"}`:                                                                                      "defaultAction",
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscall": []}`:                                                                        `unknown field "syscall"`,
		`{"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}`:                                                                  "defaultErrno",
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}`:                                                                 "listenerPath",
		`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "X"]}`:                                            "flags[1]",
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]}`:                                                           "architectures",
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + many(2049, `{"names":["read"],"action":"SCMP_ACT_ALLOW"}`) + `]}`:     "syscalls",
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [` + many(16385, `"read"`) + `], "action": "SCMP_ACT_ALLOW"}]}`: "syscalls",
		rule(`{"action": "SCMP_ACT_ALLOW"}`):                                                                                        "syscalls[1].names",
		rule(`{"names": ["read", ""], "action": "SCMP_ACT_ALLOW"}`):                                                                 "syscalls[1].names[1]",
		rule(`{"names": ["` + strings.Repeat("x", 65) + `"], "action": "SCMP_ACT_ALLOW"}`):                                          "syscalls[1].names[0]",
		rule(`{"names": ["read"]}`):                                                                                                 "syscalls[1].action",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}`):                                                      "syscalls[1].errno",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}`):                                                   "syscalls[1].errnoRet",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "ENONE"}`):                                                   "syscalls[1].errno",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "errnoRet": 2}`):                                    "syscalls[1].errno",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}`):                                                     "line 1",
		rule(`{"names": "read", "action": "SCMP_ACT_ALLOW"}`):                                                                       "names",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["chown"]}}`):                                    "syscalls[1].includes.caps[0]",
		rule(`{"names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4"}}`):                                     "syscalls[1].excludes.minKernel",
		args(`{"index": 6, "op": "SCMP_CMP_EQ"}`):                                                                                   "syscalls[1].args[1].index",
		args(`{"index": 1, "op": "=="}`):                                                                                            "syscalls[1].args[1].op",
		args(`{"index": 1, "value": 18446744073709551616, "op": "SCMP_CMP_EQ"}`):                                                    "line 1",
		args(many(32, `{"index": 1, "op": "SCMP_CMP_EQ"}`)):                                                                         "syscalls[1].args",
		strings.Repeat(" ", MaxBytes+1):                                                                                             "profile",
	} {
		_, err := Parse([]byte(text), here)
		if !errors.Is(err, errdefs.SeccompInvalid) || errdefs.FixOf(err) == "" || !strings.Contains(fmt.Sprint(err), place) {
			t.Errorf("%.120s: %v (fix: %q), want it to name %q", text, err, errdefs.FixOf(err), place)
		}
	}
}

func TestAProgramThatIsTooLongIsRefused(t *testing.T) {
	var entries []string
	for value := range 1000 {
		entries = append(entries, fmt.Sprintf(`{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": %d, "op": "SCMP_CMP_EQ"}]}`, value))
	}
	p := mustParse(t, `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [`+strings.Join(entries, ",")+`]}`)
	if _, err := p.Compile(); !errors.Is(err, errdefs.SeccompInvalid) || errdefs.FixOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestActionsHaveTheirNames(t *testing.T) {
	for a := range KillProcess + 1 {
		if known, ok := actions[a.String()]; !ok || known != a {
			t.Errorf("action %d is named %q", a, a)
		}
	}
}
