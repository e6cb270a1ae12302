package sentry

import (
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"

	"aios.dev/aios/errdefs"
)

// namespaces are what an agent's processes share. The agent holds one
// reference to each.
type namespaces struct {
	// Others change when an agent is upgraded (upgrade.go), under mu, the agent's
	// lifeMu and its grantsMu; one of these is held by who reads them.
	mu    sync.RWMutex
	pidns atomic.Pointer[kernel.PIDNamespace] // read by pid
	uts   *kernel.UTSNamespace
	ipc   *kernel.IPCNamespace
	net   *inet.Namespace
	mnt   *vfs.MountNamespace
	// What mnt shows of the agent's own: the layer that takes what it writes, and
	// what that is laid over. Nil and empty for the kernel's own namespaces.
	upper *vfs.Mount
	root  rootLayers
	base  *baseline // what was in upper when it was copied from another, or nil
}

// pid returns the PID namespace.
func (ns *namespaces) pid() *kernel.PIDNamespace { return ns.pidns.Load() }

// counting says which the PID namespace is.
func (ns *namespaces) counting(pid *kernel.PIDNamespace) *namespaces {
	ns.pidns.Store(pid)
	return ns
}

// program is what a new thread group executes. Its fds stay the caller's.
type program struct {
	path      string
	argv, env []string
	cwd       string
	creds     *auth.Credentials
	fds       *kernel.FDTable
	container string // the agent's ID, by which hooks find the agent
	memID     uint32 // the agent's memory account
}

// newThreadGroup loads p into a thread group in ns, not yet started.
//
// gVisor's CreateProcess would do, but it always uses the root network
// namespace and runs one creation at a time.
func (s *Kernel) newThreadGroup(ctx context.Context, ns *namespaces, p program) (*kernel.ThreadGroup, error) {
	root := ns.mnt.Root(ctx)
	defer root.DecRef(ctx)
	wd, err := s.k.VFS().GetDentryAt(ctx, p.creds, at(root, p.cwd), &vfs.GetDentryOptions{CheckSearchable: true})
	if err != nil {
		detail := "no such directory in the agent"
		if linuxerr.Equals(linuxerr.EACCES, err) {
			detail = "the user may not enter the directory"
		}
		return nil, errdefs.New(errdefs.InvalidArgument, detail,
			errdefs.Op("change to"), errdefs.Resource("%q", p.cwd), errdefs.Cause(err))
	}
	defer wd.DecRef(ctx)

	lim, err := limits.NewLinuxDistroLimitSet()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "set limits")
	}
	tg := s.k.NewThreadGroup(ns.pid(), kernel.NewSignalHandlers(), linux.SIGCHLD, lim)
	traversals := uint(linux.MaxSymlinkTraversals)
	// What the program may do follows from who executes it, as in execve(2).
	image, creds, _, serr := s.k.LoadTaskImage(s.context(ns, p.creds, p.memID), loader.LoadArgs{
		Root:                root,
		WorkingDir:          wd,
		RemainingTraversals: &traversals,
		ResolveFinal:        true,
		Filename:            p.path,
		Argv:                p.argv,
		Envv:                p.env,
		Features:            cpuid.HostFeatureSet().Fixed(),
	})
	if serr != nil {
		tg.Release(ctx)
		return nil, loadError(p.path, serr)
	}
	// NewTask takes over a reference of each of these, or drops it.
	fsc := kernel.NewFSContext(root, wd, 0o022)
	p.fds.IncRef()
	ns.mnt.IncRef()
	ns.uts.IncRef()
	ns.ipc.IncRef()
	ns.net.IncRef()
	creds.UserNamespace.IncRef()
	cgroupns := s.k.RootCgroupNamespace()
	cgroupns.IncRef()
	t, err := s.k.TaskSet().NewTask(ctx, &kernel.TaskConfig{
		Kernel:           s.k,
		ThreadGroup:      tg,
		TaskImage:        image,
		FSContext:        fsc,
		FDTable:          p.fds,
		Credentials:      creds,
		NetworkNamespace: ns.net,
		AllowedCPUMask:   s.cpuMask(p.container),
		UTSNamespace:     ns.uts,
		IPCNamespace:     ns.ipc,
		CgroupNamespace:  cgroupns,
		MountNamespace:   ns.mnt,
		ContainerID:      p.container,
		UserCounters:     s.k.GetUserCounters(creds.RealKUID),
		Personality:      linux.PER_LINUX,
	})
	if err != nil {
		tg.Release(ctx)
		if linuxerr.Equals(linuxerr.ENOMEM, err) { // So says a PID namespace whose first process has ended.
			return nil, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", p.container))
		}
		return nil, errdefs.Wrap(err, errdefs.Internal, "create task")
	}
	s.applySeccomp(t)
	return tg, nil
}

