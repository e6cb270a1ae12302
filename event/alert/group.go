package alert

import "math"

// State is how a rule stands for a group.
type State uint8

// States.
const (
	OK State = iota
	Pending
	Firing
)

// String returns the state in lower case.
func (s State) String() string { return [...]string{"ok", "pending", "firing"}[s] }

// slots is in how many steps a window slides.
const slots = 20

const never = math.MaxInt64

// group is one thing that a rule has a state for. How it stands is a function
// of what it was told and of time: update brings it up to date, and due is when
// it has to be called next.
type group struct {
	rule *work
	// The agent's ID or the domain that it stands for; "" for all.
	key                 string
	agent, name, domain string

	state State
	since int64 // when it came to this state
	calm  int64 // firing: since when it is within its bounds again; never: it is not
	// What is looked at, as of the last update; negated for a lower bound.
	value float64
	// The latest event, or the latest sample that was known.
	last  int64
	known bool // there was one
	// Of a rate that was restored: what was before is not known, and it is not
	// calm until then.
	blind int64
	// Of a rate: what came, by slot, and the number of the newest slot.
	window [slots]float64
	newest int64
	// The alert was told; one that is silenced was not.
	told  bool
	fired uint64

	due   int64
	index int // in the heap; -1: nowhere
}

// slotOf is the slot that a time is in.
func (g *group) slotOf(at int64) int64 { return floorDiv(at, g.rule.slot) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func slotIndex(n int64) int { return int(((n % slots) + slots) % slots) }

// slide has the window end at a time.
func (g *group) slide(now int64) {
	n := g.slotOf(now)
	if n-g.newest >= slots {
		clear(g.window[:])
	} else {
		for s := g.newest + 1; s <= n; s++ {
			g.window[slotIndex(s)] = 0
		}
	}
	g.newest = max(g.newest, n)
}

// count adds to a rate what came at a time, which is past.
func (g *group) count(now, at int64, v float64) {
	g.slide(now)
	if n := g.slotOf(at); g.newest-n < slots && v > 0 {
		g.window[slotIndex(n)] += v
	}
}

// sum is what is in the window.
func (g *group) sum() (sum float64) {
	for _, v := range g.window {
		sum += v
	}
	return sum
}

// leaves is when the window next loses something, and when it has lost all;
// never if there is nothing in it.
func (g *group) leaves() (next, last int64) {
	next, last = never, never
	for s := g.newest - slots + 1; s <= g.newest; s++ {
		if g.window[slotIndex(s)] != 0 {
			last = (s + slots) * g.rule.slot
			next = min(next, last)
		}
	}
	return next, last
}

// look finds out what is looked at, and whether that is known.
func (g *group) look(now int64) bool {
	r := g.rule
	switch r.kind {
	case KindRate:
		g.slide(now)
		g.value = g.sum()
		return true
	case KindAbsence:
		g.value = float64(now-g.last) / 1e9
		return true
	case KindValue:
		if r.within > 0 && now-g.last >= r.within {
			g.known = false
		}
	}
	return g.known
}

// beyond and within are the two bounds.
func (g *group) beyond(now int64) bool {
	if g.rule.kind == KindAbsence {
		return now-g.last >= g.rule.within
	}
	return g.value > g.rule.limit
}

func (g *group) isWithin(now int64) bool {
	if g.rule.kind == KindAbsence {
		return !g.beyond(now)
	}
	return g.value <= g.rule.clear
}

// update brings the group up to date and reports whether it began to fire, or
// ceased to.
func (g *group) update(now int64) (began, ended bool) {
	known := g.look(now)
	beyond := known && g.beyond(now)
	switch g.state {
	case OK:
		if !beyond {
			break
		}
		g.to(Pending, now)
		fallthrough
	case Pending:
		if !beyond {
			g.to(OK, now)
			break
		}
		if now-g.since >= g.rule.forNS {
			g.to(Firing, now)
			g.calm = never
			g.fired++
			began = true
		}
	case Firing:
		switch {
		case known && !g.isWithin(now) || !known && g.rule.kind == KindCounter || now < g.blind:
			g.calm = never
		default:
			g.calm = min(g.calm, now)
			if now-g.calm >= g.rule.hold {
				g.to(OK, now)
				ended = true
			}
		}
	}
	g.due = g.next(now)
	return began, ended
}

func (g *group) to(s State, now int64) { g.state, g.since = s, now }

// next is when the group may change by the passing of time alone.
func (g *group) next(now int64) int64 {
	due := int64(never)
	after := func(t int64) {
		if t > now {
			due = min(due, t)
		}
	}
	switch g.rule.kind {
	case KindRate:
		next, last := g.leaves()
		if g.state == OK {
			next = last // To forget it.
		}
		after(next)
	case KindValue:
		if g.known && g.rule.within > 0 {
			after(g.last + g.rule.within)
		}
	case KindAbsence:
		after(g.last + g.rule.within)
	}
	switch g.state {
	case Pending:
		after(g.since + g.rule.forNS)
	case Firing:
		if g.calm != never {
			after(g.calm + g.rule.hold)
		}
		after(g.blind)
		if !g.told {
			after(g.rule.engine.silences.end(g.rule.Name(), g.agent, now))
		}
	}
	return due
}

// idle reports whether there is nothing to remember about the group.
func (g *group) idle() bool {
	if g.state != OK {
		return false
	}
	switch g.rule.kind {
	case KindRate:
		return g.sum() == 0
	case KindValue:
		return !g.known
	}
	return false
}

// byDue is a heap of groups, the one that is due next first.
type byDue []*group

// Len implements heap.Interface.
func (h byDue) Len() int { return len(h) }

// Less implements heap.Interface.
func (h byDue) Less(i, j int) bool { return h[i].due < h[j].due }

// Swap implements heap.Interface.
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *byDue) Push(x any) {
	g := x.(*group)
	g.index = len(*h)
	*h = append(*h, g)
}

// Pop implements heap.Interface.
func (h *byDue) Pop() any {
	old := *h
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	g.index = -1
	return g
}
