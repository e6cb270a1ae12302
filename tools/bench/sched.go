package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// shareWindow is for how long CPUs are shared.
	shareWindow = 5 * time.Second
	// assemble is how long all who take part need at most until they are there.
	assemble = 2500 * time.Millisecond
	sharers  = 16
	// ticksPerSecond is the unit of CPU time in /proc.
	ticksPerSecond = 100
)

// home is where programs of share.c run.
type home struct {
	name  string
	start func(ctx context.Context, cpu string, argv ...string) (speaker, error)
	pids  func(ctx context.Context) ([]int, error)
}

// sched looks at what choosing costs, and at what the scheduler costs who is alone.
func (h *harness) sched() error {
	if err := h.pickCost(); err != nil {
		return err
	}
	return h.schedOverhead()
}

// homes returns where programs share CPUs: in agents, and in the peers.
func (h *harness) homes() ([]home, error) {
	r, err := h.toolsRoot()
	if err != nil {
		return nil, err
	}
	var homes []home
	if h.aios != nil {
		homes = append(homes, h.agentHome(h.platform))
	}
	for _, name := range []string{runsc, runc} {
		if p := h.peer(name); p != nil {
			homes = append(homes, home{name, func(ctx context.Context, cpu string, argv ...string) (speaker, error) {
				b := box{root: r, argv: argv, group: fmt.Sprint("-", p.serial.Add(1))}
				if quota, ok := strings.CutPrefix(cpu, "cpu="); ok {
					b.cpu, _ = strconv.ParseFloat(quota, 64)
				}
				if weight, ok := strings.CutPrefix(cpu, "weight="); ok {
					b.weight, _ = strconv.Atoi(weight)
				}
				return p.converse(ctx, b)
			}, func(context.Context) ([]int, error) { return []int{os.Getpid()}, nil }})
		}
	}
	return homes, nil
}

// agentHome runs them as agents of one domain.
func (h *harness) agentHome(platform string) home {
	return home{aios, func(ctx context.Context, cpu string, argv ...string) (speaker, error) {
		spec := h.aios.spec(toolsImage, argv...)
		spec.Platform = platform
		spec.Domain = "share-" + platform
		if cpu != "" {
			spec.Grants = []string{"cpu:self," + cpu}
		}
		return h.aios.converse(ctx, spec)
	}, h.aios.pids}
}

// part is one that takes part: how it shares, and what it does.
type part struct {
	cpu  string
	argv []string
}

// together starts all parts, lets them begin at the same moment, and returns what
// each printed. during runs meanwhile, a second after that moment.
func together(ctx context.Context, in home, window time.Duration, parts []part, during func() error) ([]string, error) {
	at := time.Now().Add(assemble)
	out, errs := make([]string, len(parts)), make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		argv := append([]string{"/work/share", p.argv[0], fmt.Sprintf("%.3f", float64(at.UnixMilli())/1e3), fmt.Sprint(window.Seconds())}, p.argv[1:]...)
		s, err := in.start(ctx, p.cpu, argv...)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			defer s.close()
			line, ok, err := s.line()
			if err == nil && !ok {
				err = fmt.Errorf("%v ended without a word", argv)
			}
			out[i], errs[i] = line, err
		})
	}
	if late := time.Since(at); late > 0 {
		return nil, fmt.Errorf("the last of %d was there %v too late", len(parts), late)
	}
	if during != nil {
		time.Sleep(time.Until(at.Add(time.Second)))
		if err := during(); err != nil {
			return nil, err
		}
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func numbers(lines []string) (out []float64, sum float64, err error) {
	for _, l := range lines {
		n, err := strconv.ParseFloat(l, 64)
		if err != nil {
			return nil, 0, err
		}
		out, sum = append(out, n), sum+n
	}
	return out, sum, nil
}

// share has agents of random weights compute, and then half of them sleep now
// and then.
func (h *harness) share() error {
	homes, err := h.homes()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		label string
		doze  bool
		limit float64
	}{
		{fmt.Sprintf("%d agents of random weights compute for %v: the furthest from its share", sharers, shareWindow), false, 2},
		{"the same, half of them asleep now and then: of those that compute, the furthest from its share", true, 4},
	} {
		var contenders []contender
		for _, in := range homes {
			round := uint64(0)
			contenders = append(contenders, contender{in.name, func(ctx context.Context) (map[string]float64, error) {
				round++ // The same weights for everybody.
				worst, err := furthest(ctx, in, rand.New(rand.NewPCG(round, 1)), c.doze)
				return map[string]float64{"worst": 100 * worst}, err
			}})
		}
		got := h.compare(max(3, h.rounds/8), contenders)
		row := medians(c.label, "%", got["worst"])
		row.Goal = &goal{Limit: c.limit}
		h.table.add(row)
	}
	return nil
}

