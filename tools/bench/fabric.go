package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

const fabricImage = "bench-fabric"

// fabric measures regions between two agents: mapping one, copying through it,
// versions of it, and a ring in one.
func (h *harness) fabric() error {
	if h.aios == nil {
		return nil
	}
	r, err := newRoot(filepath.Join(h.dir, "fabric"))
	if err != nil {
		return err
	}
	build := exec.CommandContext(h.ctx, "go", "build", "-o", filepath.Join(r.dir, "work/region"), "aios.dev/aios/tools/bench/region")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(h.ctx, build); err != nil {
		return err
	}
	if err := h.aios.importRoot(h.ctx, fabricImage, r); err != nil {
		return err
	}
	var both [2]*agentSpeaker
	for i := range both {
		spec := h.aios.spec(fabricImage, "/work/region")
		spec.Limits = &apiv1.Limits{MemoryBytes: 6 << 30}
		if both[i], err = h.aios.converse(h.ctx, spec); err != nil {
			return err
		}
		defer both[i].close()
		if line, _, err := both[i].line(); err != nil || line != "ready" {
			return fmt.Errorf("it said %q: %v", line, err)
		}
	}
	a, b := both[0], both[1]
	for name, size := range map[string]uint64{"big": 1 << 30, "ring": 1 << 20} {
		if _, err := h.aios.RegionCreate(h.ctx, &apiv1.RegionCreateRequest{Name: name, Owner: a.id, Size: size, Keep: 1}); err != nil {
			return err
		}
		if _, err := h.aios.RegionShare(h.ctx, &apiv1.RegionShareRequest{Region: name, Agent: b.id, Rights: "read+write"}); err != nil {
			return err
		}
	}
	runs := max(3, h.rounds/8)
	if err := h.memoryOf(a, b, runs); err != nil {
		return err
	}
	return h.ringOf(a, b, runs, r)
}

// memoryOf measures the region big.
func (h *harness) memoryOf(a, b *agentSpeaker, runs int) error {
	var mapped, region, plain, snapshots []float64
	for range runs {
		var us, x, y float64
		if err := answer(b, "map 21", &us); err != nil {
			return err
		}
		if err := answer(b, "copy 5", &x, &y); err != nil {
			return err
		}
		mapped, region, plain = append(mapped, us), append(region, x), append(plain, y)
	}
	if err := expect(a, "touch", "touched"); err != nil {
		return err
	}
	if err := expect(b, "touch", "touched"); err != nil {
		return err
	}
	for range 4 * runs {
		began := time.Now()
		if _, err := h.aios.RegionSnapshot(h.ctx, &apiv1.RegionSnapshotRequest{Region: "big"}); err != nil {
			return err
		}
		snapshots = append(snapshots, float64(time.Since(began))/1e6)
	}
	spread := func(label, unit string, all []float64, limit float64) {
		h.table.add(row{Figure: label, Unit: unit, Values: ours(percentile(all, 50)), P99: ours(percentile(all, 99)), Runs: len(all), Goal: &goal{Limit: limit}})
	}
	spread("fabric: to map a region of 1 GiB that is there", "µs", mapped, 100)
	spread("fabric: a version of it, which two agents have mapped, asked for by the API", "ms", snapshots, 1)
	copied := percentile(region, 50) / percentile(plain, 50) * 100
	h.table.add(row{Figure: "fabric: copying within a region, of what plain memory does", Unit: "%", Values: ours(copied), Goal: &goal{Limit: 90}, More: true, Runs: runs})
	return nil
}

// wakes has two processes of a peer that share memory do what ring does between two
// agents: in the sandbox of one container, and on the bare host.
func (h *harness) wakes(r *root, runs int) (sleeps, looks map[string][]float64, err error) {
	if err := compiled(h, r, "wake"); err != nil {
		return nil, nil, err
	}
	sleeps, looks = map[string][]float64{}, map[string][]float64{}
	for range runs {
		for _, name := range []string{runsc, bwrap} {
			p := h.peer(name)
			if p == nil {
				continue
			}
			for _, c := range []struct {
				to   map[string][]float64
				argv []string
			}{{sleeps, []string{"/work/wake"}}, {looks, []string{"/work/wake", "looks"}}} {
				out, err := p.run(h.ctx, r, c.argv...)
				if err != nil {
					return nil, nil, err
				}
				var p50, p99 float64
				if _, err := fmt.Sscan(string(out), &p50, &p99); err != nil {
					return nil, nil, fmt.Errorf("%s says %q: %w", name, out, err)
				}
				c.to[name] = append(c.to[name], p50)
			}
		}
	}
	return sleeps, looks, nil
}

// ringOf measures a ring.
func (h *harness) ringOf(a, b *agentSpeaker, runs int, r *root) error {
	if err := expect(a, "make", "made"); err != nil {
		return err
	}
	const messages = 5_000_000
	var rates, woken, late, looked []float64
	for range runs {
		if err := b.send(fmt.Sprint("receive ", messages)); err != nil {
			return err
		}
		if err := expect(a, fmt.Sprint("send ", messages), "sent"); err != nil {
			return err
		}
		var rate float64
		if err := told(b, &rate); err != nil {
			return err
		}
		rates = append(rates, rate)
		if err := b.send("woken 200"); err != nil {
			return err
		}
		if err := expect(a, "wake 200", "sent"); err != nil {
			return err
		}
		var p50, p99 float64
		if err := told(b, &p50, &p99); err != nil {
			return err
		}
		woken, late = append(woken, p50), append(late, p99)
		// The same to one that never sleeps.
		if err := expect(b, "spin 1000000000", "spins"); err != nil {
			return err
		}
		if err := b.send("woken 200"); err != nil {
			return err
		}
		if err := expect(a, "wake 200", "sent"); err != nil {
			return err
		}
		if err := told(b, &p50, &p99); err != nil {
			return err
		}
		looked = append(looked, p50)
		if err := expect(b, "spin 2000", "spins"); err != nil {
			return err
		}
	}
	h.table.add(row{Figure: "fabric: messages of 16 bytes from one agent to another", Unit: "M/s", Values: ours(percentile(rates, 50)), Goal: &goal{Limit: 5}, More: true, Runs: runs})
	sleeps, looks, err := h.wakes(r, runs)
	if err != nil {
		return err
	}
	sleeps[aios], looks[aios] = woken, looked
	medianOf := func(all map[string][]float64) map[string]float64 {
		out := map[string]float64{}
		for name, v := range all {
			out[name] = percentile(v, 50)
		}
		return out
	}
	h.table.add(row{
		Figure: "fabric: from a message to a receiver that sleeps", Unit: "µs", Values: medianOf(sleeps), P99: ours(percentile(late, 50)),
		Goal: &goal{Limit: 10}, Runs: runs,
	})
	h.table.add(row{Figure: "fabric: from a message to a receiver that looks all the time", Unit: "µs", Values: medianOf(looks), Goal: &goal{Limit: 10}, Runs: runs})
	return nil
}

// answer asks for numbers.
func answer(s *agentSpeaker, line string, to ...*float64) error {
	if err := s.send(line); err != nil {
		return err
	}
	return told(s, to...)
}

// told reads a line of numbers.
func told(s *agentSpeaker, to ...*float64) error {
	line, ok, err := s.line()
	if err != nil || !ok {
		return fmt.Errorf("the program ended: %v", err)
	}
	args := make([]any, len(to))
	for i := range to {
		args[i] = to[i]
	}
	if _, err := fmt.Sscan(line, args...); err != nil {
		return fmt.Errorf("it says %q: %w", line, err)
	}
	return nil
}
