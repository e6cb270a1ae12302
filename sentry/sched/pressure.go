package sched

import "time"

// press is for how long tasks of a group waited for a CPU: some of them, and all
// that wanted one.
type press struct {
	waits      int   // tasks in a queue
	since      int64 // up to when it was added up
	some, full int64 // nanoseconds
}

// pressTo adds up the time to now, before something of it changes.
func (g *Group) pressTo(now int64) {
	p := &g.press
	if d := now - p.since; p.waits > 0 && d > 0 {
		p.some += d
		if g.running == 0 {
			p.full += d
		}
	}
	p.since = now
}

// pressed notes that n more tasks wait.
func (g *Group) pressed(n int, now int64) {
	g.pressTo(now)
	g.press.waits += n
}

// Pressure returns for how long some task of the group has waited for a CPU, and
// for how long that was so while none had one. A task waits, too, while the group's
// quota is used up.
func (g *Group) Pressure() (some, full time.Duration) {
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	g.pressTo(s.Now())
	return duration(g.press.some), duration(g.press.full)
}

// Active returns how many tasks of the group have a CPU or want one.
func (g *Group) Active() int {
	g.s.mu.Lock()
	defer g.s.unlock()
	return g.running + g.press.waits
}