func loadError(path string, serr *syserr.Error) error {
	err := serr.ToError()
	code, detail := errdefs.ProgramNotRunable, "cannot execute"
	switch {
	case linuxerr.Equals(linuxerr.ENOENT, err):
		code, detail = errdefs.ProgramNotFound, "no such program, or its interpreter is missing"
	case linuxerr.Equals(linuxerr.ENOEXEC, err):
		detail = "not a program that this kernel can run (ELF for x86-64, or a script that begins with #!)"
	case linuxerr.Equals(linuxerr.E2BIG, err):
		code, detail = errdefs.InvalidArgument, "arguments and environment are too long"
	case linuxerr.Equals(linuxerr.ENOMEM, err):
		code, detail = errdefs.HostIO, "out of memory"
	}
	return errdefs.New(code, detail, errdefs.Resource("%q", path), errdefs.Cause(err))
}

// findProgram resolves name the way execvp(3) does, in the agent's root and as
// the user that will run it.
func (s *Kernel) findProgram(ctx context.Context, ns *namespaces, creds *auth.Credentials, name, cwd string, env []string) (string, error) {
	if name == "" {
		return "", errdefs.New(errdefs.ProgramNotFound, "the program's name is empty")
	}
	root := ns.mnt.Root(ctx)
	defer root.DecRef(ctx)
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(cwd, name)
		}
		return name, s.checkProgram(ctx, root, creds, name)
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var denied error
	for _, dir := range strings.Split(search, ":") {
		if !path.IsAbs(dir) {
			continue // A relative directory would make the result depend on cwd.
		}
		p := path.Join(dir, name)
		err := s.checkProgram(ctx, root, creds, p)
		if err == nil {
			return p, nil
		}
		if errdefs.CodeOf(err) == errdefs.ProgramNotRunable && denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", errdefs.New(errdefs.ProgramNotFound, "no such program in the agent's PATH ("+search+")", errdefs.Resource("%q", name),
		errdefs.Fix("give its path inside the agent; what the image lacks can be mounted with --mount"))
}

// checkProgram reports whether p is a regular file that creds may execute.
func (s *Kernel) checkProgram(ctx context.Context, root vfs.VirtualDentry, creds *auth.Credentials, p string) error {
	stat, err := s.k.VFS().StatAt(ctx, creds, at(root, p), &vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_MODE})
	switch {
	case linuxerr.Equals(linuxerr.EACCES, err):
		return errdefs.New(errdefs.ProgramNotRunable, "permission denied", errdefs.Resource("%q", p))
	case err != nil:
		return errdefs.New(errdefs.ProgramNotFound, "no such program", errdefs.Resource("%q", p))
	case stat.Mode&linux.S_IFMT == linux.S_IFDIR:
		return errdefs.New(errdefs.ProgramNotRunable, "it is a directory", errdefs.Resource("%q", p))
	case stat.Mode&0o111 == 0:
		return errdefs.New(errdefs.ProgramNotRunable, "it is not executable", errdefs.Resource("%q", p))
	}
	return nil
}

// startGroup starts a thread group that newThreadGroup made.
func (s *Kernel) startGroup(tg *kernel.ThreadGroup) {
	t := tg.Leader()
	t.Start(s.k.RootPIDNamespace().IDOfTask(t))
}
