package ktime

import (
	"testing"
	"time"
)

func TestFakeRunsTimersInOrder(t *testing.T) {
	c := NewFake(time.Unix(100, 0))
	var order []int
	c.AfterFunc(2*time.Second, func() { order = append(order, 2) })
	c.AfterFunc(time.Second, func() {
		order = append(order, 1)
		c.AfterFunc(500*time.Millisecond, func() { order = append(order, 15) })
	})
	stopped := c.AfterFunc(time.Second, func() { order = append(order, -1) })
	if !stopped.Stop() || stopped.Stop() {
		t.Fatal("Stop does not report whether it cancelled")
	}
	c.Advance(3 * time.Second)
	if len(order) != 3 || order[0] != 1 || order[1] != 15 || order[2] != 2 {
		t.Fatalf("order %v", order)
	}
	if got := c.Since(time.Unix(100, 0)); got != 3*time.Second {
		t.Fatalf("clock stands at +%v", got)
	}
}

func TestRealClockMoves(t *testing.T) {
	done := make(chan struct{})
	start := Real.Now()
	Real.AfterFunc(time.Millisecond, func() { close(done) })
	<-done
	if Real.Since(start) < time.Millisecond {
		t.Fatal("AfterFunc came early")
	}
}
