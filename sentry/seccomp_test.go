package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// withSeccomp allows everything but what rules say otherwise.
func withSeccomp(rules ...string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) {
		r.Seccomp = []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + strings.Join(rules, ",") + `]}`)
	}
}

const (
	noMkdir   = `{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}`
	killMkdir = `{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}`
)

func seccompProbe(t *testing.T, rules ...string) *probe {
	t.Helper()
	newProbe(t) // makes the image, or skips
	s := spawn(t, []string{"/bin/probe"}, withStdin, withSeccomp(rules...), func(r *control.SpawnRequest) { r.Root.Base = "probe" })
	return &probe{s, agentUnderTest(t, s.id)}
}

func (p *probe) want(name, args string, want int64) {
	p.t.Helper()
	if got := p.call(name, args); got != want {
		p.t.Errorf("%s %s returns %d, want %d", name, args, got, want)
	}
}

func TestSeccompArgumentsDecide(t *testing.T) {
	p := seccompProbe(t,
		noMkdir,
		`{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
			{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 1000, "op": "SCMP_CMP_GE"}]}`,
		`{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}`,
		`{"names": ["umask"], "action": "SCMP_ACT_TRACE"}`,
	)
	p.want("mkdir", `"/tmp/a 493`, -int64(unix.EDQUOT))
	p.want("mkdirat", `-100 "/tmp/a 493`, -int64(unix.EDQUOT))
	p.must("getpriority", "0 0")
	p.want("getpriority", "0 1000", -int64(unix.EPERM))
	p.want("getpriority", "0 0x100000000", -int64(unix.EPERM)) // All 64 bits count.
	p.want("getppid", "", 0)
	p.want("umask", "18", -int64(unix.ENOSYS)) // Nobody traces it.
	p.must("getpid", "")
	if left := p.call("access", `"/tmp/a 0`); left != -int64(unix.ENOENT) {
		t.Errorf("the refused directory is there: %d", left)
	}
}

func TestSeccompIsInherited(t *testing.T) {
	s := spawn(t, sh(`
		grep Seccomp: /proc/self/status
		mkdir /tmp/a; sh -c 'mkdir /tmp/b; exec mkdir /tmp/c'
		(mkdir /tmp/d) & wait
		ls /tmp`), withSeccomp(noMkdir))
	out, errs, exit := s.output()
	if strings.Count(errs, "Disk quota exceeded") != 4 || !strings.Contains(out, "Seccomp:\t2") || strings.Contains(out, "/tmp") || exit.Code != 0 {
		t.Errorf("exit %+v\n%s%s", exit, out, errs)
	}
	if strings.Fields(out)[len(strings.Fields(out))-1] != "2" {
		t.Errorf("something was made: %s", out)
	}
}

func TestSeccompHoldsForFurtherProcesses(t *testing.T) {
	s := spawn(t, sh("read x"), withStdin, withSeccomp(noMkdir))
	neighbour := spawn(t, sh("read x"), withStdin)
	if out, errs, _ := s.execIn(sh("mkdir /tmp/a")).output(); !strings.Contains(errs, "Disk quota exceeded") {
		t.Errorf("%s%s", out, errs)
	}
	if out, errs, exit := neighbour.execIn(sh("mkdir /tmp/a && grep Seccomp: /proc/self/status")).output(); exit.Code != 0 || !strings.Contains(out, "Seccomp:\t0") {
		t.Errorf("another agent: exit %+v\n%s%s", exit, out, errs)
	}
}

// threadImage makes the image "thread" known, once.
var threadImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-thread")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "thread", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", filepath.Join(root, "bin", "thread"), "testdata/thread.c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
})

