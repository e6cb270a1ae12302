package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// toolsImage is the image of the root with the harness's own programs.
const toolsImage = "bench-tools"

// toolsRoot returns a root with programs of the harness, and makes the image of
// it on first use.
func (h *harness) toolsRoot() (*root, error) {
	if h.tools != nil {
		return h.tools, nil
	}
	r, err := newRoot(filepath.Join(h.dir, "tools"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"hold", "steady", "hog", "files", "storm", "violate", "share", "dirty"} {
		if err := compiled(h, r, name); err != nil {
			return nil, err
		}
	}
	if err := r.program(h.ctx, "/usr/bin/sleep"); err != nil {
		return nil, err
	}
	if h.aios != nil {
		if err := h.aios.importRoot(h.ctx, toolsImage, r); err != nil {
			return nil, err
		}
	}
	h.tools = r
	return r, nil
}

// hostDir makes a directory of the host to grant.
func (h *harness) hostDir() (string, error) { return os.MkdirTemp(h.dir, "granted-") }

// sleeper starts an agent that does nothing.
func (h *harness) sleeper() (string, error) {
	got, err := h.aios.Spawn(h.ctx, h.aios.spec(toolsImage, "/usr/bin/sleep", "1000000"))
	return got.GetId(), err
}

// The harness's side of the calls. Each returns how long it took in
// microseconds.

func (s *system) grant(ctx context.Context, agent, spec string) (id string, us float64, err error) {
	began := time.Now()
	got, err := s.CapGrant(ctx, &apiv1.CapGrantRequest{Agent: agent, Grants: []string{spec}})
	us = microseconds(time.Since(began))
	if err != nil {
		return "", 0, err
	}
	return got.Capabilities[0].Id, us, nil
}

func (s *system) delegate(ctx context.Context, id, to string, change *apiv1.CapChange) (made string, us float64, err error) {
	began := time.Now()
	got, err := s.CapDelegate(ctx, &apiv1.CapDelegateRequest{Capability: &apiv1.CapRef{Id: id}, To: to, Change: change})
	us = microseconds(time.Since(began))
	return got.GetCapability().GetId(), us, err
}

// revoke also checks how many died.
func (s *system) revoke(ctx context.Context, id string, want int) (us float64, err error) {
	began := time.Now()
	got, err := s.CapRevoke(ctx, &apiv1.CapRevokeRequest{Capability: &apiv1.CapRef{Id: id}})
	us = microseconds(time.Since(began))
	if err == nil && int(got.GetCount()) != want {
		err = fmt.Errorf("%d capabilities were revoked, not %d", got.GetCount(), want)
	}
	return us, err
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// grant measures what it takes to give authority, to hand it on, and to take
// it back: inside the kernel process, and for a client of the daemon.
func (h *harness) grant() error {
	if h.aios == nil {
		return nil
	}
	h.table.note("grant, tree: no other runtime gives a running box a directory, or takes back what it has open: there is nothing to compare with")
	if err := h.kernelDoors(); err != nil {
		return err
	}
	if _, err := h.toolsRoot(); err != nil {
		return err
	}
	if err := h.grantCalls(); err != nil {
		return err
	}
	return h.revokeHeld()
}

// kernelDoors adds what the kernel's own benchmarks say.
func (h *harness) kernelDoors() error {
	// Many of those that are quick: the first ones wake the gofer each time.
	m, err := goBenchmarks(h.ctx, sentryPackage, "^Benchmark(Grant|Delegate)$", fmt.Sprint(50*h.rounds, "x"), 1)
	if err != nil {
		return err
	}
	held, err := goBenchmarks(h.ctx, sentryPackage, "^BenchmarkRevokeHeld$", fmt.Sprint(5*h.rounds, "x"), 1)
	if err != nil {
		return err
	}
	maps.Copy(m, held)
	for _, c := range []struct {
		name, label string
		p50, p99    *goal
	}{
		{"Grant/net", "grant the network, in the kernel", &goal{Limit: 50}, nil},
		{"Grant/files", "grant a directory, in the kernel", &goal{Limit: 50}, nil},
		{"Delegate/net", "delegate the network, in the kernel", &goal{Limit: 50}, nil},
		{"Delegate/files", "delegate a directory, in the kernel", &goal{Limit: 50}, nil},
		{"RevokeHeld", heldLabel + ", in the kernel", nil, &goal{Limit: 1000}},
	} {
		h.addBenchmark(m, c.name, c.label, "µs", 1e3, c.p50, c.p99)
	}
	return nil
}

const heldLabel = "revoke, 100 files open and 10 mapped"

// addBenchmark adds the percentiles that a benchmark reports in nanoseconds,
// divided by scale.
func (h *harness) addBenchmark(m metrics, name, label, unit string, scale float64, p50, p99 *goal) {
	for _, c := range []struct {
		metric string
		goal   *goal
	}{{"p50", p50}, {"p99", p99}} {
		if v, ok := m.median(name, c.metric+"-ns"); ok {
			h.table.add(row{Figure: label + ": " + c.metric, Unit: unit, Values: ours(v / scale), Goal: c.goal})
		}
	}
}

// spread adds the median and the 99th percentile as rows of their own.
func (t *table) spread(label, unit string, byName map[string][]float64, p50, p99 *goal) {
	r := medians(label+": p50", unit, byName)
	top := row{Figure: label + ": p99", Unit: unit, Values: r.P99, Runs: r.Runs, Goal: p99}
	r.P99, r.Goal = nil, p50
	t.add(r)
	t.add(top)
}

func (t *table) spreadOurs(label, unit string, samples []float64, p50, p99 *goal) {
	t.spread(label, unit, map[string][]float64{aios: samples}, p50, p99)
}

// grantCalls times calls to the daemon, beside one that does nothing.
func (h *harness) grantCalls() error {
	from, err := h.sleeper()
	if err != nil {
		return err
	}
	to, err := h.sleeper()
	if err != nil {
		return err
	}
	defer h.end([]string{from, to})
	dir, err := h.hostDir()
	if err != nil {
		return err
	}
	specs := map[string]string{"network": "net:loopback", "directory": "fs:" + dir + ":rw,at=/data"}
	got := map[string][]float64{}
	round := func(count bool) error {
		note := func(what string, us float64) {
			if count {
				got[what] = append(got[what], us)
			}
		}
		began := time.Now()
		if _, err := h.aios.Version(h.ctx, &apiv1.VersionRequest{}); err != nil {
			return err
		}
		note("nothing", microseconds(time.Since(began)))
		for what, spec := range specs {
			id, us, err := h.aios.grant(h.ctx, from, spec)
			if err != nil {
				return err
			}
			note("grant "+what, us)
			if _, us, err = h.aios.delegate(h.ctx, id, to, nil); err != nil {
				return err
			}
			note("delegate "+what, us)
			if us, err = h.aios.revoke(h.ctx, id, 2); err != nil {
				return err
			}
			note("revoke "+what, us)
		}
		return nil
	}
	for i := range 5*h.rounds + 1 {
		if err := round(i > 0); err != nil {
			return err
		}
	}
	// The limits are those of the kernel's part: no call is that quick.
	h.table.spreadOurs("a call to the daemon that does nothing", "µs", got["nothing"], nil, nil)
	for _, what := range []string{"network", "directory"} {
		h.table.spreadOurs("grant a "+what+", by a call", "µs", got["grant "+what], nil, nil)
		h.table.spreadOurs("delegate a "+what+", by a call", "µs", got["delegate "+what], nil, nil)
		h.table.spreadOurs("revoke an idle "+what+" and its delegate, by a call", "µs", got["revoke "+what], nil, nil)
	}

	var first []float64
	for range max(5, h.rounds/4) {
		dir, err := h.hostDir()
		if err != nil {
			return err
		}
		id, us, err := h.aios.grant(h.ctx, from, "fs:"+dir+":rw,at=/data")
		if err != nil {
			return err
		}
		first = append(first, us)
		if _, err := h.aios.revoke(h.ctx, id, 1); err != nil {
			return err
		}
	}
	h.table.spreadOurs("grant a directory that the domain does not know yet, by a call", "µs", first, nil, nil)
	return nil
}

// revokeHeld takes away a directory in use: by a call, and in turns with that by
// the agent itself, which gives it up.
func (h *harness) revokeHeld() error {
	s, err := h.aios.converse(h.ctx, h.aios.spec(toolsImage, "/work/hold", dataDir, "100", "10"))
	if err != nil {
		return err
	}
	defer s.close()
	dir, err := h.hostDir()
	if err != nil {
		return err
	}
	var took, inside []float64
	for i := range 10*h.rounds + 2 {
		id, _, err := h.aios.grant(h.ctx, s.id, "fs:"+dir+":rw,at="+dataDir)
		if err != nil {
			return err
		}
		if err := expect(s, "open", "open"); err != nil {
			return err
		}
		var us float64
		if i%2 == 0 {
			us, err = h.aios.revoke(h.ctx, id, 1)
		} else {
			us, err = givenUp(s, id)
		}
		if err != nil {
			return err
		}
		if err := expect(s, "check", "0 0"); err != nil { // No file and no mapping works.
			return err
		}
		switch {
		case i < 2:
		case i%2 == 0:
			took = append(took, us)
		default:
			inside = append(inside, us)
		}
	}
	h.table.spreadOurs(heldLabel+", by its agent", "µs", inside, nil, &goal{Limit: 1000})
	h.table.spreadOurs(heldLabel+", by a call", "µs", took, nil, &goal{Limit: 1000})
	return nil
}

// givenUp has a program revoke a capability of its agent, and returns how long
// that took in microseconds.
func givenUp(s speaker, id string) (us float64, err error) {
	if err := s.send("revoke " + id); err != nil {
		return 0, err
	}
	line, _, err := s.line()
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseFloat(line, 64)
	return ns / 1000, err
}
