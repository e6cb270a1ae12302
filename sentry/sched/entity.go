package sched

import "math/bits"

const (
	// unit is the weight of a task that is as nice as any, and of a group of
	// default weight.
	unit = 1024
	// scale is how far virtual time advances, times the weight, in a nanosecond.
	scale = 1 << 20
)

// entity is who competes for time: part of a group in the domain, a task in its part.
//
// Its virtual time is the service it has got, over its weight. It may run when
// that is not ahead of what all competitors got on average: it is eligible. Of
// those, the one is served whose request must be fulfilled first.
type entity struct {
	weight int64
	v      int64
	// deadline is when, in virtual time, the present request is due. It began
	// at a virtual time of deadline less request over weight.
	deadline int64
	// request is how much service it asks for at once, in nanoseconds.
	request int64
	// credit is the lag with which it stopped to compete, if it was owed
	// service; what it owed is in v.
	credit int64
	// saved is what it was entitled to and left to others while it did not
	// compete, in virtual time and up to a bound; left is when it stopped to.
	saved, left int64
	// on says that it competes.
	on bool
}

// virtual is service d in nanoseconds as virtual time of e.
func (e *entity) virtual(d int64) int64 { return mulDiv(d, scale, e.weight) }

// service is virtual time d of e in nanoseconds, rounded up.
func (e *entity) service(d int64) int64 { return mulDiv(d, e.weight, scale) + 1 }

// mulDiv is a times b over c, for b and c that are not negative. It saturates.
func mulDiv(a, b, c int64) int64 {
	neg := a < 0
	if neg {
		a = -a
	}
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q := int64(1<<63 - 1)
	if hi < uint64(c) {
		if d, _ := bits.Div64(hi, lo, uint64(c)); d <= 1<<62 {
			q = int64(d)
		}
	}
	if neg {
		return -q
	}
	return q
}

// renew begins the next request, of r nanoseconds.
func (e *entity) renew(r int64) {
	e.request = r
	e.deadline = e.v + e.virtual(r)
}

// fulfilled reports whether the present request is.
func (e *entity) fulfilled() bool { return e.v-e.deadline >= 0 }

// timeline is the virtual clock of those who compete with each other: it shows
// the average of their virtual times, each as heavy as it is. That average
// advances with the service given to all, and what everybody is ahead of it or
// behind adds up to nothing.
//
// The zero value is the timeline of nobody.
type timeline struct {
	base int64 // what sum is relative to
	sum  int64 // of virtual time less base, times weight
	load int64 // of weights
	n    int
}

// now returns the average; with nobody on it, the last one.
func (l *timeline) now() int64 {
	if l.load == 0 {
		return l.base
	}
	d := l.sum / l.load
	if l.sum < -1<<58 || l.sum > 1<<58 { // Keep it from going round.
		l.base += d
		l.sum -= d * l.load
		d = 0
	}
	return l.base + d
}

// ripe reports whether e is eligible.
func (l *timeline) ripe(e *entity) bool { return e.v-l.now() <= 0 }

// join has e compete, with the lag it left with: what it was owed, up to a
// bound, is owed still; what it owed has become less by as much as the others
// have got since. What they have got beyond that is saved.
func (l *timeline) join(e *entity) {
	now := l.now()
	if unused := now - max(e.left, e.v); unused > 0 {
		e.saved = min(e.saved+unused, e.virtual(savedMax))
	}
	switch ahead := e.v - now; {
	case e.credit > 0:
		e.v = now - e.credit
	case ahead < 0:
		e.v = now
	default: // A debt. One that nobody can have is of a clock that went round.
		ahead = min(ahead, 4*e.virtual(sliceMax))
		e.v = now + ahead - e.spend(ahead)
	}
	e.credit = 0
	e.on = true
	l.n++
	l.load += e.weight
	l.sum += (e.v - l.base) * e.weight
}

// leave has e compete no more. It may be owed bound nanoseconds of service.
//
// What it is owed or owes is measured without it, as it will be when it joins:
// who leaves and joins at once is where it was.
func (l *timeline) leave(e *entity, bound int64) {
	last := l.now()
	e.on = false
	l.n--
	l.load -= e.weight
	l.sum -= (e.v - l.base) * e.weight
	if l.load == 0 {
		l.base, l.sum = last, 0
	}
	e.left = l.now()
	if lag := e.left - e.v; lag > 0 {
		e.credit = min(lag, e.virtual(bound))
	}
}

// spend takes up to debt from what e has saved.
func (e *entity) spend(debt int64) int64 {
	d := min(debt, e.saved)
	e.saved -= d
	return d
}

// settle pays what e owes from what it has saved. How far its request is
// fulfilled stays.
func (l *timeline) settle(e *entity) {
	if e.saved == 0 {
		return
	}
	if debt := e.v - l.now(); debt > 0 {
		d := e.spend(debt)
		l.advance(e, -d)
		e.deadline -= d
	}
}

// advance moves the virtual time of one who competes.
func (l *timeline) advance(e *entity, dv int64) {
	e.v += dv
	l.sum += dv * e.weight
}

// reweigh gives e another weight. Its lag, in service, stays.
func (l *timeline) reweigh(e *entity, weight int64) {
	if weight == e.weight {
		return
	}
	left := mulDiv(e.deadline-e.v, e.weight, weight)
	now := l.now()
	e.saved = mulDiv(e.saved, e.weight, weight)
	if !e.on {
		e.credit = mulDiv(e.credit, e.weight, weight)
		if debt := e.v - now; debt > 0 {
			e.v = now + mulDiv(debt, e.weight, weight)
		}
		e.weight = weight
		return
	}
	lag := mulDiv(now-e.v, e.weight, weight)
	l.sum -= (e.v - l.base) * e.weight
	l.load += weight - e.weight
	e.weight = weight
	e.v = now - lag
	e.deadline = e.v + left
	l.sum += (e.v - l.base) * weight
}
