package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/fd"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
	"aios.dev/aios/host/box/filter"
	"aios.dev/aios/host/cgroup"
	"aios.dev/aios/ktime"
	"aios.dev/aios/platform"
	"aios.dev/aios/platform/drivers"
	"aios.dev/aios/sentry"
)

// kernelMain is the life of a kernel process: read what it is, boot, close the
// box, serve. The daemon hears over the status pipe how the boot went.
func kernelMain() error {
	status := os.NewFile(control.KernelStatusFD, "status")
	k, err := bootKernel()
	if err != nil {
		control.WriteJSON(status, control.NewBootStatus(nil, err))
		return err
	}
	if err := control.WriteJSON(status, control.NewBootStatus(k.boxes, nil)); err != nil {
		return err
	}
	return k.server.Load().Serve(k.listener)
}

type kernelProcess struct {
	server   atomic.Pointer[control.Server] // nil while it boots
	listener *net.UnixListener
	boxes    []control.Box
}

func bootKernel() (*kernelProcess, error) {
	// The daemon's terminal and its signals are none of ours, nor of the stub
	// processes, which inherit that.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	signals := make(chan os.Signal, signalQueue)
	signal.Notify(signals, sentry.HostSignals()...)
	cfg, err := readKernelConfig()
	if err != nil {
		return nil, err
	}
	var machine *sentry.Machine
	var reports []box.Report
	if cfg.SpareFD != 0 {
		if cfg, machine, reports, err = becomeSomething(cfg); err != nil {
			return nil, err
		}
	}
	wall := ktime.NewDisciplined(ktime.Real)
	wall.Steer(cfg.Clock.Now, cfg.Clock.Then)
	logs, err := openLog(cfg, wall)
	if err != nil {
		return nil, err
	}
	if machine == nil {
		if reports, err = box.Apply(box.Options{Keep: keptFiles(cfg), Root: cfg.RootFD}); err != nil {
			return nil, err
		}
	}
	l, listenFD, err := inheritedListener()
	if err != nil {
		return nil, err
	}
	driver, device, err := platformOf(cfg)
	if err != nil {
		return nil, err
	}
	p := &kernelProcess{listener: l}
	chaos, clock := os.Getenv(abi.ChaosEnv) == "1", ktime.Clock(wall)
	if chaos {
		clock = ktime.NewJumping(clock)
	}
	boot := sentry.Boot
	if cfg.Restore != nil {
		boot = sentry.Prepare
	}
	k, err := boot(sentry.Config{
		Domain: cfg.Domain, Driver: driver, Device: device, Machine: machine, Log: logs,
		CPUs: cfg.CPUs.Len(), Topology: &cfg.CPUs, MemoryBytes: cfg.MemoryBytes, Yield: hostYield(cfg), HostCPU: hostCPU(cfg),
		ImagesOnly: cfg.ImagesOnly,
		OnExit:     func(e control.ExitEvent) { p.push(control.EventExit, e) },
		Push:       p.push,
		OnLimit:    p.limits(clock),
		Chaos:      chaos, Clock: clock, Steer: wall.Steer,
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for sig := range signals {
			k.HostSignal(sig)
		}
	}()
	// From here on the process opens nothing.
	sealed, err := seal(cfg, listenFD)
	if err != nil {
		return nil, err
	}
	if cfg.Restore != nil { // What it says is looked at in the box.
		if err := k.Restore(restored(cfg.Restore)); err != nil {
			return nil, err
		}
	}
	p.boxes = slices.Concat(cfg.Boxes, wireReports(append(reports, sealed)))
	if cfg.Strict {
		if err := refused(p.boxes); err != nil {
			return nil, err
		}
	}
	p.server.Store(control.NewServer(func() control.HelloReply {
		h := k.Hello()
		h.Boxes = p.boxes
		return h
	}, k.Handlers(func() { os.Exit(0) })))
	return p, nil
}

// hostCPU returns what the kernel asks for the CPU time of the domain's host cgroup.
func hostCPU(cfg control.KernelConfig) func() (time.Duration, error) {
	if cfg.UsageFD == 0 {
		return nil
	}
	f := os.NewFile(uintptr(cfg.UsageFD), "CPU usage")
	return func() (time.Duration, error) { return cgroup.ReadUsage(f) }
}

// hostYield returns what the thread does first that makes the platform, so that the
// process comes before application code on the host's CPUs; nil if these are shared with
// others, of whose CPU time application code would get what they leave.
func hostYield(cfg control.KernelConfig) func() {
	if !cfg.Alone {
		return nil
	}
	return func() {
		if cfg.IdleFD != 0 {
			f := os.NewFile(uintptr(cfg.IdleFD), "idle cgroup")
			defer f.Close()
			if err := cgroup.EnterIdle(f); err != nil {
				fmt.Fprintln(os.Stderr, err) // Then its policy has to do.
			}
		}
		platform.YieldThread()
	}
}

// platformOf returns the driver of the platform, and the device that it was handed.
func platformOf(cfg control.KernelConfig) (platform.Driver, *fd.FD, error) {
	driver, err := drivers.All().Lookup(cfg.Platform)
	if err != nil || cfg.DeviceFD == 0 {
		return driver, nil, err
	}
	return driver, fd.New(cfg.DeviceFD), nil
}

// push tells whoever is connected, and returns to how many.
func (p *kernelProcess) push(event string, body any) int {
	if s := p.server.Load(); s != nil {
		return s.Push(event, body)
	}
	return 0
}

// signalQueue is how many signals of the host wait to be counted; more are not.
const signalQueue = 64

// limitQueue is how many crossings of limits wait for the daemon; more are
// not told. They are for people: what bites does so without it.
const limitQueue = 64

// limits returns what tells the daemon of limits that are reached, without
// holding up the task that reached one.
func (p *kernelProcess) limits(clock ktime.Clock) func(string, account.Crossing) {
	queue := make(chan control.LimitEvent, limitQueue)
	go func() {
		for e := range queue {
			p.push(control.EventLimit, e)
		}
	}()
	return func(agent string, c account.Crossing) {
		e := control.LimitEvent{
			ID: agent, Resource: c.Resource.String(), Level: c.Level.String(), Used: c.Used, Limit: c.Limit, Time: clock.Now(),
		}
		select {
		case queue <- e:
		default:
		}
	}
}

// keptFiles are the descriptors that the process was started with and needs.
func keptFiles(cfg control.KernelConfig) []int {
	keep := []int{1, 2, control.KernelListenFD, control.KernelStatusFD}
	for _, fd := range []int{cfg.DeviceFD, cfg.SpareFD, cfg.UsageFD, cfg.IdleFD} {
		if fd != 0 {
			keep = append(keep, fd)
		}
	}
	if r := cfg.Restore; r != nil {
		keep = append(append(keep, r.StateFD, r.MemoryFD), r.PackFDs...)
		for _, m := range r.Mounts {
			keep = append(keep, m.FD)
		}
		for _, l := range r.Logs {
			keep = append(keep, l.FD)
		}
		for _, x := range r.Regions {
			keep = append(keep, x.FD)
		}
	}
	return keep
}

// restored opens what a domain is restored from.
func restored(r *control.RestoreConfig) sentry.Restored {
	from := sentry.Restored{
		State: os.NewFile(uintptr(r.StateFD), "state"), Memory: os.NewFile(uintptr(r.MemoryFD), "memory"), Logs: make(map[string]sentry.RestoredFile), Regions: make(map[string]*os.File), Revoked: r.Revoked, Restricted: r.Restricted, Ended: r.Ended, Features: r.Features, ForceFiles: r.ForceFiles,
	}
	for _, fd := range r.PackFDs {
		from.Packs = append(from.Packs, os.NewFile(uintptr(fd), "pages"))
	}
	for _, m := range r.Mounts {
		from.Mounts = append(from.Mounts, sentry.RestoredMount{MountRequest: m.MountRequest, File: os.NewFile(uintptr(m.FD), m.Key)})
	}
	for _, x := range r.Regions {
		from.Regions[x.Name] = os.NewFile(uintptr(x.FD), "region")
	}
	for _, l := range r.Logs {
		from.Logs[l.ID] = sentry.RestoredFile{File: os.NewFile(uintptr(l.FD), "log"), Bytes: l.Bytes}
	}
	return from
}

// seal installs the seccomp filter.
func seal(cfg control.KernelConfig, listen int) (box.Report, error) {
	class := filter.Files
	if cfg.ImagesOnly {
		class = filter.Compute
	}
	program, err := filter.Kernel(cfg.Platform, class)
	if err != nil {
		return box.Report{}, err
	}
	return box.InstallProgram(program, listen)
}

// wireReports translates reports for the daemon.
func wireReports(reports []box.Report) []control.Box {
	out := make([]control.Box, len(reports))
	for i, r := range reports {
		out[i] = control.Box{Name: r.Box, OK: r.OK, Reason: r.Reason, Effect: r.Effect}
	}
	return out
}

// refused is the error of --strict, or nil.
func refused(boxes []control.Box) error {
	reports := make([]box.Report, len(boxes))
	for i, b := range boxes {
		reports[i] = box.Report{Box: b.Name, OK: b.OK, Reason: b.Reason, Effect: b.Effect}
	}
	return box.Refused(reports)
}

func readKernelConfig() (control.KernelConfig, error) {
	var cfg control.KernelConfig
	f := os.NewFile(control.KernelConfigFD, "config")
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&cfg); err != nil {
		return cfg, errdefs.Wrap(err, errdefs.Protocol, "read configuration",
			errdefs.Fix("aiosd kernel is started by the daemon, not by hand"))
	}
	return cfg, nil
}

// inheritedListener returns the listener and the descriptor it accepts from.
func inheritedListener() (*net.UnixListener, int, error) {
	f := os.NewFile(control.KernelListenFD, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, -1, errdefs.Wrap(err, errdefs.Protocol, "use the inherited socket")
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, -1, errdefs.New(errdefs.Protocol, "the inherited socket is not a Unix socket")
	}
	// The path belongs to the daemon.
	ul.SetUnlinkOnClose(false)
	number := -1
	raw, err := ul.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	return ul, number, errdefs.Wrap(err, errdefs.Internal, "use the inherited socket")
}
