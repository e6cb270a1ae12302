package sink

import (
	"context"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/errdefs/retry"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
)

// deliver sends a batch, however long it takes, and acknowledges what the
// receiver took. It fails only when ctx ends or the acknowledgement does.
func (s *Sink) deliver(ctx context.Context, to target, batch []item) error {
	for len(batch) > 0 {
		part := batch[:min(len(batch), s.most)]
		err := s.try(ctx, to, part)
		isRefused := errdefs.CodeOf(err) == errdefs.SinkRefused
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isRefused && len(part) > 1:
			// One of them is not wanted: find out which.
			s.most = len(part) / 2
			continue
		case isRefused && s.spec.cfg.Refused == "skip":
			s.skip(part[0], err)
		case err != nil:
			s.wait(ctx, max(pause, s.breaker.Status().RetryIn, errdefs.DelayOf(err)))
			continue
		default:
			s.took(len(part))
			s.most = min(2*s.most, s.spec.batch())
		}
		if err := s.o.Hub.Ack(Prefix+s.spec.Name(), part[len(part)-1].cursor); err != nil {
			return err
		}
		batch = batch[len(part):]
	}
	return nil
}

// try asks the receiver to take events, as often as the code of its failures
// says that it may help.
func (s *Sink) try(ctx context.Context, to target, part []item) error {
	messages := make([]message, len(part))
	for i := range part {
		messages[i] = part[i].message
	}
	return retry.Do(ctx, s.o.Clock, retry.Policy{}, func(ctx context.Context) error {
		done, err := s.breaker.Allow()
		if err != nil {
			return err
		}
		err = to.send(ctx, messages)
		outcome := err
		if errdefs.CodeOf(err) == errdefs.SinkRefused && (len(part) > 1 || s.spec.cfg.Refused == "skip") {
			outcome = nil // The receiver is well; it is the event that it does not want.
		}
		if err != nil && ctx.Err() == nil {
			s.note(err)
		}
		done(outcome)
		return err
	})
}

// note keeps a failure for people.
func (s *Sink) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Failures++
	s.st.Err, s.st.Fix, s.st.ErrAt = err.Error(), errdefs.FixOf(err), s.o.Clock.Now()
}

// took counts events that the receiver took. What was passed over before is
// told now, when there is somebody to hear it.
func (s *Sink) took(n int) {
	s.mu.Lock()
	s.st.Delivered += uint64(n)
	s.st.LastSent = s.o.Clock.Now()
	s.mu.Unlock()
	if n := s.skipped; n > 0 {
		s.skipped = 0
		s.o.Emit(event.BusLost, &eventv1.BusLost{Where: "sink", Name: s.spec.Name(), Count: n})
	}
}

// skip passes over an event that the receiver does not want.
func (s *Sink) skip(it item, err error) {
	s.skipped++
	s.mu.Lock()
	s.st.Skipped++
	s.mu.Unlock()
	s.o.Log.Warn("an event was passed over", "sink", s.spec.Name(), "id", it.id, "topic", it.topic, "err", err)
}

// breakerChanged hears that the receiver has failed again and again, or works
// again.
func (s *Sink) breakerChanged(ch recovery.BreakerChange) {
	s.o.OnBreaker(ch)
	s.mu.Lock()
	now := s.o.Clock.Now()
	s.st.Failed, s.st.Since = ch.To == recovery.Open, now
	s.mu.Unlock()
	st := s.Status()
	p := &eventv1.Sink{Name: st.Name, Kind: st.Kind, Target: st.Target, Waiting: st.Behind, Lost: st.Lost + st.Skipped, Lasted: int64(ch.Lasted)}
	typ := event.SinkRestored
	if st.Failed {
		typ = event.SinkFailed
		if ch.Err != nil {
			p.Error = event.Text(ch.Err.Error())
		}
		s.o.Log.Warn("a sink has failed; its events wait in the journal", "sink", st.Name, "err", ch.Err, "waiting", st.Behind)
	} else {
		s.o.Log.Info("a sink works again", "sink", st.Name, "after", ch.Lasted, "waiting", st.Behind)
	}
	s.o.Emit(typ, p)
	s.o.OnChange(st)
}