// furthest has programs of random weights compute, half of them only now and then
// if they doze, and returns how far from its share, as a part of that, the
// furthest of those was that computed all the time.
func furthest(ctx context.Context, in home, r *rand.Rand, doze bool) (float64, error) {
	var parts []part
	var weights []float64
	total := 0.0
	for i := range sharers {
		w := 50 + r.IntN(450)
		p := part{fmt.Sprintf("weight=%d", w), []string{"spin", "1"}}
		if doze && i%2 == 1 {
			p.argv = []string{"doze", fmt.Sprint(i + 1)}
		} else {
			weights, total = append(weights, float64(w)), total+float64(w)
		}
		parts = append(parts, p)
	}
	lines, err := together(ctx, in, shareWindow, parts, nil)
	if err != nil {
		return 0, err
	}
	var spun []string
	for i, l := range lines {
		if !doze || i%2 == 0 {
			spun = append(spun, l)
		}
	}
	did, sum, err := numbers(spun)
	if err != nil {
		return 0, err
	}
	worst := 0.0
	for i, w := range weights {
		worst = max(worst, math.Abs(did[i]/sum/(w/total)-1))
	}
	return worst, nil
}

// quota has a quarter of a CPU used by one thread and by several, and measures on
// the host what all processes of it used.
func (h *harness) quota() error {
	homes, err := h.homes()
	if err != nil {
		return err
	}
	type one struct {
		home
		label string
	}
	all := []one{}
	for _, in := range homes {
		all = append(all, one{in, ""})
	}
	if h.aios != nil && h.platform != "ptrace" {
		all = append(all, one{h.agentHome("ptrace"), " on ptrace"})
	}
	for _, threads := range []int{1, 8} {
		rows := map[string][]contender{}
		for _, in := range all {
			rows[in.label] = append(rows[in.label], contender{in.name, func(ctx context.Context) (map[string]float64, error) {
				used := 0.0
				_, err := together(ctx, in.home, shareWindow+2*time.Second, []part{{"cpu=0.25", []string{"spin", fmt.Sprint(threads)}}}, func() error {
					pids, err := in.pids(ctx)
					if err != nil {
						return err
					}
					before, err := cpuTime(pids)
					if err != nil {
						return err
					}
					began := time.Now()
					time.Sleep(shareWindow)
					after, err := cpuTime(pids)
					used = (after - before) / time.Since(began).Seconds()
					return err
				})
				return map[string]float64{"used": used}, err
			}})
		}
		for _, label := range []string{"", " on ptrace"} {
			if len(rows[label]) == 0 {
				continue
			}
			got := h.compare(max(3, h.rounds/8), rows[label])
			row := medians(fmt.Sprintf("a quota of 0.25 CPUs, %d threads%s: used on the host over %v", threads, label, shareWindow), "CPUs", got["used"])
			row.Goal = &goal{Limit: 0.26}
			h.table.add(row)
		}
	}
	return nil
}

