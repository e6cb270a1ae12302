package sntp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// State is how well the time is known.
type State string

// States of a Sync.
const (
	Starting     State = "starting"     // nobody has answered yet
	Synchronised State = "synchronised" // servers agree, and the clock follows them
	Lost         State = "lost"         // they do not, or do not answer; the clock goes on as it went
)

const (
	// lostAfter is how many rounds in a row must come to nothing.
	lostAfter = 3
	// stepAfter is how many in a row must want a step, after the first.
	stepAfter = 3
	// staleAfter is how many intervals what a server said is used for.
	staleAfter = 3
	// near is a difference that is none.
	near = 100 * time.Microsecond
)

// Options are what a Sync works with.
type Options struct {
	Clock *ktime.Disciplined
	Log   *slog.Logger
	// OnBreaker hears of the circuit breakers before servers.
	OnBreaker func(recovery.BreakerChange)
	// OnChange hears when the state has changed, OnStep when the clock was
	// stepped, and by how much; OnSteer whenever it was steered. They are
	// called one at a time, without locks that matter to them.
	OnChange func(Status)
	OnStep   func(by time.Duration, s Status)
	OnSteer  func(now, then time.Duration)
}

// Sync has a clock follow time servers.
type Sync struct {
	spec     *Spec
	o        Options
	patience time.Duration // with a server
	end      context.CancelFunc
	over     chan struct{}

	round sync.Mutex // held while servers are asked, and what they say is weighed

	mu      sync.Mutex
	servers []*server // the list itself does not change
	state   State
	since   time.Time
	reason  error
	// Rounds in a row that came to nothing, and that wanted a step.
	missed, far int
	followed    bool // once at least
	steps       uint64
	lastSync    time.Time
	offset      time.Duration
	jitter      time.Duration
	stratum     int
	reference   string
}

// Start begins to ask servers, at once and then from time to time.
func Start(spec *Spec, o Options) *Sync {
	s := newSync(spec, o)
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	go s.run(ctx)
	return s
}

func newSync(spec *Spec, o Options) *Sync {
	s := &Sync{spec: spec, o: o, patience: askTimeout, over: make(chan struct{}), state: Starting, since: o.Clock.Now()}
	for _, name := range spec.Servers {
		s.servers = append(s.servers, &server{name: name, breaker: recovery.NewBreaker(recovery.BreakerConfig{
			Name: "time server " + name, Clock: o.Clock, Failures: 3, Cooldown: 2 * spec.Interval, MaxCooldown: 16 * spec.Interval,
			OnChange: o.OnBreaker,
		})})
	}
	return s
}

// Spec returns what s was started with.
func (s *Sync) Spec() *Spec { return s.spec }

// Stop ends it. The clock stays as it is.
func (s *Sync) Stop() {
	s.end()
	<-s.over
}

func (s *Sync) run(ctx context.Context) {
	defer close(s.over)
	for {
		s.Ask(ctx)
		again := make(chan struct{})
		timer := s.o.Clock.AfterFunc(s.spec.Interval, func() { close(again) })
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-again:
		}
	}
}

