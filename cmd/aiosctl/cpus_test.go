package main

import (
	"encoding/json"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
)

// fakeCPUs are two packages: one of two cores, of which one has two threads, and
// one with a single slow core, of whose caches nothing is known. CPU 5 is offline.
func fakeCPUs() *apiv1.CpusResponse {
	r := &apiv1.CpusResponse{
		Caches: []*apiv1.CpuCache{
			{Level: 1, Type: "data", Bytes: 48 << 10, Cpus: "0,2"}, {Level: 1, Type: "instruction", Bytes: 32 << 10, Cpus: "0,2"},
			{Level: 2, Type: "unified", Bytes: 2 << 20, Cpus: "0-2"}, {Level: 3, Type: "unified", Cpus: "0-2"},
		},
		Assumed: []string{"something"}, Allowed: "0-2",
		Domains: []*apiv1.DomainCpus{{Domain: "default", Cpus: "0-2", Allowed: "1"}},
	}
	for i, c := range []struct{ core, llc, pkg, capacity uint32 }{{0, 0, 0, 1024}, {1, 0, 0, 1024}, {0, 0, 0, 1024}, {2, 1, 1, 512}} {
		r.Cpus = append(r.Cpus, &apiv1.Cpu{Number: uint32(i), Online: true, Core: c.core, Llc: c.llc, Package: c.pkg, Node: c.pkg, Capacity: c.capacity})
	}
	r.Cpus = append(r.Cpus, &apiv1.Cpu{Number: 5, Core: 3, Llc: 2})
	return r
}

func TestCPUs(t *testing.T) {
	b := newBench(t)
	if err := b.app.printCPUs(fakeCPUs()); err != nil {
		t.Fatal(err)
	}
	const want = `package 0
  node 0
    L3: CPUs 0-2
      core 0: CPUs 0,2; L1d 48 KiB, L1i 32 KiB, L2 2 MiB of CPUs 0-2
      core 1: CPU 1; L2 2 MiB of CPUs 0-2
package 1
  node 1
    last-level cache unknown: CPU 3
      core 2: CPU 3; capacity 512 of 1024
offline: CPU 5
assumed: something
the host allows domains: CPUs 0-2

DOMAIN    CPUS   ALLOWED
default   0-2    1
`
	if got := b.out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	b.out.Reset()
	if err := b.app.printJSON(viewCPUs(fakeCPUs())); err != nil {
		t.Fatal(err)
	}
	var v cpusView
	if err := json.Unmarshal(b.out.Bytes(), &v); err != nil || len(v.CPUs) != 5 || v.CPUs[2] != (cpuView{2, true, 0, 0, 0, 0, 1024}) ||
		v.Caches[3] != (cacheView{3, "unified", 0, "0-2"}) || v.Domains[0].Allowed != "1" || v.Allowed != "0-2" {
		t.Errorf("%+v, %v", v, err)
	}
}
