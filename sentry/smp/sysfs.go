package smp

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Where Linux tells of CPUs, below /sys.
const (
	cpuDir  = "devices/system/cpu"
	nodeDir = "devices/system/node"
)

// maxCaches is how many caches of one CPU are looked at.
const maxCaches = 16

// Read reads the topology of a host from its sysfs. The CPUs of sure exist, even
// if sysfs does not say so. What is missing or makes no sense there is replaced
// by an assumption, which the topology names: a CPU is a core of its own in
// package 0 and node 0, the CPUs of a package share one cache, all are as fast.
func Read(sys fs.FS, sure Set) *Topology {
	r := reader{sys: sys}
	dirs := r.numbered(cpuDir, "cpu")
	r.online = r.whichOnline(dirs).Or(sure)
	if r.online.Empty() {
		r.online = Of(0)
		r.assume("sysfs names no CPU: there is one")
	}
	nodes := r.nodes()
	var all []hostCPU
	dirs.Or(r.online).All(func(n int) bool {
		c := hostCPU{CPU: CPU{Host: n, Node: nodes[n], Offline: !r.online.Has(n)}, siblings: Of(n)}
		if !c.Offline {
			r.examine(&c)
		}
		all = append(all, c)
		return true
	})
	r.capacities(all)
	return r.assemble(all)
}

// reader reads a sysfs. What it cannot read is no error: it is assumed.
type reader struct {
	sys     fs.FS
	online  Set
	assumed []string
	// missing are the CPUs of which something is not known, by what.
	missing [missings]Set
	caches  map[Cache]int
	list    []Cache // by the host's numbers
}

// What may be missing of a CPU.
const (
	noCore = iota
	noPackage
	noCaches
	missings
)

// hostCPU is a CPU while sysfs is read.
type hostCPU struct {
	CPU
	siblings Set // the threads of its core
	below    Set // the CPUs that share its last-level cache; empty: not known
	perf     int
}

func (r *reader) assume(format string, args ...any) {
	r.assumed = append(r.assumed, fmt.Sprintf(format, args...))
}

