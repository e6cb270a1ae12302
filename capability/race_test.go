package capability

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
)

// TestRaces has many goroutines delegate, move, attenuate, attach, look and
// revoke at once, under leases that end in between, and holds them to this:
// what a Revoke that has returned took back is never live again for an
// operation that begins after it, and all doors of it have returned.
func TestRaces(t *testing.T) {
	end := ktime.Real.Now().Add(max(time.Second, soak(t)))
	for seed := uint64(1); !t.Failed() && ktime.Real.Now().Before(end); seed++ {
		newStorm(t, seed).run()
	}
}

// storm is one round.
type storm struct {
	t      *testing.T
	s      *Space
	seed   uint64
	replay replay

	mu    sync.Mutex
	nodes []*snode // +checklocks:mu
	doors []*sdoor // +checklocks:mu

	mirrors map[string]*mirror // of what Changed saw last
}

type snode struct {
	c *Capability
	// gone is set once a Revoke that took it has returned, or once somebody
	// has seen it dead.
	gone atomic.Bool
}

type sdoor struct {
	c            *Capability
	begun, ended atomic.Int32
}

func (d *sdoor) Revoke(c *Capability) {
	d.begun.Add(1)
	runtime.Gosched()
	if c.Live() {
		panic("told of the end of a capability that is live")
	}
	d.ended.Add(1)
}

type mirror struct {
	busy atomic.Bool
	last Effective // written by one call of Changed at a time
}

const stormHolders = 5

func newStorm(t *testing.T, seed uint64) *storm {
	st := &storm{t: t, seed: seed, mirrors: make(map[string]*mirror)}
	for i := range stormHolders {
		st.mirrors[fmt.Sprint("h", i)] = &mirror{}
	}
	st.replay.init()
	st.s = NewSpace(Options{Changed: st.changed, Audit: st.replay.take, MaxPerHolder: 60, MaxNodes: 250, MaxDepth: 8})
	for h := range st.mirrors {
		if err := st.s.AddHolder(h); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// changed reads what the holder can do, as the kernel does for its class mask.
func (st *storm) changed(h string) {
	m := st.mirrors[h]
	if !m.busy.CompareAndSwap(false, true) {
		st.t.Errorf("Changed(%s) is called while it runs", h)
	}
	e := st.s.Effective(h)
	runtime.Gosched()
	m.last = e
	m.busy.Store(false)
}

func (st *storm) run() {
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(st.seed, uint64(worker)))
			for range 150 {
				st.step(rng, worker)
			}
		})
	}
	wg.Wait()
	st.quiet()
	st.compare()
	for h := range st.mirrors {
		st.s.RevokeHolder(h, daemon, "end of the round")
	}
	for _, d := range st.doors { // +checklocksignore: the workers have ended.
		if d.begun.Load() != 1 || d.ended.Load() != 1 {
			st.t.Errorf("a door was told %d times and returned %d times, of one end", d.begun.Load(), d.ended.Load())
		}
	}
	if left := st.s.Tree(); len(left) != 0 {
		st.t.Errorf("%d capabilities outlive all their holders", len(left))
	}
	st.s.Close()
}

// quiet waits until no lease runs.
func (st *storm) quiet() {
	for _, c := range st.s.Tree() {
		for c.expiresEver() && st.exists(c) {
			time.Sleep(time.Millisecond)
		}
	}
}

// expiresEver reports whether a lease will end c.
func (c *Capability) expiresEver() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.expiry != forever
}

func (st *storm) exists(c *Capability) bool {
	_, err := st.s.ByID(c.ID())
	return err == nil
}

// compare checks what was told against what is.
func (st *storm) compare() {
	// A batch that the timer began may still be telling: a Revoke of
	// everything's parents would wait for it, a look at the tree does not.
	st.s.mu.Lock()
	var active []*batch
	for b := range st.s.active {
		active = append(active, b)
	}
	st.s.mu.Unlock()
	for _, b := range active {
		<-b.done
	}
	for h, m := range st.mirrors {
		if e := st.s.Effective(h); !reflect.DeepEqual(e, m.last) {
			st.t.Errorf("Changed(%s) saw last\n%+v, it can\n%+v", h, m.last, e)
		}
	}
	var ids []ID
	for _, c := range st.s.Tree() {
		ids = append(ids, c.ID())
	}
	slices.Sort(ids)
	if replayed := st.replay.ids(); !slices.Equal(replayed, ids) {
		st.t.Errorf("the trail leads to %d capabilities, there are %d", len(replayed), len(ids))
	}
	for _, text := range st.replay.wrong {
		st.t.Error(text)
	}
}

func (st *storm) pick(rng *rand.Rand) *snode {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.nodes) == 0 {
		return nil
	}
	// The younger ones are more often alive.
	return st.nodes[len(st.nodes)-1-rng.IntN(min(len(st.nodes), 60))]
}

func (st *storm) add(c *Capability) {
	st.mu.Lock()
	st.nodes = append(st.nodes, &snode{c: c})
	st.mu.Unlock()
}

