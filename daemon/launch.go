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

// launch executes the kernel process of a domain, in its boxes.
func (d *System) launch(name string, choice platform.Choice, spec *apiv1.SpawnRequest) (*launched, error) {
	var all files
	defer all.close()
	failed := func(err error) error {
		return errdefs.Wrap(err, errdefs.HostIO, "start domain", errdefs.Resource("%s", name))
	}
	socket := d.socketOf(name)
	os.Remove(socket)
	started := false
	defer func() {
		if !started {
			os.Remove(socket)
		}
	}()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, failed(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	listener := all.add(l.File())
	logFile := all.add(os.OpenFile(d.domainPath(name, ".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600))
	configR, configW, err := os.Pipe()
	all.add(configR, err)
	all.add(configW, err)
	statusR, statusW, err := os.Pipe()
	all.add(statusW, err)
	if all.err != nil {
		if statusR != nil {
			statusR.Close()
		}
		return nil, failed(all.err)
	}

	cmd := exec.Command(selfExe)
	cmd.Args = []string{"aiosd", "kernel", name}
	cmd.Dir = "/"
	cmd.Env = []string{"GOTRACEBACK=all"}
	if v := os.Getenv(abi.ChaosEnv); v != "" {
		cmd.Env = append(cmd.Env, abi.ChaosEnv+"="+v)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{configR, listener, statusW}
	cfg := control.KernelConfig{
		Domain: name, Platform: choice.Driver.Name(), Strict: spec.GetStrict(),
		MemoryBytes: hostMemory(), ImagesOnly: imagesOnly(spec),
	}
	reports := box.Prepare(cmd)
	device, err := choice.Driver.OpenDevice()
	if err == nil && device != nil {
		cfg.DeviceFD = extra(cmd, all.add(device.ReleaseToFile("device"), nil))
	}
	if err == nil {
		cfg.CPUs, err = domainCPUs()
	}
	if err == nil {
		cfg.RootFD, err = d.rootFor(cmd, name, reports, &all)
	}
	if err != nil {
		statusR.Close()
		return nil, failed(err)
	}
	cfg.Clock = d.steering()
	cfg.LogLevels, cfg.LogJSON = d.logging.Levels, d.logging.JSON
	if ring := d.newRing(name); ring != nil {
		cfg.RingFD = extra(cmd, all.add(ring, nil))
	}
	report, err := d.startInGroup(cmd, name)
	reports = append(reports, report)
	cfg.Alone = report.OK && slices.Contains(cgroup.Detect().Controllers, cgroup.CPU)
	p := &launched{cmd: cmd, status: statusR}
	if err == nil {
		for _, r := range reports {
			cfg.Boxes = append(cfg.Boxes, control.Box{Name: r.Box, OK: r.OK, Reason: r.Reason, Effect: r.Effect})
		}
		pid := cmd.Process.Pid
		p.info = domainInfo{
			Name: name, Socket: socket, PID: pid, StartTick: startTick(pid), Started: d.clock.Now(), Isolated: spec.GetIsolated(),
		}
		// In this order: a process whose daemon is killed here either is in
		// the file, or gets no configuration and ends.
		if err = d.saveDomain(p.info); err == nil {
			err = control.WriteJSON(configW, cfg)
		}
		if err != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	if err != nil {
		statusR.Close()
		d.dropGroup(name)
		return nil, failed(err)
	}
	started = true
	return p, nil
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

// startInGroup starts cmd in a host cgroup of the domain's own, or, where the
// host offers none, without one.
func (d *System) startInGroup(cmd *exec.Cmd, name string) (box.Report, error) {
	limits := cgroup.Limits{MemoryBytes: int64(float64(hostMemory()) * groupMemoryShare), PidsMax: groupPidsMax}
	g, err := cgroup.Create(d.groupParent(), name, limits)
	if errors.Is(err, errdefs.AlreadyExists) { // A domain of that name that died with an earlier daemon.
		d.dropGroup(name)
		g, err = cgroup.Create(d.groupParent(), name, limits)
	}
	if err == nil {
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
