package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/sentry/smp"
)

func (a *app) cpusCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "cpus [flags]",
		Short: "Show the CPUs of the host, and those of domains",
		Long: `Cpus shows the CPUs of the host by what they share: a package, a NUMA node, a last-level
cache, a core; what of that the host does not tell is assumed, and said. Below are the domains that
run, each with the CPUs that it got when it started, and those of them that the host allows it now.`,
		Example: "  aiosctl cpus\n  aiosctl cpus -o json | jq '.domains'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Cpus(ctx, &apiv1.CpusRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(viewCPUs(resp))
				}
				return a.printCPUs(resp)
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// cpusView is what -o json shows of CPUs. Sets are in the notation of Linux.
type cpusView struct {
	CPUs    []cpuView        `json:"cpus"`
	Caches  []cacheView      `json:"caches"`
	Assumed []string         `json:"assumed"`
	Allowed string           `json:"allowed"`
	Domains []domainCPUsView `json:"domains"`
}

type cpuView struct {
	CPU      uint32 `json:"cpu"`
	Online   bool   `json:"online"`
	Core     uint32 `json:"core"`
	LLC      uint32 `json:"llc"`
	Package  uint32 `json:"package"`
	Node     uint32 `json:"node"`
	Capacity uint32 `json:"capacity"`
}

type cacheView struct {
	Level uint32 `json:"level"`
	Type  string `json:"type"`
	Bytes uint64 `json:"bytes,omitempty"`
	CPUs  string `json:"cpus"`
}

type domainCPUsView struct {
	Domain  string `json:"domain"`
	CPUs    string `json:"cpus"`
	Allowed string `json:"allowed"`
}

func viewCPUs(r *apiv1.CpusResponse) cpusView {
	return cpusView{
		CPUs: views(r.GetCpus(), func(c *apiv1.Cpu) cpuView {
			return cpuView{c.GetNumber(), c.GetOnline(), c.GetCore(), c.GetLlc(), c.GetPackage(), c.GetNode(), c.GetCapacity()}
		}),
		Caches: views(r.GetCaches(), func(c *apiv1.CpuCache) cacheView {
			return cacheView{c.GetLevel(), c.GetType(), c.GetBytes(), c.GetCpus()}
		}),
		Assumed: orEmpty(r.GetAssumed()), Allowed: r.GetAllowed(),
		Domains: views(r.GetDomains(), func(d *apiv1.DomainCpus) domainCPUsView {
			return domainCPUsView{d.GetDomain(), d.GetCpus(), d.GetAllowed()}
		}),
	}
}

// topologyOf makes a topology of an answer. What it does not understand it leaves
// out.
func topologyOf(r *apiv1.CpusResponse) *smp.Topology {
	t := &smp.Topology{}
	for _, c := range r.GetCpus() {
		t.CPUs = append(t.CPUs, smp.CPU{
			Host: int(c.GetNumber()), Offline: !c.GetOnline(), Core: int(c.GetCore()), LLC: int(c.GetLlc()),
			Package: int(c.GetPackage()), Node: int(c.GetNode()), Capacity: int(c.GetCapacity()),
		})
	}
	for _, c := range r.GetCaches() {
		if cpus, err := smp.Parse(c.GetCpus()); err == nil {
			t.Caches = append(t.Caches, smp.Cache{Level: int(c.GetLevel()), Type: c.GetType(), Bytes: c.GetBytes(), CPUs: t.FromHost(cpus)})
		}
	}
	return t
}

func (a *app) printCPUs(r *apiv1.CpusResponse) error {
	t := topologyOf(r)
	var b strings.Builder
	line := func(depth int, format string, args ...any) {
		fmt.Fprintf(&b, "%*s%s\n", 2*depth, "", printable(fmt.Sprintf(format, args...)))
	}
	within := func(groups []smp.Group, of smp.Set) (out []smp.Group) {
		for _, g := range groups {
			if g.CPUs = g.CPUs.And(of); !g.CPUs.Empty() {
				out = append(out, g)
			}
		}
		return out
	}
	for _, p := range t.Packages() {
		line(0, "package %d", p.ID)
		for _, n := range within(t.Nodes(), p.CPUs) {
			line(1, "node %d", n.ID)
			for _, l := range within(t.LLCs(), n.CPUs) {
				llc, below := "last-level cache unknown", 10
				if last, known := t.LastLevel(l.ID); known {
					llc, below = cacheText(last), last.Level
				}
				line(2, "%s: %s", llc, cpusText(t, l.CPUs))
				for _, c := range within(t.Cores(), l.CPUs) {
					line(3, "%s", coreText(t, c, below))
				}
			}
		}
	}
	if offline := t.ToHost(smp.First(t.Len()).Minus(t.Online())); !offline.Empty() {
		line(0, "offline: %s", hostsText(offline))
	}
	for _, text := range r.GetAssumed() {
		line(0, "assumed: %s", text)
	}
	line(0, "the host allows domains: CPUs %s", r.GetAllowed())
	if _, err := fmt.Fprint(a.stdout, b.String()); err != nil || len(r.GetDomains()) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	rows := make([][]string, 0, len(r.GetDomains()))
	for _, d := range r.GetDomains() {
		rows = append(rows, []string{d.GetDomain(), d.GetCpus(), d.GetAllowed()})
	}
	return a.table([]string{"DOMAIN", "CPUS", "ALLOWED"}, rows)
}

// coreText is a core with its CPUs, the caches below a level, and how fast it is
// unless it is as fast as any.
func coreText(t *smp.Topology, core smp.Group, level int) string {
	first := core.CPUs.Next(0)
	text := fmt.Sprintf("core %d: %s", core.ID, cpusText(t, core.CPUs))
	var caches []string
	for _, c := range t.Caches {
		if c.Level >= level || !c.CPUs.Has(first) {
			continue
		}
		shared := ""
		if c.CPUs != core.CPUs {
			shared = " of " + cpusText(t, c.CPUs)
		}
		caches = append(caches, cacheText(c)+shared)
	}
	if len(caches) > 0 {
		text += "; " + strings.Join(caches, ", ")
	}
	if n := t.CPUs[first].Capacity; n != smp.FullCapacity {
		text += fmt.Sprintf("; capacity %d of %d", n, smp.FullCapacity)
	}
	return text
}

// cpusText is CPUs of a topology by the host's numbers.
func cpusText(t *smp.Topology, cpus smp.Set) string { return hostsText(t.ToHost(cpus)) }

func hostsText(hosts smp.Set) string {
	if hosts.Len() == 1 {
		return "CPU " + hosts.String()
	}
	return "CPUs " + hosts.String()
}

// cacheText names a cache as people do: "L1d 48 KiB".
func cacheText(c smp.Cache) string {
	text := fmt.Sprintf("L%d", c.Level)
	switch c.Type {
	case "data":
		text += "d"
	case "instruction":
		text += "i"
	}
	if c.Bytes > 0 {
		text += " " + size(c.Bytes)
	}
	return text
}
