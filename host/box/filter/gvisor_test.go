//go:build !race

// gVisor allows itself more in a binary with the race detector.

package filter

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/kvm"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
	goferconfig "gvisor.dev/gvisor/runsc/fsgofer/filter/config"

	"aios.dev/aios/host/box"
)

// The tables began as gVisor's rules for its own sandbox and gofer. What
// differs is listed here with the reason, and only that: a gVisor that makes
// another call fails this test until somebody has decided about it.
type decisions struct {
	leftOut map[uint32]string // gVisor allows more of the call
	beyond  map[uint32]string // gVisor allows less
}

var aboutKernel = decisions{
	leftOut: map[uint32]string{
		unix.SYS_FALLOCATE:       "only the two forms that the memory file needs; a gofer's files grow through the gofer",
		unix.SYS_FCHMOD:          "for files of the host that a sandbox opens itself; ours come from gofers, which do it",
		unix.SYS_GETSOCKOPT:      "for sockets of the host in the hands of agents, and for the control server of runsc",
		unix.SYS_IOCTL:           "for terminals of the host in the hands of agents; ours get streams",
		unix.SYS_IO_DESTROY:      "for restoring a checkpoint from a file",
		unix.SYS_IO_GETEVENTS:    "as above",
		unix.SYS_IO_SETUP:        "as above",
		unix.SYS_IO_SUBMIT:       "as above",
		unix.SYS_LISTEN:          "the daemon made the socket listen",
		unix.SYS_MEMFD_CREATE:    "close-on-exec only; gVisor's are made before the filter",
		unix.SYS_PREADV:          "nothing linked here calls it",
		unix.SYS_PWRITEV:         "nothing linked here calls it",
		unix.SYS_RECVMMSG:        "for a network device of the host",
		unix.SYS_RECVMSG:         "on descriptors only",
		unix.SYS_SENDMMSG:        "for a network device of the host",
		unix.SYS_SENDMSG:         "on descriptors only",
		unix.SYS_SETITIMER:       "for CPU profiles",
		unix.SYS_SYNC_FILE_RANGE: "nothing linked here calls it",
		unix.SYS_TEE:             "for named pipes of the host, which are not opened",
		unix.SYS_TIMER_CREATE:    "for CPU profiles",
		unix.SYS_TIMER_DELETE:    "for CPU profiles",
		unix.SYS_TIMER_SETTIME:   "for CPU profiles",
		unix.SYS_UTIMENSAT:       "for files of the host that a sandbox opens itself",
		unix.SYS_WRITEV:          "for a network device of the host",
		unix.SYS_EPOLL_CREATE1:   "the two forms that are called",
	},
	beyond: map[uint32]string{
		unix.SYS_FCNTL:             "package net duplicates the sockets it is handed",
		unix.SYS_GETEGID:           "a process may ask who it is",
		unix.SYS_GETEUID:           "as above",
		unix.SYS_GETGID:            "as above",
		unix.SYS_GETUID:            "as above",
		unix.SYS_GETPEERNAME:       "package net asks it of the sockets it is handed",
		unix.SYS_GETSOCKNAME:       "as above",
		unix.SYS_MEMFD_CREATE:      "files of its own, close-on-exec",
		unix.SYS_RECVMSG:           "messages of the daemon, with descriptors",
		unix.SYS_SCHED_GETAFFINITY: "the Go runtime looks at the number of CPUs again",
		unix.SYS_SENDMSG:           "messages of the daemon, with descriptors",
		unix.SYS_TIMERFD_SETTIME:   "a timer that ends on time, made before the filter",
	},
}

var aboutGofer = decisions{
	leftOut: map[uint32]string{},
	beyond: map[uint32]string{
		unix.SYS_GETEGID: "a process may ask who it is",
		unix.SYS_GETEUID: "as above",
		unix.SYS_GETGID:  "as above",
		unix.SYS_GETUID:  "as above",
	},
}

var gvisorText = regexp.MustCompile(`arg\[(\d)\] (?:== |> |& )(0x[0-9a-f]+|\d+)(?: == (0x[0-9a-f]+|\d+))?`)

