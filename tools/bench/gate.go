package main

import "fmt"

// sentryPackage is the kernel, whose benchmarks see what cannot be seen from
// outside.
const sentryPackage = "aios.dev/aios/sentry"

// gate measures what the check of a capability costs a system call. Nothing
// else has such a gate; it is compared with the same kernel without it.
func (h *harness) gate() error {
	if h.aios == nil {
		return nil
	}
	m, err := goBenchmarks(h.ctx, sentryPackage, "^BenchmarkGate$", "0.3s", max(3, h.rounds/8))
	if err != nil {
		return err
	}
	bare, ok := m.median("Gate/bare", "ns/op")
	if !ok {
		return fmt.Errorf("the benchmark of the gate does not measure a call without it")
	}
	for _, c := range []struct {
		name, label string
		goal        *goal
	}{
		{"Gate/plain", "gate: check of a call", &goal{Limit: 20}},
		{"Gate/with_a_rule", "gate: check of a call and its arguments, which are all allowed", &goal{Limit: 20}},
		{"Gate/with_a_rule_that_is_needed", "gate: check of a call and its arguments, not all allowed", nil},
		{"Gate/crowded_index", "gate: check of a call, its agent not in the index", nil},
	} {
		if v, ok := m.median(c.name, "ns/op"); ok {
			h.table.add(row{Figure: c.label, Unit: "ns", Values: ours(v - bare), Goal: c.goal})
		}
	}
	most := 0.0
	for name := range m {
		if v, ok := m.median(name, "allocs/op"); ok {
			most = max(most, v)
		}
	}
	h.table.add(row{Figure: "gate: allocations of a check", Values: ours(most), Goal: &goal{}})

	m, err = goBenchmarks(h.ctx, sentryPackage, "^BenchmarkGateInAgent$", fmt.Sprint(h.rounds, "x"), 1)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, label string
		goal        *goal
	}{
		{"getpid", "getpid", &goal{Limit: 3}},
		{"kill", "kill, which the gate checks", nil},
		{"mmap", "mmap, checked and guarded, and munmap", nil},
		{"pipe", "write and read, metered", nil},
	} {
		if v, ok := m.median("GateInAgent/"+c.name, "extra-%"); ok {
			h.table.add(row{Figure: "in one agent, beyond the table without a gate: " + c.label, Unit: "%", Values: ours(v), Goal: c.goal})
		}
	}
	return nil
}

// ours is a value that only AIOS has.
func ours(v float64) map[string]float64 { return map[string]float64{aios: v} }
