package daemon

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/cgroup"
	"aios.dev/aios/ktime"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/smp"
)

// A spare is a kernel process that the next domain begins with: most of the time that
// a start takes has passed by then. It has a platform, the boxes that do not depend on
// what it becomes, and nothing else: no image, no authority, no name. There is at most
// one; it is made when a domain has started, and ends with the daemon.

// spareDelay is how long after the start of a domain a spare is made: the agent for
// which the domain was started comes first.
const spareDelay = time.Second

// spares keeps the spare.
type spares struct {
	d     *System
	start func(name string) (*spare, error)

	mu     sync.Mutex
	on     bool        // +checklocks:mu
	timer  ktime.Timer // +checklocks:mu
	making bool        // +checklocks:mu
	made   int         // +checklocks:mu
	spare  *spare      // that is ready, or gets so; +checklocks:mu
	// makers makes one, and ends it if it is not wanted any more.
	makers sync.WaitGroup
}

// spare is a process.
type spare struct {
	k     *kernelStart
	cpus  smp.Set // that the host allowed when it was started
	conn  *net.UnixConn
	ready bool          // guarded by spares.mu
	ended chan struct{} // closed when it was collected, unless it was taken
	taken bool          // guarded by spares.mu
}

func (s *spares) open(d *System, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.d, s.start, s.on = d, d.startSpare, on
}

// close ends the spare, for good, also one that is being made.
func (s *spares) close() {
	s.mu.Lock()
	s.on = false
	if s.timer != nil {
		s.timer.Stop()
	}
	old := s.spare
	s.spare = nil
	s.mu.Unlock()
	s.end(old)
	s.makers.Wait()
}

// end ends a spare that nobody has taken.
func (s *spares) end(old *spare) {
	if old != nil {
		old.k.cmd.Process.Kill()
		<-old.ended
	}
}

// want has a spare made if there is none.
func (s *spares) want() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on || s.spare != nil {
		return
	}
	if s.timer != nil {
		s.timer.Stop() // Another domain starts.
	}
	s.timer = s.d.clock.AfterFunc(spareDelay, func() { go s.make() })
}

// make makes the spare.
func (s *spares) make() {
	s.mu.Lock()
	if !s.on || s.spare != nil || s.making {
		s.mu.Unlock()
		return
	}
	s.making = true
	s.makers.Add(1) // Before close can wait for it.
	defer s.makers.Done()
	s.made++
	name := fmt.Sprintf("spare-%d-%d", os.Getpid(), s.made)
	s.mu.Unlock()
	x, err := s.start(name)
	s.mu.Lock()
	s.making = false
	off := !s.on
	if !off {
		s.spare = x
	}
	s.mu.Unlock()
	if err != nil {
		s.d.log.Warn("no kernel process is kept ready", "err", err)
	}
	if x != nil {
		go s.mind(x)
		if off {
			s.end(x)
		}
	}
}

// mind waits until a spare is ready, and then until it ends or becomes a domain.
func (s *spares) mind(x *spare) {
	watchdog := s.d.clock.AfterFunc(bootTimeout, func() { x.k.cmd.Process.Kill() })
	err := control.AwaitSpare(x.conn)
	watchdog.Stop()
	s.mu.Lock()
	x.ready = err == nil
	s.mu.Unlock()
	var end [1]byte
	x.conn.Read(end[:]) // Nothing comes until one of the two ends is closed.
	x.conn.Close()
	s.mu.Lock()
	taken := x.taken
	if s.spare == x {
		s.spare = nil
	}
	s.mu.Unlock()
	if taken {
		return
	}
	x.k.cmd.Process.Kill()
	if err != nil {
		if _, said := control.ReadBootStatus(x.k.status); said != nil {
			err = said
		}
		s.d.log.Warn("a kernel process that was kept ready has ended", "err", err)
	}
	x.k.cmd.Wait()
	x.k.status.Close()
	os.Remove(x.k.socket)
	s.d.dropGroup(x.k.name)
	close(x.ended)
}

// take returns the spare if it is ready, and as one would be started now.
func (s *spares) take(choice platform.Choice) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.spare
	if x == nil || !x.ready {
		return nil
	}
	cpus, err := smp.Allowed()
	if err != nil || x.k.cfg.Platform != choice.Driver.Name() {
		return nil
	}
	if cpus != x.cpus { // What they share stays.
		x.k.cmd.Process.Kill() // Nobody will want it.
		return nil
	}
	x.taken, s.spare = true, nil
	return x
}