// gvisorValues returns what gVisor's rules compare each argument of a call
// with.
func gvisorValues(t *testing.T, rules seccomp.SyscallRules) map[uint32][6][]uint64 {
	t.Helper()
	out := map[uint32][6][]uint64{}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for line := range strings.Lines(rules.String()) {
		var call uint64
		if _, err := fmt.Sscanf(line, "syscall %d:", &call); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values := out[uint32(call)]
		for _, m := range gvisorText.FindAllStringSubmatch(line, -1) {
			arg := number(m[1])
			v := number(m[2])
			values[arg] = append(values[arg], v)
			if m[3] != "" { // v is a mask
				values[arg] = append(values[arg], number(m[3]))
				for bit := range 64 {
					if v>>bit&1 == 1 {
						values[arg] = append(values[arg], 1<<bit)
					}
				}
			}
		}
		out[uint32(call)] = values
	}
	return out
}

// gvisorProgram has gVisor compile its rules.
func gvisorProgram(t *testing.T, allow, deny seccomp.SyscallRules) compiled {
	t.Helper()
	p := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{{Rules: deny.Copy(), Action: seccomp.KillProcess}, {Rules: allow.Copy(), Action: seccomp.Allow}},
		Options:  seccomp.ProgramOptions{DefaultAction: seccomp.KillProcess, BadArchAction: seccomp.KillProcess},
	}
	instructions, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	return load(t, bpf.ToBytecode(instructions))
}

// compareWithGVisor tries every call on both, and wants every difference to
// have been decided, and every decision to make a difference.
func compareWithGVisor(t *testing.T, table Table, allow, deny seccomp.SyscallRules, d decisions, used decisions) {
	t.Helper()
	program := gvisorProgram(t, allow, deny)
	theirs := gvisorValues(t, allow)
	for _, call := range allCalls() {
		values := theirs[call]
		for i, v := range table.guarded(call) {
			values[i] = append(values[i], v...)
		}
		tries(values, func(args [6]uint64) {
			ours, gvisors := table.Answer(call, args), program.run(t, archX86, call, args)
			switch {
			case ours != Allow && gvisors == Allow:
				if d.leftOut[call] == "" && used.leftOut[call] == "" {
					t.Errorf("gVisor calls %d with %x, the table does not let it", call, args)
				}
				used.leftOut[call] = "seen"
			case ours == Allow && gvisors != Allow:
				if d.beyond[call] == "" && used.beyond[call] == "" {
					t.Errorf("the table lets call %d through with %x, gVisor does not", call, args)
				}
				used.beyond[call] = "seen"
			}
		})
	}
}

func (d decisions) check(t *testing.T, used decisions) {
	t.Helper()
	for call, why := range d.leftOut {
		if used.leftOut[call] == "" {
			t.Errorf("call %d is said to be left out (%s), and is not", call, why)
		}
	}
	for call, why := range d.beyond {
		if used.beyond[call] == "" {
			t.Errorf("call %d is said to go beyond gVisor's (%s), and does not", call, why)
		}
	}
}

func TestTablesFollowGVisor(t *testing.T) {
	prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	here := box.Values{PID: os.Getpid(), Listen: 7, Nice: 20 - prio}
	tables := map[string]Table{}
	for _, s := range Specs() {
		tables[s.Name] = s.Table.resolve(here)
	}
	newUsed := func() decisions { return decisions{map[uint32]string{}, map[uint32]string{}} }

	used := newUsed()
	for name := range platforms {
		constructor, err := platform.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		opt := config.Options{Platform: constructor.PrecompiledSeccompInfo()[0], ControllerFD: uint32(here.Listen)}
		allow, deny := config.Rules(opt)
		compareWithGVisor(t, tables[kernelName(name, Files)], allow, deny, aboutKernel, used)
	}
	aboutKernel.check(t, used)

	used = newUsed()
	allow, deny := goferconfig.Rules(goferconfig.Options{LisafsNeeded: true})
	compareWithGVisor(t, tables[GoferOptions{}.name()], allow, deny, aboutGofer, used)
	aboutGofer.check(t, used)
}
