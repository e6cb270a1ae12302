package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// trueImage is the image of the small root.
const trueImage = "bench-true"

// smallRoot returns a root with true, sleep and what they need, and makes the
// image of it on first use.
func (h *harness) smallRoot() (*root, error) {
	if h.small != nil {
		return h.small, nil
	}
	r, err := newRoot(filepath.Join(h.dir, "small"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"/usr/bin/true", "/usr/bin/sleep"} {
		if err := r.program(h.ctx, name); err != nil {
			return nil, err
		}
	}
	if h.aios != nil {
		if err := h.aios.importRoot(h.ctx, trueImage, r); err != nil {
			return nil, err
		}
	}
	h.small = r
	return r, nil
}

// compare interleaves contenders and notes those that fail.
func (h *harness) compare(rounds int, contenders []contender) samples {
	return interleave(h.ctx, rounds, contenders, func(name string, err error) {
		if h.ctx.Err() == nil {
			h.table.note("%s left out of a comparison: %v", name, err)
		}
	})
}

// medians turns one figure of a comparison into a row.
func medians(name, unit string, byName map[string][]float64) row {
	r := row{Figure: name, Unit: unit, Values: map[string]float64{}, P99: map[string]float64{}}
	for c, values := range byName {
		if len(values) > 0 {
			r.Values[c] = median(values)
			r.P99[c] = percentile(values, 99)
			r.Runs = len(values)
		}
	}
	return r
}

// spawn measures the life of a dynamically linked program that does nothing,
// in a warm system, everything fresh for each.
func (h *harness) spawn() error {
	r, err := h.smallRoot()
	if err != nil {
		return err
	}
	const program = "/usr/bin/true"
	var contenders []contender
	for _, p := range h.peers {
		contenders = append(contenders, timed(p.name, func(ctx context.Context) error {
			_, err := p.run(ctx, r, program)
			return err
		}))
	}
	const unattached, command = "spawn and wait calls", "through aiosctl run"
	if h.aios != nil {
		contenders = append(contenders,
			timed(aios, func(ctx context.Context) error {
				_, err := attached(ctx, h.aios.Client, h.aios.spec(trueImage, program))
				return err
			}),
			timed(unattached, func(ctx context.Context) error { return spawnAndWait(ctx, h.aios, program) }),
			timed(command, func(ctx context.Context) error {
				_, err := h.aios.cli(ctx, "run", "--image", trueImage, "--", program)
				return err
			}),
		)
	}
	got := h.compare(h.rounds, contenders)[elapsed]
	variants := map[string][]float64{}
	for _, name := range []string{unattached, command} {
		variants[name] = got[name]
		delete(got, name)
	}
	main := medians("spawn → exit of true, streams attached", "ms", got)
	main.Goal = &goal{Than: map[string]float64{runc: 10, runsc: 20}}
	h.table.add(main)
	for _, name := range []string{unattached, command} {
		if len(variants[name]) == 0 {
			continue
		}
		row := medians("spawn → exit of true, "+name, "ms", map[string][]float64{aios: variants[name]})
		for peer, value := range main.Values {
			if peer != aios {
				row.Values[peer] = value
			}
		}
		h.table.add(row)
	}
	return nil
}

func spawnAndWait(ctx context.Context, s *system, argv ...string) error {
	got, err := s.Spawn(ctx, s.spec(trueImage, argv...))
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, &apiv1.WaitRequest{Agent: got.Id})
	if err != nil {
		return err
	}
	if end.Exit.GetCode() != 0 || end.Exit.GetSignal() != 0 {
		return fmt.Errorf("the agent ended with status %d, signal %d", end.Exit.Code, end.Exit.Signal)
	}
	return nil
}

