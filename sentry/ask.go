package sentry

import (
	"sync"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// askTimeout is how long the daemon may take to answer.
const askTimeout = 10 * time.Second

// asks are the questions to the daemon that wait for an answer.
type asks struct {
	mu      sync.Mutex
	last    uint64                         // +checklocks:mu
	waiting map[uint64]chan control.Answer // +checklocks:mu
}

// ask puts a question to the daemon and waits for its answer.
func (s *Kernel) ask(q control.Ask) (control.Answer, error) {
	ch := make(chan control.Answer, 1)
	s.asks.mu.Lock()
	if s.asks.waiting == nil {
		s.asks.waiting = make(map[uint64]chan control.Answer)
	}
	s.asks.last++
	q.Seq = s.asks.last
	s.asks.waiting[q.Seq] = ch
	s.asks.mu.Unlock()
	defer func() {
		s.asks.mu.Lock()
		delete(s.asks.waiting, q.Seq)
		s.asks.mu.Unlock()
	}()
	late := make(chan struct{})
	t := s.cfg.Clock.AfterFunc(askTimeout, func() { close(late) })
	defer t.Stop()
	if s.cfg.Push == nil || s.cfg.Push(control.EventAsk, q) == 0 {
		return control.Answer{}, errdefs.New(errdefs.DaemonUnreachable, "no daemon is connected to the domain",
			errdefs.Fix("try again when the daemon runs: other domains are reached through it"))
	}
	select {
	case a := <-ch:
		return a, a.Error()
	case <-late:
		return control.Answer{}, errdefs.New(errdefs.Timeout, "the daemon did not answer")
	}
}

// Answer takes the daemon's answer to a question.
func (s *Kernel) Answer(a control.Answer) (struct{}, error) {
	s.asks.mu.Lock()
	ch := s.asks.waiting[a.Seq]
	s.asks.mu.Unlock()
	if ch == nil {
		return struct{}{}, errdefs.Newf(errdefs.NotFound, "nobody waits for answer %d", a.Seq)
	}
	select {
	case ch <- a:
	default: // It has one.
	}
	return struct{}{}, nil
}
