package sentry

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
)

// TestPressureAverages compares averages with what Linux makes of the same.
func TestPressureAverages(t *testing.T) {
	var p pressureAverage
	total := time.Duration(0)
	for range 5 { // Half of ten seconds.
		total += time.Second
		p.step(total, pressureEvery)
	}
	for i, window := range []float64{10, 60, 300} {
		if want := 0.5 * (1 - math.Exp(-10/window)); math.Abs(p.avg[i]-want) > 1e-9 {
			t.Errorf("over %v s after 10 s: %v, want %v", window, p.avg[i], want)
		}
	}
	// One long step without more is the same as many short ones.
	q := p
	p.step(total, 10*pressureEvery)
	for range 10 {
		q.step(total, pressureEvery)
	}
	for i := range p.avg {
		if math.Abs(p.avg[i]-q.avg[i]) > 1e-9 || p.avg[i] <= 0 {
			t.Errorf("%v and %v", p.avg, q.avg)
		}
	}
}

// TestStall adds up waits that overlap.
func TestStall(t *testing.T) {
	var s stall
	for _, c := range []struct {
		n    int
		at   int64
		idle bool
	}{{1, 100, false}, {1, 150, true}, {-1, 170, true}, {-1, 200, true}, {1, 300, true}, {-1, 310, false}} {
		s.change(c.n, c.at, c.idle)
	}
	if some, full := s.totals(1000); some != 110 || full != 60 {
		t.Errorf("some %d full %d", some, full)
	}
	s.change(1, 1000, true)
	if some, full := s.totals(1001); some != 111 || full != 61 {
		t.Errorf("while one waits: some %d full %d", some, full)
	}
}

// TestPressure has agents lack each thing, and no other.
func TestPressure(t *testing.T) {
	quiet := spawn(t, []string{"sleep", "1000"})
	read := func(s *spawned, resource string) (some, full uint64) {
		t.Helper()
		var got [2]string
		for i, file := range []string{"/proc/pressure/" + resource, "/sys/fs/cgroup/" + resource + ".pressure"} {
			got[i] = mustRun(t, s, "cat "+file)
		}
		var avg [6]float64
		const format = "some avg10=%f avg60=%f avg300=%f total=%d\nfull avg10=%f avg60=%f avg300=%f total=%d\n"
		for _, text := range got {
			if n, err := fmt.Sscanf(text, format, &avg[0], &avg[1], &avg[2], &some, &avg[3], &avg[4], &avg[5], &full); n != 8 {
				t.Fatalf("%q: %v", text, err)
			}
			for _, a := range avg {
				if a < 0 || a > 100 {
					t.Errorf("%q", text)
				}
			}
			if full > some {
				t.Errorf("more in full than for some: %q", text)
			}
		}
		return some, full
	}
	t.Run("cpu", func(t *testing.T) {
		s := spawn(t, sh("while :; do :; done"))
		a := limited(t, s)
		setQuota(a, 100)
		eventually(t, func() bool {
			u := a.snapshot().Pressure.CPU
			return u.SomeNS > uint64(time.Second) && u.FullNS > uint64(time.Second)/2
		})
		setQuota(a, 2000)
		if some, _ := read(s, "cpu"); some < 1e6 {
			t.Errorf("%d µs", some)
		}
		eventually(t, func() bool { return a.snapshot().Pressure.CPU.Some[0] > 0 })
	})
	t.Run("io", func(t *testing.T) {
		s := spawn(t, sh("while :; do dd if=/dev/zero of=/dev/null bs=64K count=1 2>/dev/null; done"))
		a := limited(t, s)
		a.setIOLimits(256<<10, 1<<40)
		eventually(t, func() bool { return a.snapshot().Pressure.IO.FullNS > uint64(time.Second) })
		a.setIOLimits(1<<40, 1<<40)
		if some, full := read(s, "io"); some < 1e6 || full < 1e6 {
			t.Errorf("%d and %d µs", some, full)
		}
	})
	t.Run("memory", func(t *testing.T) {
		s := inMemoryImage(t, sh("hog touch & cat"), withStdin, memory(64<<20), onOOM("freeze"))
		a := limited(t, s)
		eventually(t, func() bool { return a.mustBe(abi.StatePaused) == nil })
		eventually(t, func() bool { return a.snapshot().Pressure.Memory.FullNS > uint64(time.Second) })
		before := a.snapshot().Pressure.Memory.FullNS
		a.setMemoryLimit(1 << 30)
		if err := a.setOOM("kill-process"); err != nil {
			t.Fatal(err)
		}
		s.resume()
		if some, _ := read(s, "memory"); some*1000 < before {
			t.Errorf("%d µs after %d ns", some, before)
		}
	})
	for _, resource := range []string{"memory", "io"} {
		if some, full := read(quiet, resource); some != 0 || full != 0 {
			t.Errorf("%s: an agent that lacks nothing: %d and %d µs", resource, some, full)
		}
	}
	if out := mustRun(t, quiet, "ls /proc/pressure"); strings.Join(strings.Fields(out), " ") != "cpu io memory" {
		t.Errorf("%q", out)
	}
}
