package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// clone measures how long an agent of three threads stands still while it is
// copied, and how soon the copy runs, by how much memory it has written to. Beside
// it, runsc saves the same program and restores it.
func (h *harness) clone() error {
	if h.aios == nil {
		return nil
	}
	r, err := h.toolsRoot()
	if err != nil {
		return err
	}
	for _, mb := range []int{10, 200, 2048} {
		pause, ready, err := h.copies(mb, 1, max(10, 2*h.rounds))
		if err != nil {
			return err
		}
		size := fmt.Sprintf("%d MB", mb)
		var saved, restored []float64
		if p := h.peer(runsc); p != nil && mb < 2048 {
			if saved, restored, err = p.saves(h.ctx, r, mb, max(3, h.rounds/8)); err != nil {
				h.table.note("clone: runsc, %s: %v", size, err)
			}
		}
		h.cloneRow("clone: the original stands still, "+size, pause, saved, &goal{Limit: 2})
		h.cloneRow("clone: until the copy runs, "+size, ready, restored, &goal{Limit: 4})
	}
	_, ready, err := h.copies(10, 8, max(5, h.rounds/2))
	if err != nil {
		return err
	}
	h.cloneRow("clone: until eight copies run, 10 MB", ready, nil, &goal{Limit: 20})
	return nil
}

// cloneRow adds milliseconds of AIOS and, if there are any, of runsc.
func (h *harness) cloneRow(label string, own, peer []float64, g *goal) {
	row := row{Figure: label, Unit: "ms", Values: ours(percentile(own, 50)), P99: ours(percentile(own, 99)), Runs: len(own), Goal: g}
	if len(peer) > 0 {
		row.Values[runsc], row.P99[runsc] = percentile(peer, 50), percentile(peer, 99)
	}
	h.table.add(row)
}

// copies copies an agent n times, count copies at once, and returns milliseconds.
func (h *harness) copies(mb, count, n int) (pause, ready []float64, err error) {
	spec := h.aios.spec(toolsImage, "/work/dirty", fmt.Sprint(mb))
	spec.Limits = &apiv1.Limits{MemoryBytes: 16 << 30, Processes: 4096}
	s, err := h.aios.converse(h.ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	if line, ok, err := s.line(); err != nil || !ok || line != "ready" {
		return nil, nil, fmt.Errorf("it said %q: %v", line, err)
	}
	for range n {
		resp, err := h.aios.Clone(h.ctx, &apiv1.CloneRequest{Agent: s.id, Count: uint32(count)})
		if err != nil {
			return nil, nil, err
		}
		pause = append(pause, float64(resp.GetPauseNanos())/1e6)
		ready = append(ready, float64(resp.GetReadyNanos())/1e6)
		for _, c := range resp.GetCopies() {
			if _, err := h.aios.Remove(h.ctx, &apiv1.RemoveRequest{Agent: c.GetId(), Force: true}); err != nil {
				return nil, nil, err
			}
		}
		time.Sleep(20 * time.Millisecond) // They may leave something to do.
	}
	return pause, ready, nil
}

// saves saves the program and restores it, n times, and returns milliseconds.
func (p *peer) saves(ctx context.Context, r *root, mb, n int) (saved, restored []float64, err error) {
	bundle, err := p.bundle(box{root: r, argv: []string{"/work/dirty", fmt.Sprint(mb), "alone"}, group: "clone"})
	if err != nil {
		return nil, nil, err
	}
	command := func(args ...string) error {
		cmd := exec.CommandContext(ctx, p.path, append(append([]string{}, p.before...), args...)...)
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, null // What stays keeps them.
		return cmd.Run()
	}
	for range n {
		id := fmt.Sprintf("bench-clone-%d-%d", os.Getpid(), p.serial.Add(1))
		image := filepath.Join(p.h.dir, id)
		if err := os.Mkdir(image, 0o700); err != nil {
			return nil, nil, err
		}
		took, err := func() (took [2]time.Duration, err error) {
			defer os.RemoveAll(image)
			defer command("delete", "--force", id)
			defer command("delete", "--force", id+"r")
			if err := command("run", "--detach", "--bundle", bundle, id); err != nil {
				return took, fmt.Errorf("run: %w", err)
			}
			time.Sleep(500*time.Millisecond + time.Duration(mb)*2*time.Millisecond)
			began := time.Now()
			if err := command("checkpoint", "--image-path", image, id); err != nil {
				return took, fmt.Errorf("checkpoint: %w", err)
			}
			took[0] = time.Since(began)
			began = time.Now()
			if err := command("restore", "--detach", "--image-path", image, "--bundle", bundle, id+"r"); err != nil {
				return took, fmt.Errorf("restore: %w", err)
			}
			took[1] = took[0] + time.Since(began)
			return took, nil
		}()
		if err != nil {
			return nil, nil, err
		}
		saved, restored = append(saved, took[0].Seconds()*1e3), append(restored, took[1].Seconds()*1e3)
	}
	return saved, restored, nil
}
