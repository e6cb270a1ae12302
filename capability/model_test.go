package capability

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"aios.dev/aios/abi"
)

// The model is the same authority in the plainest words: nodes that point to
// their parents, everything worked out anew from them whenever it is asked.

type mnode struct {
	real   *Capability
	parent *mnode
	holder string // "" in another domain
	spec   Spec
	own    time.Duration // when its own lease ends, 0 for none
	moved  bool
	dead   bool
	door   *counter
}

type counter struct{ calls int }

func (d *counter) Revoke(*Capability) { d.calls++ }

type model struct {
	now     time.Duration
	nodes   []*mnode // every one there ever was, the oldest first
	holders []string

	maxNodes, maxHolder, maxDepth int
}

func (m *model) alive() []*mnode {
	return slices.DeleteFunc(slices.Clone(m.nodes), func(n *mnode) bool { return n.dead })
}

func (m *model) children(p *mnode) []*mnode {
	return slices.DeleteFunc(m.alive(), func(n *mnode) bool { return n.parent != p })
}

func (m *model) table(holder string) []*mnode {
	return slices.DeleteFunc(m.alive(), func(n *mnode) bool { return n.holder != holder || n.moved })
}

func (n *mnode) depth() int {
	d := 0
	for p := n.parent; p != nil; p = p.parent {
		d++
	}
	return d
}

// expiry is the earliest end of a lease from n to its root, 0 for none.
func (n *mnode) expiry() time.Duration {
	var end time.Duration
	for p := n; p != nil; p = p.parent {
		if p.own != 0 && (end == 0 || p.own < end) {
			end = p.own
		}
	}
	return end
}

func (m *model) live(n *mnode) bool {
	return !n.dead && !n.moved && (n.expiry() == 0 || m.now < n.expiry())
}

func (m *model) holds(who string, n *mnode) bool { return n.holder == who && m.live(n) }

func (m *model) gave(who string, n *mnode) bool {
	for p := n.parent; p != nil; p = p.parent {
		if m.holds(who, p) {
			return true
		}
	}
	return false
}

// left is what n has of a limit beyond what its children have.
func (m *model) left(n *mnode, k Kind) uint64 {
	left := n.spec.Limits.Get(k)
	if k.Divisible() {
		for _, c := range m.children(n) {
			left -= c.spec.Limits.Get(k)
		}
	}
	return left
}

// narrowed applies to spec what a Change says apart from limits and lease.
func narrowed(spec Spec, ch Change, holder string) (Spec, bool) {
	if ch.Object != nil {
		ch.Object = ptr(ofHolder(spec.Object.Class, *ch.Object, holder))
	}
	if ch.Object != nil && *ch.Object != spec.Object.Name {
		old := spec.Object.Name
		if !covers(spec.Object.Class, old, *ch.Object) {
			return spec, false
		}
		if spec.At != "" {
			spec.At = "/" + strings.Trim(spec.At+"/"+strings.TrimPrefix(*ch.Object, strings.TrimSuffix(old, "/")), "/")
			spec.At = strings.ReplaceAll(spec.At, "//", "/")
		}
		spec.Object.Name = *ch.Object
	}
	if ch.Rights != nil {
		if *ch.Rights&^spec.Rights != 0 || *ch.Rights == 0 {
			return spec, false
		}
		spec.Rights = *ch.Rights
	}
	if ch.At != nil {
		if spec.Object.Class != abi.ClassFS {
			return spec, false
		}
		spec.At = *ch.At
	}
	if spec.At == spec.Object.Name {
		spec.At = ""
	}
	if ch.Badge != nil {
		if spec.Badge != 0 && spec.Badge != *ch.Badge {
			return spec, false
		}
		spec.Badge = *ch.Badge
	}
	spec.Sealed = spec.Sealed || ch.Sealed
	return spec, true
}

// covers asks of every object there is whether what b reaches a reaches.
func covers(class abi.Class, a, b string) bool {
	switch class {
	case abi.ClassFS:
		return strings.HasPrefix(strings.TrimSuffix(b, "/")+"/", strings.TrimSuffix(a, "/")+"/")
	case abi.ClassEvent:
		for _, topic := range []string{"x", "a", "a.b", "a.x", "a.b.c", "a.b.x.y"} {
			_, whose, _ := strings.Cut(b, "@")
			for _, agent := range []string{whose, "somebody"} {
				if matches(b, topic, agent) && !matches(a, topic, agent) {
					return false
				}
			}
		}
		return true
	}
	return a == b || a == "*"
}

