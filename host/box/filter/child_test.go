package filter

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/ptrace"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	"gvisor.dev/gvisor/runsc/fsgofer"

	"aios.dev/aios/host/box"
)

// The test binary plays three parts, chosen by its environment: the test, a
// daemon that starts a boxed child on some kind of host, and that child.
const (
	daemonEnv   = "AIOS_BOX_TEST_DAEMON" // the kind of host
	childEnv    = "AIOS_BOX_TEST_CHILD"  // what the child does when it is sealed
	rootEnv     = "AIOS_BOX_TEST_ROOT"   // where a directory to chroot into is made
	dirEnv      = "AIOS_BOX_TEST_DIR"    // a directory for a gofer to serve
	classEnv    = "AIOS_BOX_TEST_CLASS"  // what it was granted: "files" or not, a gofer "read" or not
	preparedEnv = "AIOS_BOX_TEST_PREPARED"
)

func TestMain(m *testing.M) {
	kind, action := os.Getenv(daemonEnv), os.Getenv(childEnv)
	switch {
	case kind != "":
		os.Exit(daemon(kind, action))
	case action != "":
		os.Exit(child(action))
	}
	os.Exit(m.Run())
}

// facts is what a boxed child finds out about itself.
type facts struct {
	Prepared []box.Report
	Reports  []box.Report
	Status   map[string]string // of /proc/self/status
	PID      int
	UID      int
	HostUID  string
	Root     []string // names in /
	RootRO   string   // error of making a file in /
	Passwd   string   // error of opening it
	FDs      []string // number and kind of file, in octal
	NetDev   []string // interfaces
	Took     time.Duration
}

// report finds a box by name.
func (f *facts) report(t *testing.T, name string) box.Report {
	t.Helper()
	for _, r := range slices.Concat(f.Prepared, f.Reports) {
		if r.Box == name {
			return r
		}
	}
	t.Fatalf("no report about %q", name)
	return box.Report{}
}

