package sched

import "time"

const (
	// Samples are taken at least sampleLeast apart, and at random up to sampleRange
	// more: were all as far apart, a program that does the same again and again in
	// that time would look as if it always did what it does when a sample is taken.
	sampleLeast = 5 * int64(time.Millisecond)
	sampleRange = 10 * int64(time.Millisecond)
	// sampleMost is how much time one sample stands for at most.
	sampleMost = 2 * (sampleLeast + sampleRange)
)

// use is the CPU time of a task, or of a group's tasks, as programs are told of it.
// How much it was is known exactly. What of it was spent in application code is
// estimated: now and then it is looked what those do that have a CPU. The clock is
// not read when a task enters application code or returns. Scheduler.mu guards it.
type use struct {
	// total is the time with a CPU, as far as it was charged, and that without one.
	total int64
	// app and kernel are how much of it samples stand for.
	app, kernel int64
	// user and system are what was last told.
	user, system int64
}

// sampled adds what a sample stands for.
func (u *use) sampled(d int64, inApp bool) {
	if inApp {
		u.app += d
	} else {
		u.kernel += d
	}
}

// split divides the total and what was not charged yet as the samples are divided,
// like cputime_adjust of Linux: neither part is ever less than it was told before.
// Who is in no sample has run application code only.
func (u *use) split(uncharged int64) (user, system time.Duration) {
	if total := u.total + uncharged; total > u.user+u.system {
		part := total
		if u.kernel > 0 {
			part = int64(float64(total) * (float64(u.app) / float64(u.app+u.kernel)))
		}
		u.user = min(max(part, u.user), total-u.system)
		u.system = total - u.user
	}
	return duration(u.user), duration(u.system)
}

// Enters says that the task runs application code from now on, on the CPU that it
// has, if it has one. It reports whether it must return at once, because it was
// told to ask again meanwhile.
func (t *Task) Enters() (again bool) {
	if t.cpu >= 0 {
		t.s.calls.Enter(t.cpu)
		t.entered = t.cpu + 1
	} else {
		t.bare = t.s.Now() + 1
	}
	return t.yield.Load()
}

// Returns says that the kernel works for it from now on.
func (t *Task) Returns() {
	if t.entered > 0 {
		t.s.calls.Leave(t.entered - 1)
		t.entered = 0
	} else if t.bare > 0 {
		t.wasBare()
	}
}

// wasBare counts what was executed without a CPU. Nobody is charged for it.
func (t *Task) wasBare() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	d := max(s.Now()+1-t.bare, 0)
	t.bare = 0
	for _, u := range []*use{&t.use, &t.owner.use} {
		u.total += d
		u.sampled(d, true)
	}
}

// nextSample is when to look next what those do that have a CPU: never if nobody has.
func (s *Scheduler) nextSample(now int64) int64 {
	if s.idle == s.nOn {
		return noTime
	}
	if s.sampleAt == noTime {
		s.sampledAt = now
		s.sampleAt = now + sampleLeast + s.random.Int64N(sampleRange)
	}
	return s.sampleAt
}

// sample looks what those do that have a CPU, if it is time to.
func (s *Scheduler) sample(now int64) {
	if now+look <= s.sampleAt {
		return
	}
	d := min(now-s.sampledAt, sampleMost)
	s.sampleAt = noTime
	for i := range s.cpus {
		if t := s.cpus[i].task; t != nil {
			inApp := s.calls.Inside(i)
			t.use.sampled(d, inApp)
			t.owner.use.sampled(d, inApp)
		}
	}
}
