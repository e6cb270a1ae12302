package platform

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/sentry/irq"
)

// counted returns a crowd whose interrupts are counted.
func counted(cpus int) (*Crowd, *irq.Controller, *irq.Source) {
	lines := irq.New(irq.Config{CPUs: 2})
	g := alone(cpus)
	src := lines.NewSource("agent")
	g.Interrupts(src)
	return g, lines, src
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// TestCallsAreInterrupts: a task that runs and that the kernel calls counts, once
// until it has returned; one that does not run does not.
func TestCallsAreInterrupts(t *testing.T) {
	s := &spinner{}
	g, lines, src := counted(2)
	c := crowded(s, g, 1)[0]
	inner := c.Context.(*spinning)
	c.Interrupt() // It has not begun.
	<-inner.kick
	for n := uint64(1); n <= 3; n++ {
		returned := make(chan struct{})
		go func() {
			c.Switch(context.Background(), nil, noRegisters, -1)
			close(returned)
		}()
		for s.now.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		c.Interrupt()
		<-returned
		c.Interrupt() // It is in the kernel.
		if got := sum(src.Counts(irq.Call)); got != n {
			t.Errorf("%d calls are counted, want %d", got, n)
		}
		st := lines.States()
		if l := st[irq.Call].Latency; l.Count != n || l.Max <= 0 || l.Max > 10*time.Second {
			t.Errorf("%+v", l)
		}
		if sum(st[irq.Resched].OnCPU) != 0 {
			t.Error("the crowd has rescheduled")
		}
		<-inner.kick
	}
}

// TestSlicesAreInterrupts: a task that must make way for another counts.
func TestSlicesAreInterrupts(t *testing.T) {
	g, lines, src := counted(1)
	_, stop := spin(g, 3)
	for sum(src.Counts(irq.Resched)) < 5 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if l := lines.States()[irq.Resched].Latency; l.Count == 0 {
		t.Errorf("%+v", l)
	}
	if n := sum(src.Counts(irq.Call)); n != 0 {
		t.Errorf("%d calls", n)
	}
}