// ofHolder is what an object means that its holder names.
func ofHolder(class abi.Class, name, holder string) string {
	if class == abi.ClassEvent && holder != "" {
		return strings.ReplaceAll(name, "@self", "@"+holder)
	}
	return name
}

// matches reports whether an event of a topic and an agent is one that an object
// of class event is about.
func matches(object, topic, agent string) bool {
	pattern, whose, one := strings.Cut(object, "@")
	if one && whose != agent {
		return false
	}
	if pattern == "*" {
		return true
	}
	if stem, ok := strings.CutSuffix(pattern, ".*"); ok {
		return strings.HasPrefix(topic, stem+".")
	}
	return pattern == topic
}

// spendsIn says which rights use up the limits of a class.
func spendsIn(s Spec) bool {
	switch s.Object.Class {
	case abi.ClassFS:
		return s.Rights&(abi.FSWrite|abi.FSCreate) != 0
	case abi.ClassMem:
		return s.Rights&abi.MemMap != 0
	case abi.ClassProc:
		return s.Rights&abi.ProcSpawn != 0
	case abi.ClassCPU, abi.ClassIO:
		return true
	}
	return false
}

// kindsOf are the limits of a class.
func kindsOf(c abi.Class) []Kind {
	return map[abi.Class][]Kind{
		abi.ClassFS:   {KindBytes, KindCount},
		abi.ClassMem:  {KindBytes, KindCount, KindSwap},
		abi.ClassCPU:  {KindMilliCPU, KindWeight, KindPeriod, KindBurst, KindReserve, KindEvery, KindPriority, KindIdle},
		abi.ClassIO:   {KindBytesPerSec, KindOpsPerSec},
		abi.ClassProc: {KindCount},
	}[c]
}

// hasRoom reports whether one more node below parent, for a holder, is within
// the bounds.
func (m *model) hasRoom(parent *mnode, holder string, by Actor) bool {
	nodes, held, given := m.maxNodes, m.maxHolder, 0
	if !by.Privileged {
		nodes -= nodes / 8
		if holder != by.Name {
			held -= held / 8
		}
	}
	if len(m.alive()) >= nodes || holder != "" && len(m.table(holder)) >= held {
		return false
	}
	if parent == nil {
		return true
	}
	for _, n := range m.alive() {
		if n.parent != nil && n.parent.holder == parent.holder {
			given++
		}
	}
	return parent.depth() < m.maxDepth && (by.Privileged || parent.holder == "" || given < m.maxHolder)
}

// delegate predicts what Delegate does; nil if it refuses.
func (m *model) delegate(p *mnode, to string, ch Change, move bool, by Actor) *mnode {
	if !m.live(p) || !by.Privileged && p.holder != by.Name || p.spec.Sealed {
		return nil
	}
	spec, ok := narrowed(p.spec, ch, p.holder)
	if !ok {
		return nil
	}
	limits := Limits{}
	for _, k := range kindsOf(spec.Object.Class) {
		v := uint64(0)
		if ch.Limits != nil {
			v = ch.Limits.Get(k)
		}
		if own := p.spec.Limits.Get(k); own != 0 {
			left := m.left(p, k)
			switch {
			case !k.Divisible() && v == 0:
				v = own
			case v == 0 && spendsIn(spec) && k == KindSwap: // One can do without.
				if ch.Limits == nil {
					v = left
				}
			case v == 0 && spendsIn(spec):
				if v = left; ch.Limits != nil || left == 0 {
					return nil
				}
			}
			if v > left {
				return nil
			}
		} else if v > usual(k) {
			return nil
		}
		limits.Set(k, v)
	}
	if ch.Limits != nil && !only(*ch.Limits, spec.Object.Class) || !m.hasRoom(p, to, by) {
		return nil
	}
	n := &mnode{parent: p, holder: to, spec: spec}
	n.spec.Limits, n.spec.Lease = limits, 0
	if ch.Lease != nil && *ch.Lease != 0 {
		n.own, n.spec.Lease = m.now+*ch.Lease, *ch.Lease
	}
	p.moved = p.moved || move
	m.nodes = append(m.nodes, n)
	return n
}

// usual is what somebody has of a limit that nothing is said about.
func usual(k Kind) uint64 {
	switch k {
	case KindWeight:
		return 100
	case KindPriority:
		return 20
	case KindReserve, KindBurst, KindSwap:
		return 0
	}
	return math.MaxUint64
}

// only reports whether l has no limits but those of a class.
func only(l Limits, c abi.Class) bool {
	for _, k := range kindsOf(c) {
		l.Set(k, 0)
	}
	return l == Limits{}
}