// cpuTime is what processes and all their descendants have used, in seconds.
func cpuTime(pids []int) (float64, error) {
	all, err := family(pids)
	if err != nil {
		return 0, err
	}
	ticks := 0.0
	for _, pid := range all {
		if pid == os.Getpid() {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := afterName(stat)
		for _, i := range []int{11, 12} {
			n, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return ticks / ticksPerSecond, nil
}

// wake has a program wake every 10 ms beside others that compute.
func (h *harness) wake() error {
	homes, err := h.homes()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		label, hint string
		limit       float64
	}{
		{"a program that wakes every 10 ms beside 16 that compute", "", 3000},
		{"the same, said to be interactive", "interactive", 1000},
	} {
		var contenders []contender
		for _, in := range homes {
			if c.hint != "" && in.name != aios {
				continue
			}
			contenders = append(contenders, contender{in.name, func(ctx context.Context) (map[string]float64, error) {
				parts := []part{{"", []string{"wakes", "10"}}}
				if c.hint != "" {
					parts[0].argv = append(parts[0].argv, c.hint)
				}
				for range sharers {
					parts = append(parts, part{"", []string{"spin", "1"}})
				}
				lines, err := together(ctx, in, shareWindow, parts, nil)
				if err != nil {
					return nil, err
				}
				var n, p50, p99, worst float64
				if _, err := fmt.Sscan(lines[0], &n, &p50, &p99, &worst); err != nil {
					return nil, err
				}
				return map[string]float64{"p50": p50, "p99": p99, "max": worst}, nil
			}})
		}
		got := h.compare(max(3, h.rounds/8), contenders)
		h.table.add(medians(c.label+": late at the median", "µs", got["p50"]))
		row := medians(c.label+": p99", "µs", got["p99"])
		row.Goal = &goal{Limit: c.limit}
		h.table.add(row)
		h.table.add(medians(c.label+": worst", "µs", got["max"]))
	}
	return nil
}

// deadlineWindow is for how long reservations are kept.
const deadlineWindow = time.Minute

// deadline reserves 80 % of the CPUs for periodic work, beside agents that
// compute as much as they get.
func (h *harness) deadline() error {
	if _, err := h.toolsRoot(); err != nil || h.aios == nil {
		return err
	}
	in := h.agentHome(h.platform)
	s, err := in.start(h.ctx, "", "/work/share", "calibrate")
	if err != nil {
		return err
	}
	line, _, err := s.line()
	s.close()
	if err != nil {
		return err
	}
	perMilli, err := strconv.ParseFloat(line, 64)
	if err != nil {
		return err
	}
	var parts []part
	for i := range 8 {
		period := 40 + 20*i
		runtime := float64(period) / 5
		// The work is three quarters of the runtime: a host of two CPUs has
		// others to serve, too.
		parts = append(parts, part{fmt.Sprintf("reserve=0.2,every=%dms", period),
			[]string{"jobs", fmt.Sprintf("%.0f", 0.75*runtime*perMilli), fmt.Sprint(period)}})
	}
	for range 4 {
		parts = append(parts, part{"", []string{"spin", "1"}})
	}
	lines, err := together(h.ctx, in, deadlineWindow, parts, nil)
	if err != nil {
		return err
	}
	jobs, missed := 0.0, 0.0
	for _, l := range lines[:8] {
		var n, m float64
		if _, err := fmt.Sscan(l, &n, &m); err != nil {
			return err
		}
		jobs, missed = jobs+n, missed+m
	}
	h.table.add(row{Figure: fmt.Sprintf("8 reservations of 0.2 CPUs each beside a full load, %v: jobs", deadlineWindow), Values: ours(jobs)})
	h.table.add(row{Figure: "of these, late", Values: ours(missed), Goal: &goal{Limit: 0}})
	return nil
}

// pickCost measures the choice among runnable agents.
func (h *harness) pickCost() error {
	m, err := goBenchmarks(h.ctx, "./sentry/sched", "^BenchmarkPick$", "0.3s", max(3, h.rounds/8))
	if err != nil {
		return err
	}
	for _, n := range []int{10, 100, 1000, 10000} {
		var limit *goal
		if n == 1000 {
			limit = &goal{Limit: 2}
		}
		h.addBenchmark(m, fmt.Sprintf("Pick/%d", n), fmt.Sprintf("choose the next of %d runnable agents", n), "µs", 1e3, nil, limit)
	}
	return nil
}

// schedOverhead compares calls of an agent with and without the scheduler.
func (h *harness) schedOverhead() error {
	m, err := goBenchmarks(h.ctx, sentryPackage, "^BenchmarkSchedInAgent$", fmt.Sprint(h.rounds, "x"), 1)
	if err != nil {
		return err
	}
	for _, what := range []string{"getpid", "pipe"} {
		if v, ok := m.median("SchedInAgent/"+what, "extra-%"); ok {
			h.table.add(row{Figure: "in one agent, beyond a kernel without the scheduler: " + what, Unit: "%", Values: ours(v), Goal: &goal{Limit: 3}})
		}
	}
	m, err = goBenchmarks(h.ctx, sentryPackage, "^BenchmarkMakeInAgent$", fmt.Sprint(max(6, h.rounds/4), "x"), 1)
	if err != nil {
		return err
	}
	if v, ok := m.median("MakeInAgent", "extra-%"); ok {
		h.table.add(row{Figure: "in one agent, beyond a kernel without the scheduler: make -j2 of a C project", Unit: "%", Values: ours(v), Goal: &goal{Limit: 3}})
	}
	return nil
}
