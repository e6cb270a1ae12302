package smp

import (
	"fmt"
	"slices"
	"strings"
)

// FullCapacity is the capacity of a CPU of which none of its machine is faster.
const FullCapacity = 1024

// CPU is one CPU of a Topology. Core and LLC count within the topology, from 0;
// Package and Node are the host's numbers.
type CPU struct {
	// Host is the number by which the host knows it.
	Host    int  `json:"host"`
	Offline bool `json:"offline,omitempty"`
	// Core is shared by the threads of one core, LLC by the CPUs below one
	// last-level cache.
	Core    int `json:"core"`
	LLC     int `json:"llc"`
	Package int `json:"package"`
	Node    int `json:"node"`
	// Capacity is how much it gets done, in 1024ths of the fastest one.
	Capacity int `json:"capacity"`
}

// Cache is one cache and the CPUs that use it, by their index in the topology.
type Cache struct {
	Level int `json:"level"`
	// Type is "data", "instruction" or "unified".
	Type string `json:"type"`
	// Bytes is 0 if it is not known.
	Bytes uint64 `json:"bytes,omitempty"`
	CPUs  Set    `json:"cpus"`
}

// Topology is some CPUs and what they share. CPUs are named by their index in
// it: CPU i of a domain is CPUs[i] of the domain's topology, and CPUs[i].Host is
// where that is on the host. It is not changed once it is made.
type Topology struct {
	CPUs []CPU `json:"cpus"`
	// Caches are in order of level, type and CPUs.
	Caches []Cache `json:"caches,omitempty"`
	// Assumed says what the host did not tell, and what was assumed instead.
	Assumed []string `json:"assumed,omitempty"`
}

// Sharing is how close two CPUs are: the more, the higher.
type Sharing uint8

// What two CPUs share.
const (
	Apart Sharing = iota
	SameNode
	SameLLC
	SameCore
)

// String returns a word or two for people.
func (s Sharing) String() string {
	return [...]string{"apart", "same node", "same LLC", "same core"}[min(s, SameCore)]
}

// Flat returns a topology of n CPUs of which nothing is known: each is a core,
// all are below one cache.
func Flat(n int) *Topology {
	return new(Topology).Restrict(First(n))
}

// Len returns how many CPUs there are.
func (t *Topology) Len() int { return len(t.CPUs) }

// Share returns what two CPUs share. One that does not exist shares nothing.
func (t *Topology) Share(a, b int) Sharing {
	if uint(a) >= uint(len(t.CPUs)) || uint(b) >= uint(len(t.CPUs)) {
		return Apart
	}
	switch x, y := &t.CPUs[a], &t.CPUs[b]; {
	case x.Core == y.Core:
		return SameCore
	case x.LLC == y.LLC:
		return SameLLC
	case x.Node == y.Node:
		return SameNode
	}
	return Apart
}

// Index returns which CPU of the topology that of the host is, or -1.
func (t *Topology) Index(host int) int {
	i, found := slices.BinarySearchFunc(t.CPUs, host, func(c CPU, host int) int { return c.Host - host })
	if !found {
		return -1
	}
	return i
}

// ToHost returns where CPUs are on the host.
func (t *Topology) ToHost(cpus Set) (hosts Set) {
	for i, c := range t.CPUs {
		if cpus.Has(i) {
			hosts.Add(c.Host)
		}
	}
	return hosts
}

// FromHost returns which CPUs of the topology those of the host are. Of others it
// knows nothing.
func (t *Topology) FromHost(hosts Set) (cpus Set) {
	for i, c := range t.CPUs {
		if hosts.Has(c.Host) {
			cpus.Add(i)
		}
	}
	return cpus
}

// Usable returns the CPUs of a domain whose topology this is that it may use when
// the host allows it those of hosts. CPUs of the host that the domain did not get
// stand in for some that it lost, since it is for the host to choose where its
// CPUs are: as many are usable as are allowed, and at most all.
func (t *Topology) Usable(hosts Set) Set {
	cpus := t.FromHost(hosts)
	missing := min(hosts.Len(), t.Len()) - cpus.Len()
	for i := 0; missing > 0; i++ {
		if !cpus.Has(i) {
			cpus.Add(i)
			missing--
		}
	}
	return cpus
}

