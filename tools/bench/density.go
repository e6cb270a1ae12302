package main

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// killers is how many calls are under way at once when agents are ended.
const killers = 8

// density starts many agents that sleep, weighs them, and ends them all.
func (h *harness) density() error {
	if h.aios == nil {
		return nil
	}
	if _, err := h.smallRoot(); err != nil {
		return err
	}
	if err := spawnAndWait(h.ctx, h.aios, "/usr/bin/true"); err != nil { // The domain stands.
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
	ids, err := h.sleepers(h.ctx)
	started := time.Since(began)
	if err == nil {
		err = h.weigh(pids, before, len(ids), started)
	}
	began = time.Now()
	if endErr := h.end(ids); endErr != nil {
		return endErr
	}
	if err != nil {
		return err
	}
	h.table.add(row{Figure: fmt.Sprintf("kill %d agents, until all have ended", len(ids)), Unit: "s",
		Values: map[string]float64{aios: time.Since(began).Seconds()}, Goal: &goal{Limit: 5}})
	return nil
}

// sleepers starts the agents; it returns those that it started even when one
// failed.
func (h *harness) sleepers(ctx context.Context) ([]string, error) {
	var ids []string
	for range h.agents {
		got, err := h.aios.Spawn(ctx, h.aios.spec(trueImage, "/usr/bin/sleep", "1000000"))
		if err != nil {
			return ids, fmt.Errorf("after %d agents: %w", len(ids), err)
		}
		ids = append(ids, got.Id)
	}
	return ids, nil
}

func (h *harness) weigh(pids []int, before usage, agents int, started time.Duration) error {
	list, err := h.aios.List(h.ctx, &apiv1.ListRequest{})
	if err != nil {
		return err
	}
	alive := 0
	for _, a := range list.Agents {
		if a.State == "running" {
			alive++
		}
	}
	if alive != agents {
		return fmt.Errorf("%d agents are alive, not %d", alive, agents)
	}
	during, err := measure(pids)
	if err != nil {
		return err
	}
	n := float64(agents)
	h.table.add(row{Figure: fmt.Sprintf("start %d sleeping agents, one after the other", agents), Unit: "s", Values: ours(started.Seconds())})
	h.table.add(row{Figure: fmt.Sprintf("memory of one of %d sleeping agents", agents), Unit: "KiB",
		Values: ours(float64(during.pss-before.pss) / n / 1024), Goal: &goal{Limit: 512}})
	h.table.add(row{Figure: "host processes of a sleeping agent", Values: ours(float64(during.processes-before.processes) / n)})
	h.table.add(row{Figure: "memory of the daemon and an empty domain", Unit: "MiB", Values: ours(mebibytes(before.pss))})
	return nil
}

// end kills the agents and returns when every one has ended. It works even
// after an interrupt, so that nothing is left.
func (h *harness) end(ids []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), time.Minute)
	defer cancel()
	todo := make(chan string, len(ids))
	for _, id := range ids {
		todo <- id
	}
	close(todo)
	var wg sync.WaitGroup
	errs := make([]error, killers)
	for i := range killers {
		wg.Go(func() {
			for id := range todo {
				if _, err := h.aios.Signal(ctx, &apiv1.SignalRequest{Agent: id, Signal: int32(syscall.SIGKILL)}); err != nil {
					errs[i] = err
				} else if _, err := h.aios.Wait(ctx, &apiv1.WaitRequest{Agent: id}); err != nil {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
