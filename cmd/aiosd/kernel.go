package main

import (
	"encoding/json"
	"net"
	"os"
	"os/signal"
	"syscall"

	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/log"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
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
	return k.server.Serve(k.listener)
}

type kernelProcess struct {
	server   *control.Server
	listener *net.UnixListener
	boxes    []control.Box
}

func bootKernel() (*kernelProcess, error) {
	// The daemon's terminal and its signals are none of ours.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: os.Stderr}})
	log.SetLevel(log.Warning)

	cfg, err := readKernelConfig()
	if err != nil {
		return nil, err
	}
	l, err := inheritedListener()
	if err != nil {
		return nil, err
	}
	driver, err := drivers.All().Lookup(cfg.Platform)
	if err != nil {
		return nil, err
	}
	var device *fd.FD
	if cfg.HasDevice {
		device = fd.New(control.KernelDeviceFD)
	}
	boxes := cfg.Boxes
	p := &kernelProcess{listener: l}
	k, err := sentry.Boot(sentry.Config{
		Domain: cfg.Domain, Driver: driver, Device: device,
		CPUs: cfg.CPUs, MemoryBytes: cfg.MemoryBytes,
		OnExit: func(e control.ExitEvent) { p.server.Push(control.EventExit, e) },
	})
	if err != nil {
		return nil, err
	}
	p.boxes = boxes
	p.server = control.NewServer(func() control.HelloReply {
		h := k.Hello()
		h.Boxes = boxes
		return h
	}, k.Handlers(func() { os.Exit(0) }))
	return p, nil
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

func inheritedListener() (*net.UnixListener, error) {
	f := os.NewFile(control.KernelListenFD, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "use the inherited socket")
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errdefs.New(errdefs.Protocol, "the inherited socket is not a Unix socket")
	}
	// The path belongs to the daemon.
	ul.SetUnlinkOnClose(false)
	return ul, nil
}
