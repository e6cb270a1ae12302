package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

const (
	nodesPerAgent = 10
	// fan is how many capabilities are derived from one.
	fan = 10
	// planters is how many calls are under way while a tree is planted.
	planters = 8
	// window is for how long a neighbour is looked at, in milliseconds: as
	// long as it takes to revoke a tree, and as long again.
	window = 100
	// calm is how long the system is left alone before that.
	calm = 300 * time.Millisecond
)

// tree takes back, at once, what was handed on to many agents, and looks at
// what that costs one that has nothing to do with it.
func (h *harness) tree() error {
	if h.aios == nil {
		return nil
	}
	rounds := max(3, h.rounds/8) // Planting a tree takes ten thousand calls.
	m, err := goBenchmarks(h.ctx, sentryPackage, "^BenchmarkRevokeTree$", fmt.Sprint(rounds, "x"), 1)
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, label string }{{"net", "the network"}, {"files", "directories"}} {
		h.addBenchmark(m, "RevokeTree/"+c.name, "revoke a tree of 10000 in 1000 agents, "+c.label+", in the kernel", "ms", 1e6, nil, &goal{Limit: 50})
	}
	if _, err := h.toolsRoot(); err != nil {
		return err
	}
	neighbour, err := h.aios.converse(h.ctx, h.aios.spec(toolsImage, "/work/steady"))
	if err != nil {
		return err
	}
	defer neighbour.close()
	var agents []string
	defer func() {
		if err := h.end(agents); err != nil {
			h.table.note("tree: ending the agents: %v", err)
		}
	}()
	for range h.agents {
		id, err := h.sleeper()
		if err != nil {
			return err
		}
		agents = append(agents, id)
	}
	dir, err := h.hostDir()
	if err != nil {
		return err
	}
	for _, c := range []struct{ label, spec, at string }{
		{"the network", "net:loopback", ""},
		{"directories", "fs:" + dir + ":rw,at=" + dataDir, dataDir},
	} {
		var took, lost []float64
		for i := range rounds + 1 {
			top, err := h.plant(agents, c.spec, c.at)
			if err != nil {
				return err
			}
			us, loss, err := h.fell(top, len(agents)*nodesPerAgent, neighbour)
			if err != nil {
				return err
			}
			if i > 0 {
				took, lost = append(took, us/1000), append(lost, loss)
			}
		}
		label := fmt.Sprintf("revoke a tree of %d in %d agents, %s", len(agents)*nodesPerAgent, len(agents), c.label)
		h.table.spreadOurs(label+", by a call", "ms", took, nil, &goal{Limit: 50})
		r := medians(fmt.Sprintf("%s: lost by a neighbour in %d ms", label, window), "%", map[string][]float64{aios: lost})
		r.Goal = &goal{Limit: 1}
		h.table.add(r)
	}
	return nil
}

// plant hands something on until every agent has it so many times, and returns
// what all that is derived from. Where it has a place in an agent, each gets
// one of its own. Several calls are on their way at once: one after the other,
// most of the time would pass in waking who is next.
func (h *harness) plant(agents []string, spec, at string) (top string, err error) {
	ids := make([]string, len(agents)*nodesPerAgent)
	if ids[0], _, err = h.aios.grant(h.ctx, agents[0], spec); err != nil {
		return "", err
	}
	one := func(i int) (err error) {
		change := &apiv1.CapChange{}
		if at != "" {
			place := fmt.Sprint(at, i/len(agents))
			change.At = &place
		}
		ids[i], _, err = h.aios.delegate(h.ctx, ids[(i-1)/fan], agents[i%len(agents)], change)
		return err
	}
	for from := 1; from < len(ids); { // The parents of one level are the level before.
		to := min(len(ids), from*fan+1)
		var next atomic.Int64
		next.Store(int64(from))
		failed := make([]error, planters)
		var wg sync.WaitGroup
		for p := range planters {
			wg.Go(func() {
				for failed[p] == nil {
					i := int(next.Add(1)) - 1
					if i >= to {
						return
					}
					failed[p] = one(i)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(failed...); err != nil {
			return "", err
		}
		from = to
	}
	return ids[0], nil
}

// fell revokes a tree, and returns how long that took in microseconds, and how
// many percent less a neighbour did meanwhile than before and after.
func (h *harness) fell(top string, nodes int, neighbour speaker) (us, loss float64, err error) {
	time.Sleep(calm)
	before, err := paceOf(neighbour, window)
	if err != nil {
		return 0, 0, err
	}
	if err := neighbour.send(fmt.Sprint(window)); err != nil {
		return 0, 0, err
	}
	us, err = h.aios.revoke(h.ctx, top, nodes)
	if err != nil {
		return 0, 0, err
	}
	line, _, err := neighbour.line()
	if err != nil {
		return 0, 0, err
	}
	during, err := parsePace(line)
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(calm)
	after, err := paceOf(neighbour, window)
	if err != nil {
		return 0, 0, err
	}
	return us, lossOf(before, after, during), nil
}

// lossOf is how many percent less was done than before and after.
func lossOf(before, after, during pace) float64 {
	return 100 * (1 - 2*during.count/(before.count+after.count))
}
