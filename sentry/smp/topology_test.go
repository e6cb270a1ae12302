package smp

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

// machine is a sysfs.
type machine struct{ fstest.MapFS }

func newMachine(files ...string) machine {
	m := machine{fstest.MapFS{}}
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		m.file(name, text)
	}
	return m
}

func (m machine) file(name, text string) { m.MapFS[name] = &fstest.MapFile{Data: []byte(text + "\n")} }

// cpu adds a CPU with the threads of its core and caches, each "LEVEL TYPE SIZE
// CPUS".
func (m machine) cpu(n, pkg int, threads string, caches ...string) {
	dir := fmt.Sprintf("devices/system/cpu/cpu%d/", n)
	m.file(dir+"topology/core_cpus_list", threads)
	m.file(dir+"topology/physical_package_id", fmt.Sprint(pkg))
	for i, c := range caches {
		f := strings.Fields(c)
		at := fmt.Sprintf("%scache/index%d/", dir, i)
		m.file(at+"level", f[0])
		m.file(at+"type", f[1])
		m.file(at+"size", f[2])
		m.file(at+"shared_cpu_list", f[3])
	}
}

// desktop is a socket of 4 cores with two threads each, below one L3.
func desktop() machine {
	m := newMachine("devices/system/cpu/online=0-7", "devices/system/node/node0/cpulist=0-7")
	for n := range 8 {
		core := fmt.Sprintf("%d,%d", n%4, n%4+4)
		m.cpu(n, 0, core, "1 Data 32K "+core, "1 Instruction 32K "+core, "2 Unified 256K "+core, "3 Unified 8192K 0-7")
	}
	return m
}

// server has two sockets of 8 cores with two threads each. The cores of a socket
// are in two groups of 4 below an L3 each, and every socket is a node; CPUs are
// numbered by thread, then socket.
func server() machine {
	m := newMachine("devices/system/cpu/online=0-31",
		"devices/system/node/node0/cpulist=0-7,16-23", "devices/system/node/node1/cpulist=8-15,24-31")
	for n := range 32 {
		c := n % 16
		core, first := fmt.Sprintf("%d,%d", c, c+16), c/4*4
		m.cpu(n, c/8, core, "1 Data 32K "+core, "2 Unified 512K "+core,
			fmt.Sprintf("3 Unified 32M %d-%d,%d-%d", first, first+3, first+16, first+19))
	}
	return m
}

// hybrid has 4 fast cores with two threads each and 8 slow ones, of which 4 share
// an L2; all are below one L3.
func hybrid() machine {
	m := newMachine("devices/system/cpu/online=0-15")
	for n := range 16 {
		core, l2, capacity := fmt.Sprintf("%d-%d", n/2*2, n/2*2+1), "", 1024
		if l2 = core; n >= 8 {
			core, l2, capacity = fmt.Sprint(n), fmt.Sprintf("%d-%d", n/4*4, n/4*4+3), 676
		}
		m.cpu(n, 0, core, "1 Data 48K "+core, "2 Unified 2048K "+l2, "3 Unified 18432K 0-15")
		m.file(fmt.Sprintf("devices/system/cpu/cpu%d/cpu_capacity", n), fmt.Sprint(capacity))
	}
	return m
}

// phone has 4 slow cores and 2 fast ones, no L3, and no directory of nodes.
func phone() machine {
	m := newMachine("devices/system/cpu/online=0-5")
	for n := range 6 {
		l2, capacity := "0-3", 446
		if n >= 4 {
			l2, capacity = "4-5", 1024
		}
		m.cpu(n, 0, fmt.Sprint(n), "1 Data 32K "+fmt.Sprint(n), "2 Unified 1M "+l2)
		m.file(fmt.Sprintf("devices/system/cpu/cpu%d/cpu_capacity", n), fmt.Sprint(capacity))
	}
	return m
}

