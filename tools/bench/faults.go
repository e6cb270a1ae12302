package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// faultWindow is for how long a neighbour of a storm is looked at, in
// milliseconds.
const faultWindow = 500

// faults measures what an agent that faults as fast as it can costs a
// neighbour, and how soon an agent that violates its policy executes nothing
// more.
//
// The neighbour works for a while alone, beside an agent that only uses its CPU,
// and beside the storm, in turns, within one domain. What the storm costs beyond
// its share of the CPU is the difference between the last two.
func (h *harness) faults() error {
	if h.aios == nil {
		return nil
	}
	if _, err := h.toolsRoot(); err != nil {
		return err
	}
	got := h.compare(max(5, h.rounds/2), []contender{{aios, h.besideStorm}})
	for _, figure := range []struct{ key, name string }{
		{"alone", "a neighbour's work a second, nobody beside it"}, {"spin", "the same, beside an agent that spins"},
		{"fault", "the same, beside an agent that faults as fast as it can"},
	} {
		r := medians(figure.name, "/s", got[figure.key])
		r.More = true
		h.table.add(r)
	}
	cost := medians("throughput of a neighbour: less beside a fault storm than beside a spinner", "%", got["cost"])
	cost.Goal = &goal{Limit: 3}
	h.table.add(cost)

	killed := h.compare(max(20, 3*h.rounds), []contender{{aios, h.violates}})
	h.table.spread("kill on violation: from the call to the agent's last instruction", "ms", killed[elapsed], nil, &goal{Limit: 2})
	return nil
}

// besideStorm is one round of what a storm costs.
func (h *harness) besideStorm(ctx context.Context) (map[string]float64, error) {
	neighbour, err := h.aios.converse(ctx, h.aios.spec(toolsImage, "/work/steady"))
	if err != nil {
		return nil, err
	}
	defer neighbour.close()
	out := map[string]float64{}
	for _, beside := range []string{"alone", "spin", "fault"} {
		p, err := h.paceBeside(ctx, neighbour, beside)
		if err != nil {
			return nil, err
		}
		out[beside] = p.count * 1000 / faultWindow
	}
	out["cost"] = 100 * (1 - out["fault"]/out["spin"])
	return out, nil
}

// paceBeside is the pace of a neighbour beside a program of storm.c, or alone.
func (h *harness) paceBeside(ctx context.Context, neighbour speaker, what string) (pace, error) {
	if what != "alone" {
		s, err := h.aios.converse(ctx, h.aios.spec(toolsImage, "/work/storm", what))
		if err != nil {
			return pace{}, err
		}
		defer func() {
			h.aios.Signal(ctx, &apiv1.SignalRequest{Agent: s.id, Signal: int32(syscall.SIGKILL)})
			drain(s)
			s.close()
		}()
		if line, _, err := s.line(); err != nil || line != "ready" {
			return pace{}, errors.Join(err, fmt.Errorf("the storm says %q", line))
		}
	}
	time.Sleep(calm)
	return paceOf(neighbour, faultWindow)
}

// violates has an agent violate its policy, and returns how long it went on.
func (h *harness) violates(ctx context.Context) (map[string]float64, error) {
	spec := h.aios.spec(toolsImage, "/work/violate")
	spec.OnViolation = []string{"escape=kill-agent"}
	s, err := h.aios.converse(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var at, last int64
	lines := 0
	for ; ; lines++ {
		line, more, err := s.line()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		var what rune
		var t int64
		if _, err := fmt.Sscanf(line, "%c %d", &what, &t); err != nil {
			continue // Cut off by the end.
		}
		switch what {
		case 'v':
			at = t
		case 'w':
			return nil, fmt.Errorf("the call returned")
		default:
			last = max(last, t)
		}
	}
	if at == 0 || last == 0 {
		return nil, fmt.Errorf("the program ended after %d lines, before it violated anything", lines)
	}
	return map[string]float64{elapsed: float64(max(0, last-at)) / 1e6}, nil
}

// restart measures how long it takes from the death of a kernel process until
// its agents run again from their definition.
func (h *harness) restart() error {
	if h.aios == nil {
		return nil
	}
	if _, err := h.toolsRoot(); err != nil {
		return err
	}
	for _, n := range []int{1, 20} {
		round := 0
		got := h.compare(max(5, h.rounds/4), []contender{{aios, func(ctx context.Context) (map[string]float64, error) {
			round++ // A domain of its own: its budget makes later restarts wait.
			return h.crash(ctx, fmt.Sprintf("crash-%d-%d", n, round), n)
		}}})
		h.table.spread(fmt.Sprintf("crash of a domain of %d: to all agents running again", n), "ms", got[elapsed], nil, &goal{Limit: 500})
	}
	return nil
}

// crash kills a kernel process with so many agents.
func (h *harness) crash(ctx context.Context, domain string, agents int) (map[string]float64, error) {
	for range agents {
		spec := h.aios.spec(toolsImage, "/usr/bin/sleep", "1000000")
		spec.Domain, spec.Remove, spec.Restart = domain, false, &apiv1.RestartPolicy{When: "always"}
		if _, err := h.aios.Spawn(ctx, spec); err != nil {
			return nil, err
		}
	}
	defer func() {
		h.aios.DomainStop(ctx, &apiv1.DomainStopRequest{Name: domain, Force: true})
		list, err := h.aios.List(ctx, &apiv1.ListRequest{All: true, Domain: domain})
		for _, a := range list.GetAgents() {
			if err == nil {
				_, err = h.aios.Remove(ctx, &apiv1.RemoveRequest{Agent: a.GetId(), Force: true})
			}
		}
	}()
	domains, err := h.aios.DomainList(ctx, &apiv1.DomainListRequest{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(domains.GetDomains(), func(d *apiv1.Domain) bool { return d.GetName() == domain })
	if i < 0 {
		return nil, fmt.Errorf("no domain %s", domain)
	}
	time.Sleep(calm)
	began := time.Now()
	if err := syscall.Kill(int(domains.Domains[i].GetPid()), syscall.SIGKILL); err != nil {
		return nil, err
	}
	for {
		list, err := h.aios.List(ctx, &apiv1.ListRequest{All: true, Domain: domain})
		if err != nil {
			return nil, err
		}
		running := 0
		for _, a := range list.GetAgents() {
			if a.GetState() == "running" && a.GetRestarts().GetCount() == 1 {
				running++
			}
		}
		if running == agents {
			return map[string]float64{elapsed: milliseconds(time.Since(began))}, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
}
