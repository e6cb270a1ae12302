package sched

import "slices"

// boost is what others lend a task that they wait for.
//
// Who waits for a lock lends its holder what it would run on itself: its
// reservation, its group if that comes before the holder's, and its niceness if
// that is higher. What is lent is used at the lender's expense: its group is
// charged for it, not the holder's, whose quota may be used up. So nobody that is
// between the two in rank can keep the one from the lock by keeping the other from
// the CPU (Sha, Rajkumar and Lehoczky, "Priority Inheritance Protocols", 1990).
type boost struct {
	from   []*Task // who lends, in the order in which they came
	to     *Task   // to whom it lends itself
	what   uintptr // what it waits for
	weight int64   // the highest that is lent; 0: none
	// home is the task's own group while it runs on another's, and own its own
	// reservation while it runs on another's; lent says that it does.
	home *Group
	own  *server
	lent bool
}

// lendDepth bounds how far what is lent is lent on, where tasks wait for each
// other in a circle.
const lendDepth = 16

// Lend has the task, which is about to wait for something that another holds,
// lend that its rank, until Reclaim.
func (t *Task) Lend(to *Task, what uintptr) {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	if to == t || to.s != s || t.boost.to != nil || to.waitsFor(t) {
		return
	}
	t.lend(to, what)
}

func (t *Task) lend(to *Task, what uintptr) {
	t.boost.to, t.boost.what = to, what
	to.boost.from = append(to.boost.from, t)
	t.s.spread(to)
}

// Borrows reports whether others lend the task anything.
func (t *Task) Borrows() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return len(t.boost.from) > 0
}

// PassOn has those who wait for something that the task held lend to who holds
// it now; nil: nobody.
func (t *Task) PassOn(what uintptr, to *Task) {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	for _, o := range slices.Clone(t.boost.from) {
		if o.boost.what != what {
			continue
		}
		o.reclaim()
		if to != nil && to != o && to != t && !to.waitsFor(o) {
			o.lend(to, what)
		}
	}
}

// waitsFor reports whether t lends to o, by way of others perhaps.
func (t *Task) waitsFor(o *Task) bool {
	for range lendDepth {
		if t = t.boost.to; t == nil || t == o {
			break
		}
	}
	return t == o
}

// Reclaim ends Lend, if there is anything to end.
func (t *Task) Reclaim() {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	t.reclaim()
}

func (t *Task) reclaim() {
	to := t.boost.to
	if to == nil {
		return
	}
	t.boost.to = nil
	to.boost.from = slices.DeleteFunc(to.boost.from, func(o *Task) bool { return o == t })
	t.s.spread(to)
}

// unboost ends all that the task lends and borrows.
func (t *Task) unboost() {
	t.reclaim()
	for _, o := range t.boost.from {
		o.boost.to = nil
	}
	t.boost.from = nil
	t.s.spread(t)
}

// spread computes what a task borrows, and those that it lends it to.
func (s *Scheduler) spread(t *Task) {
	now := s.Now()
	for range lendDepth {
		t.borrow(now)
		if t.boost.to == nil {
			return
		}
		t = t.boost.to
	}
}

// outer returns the task's own group, and own its own reservation.
func (t *Task) outer() (*Group, *server) {
	g, sv := t.g, t.server
	if t.boost.home != nil {
		g = t.boost.home
	}
	if t.boost.lent {
		sv = t.boost.own
	}
	return g, sv
}

// comesBefore reports whether tasks of g are to be preferred to those of o.
func (g *Group) comesBefore(o *Group) bool {
	switch {
	case g.quota.stopped != o.quota.stopped:
		return o.quota.stopped
	case g.class != o.class:
		return g.class < o.class
	}
	return g.weight > o.weight
}

// borrow has the task run on the best of what it is lent and what it has.
func (t *Task) borrow(now int64) {
	group, server := t.outer()
	ownGroup, ownServer := group, server
	var weight int64
	for _, o := range t.boost.from {
		weight = max(weight, o.weight())
		if o.g.comesBefore(group) {
			group = o.g
		}
		if sv := o.server; sv != nil && (server == nil || sv.due < server.due) {
			server = sv
		}
	}
	if weight == t.boost.weight && group == t.g && server == t.server {
		return
	}
	t.replace(now, func() {
		t.boost.weight = weight
		t.boost.home = nil
		if group != ownGroup {
			t.boost.home = ownGroup
		}
		t.boost.own, t.boost.lent = nil, server != ownServer
		if t.boost.lent {
			t.boost.own = ownServer
		}
		if group != t.g {
			if t.cpu >= 0 {
				t.g.pressTo(now)
				group.pressTo(now)
				t.g.running--
				group.running++
			}
			t.g = group
		}
		t.server = server
		t.reweigh()
	})
}
