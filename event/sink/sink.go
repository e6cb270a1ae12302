package sink

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// Prefix begins the names of the durable subscriptions of sinks.
const Prefix = "sink:"

const (
	// maxBatchBytes bounds the events that are sent at once, and so what a sink
	// has in memory.
	maxBatchBytes = 512 << 10
	// linger is how long the first event of a batch waits for others.
	linger = 50 * time.Millisecond
	// pause is the wait after a journal that cannot be read, and the least
	// between two rounds of attempts.
	pause = time.Second
)

// Options are what a sink works with.
type Options struct {
	Hub   *hub.Hub
	Clock ktime.Clock
	Log   *slog.Logger
	// Emit publishes an event of the sink. OnBreaker hears of its circuit
	// breaker, before the sink says that it failed or is restored.
	Emit      func(event.Type, event.Payload)
	OnBreaker func(recovery.BreakerChange)
	// OnChange hears, without a lock, when the sink has failed or is restored.
	OnChange func(Status)

	connect func() (target, error) // for tests; nil: that of the Spec
}

// Status is how a sink is.
type Status struct {
	Name, Kind string
	// Target is where its events go, without secrets.
	Target  string
	Breaker recovery.BreakerStatus
	// Since the daemon started: events the receiver took, attempts that failed,
	// events it did not want that were passed over, and those that were gone from
	// the journal before they could be sent.
	Delivered, Failures, Skipped, Lost uint64
	// Records of the journal that it has not come to; not all are for it.
	Behind uint64
	// The latest failure and what to do about it, and when; kept when it works
	// again.
	Err, Fix string
	ErrAt    time.Time
	LastSent time.Time
	// Failed is whether the breaker has opened and not closed since; Since is
	// when that changed last.
	Failed bool
	Since  time.Time
}

// Sink sends events of the hub to one receiver.
type Sink struct {
	spec    *Spec
	o       Options
	breaker *recovery.Breaker
	cancel  context.CancelFunc
	done    chan struct{}
	// How many events may be sent at once; less than configured after the
	// receiver refused a batch. The sending goroutine's.
	most int
	// Passed over since the last success. The sending goroutine's.
	skipped uint64

	mu sync.Mutex
	st Status // +checklocks:mu
}

// Start starts a sink.
func Start(spec *Spec, o Options) *Sink {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sink{spec: spec, o: o, cancel: cancel, done: make(chan struct{}), most: spec.batch()}
	if s.o.connect == nil {
		s.o.connect = spec.target
	}
	s.st = Status{Name: spec.Name(), Kind: spec.kind(), Target: spec.shown(), Since: o.Clock.Now()} // +checklocksignore: nobody else knows it.
	s.breaker = recovery.NewBreaker(recovery.BreakerConfig{Name: "sink " + spec.Name(), Clock: o.Clock, OnChange: s.breakerChanged})
	go s.run(ctx)
	return s
}

// Spec is what the sink was started with.
func (s *Sink) Spec() *Spec { return s.spec }

// Stop ends the sink; what it has not sent it sends when it is started again.
func (s *Sink) Stop() {
	s.cancel()
	<-s.done
}

// Status returns how the sink is.
func (s *Sink) Status() Status {
	b := s.breaker.Status()
	_, behind, _ := s.o.Hub.Position(Prefix + s.spec.Name())
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.Breaker, st.Behind = b, behind
	return st
}

// run sends events until ctx ends.
func (s *Sink) run(ctx context.Context) {
	defer close(s.done)
	for ctx.Err() == nil {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		// The journal cannot be read, or the configuration not be worked with.
		s.note(err)
		if done, refusal := s.breaker.Allow(); refusal == nil {
			done(err)
		}
		s.o.Log.Warn("sink", "sink", s.spec.Name(), "err", err)
		s.wait(ctx, pause)
	}
}

// session sends events until something other than the receiver fails.
func (s *Sink) session(ctx context.Context) error {
	to, err := s.o.connect()
	if err != nil {
		return err
	}
	defer to.close()
	sub, err := s.subscribe()
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		batch, err := s.collect(ctx, sub)
		if err != nil {
			return err
		}
		if err := s.deliver(ctx, to, batch); err != nil {
			return err
		}
	}
}

// subscribe goes on where the sink was, or begins.
func (s *Sink) subscribe() (*hub.Subscription, error) {
	c := &s.spec.cfg
	o := hub.Options{
		Name: Prefix + c.Name, Durable: Prefix + c.Name, Topics: c.Topics, Floor: s.spec.floor, Filter: s.spec.filter,
	}
	if c.From == "oldest" {
		o.From = max(s.o.Hub.Cursor(0), 1)
	}
	var err error
	if c.Sample != 0 {
		if o.Sampler, err = filter.NewSampler(c.Sample); err != nil {
			return nil, err
		}
	}
	if c.Rate != 0 {
		if o.Limiter, err = filter.NewLimiter(c.Rate, 0, s.o.Clock); err != nil {
			return nil, err
		}
	}
	return s.o.Hub.Subscribe(o)
}

// item is an event that waits to be sent.
type item struct {
	message
	cursor uint64
}

// errEnough ends the wait for more events of a batch.
var errEnough = errdefs.New(errdefs.Timeout, "the batch waits no longer")

// collect waits for an event, and a little longer for others.
func (s *Sink) collect(ctx context.Context, sub *hub.Subscription) ([]item, error) {
	var batch []item
	size := 0
	wait, end := ctx, func() {}
	defer func() { end() }()
	for len(batch) < s.most && size < maxBatchBytes {
		e, missed, err := sub.Next(wait)
		switch {
		case err != nil && len(batch) > 0 && errors.Is(err, errEnough):
			return batch, nil
		case err != nil:
			return nil, err
		case missed != nil:
			s.missed(missed)
			continue
		}
		m := message{id: e.ID(), topic: e.Topic(), json: e.AppendJSON(nil)}
		size += len(m.json)
		batch = append(batch, item{m, e.Cursor})
		if len(batch) == 1 && s.most > 1 {
			wait, end = s.lingering(ctx)
		}
	}
	return batch, nil
}

// lingering returns a context that ends soon.
func (s *Sink) lingering(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := s.o.Clock.AfterFunc(linger, func() { cancel(errEnough) })
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// missed says that events were gone before they could be sent.
func (s *Sink) missed(m *hub.Missed) {
	s.mu.Lock()
	s.st.Lost += m.Count
	s.mu.Unlock()
	s.o.Log.Warn("events were gone from the journal before they could be sent", "sink", s.spec.Name(), "count", m.Count, "why", m.Why)
	s.o.Emit(event.BusLost, &eventv1.BusLost{Where: "sink", Name: s.spec.Name(), Count: m.Count})
}

// wait waits for d or the end of ctx.
func (s *Sink) wait(ctx context.Context, d time.Duration) {
	over := make(chan struct{})
	timer := s.o.Clock.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	select {
	case <-over:
	case <-ctx.Done():
	}
}