// sustain lets two clients spawn at once for a while, and looks at what is
// left behind.
func (h *harness) sustain() error {
	if h.aios == nil {
		return nil
	}
	if _, err := h.smallRoot(); err != nil {
		return err
	}
	if _, err := h.spawnFor(h.ctx, 2*time.Second); err != nil { // Caches fill.
		return err
	}
	pids, err := h.aios.pids(h.ctx)
	if err != nil {
		return err
	}
	before, err := settled(h.ctx, pids, usage{})
	if err != nil {
		return err
	}
	began := time.Now()
	count, err := h.spawnFor(h.ctx, h.spawning)
	if err != nil {
		return err
	}
	rate := float64(count) / time.Since(began).Seconds()
	after, err := settled(h.ctx, pids, before)
	if err != nil {
		return err
	}
	h.table.add(row{Figure: fmt.Sprintf("two clients spawning for %.0f s", h.spawning.Seconds()), Unit: "agents/s",
		Values: ours(rate), More: true, Goal: &goal{Limit: 250}})
	left := fmt.Sprintf("left by %d agents: ", count)
	h.table.add(row{Figure: left + "processes", Values: ours(float64(after.processes - before.processes)), Goal: &goal{}})
	h.table.add(row{Figure: left + "open files", Values: ours(float64(after.fds - before.fds)), Goal: &goal{}})
	h.table.add(row{Figure: left + "mounts", Values: ours(float64(after.mounts - before.mounts)), Goal: &goal{}})
	// A leak of even 2 KiB an agent would show; a heap breathes by less.
	h.table.add(row{Figure: left + "memory", Unit: "MiB", Values: ours(mebibytes(after.pss - before.pss)),
		Goal: &goal{Limit: max(8, float64(count)*2/1024)}})
	return nil
}

// spawnFor runs two clients, each with a connection of its own, and counts the
// agents that came and went.
func (h *harness) spawnFor(ctx context.Context, d time.Duration) (int, error) {
	const clients = 2
	var (
		wg     sync.WaitGroup
		counts [clients]int
		errs   [clients]error
		end    = time.Now().Add(d)
	)
	for i := range clients {
		c, err := h.aios.dial(ctx)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		wg.Go(func() {
			for time.Now().Before(end) && errs[i] == nil {
				if _, errs[i] = attached(ctx, c, h.aios.spec(trueImage, "/usr/bin/true")); errs[i] == nil {
					counts[i]++
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for i := range clients {
		if errs[i] != nil {
			return 0, errs[i]
		}
		total += counts[i]
	}
	return total, nil
}

// settled measures until what is held no longer falls, or is down to the floor
// again: collectors and closers need a moment.
func settled(ctx context.Context, pids []int, floor usage) (usage, error) {
	best, err := measure(pids)
	for range 20 {
		if err != nil || best.processes <= floor.processes && best.fds <= floor.fds && best.pss <= floor.pss {
			break
		}
		select {
		case <-ctx.Done():
			return best, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
		var now usage
		if now, err = measure(pids); err == nil {
			best = usage{
				processes: min(best.processes, now.processes),
				fds:       min(best.fds, now.fds),
				mounts:    min(best.mounts, now.mounts),
				pss:       min(best.pss, now.pss),
			}
		}
	}
	return best, err
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// cold measures one command from nothing: no daemon, no domain.
func (h *harness) cold() error {
	var contenders []contender
	if p := h.peer(runsc); p != nil {
		contenders = append(contenders, timed(runsc, func(ctx context.Context) error {
			_, err := output(ctx, exec.CommandContext(ctx, p.path, append(append([]string{}, p.before...), "do", "true")...))
			return err
		}))
	}
	if h.aios != nil {
		contenders = append(contenders, contender{aios, func(ctx context.Context) (map[string]float64, error) {
			var took time.Duration
			err := h.aios.restart(func() error {
				began := time.Now()
				_, err := h.aios.cli(ctx, "run", "--platform", h.platform, "--", "true")
				took = time.Since(began)
				return err
			})
			return map[string]float64{elapsed: milliseconds(took)}, err
		}})
	}
	r := medians("one command with no daemon running: aiosctl run, runsc do", "ms", h.compare(max(5, h.rounds/4), contenders)[elapsed])
	r.Goal = &goal{Than: map[string]float64{runsc: 1}}
	h.table.add(r)
	return nil
}