func TestSeccompKills(t *testing.T) {
	const sigsys = int32(syscall.SIGSYS)
	out, _, _ := spawn(t, sh(`mkdir /tmp/a; echo "status $?"`), withSeccomp(killMkdir)).output()
	if want := fmt.Sprintf("status %d\n", 128+sigsys); out != want {
		t.Errorf("a child that was killed: %q, want %q", out, want)
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := threadImage(); err != nil {
		t.Fatal(err)
	}
	thread := func(rule string) (string, control.Exit) {
		out, _, exit := spawn(t, []string{"/bin/thread"}, withSeccomp(rule), func(r *control.SpawnRequest) { r.Root.Base = "thread" }).output()
		return out, exit
	}
	if out, exit := thread(killMkdir); exit.Signal != sigsys || out != "" {
		t.Errorf("the process goes on: %q, %+v", out, exit)
	}
	if out, exit := thread(strings.Replace(killMkdir, "PROCESS", "THREAD", 1)); exit.Code != 0 || out != "alive\n" {
		t.Errorf("more than the thread was killed: %q, %+v", out, exit)
	}
	if out, exit := thread(strings.Replace(killMkdir, "KILL_PROCESS", "TRAP", 1)); exit.Signal != sigsys || out != "" {
		t.Errorf("a trap that nobody catches: %q, %+v", out, exit)
	}
}

func TestSeccompRefusalsAreTold(t *testing.T) {
	denied.watch()
	s := spawn(t, sh(`
		mkdir /tmp/a; mkdir /tmp/b
		hostname`), withSeccomp(noMkdir, `{"names": ["uname"], "action": "SCMP_ACT_LOG"}`))
	out, errs, exit := s.output()
	if exit.Code != 0 || out != "box\n" {
		t.Fatalf("exit %+v\n%s%s", exit, out, errs)
	}
	told := func(operation, object string, errno unix.Errno) (n uint64) {
		for _, d := range denied.of(s.id) {
			if d.Operation == operation && d.Object == object && d.Errno == errno {
				n += d.Count
			}
		}
		return n
	}
	eventually(t, func() bool {
		return told("mkdir", "seccomp profile: SCMP_ACT_ERRNO", unix.EDQUOT) == 2 && told("uname", "seccomp profile: SCMP_ACT_LOG", 0) > 0
	})
	if n := len(denied.of(s.id)); n > 4 {
		t.Errorf("%d records: %+v", n, denied.of(s.id))
	}
}

func TestBadSeccompProfileStartsNothing(t *testing.T) {
	var id string
	_, err := trySpawn(t, sh("true"), func(r *control.SpawnRequest) {
		id = r.ID
		r.Seccomp = []byte(`{"defaultAction": "SCMP_ACT_NOTIFY"}`)
	})
	wantCode(t, err, errdefs.SeccompInvalid)
	if errdefs.FixOf(err) == "" {
		t.Error("nothing is said about what to do")
	}
	if _, err := theKernel.agent(id); err == nil {
		t.Error("the agent is known")
	}
}

func TestSeccompSurroundings(t *testing.T) {
	s := agentSurroundings()
	if !slices.Contains(s.Capabilities, "CAP_CHOWN") || slices.Contains(s.Capabilities, "CAP_SYS_ADMIN") || s.Kernel[0] < 4 {
		t.Errorf("profiles see %+v", s)
	}
	out, _, _ := spawn(t, sh("cat /proc/sys/kernel/osrelease")).output()
	if want := fmt.Sprintf("%d.%d.", s.Kernel[0], s.Kernel[1]); !strings.HasPrefix(out, want) {
		t.Errorf("agents are told %q, profiles %q", out, want)
	}
}

func TestADomainOfImagesRefusesGofers(t *testing.T) {
	k := &Kernel{cfg: Config{ImagesOnly: true}}
	ours, theirs := socketpair(t)
	defer ours.Close()
	err := k.Mount(control.MountRequest{Key: "dir", Kind: control.KindGofer}, theirs)
	wantCode(t, err, errdefs.Sealed)
	if errdefs.FixOf(err) == "" {
		t.Error("nothing is said about what to do")
	}
	if theirs.Close() == nil {
		t.Error("the connection was left open")
	}
}