// attenuate predicts what Attenuate does; false if it refuses.
func (m *model) attenuate(n *mnode, ch Change, by Actor) bool {
	if !m.live(n) || !by.Privileged && n.holder != by.Name || ch.At != nil {
		return false
	}
	spec, ok := narrowed(n.spec, ch, n.holder)
	if !ok {
		return false
	}
	lease := ch.Lease != nil && *ch.Lease != 0
	if lease && n.expiry() != 0 && m.now+*ch.Lease > n.expiry() {
		return false
	}
	if ch.Limits != nil {
		for k := range Kind(kinds) {
			v, old := ch.Limits.Get(k), n.spec.Limits.Get(k)
			if v == 0 {
				continue
			}
			if old == 0 && v > usual(k) || old != 0 && v > old || old == 0 && n.parent != nil && n.parent.spec.Limits.Get(k) != 0 && v > m.left(n.parent, k) {
				return false
			}
			spec.Limits.Set(k, v)
		}
		if !only(spec.Limits, spec.Object.Class) {
			return false
		}
	}
	sums := Limits{}
	for _, c := range m.children(n) {
		if c.spec.Rights&^spec.Rights != 0 || !covers(spec.Object.Class, spec.Object.Name, c.spec.Object.Name) ||
			spec.Badge != 0 && c.spec.Badge != spec.Badge {
			return false
		}
		for k := range Kind(kinds) {
			limit, part := spec.Limits.Get(k), c.spec.Limits.Get(k)
			if limit == 0 && part > usual(k) || limit != 0 && (part > limit || part == 0 && k != KindSwap && (spendsIn(c.spec) || !k.Divisible())) {
				return false
			}
			if sums.Set(k, sums.Get(k)+part); limit != 0 && k.Divisible() && sums.Get(k) > limit {
				return false
			}
		}
	}
	n.spec = spec
	if lease {
		n.own, n.spec.Lease = m.now+*ch.Lease, *ch.Lease
	}
	return true
}

// kill ends n and what is below it, and parents that were moved away and have
// nothing left below.
func (m *model) kill(n *mnode) {
	if n.dead {
		return
	}
	n.dead = true
	for _, c := range m.children(n) {
		m.kill(c)
	}
	if p := n.parent; p != nil && p.moved && !p.dead && len(m.children(p)) == 0 {
		m.kill(p)
	}
}

// expire ends what has outlived its lease.
func (m *model) expire() {
	for _, n := range m.alive() {
		if n.expiry() != 0 && n.expiry() <= m.now {
			m.kill(n)
		}
	}
}

// effective adds up what a holder has.
func (m *model) effective(holder string) Effective {
	out := make(Effective)
	for _, n := range m.table(holder) {
		if !m.live(n) {
			continue
		}
		a, known := out[n.spec.Object.Class]
		if !known {
			a.limited = 1<<kinds - 1
		}
		a.Rights |= n.spec.Rights
		at := slices.IndexFunc(a.Objects, func(o ObjectRights) bool { return o.Object == n.spec.Object })
		if at < 0 {
			a.Objects = append(a.Objects, ObjectRights{n.spec.Object, n.spec.Rights})
		} else {
			a.Objects[at].Rights |= n.spec.Rights
		}
		out[n.spec.Object.Class] = a
	}
	for class, a := range out {
		slices.SortFunc(a.Objects, func(x, y ObjectRights) int { return strings.Compare(x.Object.Name, y.Object.Name) })
		a.limited = 0
		for _, k := range kindsOf(class) {
			a.sum(m, holder, class, k)
		}
		out[class] = a
	}
	return out
}

func (a *Authority) sum(m *model, holder string, class abi.Class, k Kind) {
	var sum uint64
	any := false
	for _, n := range m.table(holder) {
		if n.spec.Object.Class != class || !m.live(n) || !spendsIn(n.spec) {
			continue
		}
		if n.spec.Limits.Get(k) == 0 && k == KindSwap {
			continue
		}
		if n.spec.Limits.Get(k) == 0 {
			return
		}
		any = true
		if left := m.left(n, k); !k.Divisible() {
			sum = max(sum, left)
		} else {
			sum += left
		}
	}
	if any {
		a.Limits.Set(k, sum)
		a.limited |= 1 << k
	}
}

func (n *mnode) String() string {
	return fmt.Sprintf("%s of %q: %s moved=%v dead=%v", n.real.ID(), n.holder, n.spec, n.moved, n.dead)
}
