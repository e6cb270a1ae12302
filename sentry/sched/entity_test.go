package sched

import "testing"

// TestSavings has one of three use little, and then a turn of 4 ms, of which the
// host may have run none: it may go on at once, but not after a second one.
func TestSavings(t *testing.T) {
	const ms = 1_000_000
	var l timeline
	e := [3]entity{{weight: unit}, {weight: unit}, {weight: unit}}
	for i := range e {
		l.join(&e[i])
	}
	turn := func(d int64) {
		l.advance(&e[0], e[0].virtual(d))
		l.settle(&e[0])
		l.leave(&e[0], sliceMax)
	}
	others := func(d int64) {
		for i := range e[1:] {
			l.advance(&e[1+i], e[1+i].virtual(d))
		}
	}
	turn(0)
	others(20 * ms)
	l.join(&e[0])
	if got := e[0].service(e[0].saved); got < 4*ms || got > 4*ms+10 {
		t.Errorf("of 20 ms left to others %d ns are saved, not 4 ms", got)
	}
	turn(4 * ms)
	l.join(&e[0])
	if !l.ripe(&e[0]) {
		t.Error("after a turn that its savings make up for it has to wait")
	}
	turn(4 * ms)
	l.join(&e[0])
	if l.ripe(&e[0]) {
		t.Error("a second such turn costs it nothing")
	}
}
