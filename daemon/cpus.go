package daemon

import (
	"context"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/host"
	"aios.dev/aios/sentry/smp"
)

// processorsService serves the API's service Processors.
type processorsService struct {
	apiv1.UnimplementedProcessorsServer
	d *System
}

// Cpus implements the RPC.
func (p *processorsService) Cpus(ctx context.Context, _ *apiv1.CpusRequest) (*apiv1.CpusResponse, error) {
	top, allowed, err := host.CPUs()
	if err != nil {
		return nil, err
	}
	resp := &apiv1.CpusResponse{Assumed: top.Assumed, Allowed: allowed.String()}
	for _, c := range top.CPUs {
		resp.Cpus = append(resp.Cpus, &apiv1.Cpu{
			Number: uint32(c.Host), Online: !c.Offline, Core: uint32(c.Core), Llc: uint32(c.LLC),
			Package: uint32(c.Package), Node: uint32(c.Node), Capacity: uint32(c.Capacity),
		})
	}
	for _, c := range top.Caches {
		resp.Caches = append(resp.Caches, &apiv1.CpuCache{Level: uint32(c.Level), Type: c.Type, Bytes: c.Bytes, Cpus: top.ToHost(c.CPUs).String()})
	}
	for _, dom := range p.d.liveDomains() {
		var got control.CPUsReply
		if err := dom.call(ctx, control.MethodCPUs, struct{}{}, &got); err != nil {
			continue // It ends, or is older than the question.
		}
		resp.Domains = append(resp.Domains, &apiv1.DomainCpus{Domain: dom.name, Cpus: got.CPUs.String(), Allowed: got.Allowed.String()})
	}
	return resp, nil
}

// domainCPUs returns the CPUs that a domain gets which starts now.
func domainCPUs() (smp.Topology, error) {
	top, allowed, err := host.CPUs()
	if err != nil {
		return smp.Topology{}, err
	}
	return *top.Restrict(allowed), nil
}