func (st *storm) step(rng *rand.Rand, worker int) {
	n := st.pick(rng)
	if n == nil || rng.IntN(12) == 0 {
		spec := Spec{Object: Object{abi.ClassFS, "/"}, Rights: abi.ClassFS.All(), Limits: Limits{Bytes: 1 << 20}}
		if rng.IntN(3) == 0 {
			spec.Lease = time.Duration(rng.IntN(3000)+1) * time.Microsecond
		}
		if c, err := st.s.Mint(fmt.Sprint("h", rng.IntN(stormHolders)), spec, daemon); err == nil {
			st.add(c)
		}
		return
	}
	gone := n.gone.Load() // before the operation begins
	ok := false
	switch op := rng.IntN(20); {
	case op < 8:
		ok = st.delegate(rng, n)
	case op < 12:
		ok = st.attach(n)
	case op < 14:
		ok = n.c.Live()
		if !ok {
			n.gone.Store(true)
		}
	case op < 15:
		_, err := st.s.Lookup(n.c.Holder(), n.c.Handle())
		ok = err == nil
	case op < 16:
		_, err := st.s.Attenuate(n.c, Change{Limits: &Limits{Bytes: uint64(rng.IntN(1 << 20))}}, daemon)
		ok = err == nil
	case op < 18 || worker > 0:
		st.revoke(n)
	default:
		st.s.RevokeHolder(n.c.Holder(), daemon, "all")
	}
	if gone && ok {
		st.t.Errorf("round %d: something was done with a capability after its end", st.seed)
	}
}

func (st *storm) delegate(rng *rand.Rand, n *snode) bool {
	ch := Change{Limits: &Limits{Bytes: uint64(rng.IntN(4096) + 1)}}
	if rng.IntN(4) == 0 {
		ch.Lease = ptr(time.Duration(rng.IntN(2000)+1) * time.Microsecond)
	}
	c, err := st.s.Delegate(n.c, fmt.Sprint("h", rng.IntN(stormHolders)), ch, rng.IntN(5) == 0, Actor{Name: n.c.Holder()})
	if err == nil {
		st.add(c)
	}
	return err == nil
}

func (st *storm) attach(n *snode) bool {
	d := &sdoor{c: n.c}
	if !n.c.Attach(d) {
		return false
	}
	st.mu.Lock()
	st.doors = append(st.doors, d)
	st.mu.Unlock()
	return true
}

// revoke takes n back and looks at everything below it.
func (st *storm) revoke(n *snode) {
	if _, err := st.s.Revoke(n.c, true, daemon, "storm"); err != nil {
		st.t.Error(err)
	}
	n.gone.Store(true)
	st.mu.Lock()
	nodes, doors := slices.Clone(st.nodes), slices.Clone(st.doors)
	st.mu.Unlock()
	for _, o := range nodes {
		if under(o.c, n.c) {
			if o.c.Live() || o.c.Err() == nil {
				st.t.Errorf("round %d: live below what was revoked", st.seed)
			}
			o.gone.Store(true)
		}
	}
	for _, d := range doors {
		if under(d.c, n.c) && d.ended.Load() != 1 {
			st.t.Errorf("round %d: Revoke returned before a door did", st.seed)
		}
	}
}

func under(c, top *Capability) bool {
	for ; c != nil; c = c.Parent() {
		if c == top {
			return true
		}
	}
	return false
}

// replay works out from the trail alone what there is.
type replay struct {
	parent map[ID]ID
	moved  map[ID]bool
	wrong  []string
}

func (r *replay) init() { r.parent, r.moved = make(map[ID]ID), make(map[ID]bool) }

func (r *replay) ids() []ID {
	var out []ID
	for id := range r.parent {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// take is Options.Audit, which is never called twice at a time.
func (r *replay) take(rec Record) {
	switch rec.Op {
	case OpMint, OpDelegate:
		if _, known := r.parent[rec.Parent]; !known && rec.Op == OpDelegate {
			r.wrong = append(r.wrong, "derived, by the trail, from what has ended")
		}
		r.parent[rec.Cap] = rec.Parent
		if rec.Reason == "moved" {
			r.moved[rec.Parent] = true
		}
	case OpRevoke, OpExpire:
		if n := r.end(rec.Cap); n != rec.Count {
			r.wrong = append(r.wrong, fmt.Sprintf("%s says that %d ended, by the trail it is %d", rec.Op, rec.Count, n))
		}
	}
}

// end removes what ends with id.
func (r *replay) end(id ID) uint64 {
	up := r.parent[id]
	n := r.fell(id)
	for r.moved[up] && !r.hasChildren(up) {
		top := up
		up = r.parent[top]
		n += r.fell(top)
	}
	return n
}

func (r *replay) fell(id ID) uint64 {
	if _, known := r.parent[id]; !known {
		return 0
	}
	delete(r.parent, id)
	delete(r.moved, id)
	n := uint64(1)
	for child, p := range r.parent {
		if p == id {
			n += r.fell(child)
		}
	}
	return n
}

func (r *replay) hasChildren(id ID) bool {
	for _, p := range r.parent {
		if p == id {
			return true
		}
	}
	return false
}