// startSpare starts a process; nil if the host does not let one become anything later.
func (d *System) startSpare(name string) (*spare, error) {
	choice, err := d.choosePlatform("")
	if err != nil {
		return nil, err
	}
	cpus, err := smp.Allowed() // Before it is looked at what they are.
	if err != nil {
		return nil, err
	}
	k, err := d.newKernelStart(name, choice)
	if err != nil {
		return nil, err
	}
	defer k.close()
	if k.cfg.RootFD != 0 {
		os.RemoveAll(d.domainPath(k.name, ".root"))
		return nil, nil // Its root is a directory of its name.
	}
	k.cmd.Args[2] = control.SpareTitle
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "make a socket")
	}
	k.cfg.SpareFD = extra(k.cmd, k.all.add(os.NewFile(uintptr(fds[1]), "spare"), nil))
	mine := os.NewFile(uintptr(fds[0]), "spare")
	defer mine.Close()
	c, err := net.FileConn(mine)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "make a socket")
	}
	if err = k.start(d); err == nil {
		if err = control.WriteJSON(k.configW, k.cfg); err == nil {
			k.started = true
			return &spare{k: k, cpus: cpus, conn: c.(*net.UnixConn), ended: make(chan struct{})}, nil
		}
		k.cmd.Process.Kill()
		k.cmd.Wait()
	}
	c.Close()
	d.dropGroup(k.name)
	return nil, err
}

// launchSpare has the spare become the domain, if there is one that can. If that
// fails, another process is started.
func (d *System) launchSpare(name string, choice platform.Choice, spec *apiv1.SpawnRequest, from *restoring) *launched {
	x := d.spares.take(choice)
	if x == nil {
		return nil
	}
	p, err := d.become(x, name, spec, from)
	x.conn.Close() // It has what was sent.
	if err != nil {
		d.log.Warn("a kernel process that was kept ready is of no use", "domain", name, "err", err)
		x.k.cmd.Process.Kill()
		x.k.cmd.Wait()
		x.k.status.Close()
		d.dropGroup(x.k.name)
		d.dropGroup(name)
		os.Remove(x.k.socket)
		os.Remove(d.socketOf(name))
		return nil
	}
	return p
}

// become gives the spare the place of a domain's process, and tells it.
func (d *System) become(x *spare, name string, spec *apiv1.SpawnRequest, from *restoring) (*launched, error) {
	k := &kernelStart{name: name, socket: d.socketOf(name), cfg: x.k.cfg, status: x.k.status, started: true}
	defer k.close()
	k.cmd = &exec.Cmd{ExtraFiles: make([]*os.File, control.KernelExtraFD-3)} // Only a list.
	logFile := k.all.add(os.OpenFile(d.domainPath(name, ".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600))
	d.identify(k, name, spec, from)
	if k.all.err != nil {
		return nil, k.all.err
	}
	g, err := d.renameGroup(x.k.name, name)
	if err != nil {
		return nil, err
	}
	k.cfg.SpareFD = 0
	if g != nil {
		k.tellUsage(g)
	}
	if err := os.Rename(x.k.socket, k.socket); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "start domain")
	}
	list := k.cmd.ExtraFiles
	k.cmd = x.k.cmd
	p := k.launched(d, name, spec)
	if err := d.saveDomain(p.info); err != nil {
		return nil, err
	}
	if err := control.Become(x.conn, k.cfg, append([]*os.File{logFile}, list[control.KernelExtraFD-3:]...)); err != nil {
		return nil, err
	}
	return p, nil
}

// renameGroup gives the host cgroup of a spare, if it has one, to a domain.
func (d *System) renameGroup(from, to string) (*cgroup.Group, error) {
	g, err := cgroup.Load(d.groupParent(), from)
	if err != nil {
		return nil, nil // The host offers none.
	}
	of, err := g.Rename(to, firstLimits())
	if errdefs.CodeOf(err) == errdefs.AlreadyExists { // Of a domain that died with an earlier daemon.
		d.dropGroup(to)
		of, err = g.Rename(to, firstLimits())
	}
	return of, err
}
