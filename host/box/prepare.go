package box

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// nobody is the host's overflow user: it owns nothing by convention.
const nobody = 65534

// handoverEnv tells the child which boxes its parent has put it in. The child
// cannot find out safely: a mount in the host's namespace would be an attack
// on the host.
const handoverEnv = "AIOS_BOX"

// namespaces lists what is asked of the host, in the order of the reports.
var namespaces = []struct {
	box  string
	flag uintptr
}{
	{MountNamespace, unix.CLONE_NEWNS},
	{PIDNamespace, unix.CLONE_NEWPID},
	{IPCNamespace, unix.CLONE_NEWIPC},
	{UTSNamespace, unix.CLONE_NEWUTS},
	{NetNamespace, unix.CLONE_NEWNET},
}

// role is what kind of child is started.
type role uint8

const (
	kernelRole role = iota // becomes nobody
	goferRole              // keeps its user, whose files it serves
)

// Prepare sets cmd.SysProcAttr so that the kernel process is born in every
// namespace that the host grants, in a session of its own, and as nobody where
// that is possible. It keeps the fields it does not speak of. cmd.Path should
// be /proc/self/exe. What the host refuses is found out once per process.
func Prepare(cmd *exec.Cmd) []Report { return prepare(cmd, kernelRole) }

// PrepareGofer is Prepare for a gofer: the process keeps its user, inside a
// user namespace where its capabilities count against files only. Root's gofer
// sees the owners that files have; that of another user sees the user's files
// as root's, and all others as nobody's.
func PrepareGofer(cmd *exec.Cmd) []Report { return prepare(cmd, goferRole) }

// Probe reports which namespaces the host grants a kernel process, without
// starting one.
func Probe() []Report { return slices.Clone(grants[kernelRole]().reports) }

func prepare(cmd *exec.Cmd, r role) []Report {
	g := grants[r]()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	g.set(cmd.SysProcAttr)
	cmd.Env = append(cmd.Environ(), handoverEnv+"="+g.handover())
	return slices.Clone(g.reports)
}

var grants = [...]func() *grant{
	kernelRole: sync.OnceValue(func() *grant { return negotiate(kernelRole) }),
	goferRole:  sync.OnceValue(func() *grant { return negotiate(goferRole) }),
}

// grant is what the host has agreed to.
type grant struct {
	role     role
	flags    uintptr
	user     bool // a user namespace
	asNobody bool // becomes nobody without one
	caps     []uintptr
	reports  []Report
}

func (g *grant) set(a *syscall.SysProcAttr) {
	a.Setsid = true
	a.Cloneflags |= g.flags
	a.AmbientCaps = g.caps
	uid, gid := os.Getuid(), os.Getgid()
	switch {
	case g.user:
		a.Cloneflags |= unix.CLONE_NEWUSER
		inside, size := nobody, 1
		switch {
		case g.role == goferRole && uid == 0:
			// All users as they are: a file keeps its owner.
			inside, size, gid = 0, 1<<32-1, 0
		case g.role == goferRole:
			// The user's files are root's in here, and what an agent's root
			// makes is the user's: no other owner can be had.
			inside = 0
		case uid == 0:
			uid, gid = nobody, nobody
		}
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside, HostID: uid, Size: size}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: inside, HostID: gid, Size: size}}
		// Only root may still drop supplementary groups in there.
		a.GidMappingsEnableSetgroups = os.Getuid() == 0
		a.Credential = &syscall.Credential{Uid: uint32(inside), Gid: uint32(inside), NoSetGroups: os.Getuid() != 0}
	case g.asNobody:
		a.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
}

// handover is the value of handoverEnv.
func (g *grant) handover() string {
	var words []string
	if g.user {
		words = append(words, "user")
	}
	if g.flags&unix.CLONE_NEWNS != 0 {
		words = append(words, "mount")
	}
	if g.flags&unix.CLONE_NEWPID != 0 {
		words = append(words, "pid")
	}
	for _, c := range g.caps {
		if c == unix.CAP_SYS_PTRACE {
			words = append(words, "ptrace")
		}
	}
	return strings.Join(words, ",")
}

// takeHandover reads what the parent has granted, and hides it from agents'
// environments.
func takeHandover() map[string]bool {
	got := map[string]bool{}
	for _, w := range strings.Split(os.Getenv(handoverEnv), ",") {
		got[w] = true
	}
	_ = os.Unsetenv(handoverEnv)
	return got
}

// setupCaps are what the child needs to close its own boxes, besides what
// remains its own: the kernel process needs CAP_SYS_PTRACE where Yama wants
// it, the gofer its user's power over files.
func setupCaps(r role) []uintptr {
	caps := []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP}
	if r == goferRole {
		return append(caps, goferCaps...)
	}
	if yamaScope() >= 2 {
		caps = append(caps, unix.CAP_SYS_PTRACE)
	}
	return caps
}

func yamaScope() int {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// negotiate asks the host for everything and gives up as little as it must.
func negotiate(r role) *grant {
	all := uintptr(0)
	for _, ns := range namespaces {
		all |= ns.flag
	}
	g := &grant{role: r, user: true, flags: all, caps: setupCaps(r)}
	userErr := g.try()
	if userErr == nil {
		g.reports = append(g.reports, Stands(UserNamespace))
		for _, ns := range namespaces {
			g.reports = append(g.reports, Stands(ns.box))
		}
		return g
	}

	// Without a user namespace each of the others wants CAP_SYS_ADMIN, and
	// the child has what capabilities its user has.
	*g = grant{role: r, caps: ownCaps(setupCaps(r))}
	reports := []Report{}
	for _, ns := range namespaces {
		g.flags |= ns.flag
		if err := g.try(); err != nil {
			g.flags &^= ns.flag
			reports = append(reports, Missing(ns.box, because(err)))
		} else {
			reports = append(reports, Stands(ns.box))
		}
	}
	user := Missing(UserNamespace, because(userErr))
	if r == kernelRole && os.Getuid() == 0 {
		g.asNobody = true
		if g.try() == nil {
			user.Effect = "the process is nobody on the host, as it would be inside; its capabilities count against the host until it drops them"
		} else {
			g.asNobody = false
		}
	}
	g.reports = append([]Report{user}, reports...)
	return g
}

// try starts a program that does not exist with g: everything the kernel may
// refuse happens before it looks for the program.
func (g *grant) try() error {
	a := &syscall.SysProcAttr{}
	g.set(a)
	pid, err := syscall.ForkExec("/proc/self/fd/-1", []string{"probe"}, &syscall.ProcAttr{Sys: a})
	if err == nil {
		// Cannot be: there is nothing at that path.
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return errdefs.New(errdefs.HostIO, "probe started a program")
	}
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// because explains a refusal.
func because(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "the host does not permit it (" + err.Error() + "): a container's seccomp filter, a sysctl or the lack of CAP_SYS_ADMIN"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return "the host's limit is reached or is zero (" + err.Error() + "): see /proc/sys/user/max_*_namespaces"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "the host's kernel does not have it (" + err.Error() + ")"
	}
	return err.Error()
}