// daemon starts a boxed child and passes its outcome on.
func daemon(kind, action string) int {
	die := func(err error) int {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		return 3
	}
	if strings.Contains(kind, "container") {
		if err := refuseNamespaces(); err != nil {
			return die(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=" + action, classEnv + "=" + os.Getenv(classEnv)}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// A descriptor that the child is not told to keep.
	secret, err := os.Open("/etc/passwd")
	if err != nil {
		return die(err)
	}
	cmd.ExtraFiles = []*os.File{secret}
	root, err := box.NewRoot(os.Getenv(rootEnv))
	if err != nil {
		return die(err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, root)
	prepare := box.Prepare
	var client *os.File
	if strings.HasPrefix(action, "gofer") {
		prepare = box.PrepareGofer
		dir, err := os.Open(os.Getenv(dirEnv))
		if err != nil {
			return die(err)
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return die(err)
		}
		client = os.NewFile(uintptr(fds[0]), "client")
		cmd.ExtraFiles = append(cmd.ExtraFiles, dir, os.NewFile(uintptr(fds[1]), "server"))
	}
	prepared, err := json.Marshal(prepare(cmd))
	if err != nil {
		return die(err)
	}
	cmd.Env = append(cmd.Env, preparedEnv+"="+string(prepared))
	if err := cmd.Start(); err != nil {
		return die(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if client != nil && action == "gofer serve" {
		err = use(client)
	}
	if client != nil && action == "gofer look" {
		err = look(client)
	}
	if client != nil {
		client.Close()
	}
	_ = cmd.Wait() // how it ended is the outcome
	if err != nil {
		return die(err)
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		fmt.Println("killed by", ws.Signal())
		return 0
	}
	fmt.Println("exit", cmd.ProcessState.ExitCode())
	return 0
}

// refuseNamespaces makes this process one in a default container: what makes
// namespaces and mounts is refused by a filter.
func refuseNamespaces() error {
	const (
		ld  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		set = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret = unix.BPF_RET | unix.BPF_K

		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		newNS  = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	)
	prog := []unix.SockFilter{
		{Code: ld, K: 0}, // the number
		{Code: jeq, K: unix.SYS_CLONE3, Jf: 1},
		{Code: ret, K: enosys},
		{Code: jeq, K: unix.SYS_UNSHARE, Jt: 5},
		{Code: jeq, K: unix.SYS_MOUNT, Jt: 4},
		{Code: jeq, K: unix.SYS_PIVOT_ROOT, Jt: 3},
		{Code: jeq, K: unix.SYS_CLONE, Jf: 3},
		{Code: ld, K: 16}, // its flags
		{Code: set, K: newNS, Jf: 1},
		{Code: ret, K: eperm},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return errno
	}
	return nil
}

// child boxes itself, says what it found, and does what it is told.
func child(action string) int {
	var f facts
	if err := json.Unmarshal([]byte(os.Getenv(preparedEnv)), &f.Prepared); err != nil {
		return fail("unmarshal", err)
	}
	f.PID, f.UID = os.Getpid(), os.Getuid()
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return fail("open status", err)
	}
	fdDir, err := os.Open("/proc/self/fd")
	if err != nil {
		return fail("open fds", err)
	}
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		f.HostUID = strings.Join(strings.Fields(string(b)), " ")
	}
	if b, err := os.ReadFile("/proc/self/net/dev"); err == nil {
		for _, line := range strings.Split(string(b), "\n") {
			if name, _, ok := strings.Cut(line, ":"); ok {
				f.NetDev = append(f.NetDev, strings.TrimSpace(name))
			}
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fail("socketpair", err)
	}

	place := ""
	keep := []int{1, 2, pair[0], pair[1]}
	gofer := strings.HasPrefix(action, "gofer ")
	if gofer {
		place, f.Reports, err = box.ApplyGofer(box.GoferOptions{Dir: os.NewFile(5, "dir"), Keep: append(keep, goferSocket), BeforeRoot: fsgofer.OpenProcSelfFD})
	} else {
		f.Reports, err = box.Apply(box.Options{Keep: keep, Root: 4})
	}
	if err != nil {
		return fail("apply", err)
	}
	f.Status = parseStatus(status)
	f.look(fdDir)

	machine, err := seal(&f, action, gofer)
	if err != nil {
		return fail("seal", err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
		return fail("encode", err)
	}
	return act(strings.TrimPrefix(action, "gofer "), place, machine, pair)
}

// look records what is in reach after the boxes but the last are closed.
func (f *facts) look(fdDir *os.File) {
	names, _ := fdDir.Readdirnames(-1)
	for _, n := range names {
		var st unix.Stat_t
		if fd, err := strconv.Atoi(n); err == nil && unix.Fstat(fd, &st) == nil {
			f.FDs = append(f.FDs, fmt.Sprintf("%d:%o", fd, st.Mode&unix.S_IFMT))
		}
	}
	entries, _ := os.ReadDir("/")
	for _, e := range entries {
		f.Root = append(f.Root, e.Name())
	}
	f.RootRO = errString(os.WriteFile("/x", nil, 0o600))
	_, err := os.Open("/etc/passwd")
	f.Passwd = errString(err)
}

// seal starts the platform, where the action is about one, and closes the
// last box.
func seal(f *facts, action string, gofer bool) (platform.Platform, error) {
	name := "systrap"
	if action == "ptrace" {
		name = "ptrace"
	}
	constructor, err := platform.Lookup(name)
	if err != nil {
		return nil, err
	}
	var machine platform.Platform
	if action == "systrap" || action == "ptrace" {
		cpuid.Initialize()
		if machine, err = constructor.New(platform.Options{}); err != nil {
			return nil, fmt.Errorf("start platform: %w", err)
		}
	}
	var p []byte
	if class := os.Getenv(classEnv); class == semanticName {
		p, err = Semantic()
	} else if gofer {
		p, err = Gofer(GoferOptions{KeepOwner: os.Getuid() != 0, ReadOnly: os.Getenv(classEnv) == "read"})
	} else {
		class := Compute
		if os.Getenv(classEnv) == Files.String() {
			class = Files
		}
		p, err = Kernel(name, class)
	}
	if err != nil {
		return nil, err
	}
	start := time.Now()
	r, err := box.InstallProgram(p, -1)
	f.Took = time.Since(start)
	f.Reports = append(f.Reports, r)
	return machine, err
}

func parseStatus(f *os.File) map[string]string {
	out := map[string]string{}
	b := make([]byte, 64<<10)
	n, _ := f.ReadAt(b, 0)
	for _, line := range strings.Split(string(b[:n]), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			out[k] = strings.TrimSpace(v)
		}
	}
	return out
}

func fail(what string, err error) int {
	fmt.Printf("survived %s: %v\n", what, err)
	return 4
}

func errString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
