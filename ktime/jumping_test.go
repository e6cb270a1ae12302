package ktime

import (
	"testing"
	"time"
)

func TestJumping(t *testing.T) {
	fake := NewFake(time.Unix(1000, 0))
	c := NewJumping(fake)
	start := c.Now()
	fired := false
	c.AfterFunc(time.Second, func() { fired = true })
	c.Jump(time.Hour)
	if c.Since(start) != time.Hour || fired {
		t.Errorf("after a jump: %v, fired %v", c.Since(start), fired)
	}
	c.Jump(-2 * time.Hour)
	fake.Advance(time.Second)
	if c.Now() != time.Unix(1001, 0).Add(-time.Hour) || !fired {
		t.Errorf("after a jump back: %v, fired %v", c.Now(), fired)
	}
}
