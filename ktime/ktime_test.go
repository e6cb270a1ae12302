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

func TestWatched(t *testing.T) {
	fake := NewFake(time.Unix(100, 0))
	var late []time.Duration
	c := Watched(fake, func(d time.Duration) { late = append(late, d) })
	ran := 0
	c.AfterFunc(time.Second, func() {
		if ran++; len(late) != 1 {
			t.Error("it ran before anybody heard of it")
		}
	})
	c.AfterFunc(0, func() { ran++ })
	if c.AfterFunc(time.Second, func() { ran++ }).Stop() != true {
		t.Error("it cannot be stopped")
	}
	fake.Advance(2 * time.Second)
	if ran != 2 || len(late) != 1 || late[0] != 0 || c.Since(time.Unix(100, 0)) != 2*time.Second {
		t.Errorf("%d ran, late by %v", ran, late)
	}
	fired := make(chan time.Duration, 1)
	done := make(chan struct{})
	real := Watched(Real, func(d time.Duration) { fired <- d })
	real.AfterFunc(time.Millisecond, func() { close(done) })
	<-done
	if d := <-fired; d < 0 {
		t.Errorf("it was early, by %v", -d)
	}
}