// tiny is a virtual machine that knows of no caches, and of no packages.
func tiny() machine {
	m := newMachine("devices/system/cpu/online=0-1")
	for n := range 2 {
		m.file(fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings", n), fmt.Sprint(1<<n))
		m.file(fmt.Sprintf("devices/system/cpu/cpu%d/topology/physical_package_id", n), "-1")
	}
	return m
}

// holes has CPUs 0, 2, 3, 6 and 7 of which 3 is offline.
func holes() machine {
	m := newMachine("devices/system/cpu/online=0,2,6-7")
	for _, n := range []int{0, 2, 6, 7} {
		core := fmt.Sprintf("%d,%d", n/2*2, n/2*2+1)
		m.cpu(n, 0, core, "2 Unified 1M "+core, "3 Unified 4M 0-7")
	}
	m.file("devices/system/cpu/cpu3/online", "0")
	return m
}

// garbage has files that make no sense.
func garbage() machine {
	m := newMachine("devices/system/cpu/online=all of them", "devices/system/node/node0/cpulist=0-",
		"devices/system/node/nodeX/cpulist=0", "devices/system/cpu/cpu07/online=1", "devices/system/cpu/cpufreq/x=1",
		"devices/system/cpu/cpu1500/online=1", "devices/system/cpu/cpu2/online=0", "devices/system/cpu/cpu1/cpu_capacity=-7")
	m.cpu(0, 0, "1,5", "3 Unified 4M 1-2", "2 Magic 4M 0", "x Unified 4M 0", "2 Unified lots 0-1")
	m.cpu(1, 0, "", "2 Unified lots 0-1")
	m.file("devices/system/cpu/cpu1/topology/core_cpus", "zzz")
	return m
}

func groupText(groups []Group) string {
	var parts []string
	for _, g := range groups {
		parts = append(parts, fmt.Sprintf("%d:%v", g.ID, g.CPUs))
	}
	return strings.Join(parts, " ")
}

func TestMachines(t *testing.T) {
	for _, c := range []struct {
		name                         string
		sys                          machine
		sure                         Set
		hosts, online                string
		cores, llcs, packages, nodes string
		capacity                     []int // nil: all 1024
		assumed                      []string
	}{
		{name: "desktop", sys: desktop(), hosts: "0-7", cores: "0:0,4 1:1,5 2:2,6 3:3,7", llcs: "0:0-7", packages: "0:0-7", nodes: "0:0-7"},
		{name: "server", sys: server(), hosts: "0-31",
			cores: "0:0,16 1:1,17 2:2,18 3:3,19 4:4,20 5:5,21 6:6,22 7:7,23 8:8,24 9:9,25 10:10,26 11:11,27 12:12,28 13:13,29 14:14,30 15:15,31",
			llcs:  "0:0-3,16-19 1:4-7,20-23 2:8-11,24-27 3:12-15,28-31", packages: "0:0-7,16-23 1:8-15,24-31", nodes: "0:0-7,16-23 1:8-15,24-31"},
		{name: "hybrid", sys: hybrid(), hosts: "0-15", cores: "0:0-1 1:2-3 2:4-5 3:6-7 4:8 5:9 6:10 7:11 8:12 9:13 10:14 11:15", llcs: "0:0-15",
			packages: "0:0-15", nodes: "0:0-15", capacity: []int{1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024, 676, 676, 676, 676, 676, 676, 676, 676}},
		{name: "phone", sys: phone(), hosts: "0-5", cores: "0:0 1:1 2:2 3:3 4:4 5:5", llcs: "0:0-3 1:4-5", packages: "0:0-5", nodes: "0:0-5",
			capacity: []int{446, 446, 446, 446, 1024, 1024}},
		{name: "tiny", sys: tiny(), hosts: "0-1", cores: "0:0 1:1", llcs: "0:0-1", packages: "0:0-1", nodes: "0:0-1",
			assumed: []string{"CPUs 0-1 sysfs tells no package", "CPUs 0-1 sysfs tells no last-level cache"}},
		{name: "holes", sys: holes(), hosts: "0,2-3,6-7", online: "0-1,3-4", cores: "0:0 1:1 3:3-4", llcs: "0:0-1,3-4", packages: "0:0-1,3-4", nodes: "0:0-1,3-4"},
		{name: "garbage", sys: garbage(), hosts: "0-2", online: "0-1", cores: "0:0 1:1", llcs: "0:0-1", packages: "0:0-1", nodes: "0:0-1",
			assumed: []string{"1 of cpu with a number from 1024 on", "CPUs 0-1 sysfs tells no threads"}},
		{name: "nothing", sys: newMachine(), sure: Of(1, 3), hosts: "1,3", cores: "0:0 1:1", llcs: "0:0-1", packages: "0:0-1", nodes: "0:0-1",
			assumed: []string{"no threads", "no package", "no last-level cache"}},
		{name: "nothing at all", sys: newMachine(), hosts: "0", cores: "0:0", llcs: "0:0", packages: "0:0", nodes: "0:0",
			assumed: []string{"names no CPU", "no threads", "no package", "no last-level cache"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Read(c.sys, c.sure)
			if hosts := got.ToHost(First(got.Len())).String(); hosts != c.hosts {
				t.Errorf("CPUs %s, want %s", hosts, c.hosts)
			}
			if c.online == "" {
				c.online = First(got.Len()).String()
			}
			for what, texts := range map[string][2]string{
				"online": {got.Online().String(), c.online}, "cores": {groupText(got.Cores()), c.cores}, "LLCs": {groupText(got.LLCs()), c.llcs},
				"packages": {groupText(got.Packages()), c.packages}, "nodes": {groupText(got.Nodes()), c.nodes},
			} {
				if texts[0] != texts[1] {
					t.Errorf("%s: %s, want %s", what, texts[0], texts[1])
				}
			}
			for i, cpu := range got.CPUs {
				want := FullCapacity
				if c.capacity != nil {
					want = c.capacity[i]
				}
				if cpu.Capacity != want {
					t.Errorf("capacity of %d: %d, want %d", i, cpu.Capacity, want)
				}
			}
			if len(got.Assumed) != len(c.assumed) {
				t.Fatalf("assumed %q", got.Assumed)
			}
			for i, want := range c.assumed {
				if !strings.Contains(got.Assumed[i], want) {
					t.Errorf("assumed %q, want %q", got.Assumed[i], want)
				}
			}
			b, err := json.Marshal(got)
			var again Topology
			if err == nil {
				err = json.Unmarshal(b, &again)
			}
			if err != nil || !reflect.DeepEqual(&again, got) {
				t.Errorf("as JSON: %v\n%s", err, b)
			}
		})
	}
}

func TestShare(t *testing.T) {
	top := Read(server(), Set{})
	for _, c := range []struct {
		a, b int
		want Sharing
	}{{0, 0, SameCore}, {0, 16, SameCore}, {0, 3, SameLLC}, {3, 16, SameLLC}, {0, 4, SameNode}, {0, 8, Apart}, {31, 7, Apart}, {0, 32, Apart}, {-1, -1, Apart}} {
		if got := top.Share(c.a, c.b); got != c.want || top.Share(c.b, c.a) != c.want {
			t.Errorf("%d and %d: %v, want %v", c.a, c.b, got, c.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { top.Share(1, 17) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}

func TestCachesAreKnown(t *testing.T) {
	top := Read(server(), Set{})
	var got []string
	for _, c := range top.Caches {
		if c.CPUs.Has(5) {
			got = append(got, fmt.Sprintf("L%d %s %d %v", c.Level, c.Type, c.Bytes, c.CPUs))
		}
	}
	want := []string{"L1 data 32768 5,21", "L2 unified 524288 5,21", "L3 unified 33554432 4-7,20-23"}
	if !slices.Equal(got, want) || len(top.Caches) != 36 {
		t.Errorf("CPU 5 has %q of %d", got, len(top.Caches))
	}
	if last, ok := top.LastLevel(1); !ok || last.Level != 3 || last.CPUs.String() != "4-7,20-23" {
		t.Errorf("last level %+v, %v", last, ok)
	}
	if last, ok := Flat(2).LastLevel(0); ok {
		t.Errorf("of nothing: %+v", last)
	}
}

// TestRatings takes what the firmware says of CPUs where Linux says nothing.
func TestRatings(t *testing.T) {
	m := desktop()
	for n := range 8 {
		m.file(fmt.Sprintf("devices/system/cpu/cpu%d/acpi_cppc/highest_perf", n), fmt.Sprint(100-n/4*50))
	}
	if top := Read(m, Set{}); top.CPUs[0].Capacity != 1024 || top.CPUs[7].Capacity != 512 {
		t.Errorf("%+v", top.CPUs)
	}
	delete(m.MapFS, "devices/system/cpu/cpu3/acpi_cppc/highest_perf")
	if top := Read(m, Set{}); top.CPUs[7].Capacity != 1024 {
		t.Errorf("one unknown: %+v", top.CPUs)
	}
}

// TestRestrict checks every subset against the whole: what two CPUs share does
// not depend on what others there are.
func TestRestrict(t *testing.T) {
	whole := []*Topology{Read(desktop(), Set{}), Read(server(), Set{}), Read(hybrid(), Set{}), Read(phone(), Set{}), Read(holes(), Set{})}
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SampledFrom(whole).Draw(t, "machine")
		hosts := Of(rapid.SliceOf(rapid.IntRange(0, 40)).Draw(t, "hosts")...)
		part := all.Restrict(hosts)
		if part.Len() != hosts.Len() || part.ToHost(First(part.Len())) != hosts || part.FromHost(hosts) != First(part.Len()) {
			t.Fatalf("%v became %+v", hosts, part.CPUs)
		}
		top := [2]int{-1, -1}
		for i, c := range part.CPUs {
			if part.Index(c.Host) != i {
				t.Fatalf("host %d is %d", c.Host, part.Index(c.Host))
			}
			for k, n := range []int{c.Core, c.LLC} {
				if n > top[k]+1 || n < 0 {
					t.Fatalf("numbers leave some out: %+v", part.CPUs)
				}
				top[k] = max(top[k], n)
			}
			for j, d := range part.CPUs {
				x, y := all.Index(c.Host), all.Index(d.Host)
				if got := part.Share(i, j); x >= 0 && y >= 0 && got != all.Share(x, y) || x < 0 && i != j && got == SameCore {
					t.Fatalf("hosts %d and %d: %v", c.Host, d.Host, got)
				}
			}
		}
		for _, c := range part.Caches {
			if c.CPUs.Empty() || !c.CPUs.Minus(First(part.Len())).Empty() {
				t.Fatalf("cache %+v", c)
			}
		}
		allowed := Of(rapid.SliceOf(rapid.IntRange(0, 40)).Draw(t, "allowed")...)
		usable := part.Usable(allowed)
		if usable.Len() != min(allowed.Len(), part.Len()) || usable.And(part.FromHost(allowed)) != part.FromHost(allowed) ||
			!usable.Minus(First(part.Len())).Empty() {
			t.Fatalf("of %v with %v allowed, %v is usable", hosts, allowed, usable)
		}
		if part.Index(41) != -1 || part.Restrict(hosts).Len() != part.Len() {
			t.Fatal("CPUs from nowhere")
		}
	})
}

// FuzzSysfs reads a sysfs of which every file is arbitrary.
func FuzzSysfs(f *testing.F) {
	f.Add("0-3", "ff,00000001", "32K", "1")
	f.Add("0-4294967295", "1", "-1", "99999999999")
	f.Fuzz(func(t *testing.T, list, mask, size, number string) {
		if s, ok := parseMask(mask); ok && s.Len() > 32*(strings.Count(mask, ",")+1) {
			t.Errorf("%q became %v", mask, s)
		}
		if s, ok := parseList(list); ok {
			if again, ok := parseList(s.String()); !ok || again != s {
				t.Errorf("%q became %v", list, s)
			}
		}
		m := newMachine("devices/system/cpu/online="+list, "devices/system/node/node1/cpulist="+list,
			"devices/system/cpu/cpu1/topology/core_cpus="+mask, "devices/system/cpu/cpu1/topology/physical_package_id="+number,
			"devices/system/cpu/cpu1/cpu_capacity="+number)
		m.cpu(0, 0, list, "1 Data 1K 0", "2 Unified 1K 0")
		m.file("devices/system/cpu/cpu0/cache/index1/size", size)
		m.file("devices/system/cpu/cpu0/cache/index1/level", number)
		m.file("devices/system/cpu/cpu0/cache/index1/shared_cpu_list", list)
		top := Read(m, Of(2))
		if top.Len() < 3 || !top.Online().Has(top.Index(2)) {
			t.Errorf("CPUs %+v", top.CPUs)
		}
		for _, c := range top.CPUs {
			if c.Capacity < 1 || c.Capacity > FullCapacity || c.Core < 0 || c.LLC < 0 || c.Package < 0 || c.Node < 0 {
				t.Errorf("CPU %+v", c)
			}
		}
		n := 0
		for _, g := range top.LLCs() {
			n += g.CPUs.Len()
		}
		if n != top.Online().Len() {
			t.Errorf("LLCs %v have %d CPUs", top.LLCs(), n)
		}
	})
}

var _ fs.FS = machine{}
