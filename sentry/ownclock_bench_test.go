package sentry

import (
	"strconv"
	"strings"
	"testing"
	"time"

	gvtime "gvisor.dev/gvisor/pkg/sentry/time"

	"aios.dev/aios/control"
)

// BenchmarkClockRead has a program read CLOCK_MONOTONIC in the VDSO, and by a system
// call: of an agent whose clocks are the kernel's, and of one with its own.
func BenchmarkClockRead(b *testing.B) {
	needClocks(b)
	for _, who := range []struct {
		name string
		opts []func(*control.SpawnRequest)
	}{{"kernel", nil}, {"own", []func(*control.SpawnRequest){withClock(400*days, time.Hour)}}} {
		for _, how := range []string{"vdso", "call"} {
			b.Run(who.name+"/"+how, func(b *testing.B) {
				s := spawn(b, []string{"clocks", "costs", how, strconv.Itoa(b.N)}, append(who.opts, inClocks)...)
				out, _, _ := s.output()
				ns, err := strconv.ParseInt(strings.Split(out, "\n")[0], 10, 64)
				if err != nil {
					b.Fatalf("it says %q", out)
				}
				b.ReportMetric(float64(ns)/float64(b.N), "ns/read")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// TestClockFollows looks how far a page is from the kernel's while a program reads it
// and does not enter the kernel: never by more than a clock that is measured anew.
func TestClockFollows(t *testing.T) {
	needClocks(t)
	s := spawn(t, []string{"clocks", "sees"}, inClocks, withClock(400*days, 1000*time.Hour))
	s.expect("looks\n")
	a, err := theKernel.agent(s.id)
	if err != nil {
		t.Fatal(err)
	}
	p := a.clock.own.Load().page
	var worst int64
	rewritten := uint64(0)
	eventually(t, func() bool {
		theirs, _ := theKernel.clocks.read()
		p.mu.Lock()
		ours, seq := p.params, p.seq
		p.mu.Unlock()
		if theirs.Monotonic.Ready == 0 || ours.Monotonic.Ready == 0 {
			return false
		}
		now := int64(gvtime.Rdtsc())
		off := ours.Monotonic.At(now) - theirs.Monotonic.At(now) - int64(1000*time.Hour)
		worst = max(worst, off, -off)
		if rewritten == 0 {
			rewritten = seq
		}
		return seq >= rewritten+4 // The kernel's was measured anew twice.
	})
	t.Logf("it was off by %d ns at most", worst)
	if worst > int64(time.Millisecond) {
		t.Errorf("it was off by %d ns", worst)
	}
}
