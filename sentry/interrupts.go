package sentry

import (
	"bytes"
	"encoding/json"
	"math/bits"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/hostcpu"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/klog"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// What interrupts this kernel, and where each is raised:
//
//	timer    the kernel's clock (here), that of a network stack (package
//	         netstack), sleeps and time-outs of programs (gate_timers.go)
//	control  a request of the daemon (server.go)
//	console  what a program writes to its standard streams or terminal, and what
//	         a client sends it (console.go, attachment.go)
//	net-rx   a packet at an interface of an agent (package netstack)
//	signal   a signal of the host (here)
//	resched  a task that must make way, call one that the kernel calls (package
//	         platform)
//	nmi      the watchdog (lockups.go)
//
// An agent is a source of its own, for what its tasks, its streams and its
// network cause; the domain is one for the rest.

// interrupts is the kernel's part.
type interrupts struct {
	*irq.Controller
	// domain is the source of what no agent causes.
	domain *irq.Source
	// signals are those of the host that wait for their bottom half.
	signals atomic.Uint64
	// signal is that bottom half.
	signal *irq.Work
}

// bootInterrupts makes the lines, and has the kernel's clock count.
func (s *Kernel) bootInterrupts() {
	s.irq.Controller = irq.New(irq.Config{
		CPUs: s.cfg.CPUs, Clock: ktime.Steady(s.cfg.Clock), CPU: func() int { return int(hostcpu.GetCPU()) },
		OnStorm: s.stormBegan, OnThrottle: s.throttled,
	})
	domain := s.irq.NewSource("")
	s.irq.domain = domain
	s.irq.signal = domain.NewWork(irq.Signal, s.takeSignals)
	s.cfg.Clock = ktime.Watched(s.cfg.Clock, s.timerEnded)
}

// timerEnded is the interrupt of a timer of the kernel's own.
func (s *Kernel) timerEnded(late time.Duration) {
	s.irq.domain.Raise(irq.Timer)
	s.irq.domain.Observe(irq.Timer, late)
}

func (s *Kernel) stormBegan(e irq.Storm) {
	s.emit(s.findAgent(e.Source.Name()), event.IRQStorm, &eventv1.IRQStorm{
		Line: uint32(e.Line), Name: e.Line.String(), Cpu: int32(e.CPU), PerSecond: e.PerSecond, Limit: float64(e.Limit),
	})
}

func (s *Kernel) throttled(e irq.Throttle) {
	s.emit(s.findAgent(e.Source.Name()), event.IRQThrottle, &eventv1.IRQThrottle{
		Line: uint32(e.Line), Name: e.Line.String(), Lifted: e.Lifted, Limit: float64(e.Limit),
		Deferred: e.Deferred, Lasted: int64(e.Lasted),
	})
}

// HostSignals are the signals that a kernel process counts, and does nothing else
// about. Others are the Go runtime's, the platform's, or fatal; and those that ask
// a process to end are ignored, not counted: the platform's stub processes inherit
// what is ignored, but not what is caught.
func HostSignals() []os.Signal {
	return []os.Signal{
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT, unix.SIGWINCH, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGPWR,
	}
}

// HostSignal is the top half of a signal that the host sent to the process. Like
// Linux it remembers of each signal that it came, not how often.
func (s *Kernel) HostSignal(sig os.Signal) {
	s.irq.domain.Raise(irq.Signal)
	if n, ok := sig.(syscall.Signal); ok && n > 0 && n < 64 {
		s.irq.signals.Or(1 << n)
		s.irq.signal.Schedule()
	}
}

// takeSignals is the bottom half: the log has them.
func (s *Kernel) takeSignals(int) (more bool) {
	for left := s.irq.signals.Swap(0); left != 0; left &= left - 1 {
		n := unix.Signal(bits.TrailingZeros64(left))
		s.log.boot.Log(s.k.SupervisorContext(), klog.LevelNotice, "the host sent a signal, which is ignored", "signal", unix.SignalName(n))
	}
	return false
}

// countRequests has every request of the daemon be an interrupt.
//
// Those that change what a checkpoint saves wait while one is made.
func (s *Kernel) countRequests(handlers map[string]control.Handler) map[string]control.Handler {
	for name, h := range handlers {
		if changes[name] {
			h = s.unlessStill(h)
		}
		handlers[name] = func(body json.RawMessage, files []*os.File) (any, error) {
			s.irq.domain.Raise(irq.Control)
			return h(body, files)
		}
	}
	return handlers
}

// unlessStill has a request wait while a checkpoint is made.
func (s *Kernel) unlessStill(h control.Handler) control.Handler {
	return func(body json.RawMessage, files []*os.File) (any, error) {
		s.still.RLock()
		defer s.still.RUnlock()
		return h(body, files)
	}
}

// sourceOf returns what an agent's interrupts are counted by.
func (s *Kernel) sourceOf(a *Agent) *irq.Source {
	if a == nil {
		return s.irq.domain
	}
	return a.irq
}

// interrupts is /proc/interrupts: what the reader's agent caused.
func (v *view) interrupts(buf *bytes.Buffer) {
	v.s.sourceOf(v.a).WriteProc(buf, int(v.cpuCount()))
}

// Interrupts returns what is known of all lines, or of one agent's part of them.
func (s *Kernel) Interrupts(req control.InterruptsRequest) (control.InterruptsReply, error) {
	var src *irq.Source
	if req.Agent != "" {
		a, err := s.agent(req.Agent)
		if err != nil {
			return control.InterruptsReply{}, err
		}
		src = a.irq
	}
	reply := control.InterruptsReply{CPUs: s.cfg.CPUs}
	for _, st := range s.irq.States() {
		l := control.InterruptLine{
			Line: int(st.Line), Name: st.Name, Label: st.Label, Doc: st.Doc, Way: st.Way.String(),
			Maskable: st.Maskable, Routable: st.Routable(), Throttle: st.Throttle,
			Counts: st.OnCPU, Masked: st.Masked, CPUs: irq.FormatCPUs(st.CPUs), Priority: st.Priority, Limit: st.Limit, Pending: st.Pending,
			Deferred: st.Deferred, Dropped: st.Dropped, Overflows: st.Overflows, Storms: st.Storms, Stormy: st.Stormy,
			Late: st.Latency.Count, P50: int64(st.Latency.P50), P99: int64(st.Latency.P99), Max: int64(st.Latency.Max),
		}
		if src != nil {
			l.Counts, l.Dropped = src.Counts(st.Line), src.Dropped(st.Line)
		}
		reply.Lines = append(reply.Lines, l)
	}
	return reply, nil
}

// SetInterrupts changes a line. What is wrong with one part changes nothing.
func (s *Kernel) SetInterrupts(req control.SetInterruptsRequest) (struct{}, error) {
	none := struct{}{}
	line, err := irq.ParseLine(req.Line)
	if err != nil {
		return none, err
	}
	switch {
	case req.Mask != nil && *req.Mask:
		err = s.irq.Mask(line)
	case req.Mask != nil:
		s.irq.Unmask(line)
	case req.CPUs != nil:
		var cpus []int
		if cpus, err = irq.ParseCPUs(*req.CPUs); err == nil {
			err = s.irq.Route(line, cpus)
		}
	case req.Priority != nil:
		err = s.irq.SetPriority(line, *req.Priority)
	case req.Limit != nil:
		err = s.irq.SetLimit(line, *req.Limit)
	}
	return none, err
}
