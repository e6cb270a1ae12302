package sched

import "aios.dev/aios/errdefs"

// Check looks whether what the scheduler knows agrees with itself. It is for
// tests: it takes time that grows with the number of tasks.
func (s *Scheduler) Check() error {
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	idleCPUs, has, queuedTasks := 0, make(map[*Group]int), 0
	pressed := make(map[*Group]int)
	for i := range s.cpus {
		c := &s.cpus[i]
		if c.task == nil {
			if c.on {
				idleCPUs++
			}
			continue
		}
		if c.task.cpu != i || c.task.state != running {
			return errdefs.Newf(errdefs.Internal, "CPU %d has a task of CPU %d in state %d", i, c.task.cpu, c.task.state)
		}
		if c.server != nil && c.server.state != svRunning && c.server.state != svSpent {
			return errdefs.Newf(errdefs.Internal, "CPU %d runs on a reservation in state %d", i, c.server.state)
		}
		has[c.task.g]++
	}
	if s.idle < s.nOn && (s.timer == nil || s.sampleAt == noTime) {
		return errdefs.Newf(errdefs.Internal, "nobody will look what those do that have %d CPUs", s.nOn-s.idle)
	}
	if idleCPUs != s.idle {
		return errdefs.Newf(errdefs.Internal, "%d CPUs have no task, %d are counted", idleCPUs, s.idle)
	}
	for _, g := range s.groups {
		n, parts := 0, 0
		var err error
		g.all(func(p *part) {
			k := 0
			p.waiting.each(func(o *node) bool {
				k++
				if o.task.state != queued || o.task.g != g || o.task.part != p {
					err = errdefs.Newf(errdefs.Internal, "%s: a task in the queue of CPU %d is in state %d", g.name, p.cpu, o.task.state)
				}
				return true
			})
			n += k
			if p.e.on {
				parts++
			}
			switch in := p.n.in != nil; {
			case in != (k > 0 && !g.quota.stopped):
				err = errdefs.Newf(errdefs.Internal, "%s: in the queue of CPU %d %v, %d wait, stopped %v", g.name, p.cpu, in, k, g.quota.stopped)
			case in && p.n.in != p.tree():
				err = errdefs.Newf(errdefs.Internal, "%s: in a foreign queue", g.name)
			case p.e.on != (p.line.n > 0 && !g.quota.stopped):
				err = errdefs.Newf(errdefs.Internal, "%s: competes %v, with %d tasks, stopped %v", g.name, p.e.on, p.line.n, g.quota.stopped)
			case p.line.n != k+p.running:
				err = errdefs.Newf(errdefs.Internal, "%s: %d tasks compete, %d wait and %d run", g.name, p.line.n, k, p.running)
			}
		})
		switch {
		case err != nil:
			return err
		case n != g.queued || has[g] != g.running || parts != g.parts:
			return errdefs.Newf(errdefs.Internal, "%s: %d wait and %d run, %d parts, %d, %d and %d are counted", g.name, n, has[g], parts, g.queued, g.running, g.parts)
		}
		queuedTasks += n
		pressed[g] = g.press.waits - n
	}
	for _, sv := range s.rsv.all {
		if t := sv.user; t != nil && (t.state == queued || t.state == spent) {
			queuedTasks++
			pressed[t.g]--
		}
		ready := false
		for _, o := range s.rsv.ready {
			ready = ready || o == sv
		}
		if ready != (sv.state == svReady) {
			return errdefs.Newf(errdefs.Internal, "%s: a reservation in state %d is ready %v", sv.g.name, sv.state, ready)
		}
	}
	for g, left := range pressed {
		if left != 0 {
			return errdefs.Newf(errdefs.Internal, "%s: %d tasks more wait for its pressure than in queues", g.name, left)
		}
	}
	if queuedTasks != s.waiting {
		return errdefs.Newf(errdefs.Internal, "%d tasks wait, %d are counted", queuedTasks, s.waiting)
	}
	for l := range s.levels {
		line := timeline{base: s.levels[l].line.base}
		for _, g := range s.groups {
			g.all(func(p *part) {
				if g.class == l && p.e.on {
					line.n++
					line.load += p.e.weight
					line.sum += (p.e.v - line.base) * p.e.weight
				}
			})
		}
		if line != s.levels[l].line {
			return errdefs.Newf(errdefs.Internal, "class %d: the timeline is %+v, should be %+v", l, s.levels[l].line, line)
		}
	}
	// Nobody waits for a CPU that has nothing to do.
	for i := range s.cpus {
		if c := &s.cpus[i]; c.on && c.task == nil {
			if t, _ := s.pick(c, now); t != nil {
				return errdefs.Newf(errdefs.Internal, "CPU %d has no task, and one of %s waits that may have it", i, t.g.name)
			}
		}
	}
	return nil
}
