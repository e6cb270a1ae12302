package sched

// wakeKick takes a CPU from somebody for a task that has just begun to wait, if
// it comes before who has it.
func (s *Scheduler) wakeKick(t *Task, now int64) {
	if t.state != queued || t.g.quota.stopped {
		return
	}
	var worst *cpu
	again := int64(noTime)
	for i := range s.cpus {
		c := &s.cpus[i]
		if c.task == nil || c.kicked != 0 || !t.mayRun(i) {
			continue
		}
		s.charge(c, now)
		switch {
		case !s.outranks(t, c):
		case s.spared(t, c, now):
			again = min(again, c.got+granule)
		case worst == nil || s.lower(c, worst):
			worst = c
		}
	}
	if worst == nil {
		s.again = min(s.again, again)
		return
	}
	worst.next = t
	s.kick(worst, now, &s.counts.WakeKicks)
}

// wakeKicks is wakeKick for those who woke when everybody they outrank had only
// just got a CPU.
func (s *Scheduler) wakeKicks(now int64) {
	if s.again > now {
		return
	}
	s.again = noTime
	for i := range s.cpus {
		c := &s.cpus[i]
		if c.task == nil || c.kicked != 0 {
			continue
		}
		p := s.pickPart(fair, c)
		if p == nil {
			continue
		}
		switch t := p.pick(); {
		case !s.outranks(t, c):
		case s.spared(t, c, now):
			s.again = min(s.again, c.got+granule)
		default:
			c.next = t
			s.kick(c, now, &s.counts.WakeKicks)
		}
	}
}

// rank orders what has a CPU, or wants it: the lowest first.
func rank(t *Task, sv *server) int {
	if sv != nil {
		return -1
	}
	return t.g.class
}

// spared reports whether c's task has got it too recently to lose it to t, which
// is of the same class and on no reservation.
func (s *Scheduler) spared(t *Task, c *cpu, now int64) bool {
	return now-c.got < granule && c.server == nil && t.g.class == c.task.g.class && !t.g.hint.params().quick && t.readyServer() == nil
}

// outranks reports whether t should have c's CPU.
func (s *Scheduler) outranks(t *Task, c *cpu) bool {
	sv := t.readyServer()
	mine, its := rank(t, sv), rank(c.task, c.server)
	switch {
	case mine != its:
		return mine < its
	case sv != nil:
		return sv.due < c.server.due
	}
	if t.attr.Policy != Normal && t.g.class == fair {
		return false // It can wait for the end of a turn.
	}
	p, o := t.part, c.task.part
	if p == o {
		return p.line.ripe(&t.e) && t.e.deadline-c.task.e.deadline < 0
	}
	if !p.timeline().ripe(&p.e) {
		return false
	}
	return t.g.hint.params().quick && !o.g.hint.params().quick || p.e.deadline-o.e.deadline < 0
}

// lower reports whether a's task is to lose its CPU before b's.
func (s *Scheduler) lower(a, b *cpu) bool {
	if x, y := rank(a.task, a.server), rank(b.task, b.server); x != y {
		return x > y
	}
	if a.server != nil {
		return a.server.due > b.server.due
	}
	return a.task.part.e.deadline-b.task.part.e.deadline > 0
}

// contested reports whether somebody waits who could have c instead of its task,
// now that the task's request is fulfilled.
func (s *Scheduler) contested(c *cpu) bool {
	if t, _ := s.pickReserved(c); t != nil {
		return c.server == nil
	}
	if c.server != nil {
		return false
	}
	t, p := c.task, c.task.part
	for l := range s.levels {
		o := s.pickPart(l, c)
		switch {
		case o == nil:
			continue
		case l != p.g.class:
			return l < p.g.class
		case o == p:
			u := p.pick()
			return !p.line.ripe(&t.e) || p.line.ripe(&u.e) && u.e.deadline-t.e.deadline < 0
		}
		line := &s.levels[l].line
		return !line.ripe(&p.e) || line.ripe(&o.e) && o.e.deadline-p.e.deadline < 0
	}
	return false
}

// arm sets the timer for when there is next something to do.
func (s *Scheduler) arm(now int64) {
	at := min(s.nextSlice(now), s.nextQuota(now), s.nextReserved(now), s.nextSample(now))
	if at == noTime {
		return // A timer that is set finds nothing to do.
	}
	at = max(at, now+look)
	// One that comes a little early looks again.
	if s.timer != nil && s.timerAt <= at && at-s.timerAt < look {
		return
	}
	if s.timer != nil {
		if s.timerAt <= at {
			return
		}
		s.timer.Stop()
	}
	s.timerAt = at
	s.timer = s.timers.AfterFunc(duration(at-now), s.tick)
}

// nextSlice is when the first task's time is over.
func (s *Scheduler) nextSlice(now int64) int64 {
	if s.waiting == 0 {
		return noTime
	}
	at := s.again
	for i := range s.cpus {
		c := &s.cpus[i]
		if c.task == nil || c.kicked != 0 || c.server != nil {
			continue
		}
		t, p := c.task, c.task.part
		left := min(t.e.service(t.e.deadline-t.e.v), p.e.service(p.e.deadline-p.e.v)/int64(max(p.running, 1)))
		at = min(at, c.since+max(left, 0))
	}
	return at
}

// tick is the timer: it takes CPUs from tasks whose time is over, and sees what those
// do that have one.
func (s *Scheduler) tick() {
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	s.timer, s.timerAt = nil, noTime
	s.sample(now)
	for i := range s.cpus {
		c := &s.cpus[i]
		s.charge(c, now)
		if c.task == nil || c.kicked != 0 || !c.over {
			continue
		}
		c.over = false
		if s.waiting > 0 && s.contested(c) {
			s.kick(c, now, &s.counts.SliceKicks)
		}
	}
	s.wakeKicks(now)
	for _, g := range s.bounded {
		s.roll(g, now)
		s.enforce(g, now)
	}
	s.tickReserved(now)
	s.fill(now, nil)
	s.arm(now)
}
