package sched

import "time"

// overheadEach is how long what the host counts is added up before it is charged.
const overheadEach = int64(10 * time.Millisecond)

// overheadMost is how much of what it was served a group pays or gets back at most:
// whoever keeps the kernel busy, or a CPU without using it, does that to others, too.
const overheadMost = 0.25

// overheadKept is how much of what was not charged for that reason is kept.
const overheadKept = int64(20 * time.Millisecond)

// overhead is what the host counts besides what tasks are served. It counts more for
// what the kernel process needs to have tasks return, for timers, packets, garbage
// and the Go runtime; less when it had others for the CPUs. Groups with a quota pay
// for it, or are paid, in proportion to what they were served meanwhile, so that
// their quotas are kept by what the host counts. No other group is: it changes no
// share.
type overhead struct {
	// of is Config.Besides.
	of func(served time.Duration) (besides time.Duration, ok bool)
	// at is when it was last looked at, besides and served are as of then.
	at              int64
	besides, served int64
}

// chargeOverhead has groups with a quota owe what has been counted since they last
// did. They pay when their next period begins.
func (s *Scheduler) chargeOverhead(now int64) {
	o := &s.overhead
	if o.of == nil || now-o.at < overheadEach {
		return
	}
	served := int64(0)
	for i := range s.cpus {
		s.charge(&s.cpus[i], now)
		served += s.cpus[i].busy
	}
	b, ok := o.of(duration(served))
	if !ok {
		o.of = nil
		return
	}
	besides := int64(b)
	per := 0.0
	if d := served - o.served; d > 0 && o.at > 0 {
		per = max(-overheadMost, min(float64(besides-o.besides)/float64(d), overheadMost))
		o.besides += int64(per * float64(d))
	}
	// The host counts what runs now a few milliseconds late: what goes beyond the most
	// that is charged may be made good soon.
	o.besides = max(besides-overheadKept, min(o.besides, besides+overheadKept))
	o.at, o.served = now, served
	for _, g := range s.bounded {
		q := &g.quota
		q.due += int64(per * float64(g.got-q.paid))
		q.paid = g.got
	}
}
