package sentry

import (
	"os"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// Debug lets a client debug an agent over a stream, and returns when the agent
// stands still. It owns files.
func (s *Kernel) Debug(req control.DebugRequest, files []*os.File) (struct{}, error) {
	none := struct{}{}
	_, stream, err := spawnFiles(files, 0, true)
	if err != nil {
		return none, err
	}
	a, err := s.agent(req.ID)
	if err != nil {
		stream.Close()
		return none, err
	}
	d, err := s.attach(a, req.PID, req.Actor)
	if err != nil {
		stream.Close()
		return none, err
	}
	threads := d.Threads()
	if len(threads) == 0 {
		d.Detach()
		stream.Close()
		return none, errdefs.New(errdefs.AgentNotRunning, "the process has ended", errdefs.Resource("%s", a.id))
	}
	go func() {
		// Why a client left makes no difference: it is over.
		_ = gdbstub.Serve(stream, d, gdbstub.Stop{Thread: threads[0], Signal: int32(linux.SIGTRAP)})
	}()
	return none, nil
}