// Online returns the CPUs that the host has online.
func (t *Topology) Online() (cpus Set) {
	for i, c := range t.CPUs {
		if !c.Offline {
			cpus.Add(i)
		}
	}
	return cpus
}

// Group is CPUs that share something, and the number of what they share.
type Group struct {
	ID   int
	CPUs Set
}

// Cores returns the CPUs that are online by core.
func (t *Topology) Cores() []Group { return t.groups(func(c CPU) int { return c.Core }) }

// LLCs returns the CPUs that are online by last-level cache.
func (t *Topology) LLCs() []Group { return t.groups(func(c CPU) int { return c.LLC }) }

// Packages returns the CPUs that are online by package.
func (t *Topology) Packages() []Group { return t.groups(func(c CPU) int { return c.Package }) }

// Nodes returns the CPUs that are online by NUMA node.
func (t *Topology) Nodes() []Group { return t.groups(func(c CPU) int { return c.Node }) }

// groups returns them in order of number.
func (t *Topology) groups(by func(CPU) int) (groups []Group) {
	for i, c := range t.CPUs {
		if c.Offline {
			continue
		}
		at, found := slices.BinarySearchFunc(groups, by(c), func(g Group, id int) int { return g.ID - id })
		if !found {
			groups = slices.Insert(groups, at, Group{ID: by(c)})
		}
		groups[at].CPUs.Add(i)
	}
	return groups
}

// LastLevel returns the cache that the CPUs of an LLC are below, if it is known.
func (t *Topology) LastLevel(llc int) (last Cache, known bool) {
	for i, c := range t.CPUs {
		if c.LLC != llc || c.Offline {
			continue
		}
		for _, cache := range t.Caches {
			if cache.CPUs.Has(i) && cache.isLast(last) {
				last, known = cache, true
			}
		}
		break
	}
	return last, known
}

// isLast reports whether a cache can be a last-level cache, and is so rather
// than another.
func (c Cache) isLast(than Cache) bool {
	return c.Level >= 2 && c.Type != "instruction" && c.Level > than.Level
}

// Restrict returns the topology of some CPUs of the host, numbered anew in the
// order of the host's numbers. CPUs that were not known are added, each as a core
// of its own below an unknown cache that all of them share.
func (t *Topology) Restrict(hosts Set) *Topology {
	out := &Topology{Assumed: slices.Clone(t.Assumed)}
	var unknown Set
	hosts.All(func(host int) bool {
		if i := t.Index(host); i >= 0 {
			out.CPUs = append(out.CPUs, t.CPUs[i])
			return true
		}
		unknown.Add(host)
		// Negative numbers are nobody's yet.
		out.CPUs = append(out.CPUs, CPU{Host: host, Core: -1 - host, LLC: -1, Capacity: FullCapacity})
		return true
	})
	if !unknown.Empty() && t.Len() > 0 {
		out.Assumed = append(out.Assumed, fmt.Sprintf("nothing is known of CPUs %v: each is taken for a core", unknown))
	}
	out.renumber()
	for _, cache := range t.Caches {
		cache.CPUs = out.FromHost(t.ToHost(cache.CPUs))
		if !cache.CPUs.Empty() {
			out.Caches = append(out.Caches, cache)
		}
	}
	sortCaches(out.Caches)
	return out
}

// renumber gives cores and caches numbers from 0, in the order of CPUs.
func (t *Topology) renumber() {
	cores, llcs := make(map[int]int), make(map[int]int)
	number := func(of map[int]int, id int) int {
		n, known := of[id]
		if !known {
			n = len(of)
			of[id] = n
		}
		return n
	}
	for i := range t.CPUs {
		c := &t.CPUs[i]
		c.Core, c.LLC = number(cores, c.Core), number(llcs, c.LLC)
	}
}

func sortCaches(caches []Cache) {
	slices.SortStableFunc(caches, func(a, b Cache) int {
		if a.Level != b.Level {
			return a.Level - b.Level
		}
		if a.Type != b.Type {
			return strings.Compare(a.Type, b.Type)
		}
		return a.CPUs.Next(0) - b.CPUs.Next(0)
	})
}
