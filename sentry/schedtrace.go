package sentry

import (
	"io"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// SchedTrace notes what the scheduler does, and writes it.
func (s *Kernel) SchedTrace(req control.SchedTraceRequest, files []*os.File) (control.SchedTraceReply, error) {
	const op = "trace the scheduler"
	var none control.SchedTraceReply
	_, stream, err := spawnFiles(files, 0, true)
	if err != nil {
		return none, err
	}
	defer stream.Close()
	switch {
	case req.For <= 0 || req.For > control.SchedTraceMostFor:
		return none, errdefs.New(errdefs.InvalidArgument, "the time is out of range", errdefs.Op(op), errdefs.Resource("%v", req.For),
			errdefs.Fix("give more than nothing, and at most %v", control.SchedTraceMostFor))
	case req.Limit <= 0 || req.Limit > control.SchedTraceMost:
		return none, errdefs.New(errdefs.InvalidArgument, "the limit is out of range", errdefs.Op(op), errdefs.Resource("%d", req.Limit),
			errdefs.Fix("keep from 1 to %d entries", control.SchedTraceMost))
	}
	if req.ID != "" {
		a, err := s.agent(req.ID)
		if err == nil {
			err = a.mustBe(abi.StateRunning, abi.StatePaused)
		}
		if err != nil {
			return none, err
		}
	}
	if err := s.sched.StartTrace(sched.TraceConfig{Limit: req.Limit, Name: traceName}); err != nil {
		return none, err
	}
	// Nothing is ever sent: the read ends when the time is over, or somebody says
	// so, who may wait for the trace no more.
	past := time.Unix(1, 0)
	timer := s.cfg.Clock.AfterFunc(req.For, func() { stream.SetReadDeadline(past) })
	_, err = stream.Read(make([]byte, 1))
	timer.Stop()
	tr := s.sched.StopTrace()
	switch {
	case tr == nil:
		return none, errdefs.New(errdefs.Internal, "it ended by itself", errdefs.Op(op))
	case !os.IsTimeout(err) && err != io.EOF:
		return none, errdefs.New(errdefs.Cancelled, "nobody waits for it any more", errdefs.Op(op))
	}
	if req.ID != "" {
		onlyOf(tr, req.ID)
	}
	if werr := control.WriteSchedTrace(stream, tr); werr != nil {
		if err == io.EOF {
			werr = errdefs.New(errdefs.Cancelled, "nobody waits for it any more", errdefs.Op(op))
		}
		return none, werr
	}
	return control.SchedTraceReply{Entries: len(tr.Entries), Dropped: tr.Dropped}, nil
}

// traceName names a task as its agent sees it.
func traceName(id any) (n sched.TaskName) {
	if t, ok := id.(*kernel.Task); ok {
		ns := t.PIDNamespace()
		n = sched.TaskName{PID: int32(ns.IDOfThreadGroup(t.ThreadGroup())), TID: int32(ns.IDOfTask(t)), Name: t.Name()}
	}
	return n
}

// onlyOf leaves one group in a trace. Of others there is only when a task of them
// had a CPU: they are a group without a name, and one task for each CPU.
func onlyOf(tr *sched.Trace, group string) {
	groups := make([]uint32, len(tr.Groups))
	kept := []string{""}
	for i, g := range tr.Groups {
		if g == group {
			groups[i] = uint32(len(kept))
			kept = append(kept, g)
		}
	}
	const other = 1<<32 - 1
	tasks := make([]uint32, len(tr.Tasks))
	named := make([]sched.TracedTask, tr.CPUs)
	for i, t := range tr.Tasks {
		if tasks[i] = other; groups[t.Group] != 0 {
			tasks[i] = uint32(len(named))
			named = append(named, sched.TracedTask{Group: groups[t.Group], TaskName: t.TaskName})
		}
	}
	entries := tr.Entries[:0]
	for _, e := range tr.Entries {
		switch e.Kind {
		case sched.TraceThrottled, sched.TraceResumed:
			if e.Who = groups[e.Who]; e.Who == 0 {
				continue
			}
		case sched.TraceRun, sched.TraceLeave:
			if e.Who = tasks[e.Who]; e.Who == other {
				e.Who, e.Took = uint32(e.CPU), 0
			}
		default:
			if e.Who = tasks[e.Who]; e.Who == other {
				continue
			}
		}
		entries = append(entries, e)
	}
	tr.Groups, tr.Tasks, tr.Entries = kept, named, entries
}
