package daemon

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
	"aios.dev/aios/host/cgroup"
	"aios.dev/aios/images"
	"aios.dev/aios/platform"
)

// launched is a kernel process that boots.
type launched struct {
	cmd    *exec.Cmd
	info   domainInfo
	status *os.File
}

// selfExe starts this binary again, even by a user who cannot walk to it.
const selfExe = "/proc/self/exe"

// launch executes the kernel process of a domain, in its boxes, or has a spare become
// that.
func (d *System) launch(name string, choice platform.Choice, spec *apiv1.SpawnRequest, from *restoring) (*launched, error) {
	if p := d.launchSpare(name, choice, spec, from); p != nil {
		return p, nil
	}
	k, err := d.newKernelStart(name, choice)
	if err != nil {
		return nil, err
	}
	defer k.close()
	logFile := k.all.add(os.OpenFile(d.domainPath(name, ".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600))
	k.cmd.Stdout, k.cmd.Stderr = logFile, logFile
	d.identify(k, name, spec, from)
	if err = k.all.err; err == nil {
		err = k.start(d)
	}
	if err == nil {
		p := k.launched(d, name, spec)
		// In this order: a process whose daemon is killed here either is in
		// the file, or gets no configuration and ends.
		if err = d.saveDomain(p.info); err == nil {
			err = control.WriteJSON(k.configW, k.cfg)
		}
		if err == nil {
			k.started = true
			return p, nil
		}
		k.cmd.Process.Kill()
		k.cmd.Wait()
	}
	d.dropGroup(name)
	return nil, errdefs.Wrap(err, errdefs.HostIO, "start domain", errdefs.Resource("%s", name))
}

// kernelStart is a kernel process that is about to be started.
type kernelStart struct {
	name    string // of its group and its socket
	socket  string
	cmd     *exec.Cmd
	cfg     control.KernelConfig
	reports []box.Report
	configW *os.File
	status  *os.File
	all     files
	started bool // status and the socket are somebody else's
}

func (k *kernelStart) close() {
	k.all.close()
	if !k.started {
		if k.status != nil {
			k.status.Close()
		}
		os.Remove(k.socket)
	}
}

// newKernelStart makes what every kernel process is started with.
func (d *System) newKernelStart(name string, choice platform.Choice) (_ *kernelStart, err error) {
	k := &kernelStart{name: name, socket: d.socketOf(name)}
	defer func() {
		if err != nil {
			k.close()
			err = errdefs.Wrap(err, errdefs.HostIO, "start domain", errdefs.Resource("%s", name))
		}
	}()
	os.Remove(k.socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	listener := k.all.add(l.File())
	configR, configW, err := os.Pipe()
	k.all.add(configR, err)
	k.configW = k.all.add(configW, err)
	status, statusW, err := os.Pipe()
	k.status = status
	k.all.add(statusW, err)
	if k.all.err != nil {
		return nil, k.all.err
	}
	k.cmd = exec.Command(selfExe)
	k.cmd.Args = []string{"aiosd", "kernel", name}
	k.cmd.Dir = "/"
	k.cmd.Env = append([]string{"GOTRACEBACK=all"}, control.BootEnv()...)
	if v := os.Getenv(abi.ChaosEnv); v != "" {
		k.cmd.Env = append(k.cmd.Env, abi.ChaosEnv+"="+v)
	}
	k.cmd.ExtraFiles = []*os.File{configR, listener, statusW}
	k.cfg = control.KernelConfig{Platform: choice.Driver.Name()}
	k.reports = box.Prepare(k.cmd)
	device, err := choice.Driver.OpenDevice()
	if err != nil {
		return nil, err
	}
	if device != nil {
		k.cfg.DeviceFD = extra(k.cmd, k.all.add(device.ReleaseToFile("device"), nil))
	}
	if k.cfg.CPUs, err = domainCPUs(); err != nil {
		return nil, err
	}
	if k.cfg.RootFD, err = d.rootFor(k.cmd, name, k.reports, &k.all); err != nil {
		return nil, err
	}
	return k, nil
}

// identify says what the process is.
func (d *System) identify(k *kernelStart, name string, spec *apiv1.SpawnRequest, from *restoring) {
	cfg := &k.cfg
	cfg.Domain, cfg.Strict, cfg.MemoryBytes, cfg.ImagesOnly = name, spec.GetStrict(), hostMemory(), imagesOnly(spec)
	if from != nil {
		cfg.Restore, cfg.MemoryBytes, cfg.ImagesOnly = from.config(k.cmd), from.m.MemoryBytes, false
	}
	cfg.Clock = d.steering()
	cfg.LogLevels, cfg.LogJSON = d.logging.Levels, d.logging.JSON
	if ring := d.newRing(name); ring != nil {
		cfg.RingFD = extra(k.cmd, k.all.add(ring, nil))
	}
}

// start starts it, in a group of its own.
func (k *kernelStart) start(d *System) error {
	report, err := d.startInGroup(k)
	k.reports = append(k.reports, report)
	k.cfg.Alone = report.OK && slices.Contains(cgroup.Detect().Controllers, cgroup.CPU)
	for _, r := range k.reports {
		k.cfg.Boxes = append(k.cfg.Boxes, control.Box{Name: r.Box, OK: r.OK, Reason: r.Reason, Effect: r.Effect})
	}
	return err
}

// launched describes the process as that of a domain.
func (k *kernelStart) launched(d *System, domain string, spec *apiv1.SpawnRequest) *launched {
	pid := k.cmd.Process.Pid
	return &launched{cmd: k.cmd, status: k.status, info: domainInfo{
		Name: domain, Socket: k.socket, PID: pid, StartTick: startTick(pid), Started: d.clock.Now(), Isolated: spec.GetIsolated(),
	}}
}

// imagesOnly reports whether the domain that is started for an agent has no use
// for directories of the host: it is the agent's own, the image is not made of
// them, and none was given.
func imagesOnly(spec *apiv1.SpawnRequest) bool {
	if !spec.GetIsolated() || len(spec.GetMounts()) > 0 || spec.GetImage() == "" || spec.GetImage() == images.HostName {
		return false
	}
	return !slices.ContainsFunc(spec.GetGrants(), func(text string) bool {
		grant, err := capability.ParseSpec(text)
		return err != nil || grant.Object.Class == abi.ClassFS
	})
}

// files are closed together; the first error of opening one is kept.
type files struct {
	list []*os.File
	err  error
}

func (f *files) add(file *os.File, err error) *os.File {
	if err != nil {
		if f.err == nil {
			f.err = err
		}
		return nil
	}
	f.list = append(f.list, file)
	return file
}

func (f *files) close() {
	for _, file := range f.list {
		file.Close()
	}
}

// extra hands one more file down and returns the number it will have.
func extra(cmd *exec.Cmd, f *os.File) int {
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	return 2 + len(cmd.ExtraFiles)
}

// rootFor makes an empty directory for a process that may not mount one.
func (d *System) rootFor(cmd *exec.Cmd, name string, reports []box.Report, all *files) (int, error) {
	for _, r := range reports {
		if r.Box == box.MountNamespace && !r.OK {
			path := d.domainPath(name, ".root")
			os.RemoveAll(path)
			f, err := box.NewRoot(path)
			if err != nil {
				return 0, err
			}
			return extra(cmd, all.add(f, nil)), nil
		}
	}
	return 0, nil
}

// groupParent is the host cgroup that holds those of this daemon's domains.
func (d *System) groupParent() string { return "aios-" + d.instance }

// Backstops of a domain's host cgroup. Agents have limits of their own, which
// bite first.
const (
	groupMemoryShare = 0.9 // of the host's memory
	groupPidsMax     = 24576
)

// firstLimits are those of a group until it is known what its agents may use.
func firstLimits() cgroup.Limits {
	return cgroup.Limits{MemoryBytes: int64(float64(hostMemory()) * groupMemoryShare), PidsMax: groupPidsMax}
}

// startInGroup starts the process in a host cgroup of the domain's own, or, where the
// host offers none, without one.
func (d *System) startInGroup(k *kernelStart) (box.Report, error) {
	cmd, name, limits := k.cmd, k.name, firstLimits()
	g, err := cgroup.Create(d.groupParent(), name, limits)
	if errors.Is(err, errdefs.AlreadyExists) { // A domain of that name that died with an earlier daemon.
		d.dropGroup(name)
		g, err = cgroup.Create(d.groupParent(), name, limits)
	}
	if err == nil {
		k.tellUsage(g)
		k.tellIdle(g)
		if err = g.Start(cmd); err == nil {
			return box.Stands(box.Cgroup), nil
		}
		d.dropGroup(name)
	}
	if cmd.Process != nil {
		return box.Report{}, err
	}
	return box.Missing(box.Cgroup, err.Error()), cmd.Start()
}

// tellUsage has the process be told what CPU time the group uses, if the host says.
func (k *kernelStart) tellUsage(g *cgroup.Group) {
	if k.cfg.SpareFD != 0 {
		return // It is told when the group is its own.
	}
	if f, err := g.OpenUsage(); err == nil {
		k.cfg.UsageFD = extra(k.cmd, k.all.add(f, nil))
	}
}

// tellIdle has the process be told where application code shall execute, so that the
// process itself goes first. Where the host has no such place it goes without.
func (k *kernelStart) tellIdle(g *cgroup.Group) {
	if f, err := g.OpenIdle(); err == nil {
		k.cfg.IdleFD = extra(k.cmd, k.all.add(f, nil))
	}
}

// dropGroup kills what is left in a domain's host cgroup and removes it.
func (d *System) dropGroup(name string) {
	g, err := cgroup.Load(d.groupParent(), name)
	if err != nil {
		return
	}
	if err := errors.Join(g.Kill(), g.Delete()); err != nil {
		d.log.Warn("removing host cgroup", "domain", name, "err", err)
	}
}

// goferCommand prepares a gofer for the open directory root, to be served on
// sock. The gofer of the host image runs as nobody, so that it reads what any
// user of the host may; others have the daemon's own user.
func (d *System) goferCommand(dom string, root, sock *os.File, readonly, image bool) (*exec.Cmd, func(), error) {
	var all files
	logFile := all.add(os.OpenFile(d.domainPath(dom, ".log"), os.O_WRONLY|os.O_APPEND, 0))
	if all.err != nil {
		all.close()
		return nil, nil, errdefs.Wrap(all.err, errdefs.HostIO, "start a gofer")
	}
	mode := "-readonly=true"
	if !readonly {
		mode = "-readonly=false"
	}
	cmd := exec.Command(selfExe)
	cmd.Args = []string{"aiosd", "gofer", mode}
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stderr = logFile
	cmd.ExtraFiles = []*os.File{root, sock}
	if image {
		box.Prepare(cmd)
	} else {
		box.PrepareGofer(cmd)
	}
	return cmd, all.close, nil
}
