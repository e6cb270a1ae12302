package sentry

import (
	"os"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// changes are the methods that change what a checkpoint saves.
var changes = map[string]bool{
	control.MethodMount: true, control.MethodUnmount: true, control.MethodSpawn: true, control.MethodExec: true, control.MethodAttach: true,
	control.MethodSignal: true, control.MethodClone: true, control.MethodMerge: true, control.MethodPause: true, control.MethodResume: true, control.MethodForget: true,
	control.MethodCapGrant: true, control.MethodCapDelegate: true, control.MethodCapExport: true, control.MethodCapAttenuate: true,
	control.MethodSetCPU: true, control.MethodHint: true, control.MethodClock: true, control.MethodCapSeal: true, control.MethodCapRenew: true, control.MethodCapRevoke: true,
	control.MethodFabric: true, control.MethodCeiling: true, control.MethodHibernate: true, control.MethodSetSwap: true,
}

// Handlers returns the methods that the kernel serves to the daemon. shutdown
// is called after every agent has ended, when the daemon asked for the end.
func (s *Kernel) Handlers(shutdown func()) map[string]control.Handler {
	none := struct{}{}
	return s.countRequests(map[string]control.Handler{
		control.MethodMount: control.HandleFiles(func(r control.MountRequest, files []*os.File) (struct{}, error) {
			f, _, err := spawnFiles(files, 1, false)
			if err != nil {
				return none, err
			}
			return none, s.Mount(r, f)
		}),
		control.MethodUnmount: control.Handle(s.Unmount),
		control.MethodSpawn: control.HandleFiles(func(r control.SpawnRequest, files []*os.File) (struct{}, error) {
			return none, s.Spawn(r, files)
		}),
		control.MethodExec:         control.HandleFiles(s.Exec),
		control.MethodAttach:       control.HandleFiles(s.Attach),
		control.MethodSignal:       control.Handle(s.Signal),
		control.MethodCheckpoint:   control.HandleFiles(s.Checkpoint),
		control.MethodClone:        control.HandleFiles(s.Clone),
		control.MethodSpecialize:   control.HandleFiles(s.Clone),
		control.MethodSplit:        control.HandleFiles(s.Clone),
		control.MethodUpgrade:      control.Handle(s.Upgrade),
		control.MethodMerge:        control.Handle(s.Merge),
		control.MethodWarm:         control.Handle(s.Warm),
		control.MethodPause:        control.Handle(s.Pause),
		control.MethodResume:       control.Handle(s.Resume),
		control.MethodInspect:      control.Handle(s.Inspect),
		control.MethodList:         control.Handle(s.List),
		control.MethodForget:       control.Handle(s.Forget),
		control.MethodStats:        control.Handle(s.Stats),
		control.MethodCapGrant:     control.Handle(s.CapGrant),
		control.MethodCapList:      control.Handle(s.CapList),
		control.MethodCapDelegate:  control.Handle(s.CapDelegate),
		control.MethodCapExport:    control.Handle(s.CapExport),
		control.MethodCapAttenuate: control.Handle(s.CapAttenuate),
		control.MethodSetCPU:       control.Handle(s.SetCPU),
		control.MethodHint:         control.Handle(s.Hint),
		control.MethodClock:        control.Handle(s.Clock),
		control.MethodCapSeal:      control.Handle(s.CapSeal),
		control.MethodCapRenew:     control.Handle(s.CapRenew),
		control.MethodCapRevoke:    control.Handle(s.CapRevoke),
		control.MethodCapExplain:   control.Handle(s.CapExplain),
		control.MethodFabric:       control.HandleFiles(s.FabricIn),
		control.MethodAnswer:       control.Handle(s.Answer),
		control.MethodDump:         control.HandleFiles(s.Dump),
		control.MethodSchedTrace:   control.HandleFiles(s.SchedTrace),
		control.MethodBundle:       control.HandleFiles(s.Bundle),
		control.MethodDebug:        control.HandleFiles(s.Debug),
		control.MethodLook:         control.Handle(s.Look),
		control.MethodAccount:      control.Handle(s.Account),
		control.MethodAccounts:     control.Handle(s.Accounts),
		control.MethodCeiling:      control.Handle(s.Ceiling),
		control.MethodVM:           control.Handle(s.VM),
		control.MethodSetVM:        control.Handle(s.SetVM),
		control.MethodHibernate:    control.Handle(s.Hibernate),
		control.MethodSetSwap:      control.HandleFiles(s.SetSwap),
		control.MethodSwapFile:     control.HandleFiles(s.SwapFile),
		control.MethodPromised: control.Handle(func(struct{}) (control.Promised, error) {
			return s.promised(), nil
		}),
		control.MethodAuditPull: control.Handle(func(struct{}) (struct{}, error) {
			s.trail.pull()
			return none, nil
		}),
		control.MethodAuditAck: control.Handle(func(r control.AuditAck) (struct{}, error) {
			s.trail.ack(r.Last)
			return none, nil
		}),
		control.MethodEventsPull: control.Handle(func(struct{}) (struct{}, error) {
			s.outbox.pull()
			return none, nil
		}),
		control.MethodEventsAck: control.Handle(func(r control.EventsAck) (struct{}, error) {
			s.outbox.ack(r.Last)
			return none, nil
		}),
		control.MethodEventsWant: control.Handle(func(r control.EventsWant) (struct{}, error) {
			return none, s.outbox.want(r.Topics)
		}),
		control.MethodSteer: control.Handle(func(r control.Steer) (struct{}, error) {
			if s.cfg.Steer != nil {
				s.cfg.Steer(r.Now, r.Then)
			}
			return none, nil
		}),
		control.MethodKlogLevels:    control.Handle(s.KlogLevels),
		control.MethodInterrupts:    control.Handle(s.Interrupts),
		control.MethodSetInterrupts: control.Handle(s.SetInterrupts),
		control.MethodSched:         control.Handle(s.Sched),
		control.MethodCPUs:          control.Handle(s.HostCPUs),
		control.MethodShutdown: control.Handle(func(control.ShutdownRequest) (struct{}, error) {
			s.Shutdown()
			s.log.boot.Info(control.KlogEnded)
			// The response goes out first; the daemon does not wait
			// for the process to be gone.
			s.cfg.Clock.AfterFunc(0, shutdown)
			return none, nil
		}),
	})
}

// spawnFiles splits the files of a request into plain ones, of which there is
// at most one, and a stream. On error it closes all.
func spawnFiles(files []*os.File, plain int, attach bool) (file, stream *os.File, err error) {
	want := plain
	if attach {
		want++
	}
	if len(files) != want {
		for _, f := range files {
			f.Close()
		}
		return nil, nil, errdefs.Newf(errdefs.Protocol, "the request brought %d files, not %d", len(files), want)
	}
	if plain == 1 {
		file = files[0]
	}
	if attach {
		if stream, err = pollable(files[plain]); err != nil {
			closeFile(file)
			return nil, nil, err
		}
	}
	return file, stream, nil
}

// pollable returns f as a file that the runtime's poller waits for, so that
// deadlines work and no thread blocks. It takes f over.
func pollable(f *os.File) (*os.File, error) {
	fd := releaseFD(f)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, errdefs.Wrap(err, errdefs.HostIO, "prepare stream")
	}
	return os.NewFile(uintptr(fd), "stream"), nil
}

// releaseFD returns a descriptor of its own for what f has open, and closes f.
func releaseFD(f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return -1 // Whoever uses it will say EBADF.
	}
	return fd
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}