// text returns a file without the blanks around it, or "".
func (r *reader) text(name string) string {
	b, err := fs.ReadFile(r.sys, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number returns a file that holds a number, or absent.
func (r *reader) number(name string, absent int) int {
	n, err := strconv.ParseInt(r.text(name), 10, 32)
	if err != nil {
		return absent
	}
	return int(n)
}

// set returns the set that the first file holds that makes sense. Files whose
// names end in "_list" hold lists, others masks.
func (r *reader) set(dir string, names ...string) Set {
	for _, name := range names {
		parse := parseMask
		if strings.HasSuffix(name, "list") {
			parse = parseList
		}
		if s, ok := parse(r.text(path.Join(dir, name))); ok && !s.Empty() {
			return s
		}
	}
	return Set{}
}

// numbered returns the numbers of the directories that are called so.
func (r *reader) numbered(dir, prefix string) (s Set) {
	entries, err := fs.ReadDir(r.sys, dir)
	if err != nil {
		return s
	}
	beyond := 0
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		n, err := strconv.ParseUint(digits, 10, 31)
		switch {
		case !ok || err != nil || strconv.FormatUint(n, 10) != digits:
		case n >= MaxCPUs:
			beyond++
		default:
			s.Add(int(n))
		}
	}
	if beyond > 0 {
		r.assume("%d of %s with a number from %d on are not used", beyond, prefix, MaxCPUs)
	}
	return s
}

func (r *reader) whichOnline(dirs Set) Set {
	if s, ok := parseList(r.text(cpuDir + "/online")); ok && !s.Empty() {
		return s
	}
	online := dirs
	dirs.All(func(n int) bool {
		if r.number(fmt.Sprintf("%s/cpu%d/online", cpuDir, n), 1) == 0 {
			online.Remove(n)
		}
		return true
	})
	return online
}

// nodes returns the NUMA node of each CPU.
func (r *reader) nodes() (of [MaxCPUs]int) {
	r.numbered(nodeDir, "node").All(func(node int) bool {
		r.set(fmt.Sprintf("%s/node%d", nodeDir, node), "cpulist", "cpumap").All(func(cpu int) bool {
			of[cpu] = node
			return true
		})
		return true
	})
	return of
}

func (r *reader) examine(c *hostCPU) {
	dir := fmt.Sprintf("%s/cpu%d", cpuDir, c.Host)
	if s := r.set(dir+"/topology", "core_cpus_list", "thread_siblings_list", "core_cpus", "thread_siblings").And(r.online); s.Has(c.Host) {
		c.siblings = s
	} else {
		r.missing[noCore].Add(c.Host)
	}
	if c.Package = r.number(dir+"/topology/physical_package_id", -1); c.Package < 0 {
		c.Package = 0
		r.missing[noPackage].Add(c.Host)
	}
	c.Capacity = r.number(dir+"/cpu_capacity", 0)
	c.perf = r.number(dir+"/acpi_cppc/highest_perf", 0)
	var last Cache
	for i := range maxCaches {
		cache, ok := r.cache(fmt.Sprintf("%s/cache/index%d", dir, i), c.Host)
		if !ok {
			continue
		}
		if _, known := r.caches[cache]; !known {
			if r.caches == nil {
				r.caches = make(map[Cache]int)
			}
			r.caches[cache] = len(r.list)
			r.list = append(r.list, cache)
		}
		if cache.isLast(last) {
			last, c.below = cache, cache.CPUs
		}
	}
	if c.below.Empty() {
		r.missing[noCaches].Add(c.Host)
	}
}

func (r *reader) cache(dir string, cpu int) (c Cache, ok bool) {
	c.Type = strings.ToLower(r.text(dir + "/type"))
	c.Level = r.number(dir+"/level", 0)
	c.Bytes, _ = parseSize(r.text(dir + "/size"))
	c.CPUs = r.set(dir, "shared_cpu_list", "shared_cpu_map").And(r.online)
	switch c.Type {
	case "data", "instruction", "unified":
		return c, c.Level >= 1 && c.Level < 10 && c.CPUs.Has(cpu)
	}
	return c, false
}

// capacities fills in how fast CPUs are, as sysfs says or, if it does not, as the
// firmware rates them.
func (r *reader) capacities(all []hostCPU) {
	rating := func(of func(*hostCPU) int) (most int, complete bool) {
		for i := range all {
			if c := &all[i]; !c.Offline {
				if of(c) <= 0 {
					return 0, false
				}
				most = max(most, of(c))
			}
		}
		return most, true
	}
	of := func(c *hostCPU) int { return c.Capacity }
	most, known := rating(of)
	if !known {
		of = func(c *hostCPU) int { return c.perf }
		most, known = rating(of)
	} else if most <= FullCapacity {
		most = FullCapacity // As Linux scales it, if the fastest are online.
	}
	for i := range all {
		c := &all[i]
		if c.Offline || !known {
			c.Capacity = FullCapacity
			continue
		}
		c.Capacity = max(1, of(c)*FullCapacity/most)
	}
}

// assemble numbers what the CPUs share.
func (r *reader) assemble(all []hostCPU) *Topology {
	packages := make(map[int]Set)
	for _, c := range all {
		if !c.Offline {
			s := packages[c.Package]
			s.Add(c.Host)
			packages[c.Package] = s
		}
	}
	t := &Topology{}
	cores, llcs := make(map[Set]int), make(map[Set]int)
	number := func(of map[Set]int, s Set) int {
		n, known := of[s]
		if !known {
			n = len(of)
			of[s] = n
		}
		return n
	}
	for _, c := range all {
		if c.below.Empty() {
			c.below = packages[c.Package]
		}
		if c.Offline {
			c.below = c.siblings
		}
		c.Core, c.LLC = number(cores, c.siblings), number(llcs, c.below)
		t.CPUs = append(t.CPUs, c.CPU)
	}
	for _, cache := range r.list {
		cache.CPUs = t.FromHost(cache.CPUs)
		t.Caches = append(t.Caches, cache)
	}
	sortCaches(t.Caches)
	for what, assumed := range [missings]string{
		noCore:    "no threads: each is a core",
		noPackage: "no package: they are in package 0",
		noCaches:  "no last-level cache: one for each package",
	} {
		if s := r.missing[what]; !s.Empty() {
			r.assume("of CPUs %v sysfs tells %s", s, assumed)
		}
	}
	t.Assumed = r.assumed
	return t
}

// parseList reads a list as Linux writes it, "0-3,8", and leaves out the CPUs
// that no Set has.
func parseList(text string) (s Set, ok bool) {
	if text == "" {
		return s, true
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 32)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(last, 10, 32)
		}
		if err != nil || to < from {
			return Set{}, false
		}
		for c := from; c <= min(to, MaxCPUs-1); c++ {
			s.Add(int(c))
		}
	}
	return s, true
}

// parseMask reads a mask as Linux writes it: words of 32 bits in hexadecimal, the
// highest first.
func parseMask(text string) (s Set, ok bool) {
	words := strings.Split(text, ",")
	for i, word := range words {
		w, err := strconv.ParseUint(word, 16, 32)
		if err != nil || len(word) > 8 {
			return Set{}, false
		}
		base := (len(words) - 1 - i) * 32
		for bit := range 32 {
			if w>>bit&1 != 0 {
				s.Add(base + bit)
			}
		}
	}
	return s, true
}

// parseSize reads the size of a cache: "48K".
func parseSize(text string) (bytes uint64, ok bool) {
	shift := 0
	for i, unit := range []string{"K", "M", "G"} {
		if digits, found := strings.CutSuffix(text, unit); found {
			text, shift = digits, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return n << shift, err == nil
}
