package sntp

import (
	"context"
	"errors"
	"math"
	"net"
	"time"

	"github.com/beevik/ntp"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

const (
	// samplesKept is how many answers of a server the filter chooses from.
	samplesKept = 8
	// askTimeout is how long an answer is waited for.
	askTimeout = 2 * time.Second
	// drift is how uncertain a sample gets as it ages: by so much a second, as
	// clocks of hosts may be wrong.
	drift = 15e-6
	// leastUncertain is of the best answer.
	leastUncertain = 100 * time.Microsecond
	// mostUncertain is of one that is of any use.
	mostUncertain = 1500 * time.Millisecond
	// mostBackoff bounds how much less often a server is asked that wants that.
	mostBackoff = 64
)

// sample is an answer.
type sample struct {
	at          time.Time // by the clock beneath
	offset      time.Duration
	delay       time.Duration
	uncertainty time.Duration
	stratum     int
	reference   string
}

// by is its uncertainty at a later time.
func (s *sample) by(age time.Duration) time.Duration {
	return s.uncertainty + time.Duration(float64(max(0, age))*drift)
}

// server is one that is asked. Sync.mu guards all but name and breaker.
type server struct {
	name    string
	breaker *recovery.Breaker

	samples []sample // the newest last
	// rest is how many rounds it is left out of; backoff how many more each
	// time it asks for that.
	rest, backoff int
	kiss          string // why it is not asked any more; ""

	asked, answered, failed uint64
	err                     error
	errAt                   time.Time
	// Whether the others agree with it, as they found last.
	agrees bool
}

// ask asks a server once. One that does not want to be asked says so with a kiss.
func ask(ctx context.Context, name string, clock ktime.Clock, patience time.Duration) (a sample, kiss string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var dialer net.Dialer
	r, err := ntp.QueryWithOptions(name, ntp.QueryOptions{
		Timeout: patience, GetSystemTime: clock.Now,
		Dialer: func(_, remote string) (net.Conn, error) {
			limited, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			conn, err := dialer.DialContext(limited, "udp", remote)
			if err == nil { // Who gives up does not wait for an answer.
				context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
	})
	failed := func(err error, detail, fix string) (sample, string, error) {
		return sample{}, "", errdefs.New(errdefs.TimeServer, detail, errdefs.Op("ask for the time"), errdefs.Resource("%s", name), errdefs.Fix("%s", fix), errdefs.Cause(err))
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return failed(err, "no answer within "+patience.String(), "see that it runs and that UDP to it passes, or name another")
	case err != nil:
		return failed(err, "it cannot be asked", "see that it runs and can be reached, or name another")
	case r.IsKissOfDeath():
		return sample{}, r.KissCode, nil
	}
	a = sample{
		at: clock.Now(), offset: r.ClockOffset, delay: max(0, r.RTT), stratum: int(r.Stratum), reference: r.ReferenceString(),
		uncertainty: max(leastUncertain, r.RTT/2+r.RootDelay/2+r.RootDispersion),
	}
	if err := r.Validate(); err != nil {
		return failed(err, "what it says cannot be used", "mend the server, or name another")
	}
	if r.RTT < 0 {
		return failed(nil, "it answered before it was asked, by the host's clock", "ask again")
	}
	if a.uncertainty > mostUncertain {
		return failed(nil, "its answer may be wrong by "+a.uncertainty.String(), "name a server that is nearer")
	}
	return a, "", nil
}

// take notes an answer. One that the answers before cannot explain shows that the
// host's clock was set, or that the server has another time: they count no more.
func (s *server) take(a sample) {
	if old := s.best(a.at); old != nil {
		apart := a.offset - old.offset
		if max(apart, -apart) > a.uncertainty+old.by(a.at.Sub(old.at)) {
			s.samples = s.samples[:0]
		}
	}
	if len(s.samples) == samplesKept {
		s.samples = append(s.samples[:0], s.samples[1:]...)
	}
	s.samples = append(s.samples, a)
	s.answered++
	s.backoff = 0
}

// refused notes that it was asked in vain.
func (s *server) refused(err error, at time.Time) {
	s.failed++
	s.err, s.errAt = err, at
}

// kissed obeys a server that does not want to be asked.
func (s *server) kissed(kiss string, at time.Time) {
	s.failed++
	s.errAt = at
	if kiss == "RATE" {
		s.backoff = min(max(1, 2*s.backoff), mostBackoff)
		s.rest = s.backoff
		s.err = errdefs.Newf(errdefs.TimeServer, "it wants to be asked less often: left out of the next %d rounds", s.rest).
			With(errdefs.Resource("%s", s.name), errdefs.Fix("write a longer interval"))
		return
	}
	s.kiss = kiss
	s.err = errdefs.Newf(errdefs.TimeServer, "it does not want to be asked: kiss of death %q", kiss).
		With(errdefs.Resource("%s", s.name), errdefs.Fix("name another server"))
}

// best is the answer that is the least uncertain by now, or nil.
func (s *server) best(now time.Time) *sample {
	var best *sample
	for i := range s.samples {
		a := &s.samples[i]
		if best == nil || a.by(now.Sub(a.at)) <= best.by(now.Sub(best.at)) {
			best = a
		}
	}
	return best
}

// jitter is how far the answers lie from the best one: the root of the mean
// square.
func (s *server) jitter(best *sample) time.Duration {
	if len(s.samples) < 2 {
		return 0
	}
	var sum float64
	for i := range s.samples {
		d := float64(s.samples[i].offset - best.offset)
		sum += d * d
	}
	return time.Duration(math.Sqrt(sum / float64(len(s.samples)-1)))
}
