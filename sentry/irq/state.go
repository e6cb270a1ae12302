package irq

import (
	"fmt"
	"io"
	"strconv"

	"aios.dev/aios/observe"
)

// State is what is known of a line.
type State struct {
	LineInfo
	// OnCPU is how often it was raised, by CPU.
	OnCPU  []uint64
	Masked bool
	// CPUs is what it is routed to; nil: any.
	CPUs     []int
	Priority int
	Limit    uint64
	// Pending is how many bottom halves wait for it to be unmasked.
	Pending int
	// Deferred counts interrupts whose bottom half was put off, Dropped what was
	// thrown away, Overflows the bottom halves that found a queue full.
	Deferred, Dropped, Overflows uint64
	Latency                      observe.Latency
	// Storms counts those that began; Stormy names the sources of those that
	// rage.
	Storms uint64
	Stormy []string
}

// States returns what is known of every line, in order of number.
func (c *Controller) States() []State {
	out := make([]State, LineCount)
	for i := range out {
		l := &c.lines[i]
		s := State{
			LineInfo: Line(i).Info(), Priority: int(l.priority.Load()), Limit: l.limit.Load(),
			Deferred: l.deferred.Load(), Dropped: l.dropped.Load(), Overflows: l.overflows.Load(), Storms: l.storms.Load(),
			Latency: l.late.Latency(),
		}
		for cpu := range l.onCPU {
			s.OnCPU = append(s.OnCPU, l.onCPU[cpu].n.Load())
		}
		if cpus := l.route.Load(); cpus != nil {
			s.CPUs = *cpus
		}
		l.mu.Lock()
		s.Masked, s.Pending = l.masked, l.pending
		l.mu.Unlock()
		out[i] = s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.stormy {
		out[st.l].Stormy = append(out[st.l].Stormy, st.s.name)
	}
	return out
}

// Fold sums counts by CPU for somebody who sees fewer CPUs.
func Fold(counts []uint64, cpus int) []uint64 {
	out := make([]uint64, max(cpus, 1))
	for i, n := range counts {
		out[i%len(out)] += n
	}
	return out
}

// WriteProc writes what a source counted in the form of Linux's
// /proc/interrupts, for somebody who sees so many CPUs.
func (s *Source) WriteProc(w io.Writer, cpus int) {
	cpus = max(cpus, 1)
	const label = 4 // the width of the longest, with its colon
	fmt.Fprintf(w, "%*s", label, "")
	for i := range cpus {
		fmt.Fprintf(w, " %10s", "CPU"+strconv.Itoa(i))
	}
	fmt.Fprintln(w)
	var dropped uint64
	for _, i := range lines {
		dropped += s.Dropped(i.Line)
		fmt.Fprintf(w, "%*s", label, i.Label+":")
		for _, n := range Fold(s.Counts(i.Line), cpus) {
			fmt.Fprintf(w, " %10d", n)
		}
		if i.Linux != "" {
			fmt.Fprintf(w, "   %s\n", i.Linux)
		} else {
			fmt.Fprintf(w, "   %-8s %d-edge      %s\n", "AIOS", i.Line, i.Name)
		}
	}
	fmt.Fprintf(w, "%*s %10d\n", label, "ERR:", dropped)
}