// Ask asks all servers now, but for those that rest, and has the clock follow.
func (s *Sync) Ask(ctx context.Context) {
	s.round.Lock()
	defer s.round.Unlock()
	var wg sync.WaitGroup
	for _, v := range s.servers {
		if !s.due(v) {
			continue
		}
		wg.Go(func() {
			var a sample
			var kiss string
			err := v.breaker.Do(func() (err error) {
				a, kiss, err = ask(ctx, v.name, s.o.Clock.Beneath(), s.patience)
				return err
			})
			if errors.Is(err, errdefs.BreakerOpen) || ctx.Err() != nil {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			v.asked++
			switch {
			case err != nil:
				v.refused(err, s.o.Clock.Now())
			case kiss != "":
				v.kissed(kiss, s.o.Clock.Now())
			default:
				v.take(a)
			}
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		s.settle(s.weigh())
	}
}

// due reports whether a server is to be asked in this round.
func (s *Sync) due(v *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.rest > 0 {
		v.rest--
		return false
	}
	return v.kiss == ""
}

// weigh returns the offset that more than half of the servers believe in.
func (s *Sync) weigh() (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Clock.Beneath().Now()
	var heard []*server
	var bests []*sample
	var claims []claim
	for _, v := range s.servers {
		v.agrees = false
		best := v.best(now)
		if best == nil || now.Sub(v.samples[len(v.samples)-1].at) > staleAfter*s.spec.Interval {
			continue
		}
		u := best.by(now.Sub(best.at))
		heard, bests, claims = append(heard, v), append(bests, best), append(claims, claim{best.offset - u, best.offset + u})
	}
	if len(heard) == 0 {
		return 0, unsure("no time server answers", "`aiosctl time` says why each does not")
	}
	low, high, count := agree(claims)
	if 2*count <= len(heard) {
		return 0, unsure(fmt.Sprintf("of %d time servers no more than %d agree", len(heard), count), "`aiosctl time` shows what each says; name at least three that are independent, and not those that are wrong")
	}
	var best *server
	var agreeing []*sample
	for i, v := range heard {
		if claims[i].low > low || claims[i].high < high {
			continue
		}
		v.agrees = true
		agreeing = append(agreeing, bests[i])
		if best == nil || bests[i].stratum < best.best(now).stratum {
			best = v
		}
	}
	offset := mean(agreeing, now)
	if max(offset, -offset) > s.spec.Limit {
		return 0, unsure("time servers say that the host's clock is off by "+(-offset).String()+", which is more than the limit of "+s.spec.Limit.String(),
			"set the host's clock, or write a higher limit if they are right")
	}
	top := best.best(now)
	s.jitter, s.stratum, s.reference = best.jitter(top), top.stratum, best.name
	return offset, nil
}

func unsure(detail, fix string) error {
	return errdefs.New(errdefs.TimeUnsure, detail, errdefs.Op("set AIOS's clock"), errdefs.Fix("%s", fix))
}

// settle has the clock follow what was found out, and tells of it.
func (s *Sync) settle(offset time.Duration, err error) {
	var step time.Duration
	steered := false
	s.mu.Lock()
	before := s.state
	if s.reason = err; err != nil {
		if s.missed++; s.state != Synchronised || s.missed >= lostAfter {
			s.state = Lost
		}
	} else {
		s.missed, s.offset, s.lastSync = 0, offset, s.o.Clock.Now()
		step, steered = s.steer(offset)
		s.state = Synchronised
	}
	if s.state != before {
		s.since = s.o.Clock.Now()
	}
	changed := s.state != before
	s.mu.Unlock()
	if steered && s.o.OnSteer != nil {
		s.o.OnSteer(s.o.Clock.Offset())
	}
	if !changed && step == 0 {
		return
	}
	st := s.Status()
	if step != 0 {
		s.o.Log.Warn("AIOS's clock was stepped", "by", step, "offset", offset)
		s.o.OnStep(step, st)
	}
	if changed {
		s.o.Log.Info("the time is "+string(st.State), "offset", offset, "err", err)
		s.o.OnChange(st)
	}
}

// steer steps or slews the clock to an offset, or leaves it. It returns by how
// much it was stepped, and whether anything was done.
//
// +checklocks:s.mu
func (s *Sync) steer(offset time.Duration) (step time.Duration, done bool) {
	clock := s.o.Clock
	now, then := clock.Offset()
	apart := offset - now
	first := !s.followed
	s.followed = true
	switch {
	case max(apart, -apart) <= s.spec.Step:
		s.far = 0
		if rest := offset - then; max(rest, -rest) < near {
			return 0, false
		}
		clock.Slew(offset)
		return 0, true
	case !first && s.far+1 < stepAfter:
		s.far++
		return 0, false
	}
	s.far = 0
	s.steps++
	clock.Step(offset)
	return apart, true
}

// Status is what is known of the time.
type Status struct {
	State State
	Since time.Time
	// Reason is why it is lost, or why the latest round came to nothing.
	Reason error
	// Offset is what servers said last, Now what is added to the host's clock at
	// present; where they differ the clock is slewed.
	Offset, Now time.Duration
	Jitter      time.Duration
	Stratum     int
	// Reference is the server that counts most.
	Reference string
	LastSync  time.Time // zero: never
	Steps     uint64
	Servers   []ServerStatus
}

// ServerStatus is what is known of one server.
type ServerStatus struct {
	Name string
	// State is "agrees", "disagrees", "silent", "rests" or "refuses"; "new"
	// before it was asked.
	State   string
	Breaker recovery.BreakerStatus
	// What it said last; zero time: nothing.
	LastAnswer                 time.Time
	Offset, Delay, Uncertainty time.Duration
	Jitter                     time.Duration
	Stratum                    int
	Reference                  string
	Asked, Answered, Failed    uint64
	Err                        error
	ErrAt                      time.Time
}

// Status returns how it stands.
func (s *Sync) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, _ := s.o.Clock.Offset()
	st := Status{
		State: s.state, Since: s.since, Reason: s.reason, Offset: s.offset, Now: now, Jitter: s.jitter, Stratum: s.stratum,
		Reference: s.reference, LastSync: s.lastSync, Steps: s.steps,
	}
	host := s.o.Clock.Beneath().Now()
	for _, v := range s.servers {
		out := ServerStatus{Name: v.name, State: "new", Breaker: v.breaker.Status(), Asked: v.asked, Answered: v.answered, Failed: v.failed, Err: v.err, ErrAt: v.errAt}
		if best := v.best(host); best != nil {
			out.LastAnswer = v.samples[len(v.samples)-1].at.Add(now)
			out.Offset, out.Delay, out.Uncertainty = best.offset, best.delay, best.by(host.Sub(best.at))
			out.Jitter, out.Stratum, out.Reference = v.jitter(best), best.stratum, best.reference
		}
		switch {
		case v.kiss != "":
			out.State = "refuses"
		case v.rest > 0:
			out.State = "rests"
		case v.agrees:
			out.State = "agrees"
		case v.asked > 0 && (v.answered == 0 || host.Sub(v.samples[len(v.samples)-1].at) > staleAfter*s.spec.Interval):
			out.State = "silent"
		case v.asked > 0:
			out.State = "disagrees"
		}
		st.Servers = append(st.Servers, out)
	}
	return st
}
