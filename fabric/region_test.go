package fabric

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/hostarch"
	"lukechampine.com/blake3"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

func TestSamePages(t *testing.T) {
	w := newWorld(t)
	r := w.region(Spec{Name: "table", Owner: alice, Size: 3<<20 + 1})
	if r.Size() != 3<<20+4096 {
		t.Errorf("the size is %d", r.Size())
	}
	a, b := w.memory(), w.memory()
	va, vb := w.view(r, alice, "all"), w.view(r, bob, "read")
	pa, pb := a.mmap(va, hostarch.ReadWrite), b.mmap(vb, hostarch.Read)
	for _, off := range []hostarch.Addr{0, 4095, 65535, 2<<20 - 3, 3 << 20} {
		text := fmt.Appendf(nil, "at %d", off)
		must(t, a.write(pa+off, text))
		got, err := b.read(pb+off, len(text))
		must(t, err)
		if !bytes.Equal(got, text) {
			t.Errorf("at %d bob reads %q, alice wrote %q", off, got, text)
		}
	}
	if va.Mapped() != r.Size() || r.Info().Mapped != 2*r.Size() {
		t.Errorf("mapped: %d, %d", va.Mapped(), r.Info().Mapped)
	}
	if err := b.write(pb, []byte("x")); err == nil {
		t.Error("bob wrote with the right to read")
	}
	w.revoke(vb)
	if _, err := b.read(pb, 1); err == nil {
		t.Error("bob reads what was taken back")
	}
	if w.lost != 1 {
		t.Errorf("told of %d losses", w.lost)
	}
	must(t, a.write(pa, []byte("still")))
	w.store.Remove(r)
	if _, err := a.read(pa, 1); err == nil {
		t.Error("alice reads what was removed")
	}
	if w.charged[alice] != 0 {
		t.Errorf("%d bytes are charged still", w.charged[alice])
	}
}

func TestLeaseEnds(t *testing.T) {
	w := newWorld(t)
	r := w.region(Spec{Name: "table", Size: 4096})
	m := w.memory()
	v := w.view(r, bob, "read+write,lease=10s")
	at := m.mmap(v, hostarch.ReadWrite)
	must(t, m.write(at, []byte("x")))
	w.clock.Advance(9 * time.Second)
	must(t, m.write(at, []byte("y")))
	w.clock.Advance(2 * time.Second)
	if err := m.write(at, []byte("z")); err == nil {
		t.Error("written after the end of the lease")
	}
	wantCode(t, v.Err(abi.RegionRead), errdefs.LeaseExpired)
	if got := make([]byte, 1); true {
		_, err := r.ReadAt(got, 0)
		must(t, err)
		if got[0] != 'y' {
			t.Errorf("it holds %q", got)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.limit = 1 << 30
	for _, c := range []struct {
		spec Spec
		code errdefs.Code
	}{
		{Spec{Name: "", Size: 1}, errdefs.InvalidArgument},
		{Spec{Name: "../etc", Size: 1}, errdefs.InvalidArgument},
		{Spec{Name: "a/b", Size: 1}, errdefs.InvalidArgument},
		{Spec{Name: "zero"}, errdefs.InvalidArgument},
		{Spec{Name: "huge", Size: 1<<64 - 1}, errdefs.InvalidArgument},
		{Spec{Name: "huge", Size: 1<<64 - 4096}, errdefs.InvalidArgument},
		{Spec{Name: "huge", Size: MaxSize + 1}, errdefs.InvalidArgument},
		{Spec{Name: "large", Size: 1<<30 + 1}, errdefs.BudgetExhausted},
		{Spec{Name: "label", Size: 1, Labels: []string{"a=b=c"}}, errdefs.InvalidArgument},
		{Spec{Name: "keep", Size: 1, Keep: -1}, errdefs.InvalidArgument},
	} {
		_, err := w.store.Create(c.spec)
		wantCode(t, err, c.code)
	}
	w.region(Spec{Name: "table", Size: 1})
	_, err := w.store.Create(Spec{Name: "table", Size: 1})
	wantCode(t, err, errdefs.AlreadyExists)
	if _, err := w.store.Lookup("huge"); err == nil {
		t.Error("a region that was refused is there")
	}
	if n := w.charged[""]; n != 4096 {
		t.Errorf("%d bytes are charged", n)
	}
}

// TestAddressesFollowFromNames: the same region is at the same address in every domain,
// whatever is made before it; what is in the way is not.
func TestAddressesFollowFromNames(t *testing.T) {
	specs := []Spec{{Name: "a", Size: 4096, Fixed: true}, {Name: "b", Size: 5 << 20, Fixed: true}, {Name: "c", Size: 4096, Fixed: true}}
	at := make(map[string]uint64)
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1}} {
		w := newWorld(t)
		for _, i := range order {
			r := w.region(specs[i])
			if r.Addr() < WindowStart || r.Addr()+r.Size() > WindowEnd || r.Addr()%windowAlign != 0 {
				t.Errorf("%s is at %#x", r.Name(), r.Addr())
			}
			if was := at[r.Name()]; was != 0 && was != r.Addr() {
				t.Errorf("%s is at %#x and at %#x", r.Name(), was, r.Addr())
			}
			at[r.Name()] = r.Addr()
		}
	}
	if at["a"] == at["c"] {
		t.Errorf("both at %#x", at["a"])
	}
}

func TestWindow(t *testing.T) {
	var w window
	take := func(name string, size, want uint64) {
		t.Helper()
		if got, err := w.take(name, size); err != nil || got != want {
			t.Errorf("%s is at %#x, %v, want %#x", name, got, err, want)
		}
	}
	at := placeOf("x", 5<<20)
	take("x", 5<<20, at)
	take("x", 5<<20, WindowStart)
	take("x", 1<<20, placeOf("x", 1<<20)) // Of another size it is elsewhere.
	for _, taken := range []uint64{at, at + windowAlign, at - windowAlign, WindowStart - windowAlign, WindowEnd, WindowEnd - windowAlign, WindowStart + 1<<30 + 4096, 0} {
		if w.takeAt(taken, 1<<20) {
			t.Errorf("%#x was free", taken)
		}
	}
	if length := uint64(8 << 20); !w.takeAt(at-windowLength(1<<20), 1<<20) || !w.takeAt(at+length, 1<<20) {
		t.Error("what is beside it is taken")
	}
	w.give(at)
	take("x", 5<<20, at)

	// All there is, in parts of 1 TiB less a gap: no two overlap, and then there is no more.
	w = window{}
	n := 0
	for ; n < 20; n++ {
		if _, err := w.take(fmt.Sprint(n), MaxSize-windowAlign); err != nil {
			wantCode(t, err, errdefs.MemoryLimit)
			break
		}
	}
	for i, s := range w.taken {
		if s.end > WindowEnd || i > 0 && s.start < w.taken[i-1].end {
			t.Errorf("%x", w.taken)
		}
	}
	if n < 8 || n > 16 {
		t.Errorf("%d of them have room", n)
	}
}

func TestBarred(t *testing.T) {
	w := newWorld(t)
	r := w.region(Spec{Name: "keys", Size: 4096, Labels: []string{"secret", "origin=vault"}})
	wantCode(t, r.MayReach(bob, true), errdefs.LabelDenied)
	must(t, r.MayReach(bob, false))
	m, v := w.memory(), w.view(r, bob, "read")
	at := m.mmap(v, hostarch.Read)
	_, err := m.read(at, 1)
	must(t, err)
	v.Bar(true)
	if _, err := m.read(at, 1); err == nil {
		t.Error("read while it is barred")
	}
	wantCode(t, v.Err(abi.RegionRead), errdefs.LabelDenied)
	v.Bar(false)
	_, err = m.read(at, 1)
	must(t, err)
}

func TestSeal(t *testing.T) {
	w := newWorld(t)
	var digests []Digest
	for _, name := range []string{"one", "two"} {
		r := w.region(Spec{Name: name, Size: 1 << 20})
		m, v := w.memory(), w.view(r, alice, "all")
		at := m.mmap(v, hostarch.ReadWrite)
		must(t, m.write(at+100, []byte("the same")))
		d, err := r.Seal()
		must(t, err)
		digests = append(digests, d)
		if err := m.write(at+100, []byte("other")); err == nil {
			t.Error("what is sealed was written")
		}
		_, err = r.WriteAt([]byte("other"), 0)
		wantCode(t, err, errdefs.RegionSealed)
		wantCode(t, r.Rollback(1), errdefs.RegionSealed)
		if got, err := m.read(at+100, 8); err != nil || string(got) != "the same" {
			t.Errorf("it holds %q, %v", got, err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the same contents have the digests %v and %v", digests[0], digests[1])
	}
	whole := make([]byte, 1<<20)
	copy(whole[100:], "the same")
	if want := Digest(blake3.Sum256(whole)); digests[0] != want {
		t.Errorf("the digest is %v, not %v", digests[0], want)
	}
}

// model is what a region ought to hold.
type model struct {
	r        *Region
	now      []byte
	versions map[int][]byte
	mems     []memory
	addrs    []hostarch.Addr
}

// TestModel does at random what can be done to regions, through three memories
// each, and looks whether all hold what they should.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, seed) })
	}
}

func runModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	var all []*model
	add := func(r *Region, now []byte) {
		m := &model{r: r, now: now, versions: map[int][]byte{}}
		for i := range 3 {
			mem := w.memory()
			m.mems = append(m.mems, mem)
			m.addrs = append(m.addrs, mem.mmap(w.view(r, []string{alice, bob, alice}[i], "all"), hostarch.ReadWrite))
		}
		all = append(all, m)
	}
	size := 5<<20 + uint64(rnd.IntN(40))*4096
	r := w.region(Spec{Name: "r0", Owner: alice, Size: size})
	add(r, make([]byte, r.Size()))
	for step := range 400 {
		m := all[rnd.IntN(len(all))]
		i := rnd.IntN(3)
		off := rnd.IntN(len(m.now) - 200)
		n := 1 + rnd.IntN(200)
		switch op := rnd.IntN(100); {
		case op < 50:
			text := make([]byte, n)
			for k := range text {
				text[k] = byte(rnd.Uint32())
			}
			must(t, m.mems[i].write(m.addrs[i]+hostarch.Addr(off), text))
			copy(m.now[off:], text)
		case op < 75:
			got, err := m.mems[i].read(m.addrs[i]+hostarch.Addr(off), n)
			must(t, err)
			if !bytes.Equal(got, m.now[off:off+n]) {
				t.Fatalf("step %d: %s holds something else at %#x", step, m.r.Name(), off)
			}
		case op < 85:
			v, err := m.r.Snapshot("")
			must(t, err)
			m.versions[v.Number] = bytes.Clone(m.now)
		case op < 90:
			for num, was := range m.versions {
				if rnd.IntN(2) == 0 {
					must(t, m.r.Rollback(num))
					m.now = bytes.Clone(was)
				} else {
					must(t, m.r.RemoveVersion(num))
					delete(m.versions, num)
				}
				break
			}
		case op < 93 && len(all) < 5:
			for num, was := range m.versions {
				f, err := m.r.Fork(num, Spec{Name: fmt.Sprintf("r%d.%d", len(all), step), Owner: bob})
				must(t, err)
				add(f, bytes.Clone(was))
				break
			}
		case op < 94 && len(all) > 1:
			w.store.Remove(m.r)
			for k := range all {
				if all[k] == m {
					all = append(all[:k:k], all[k+1:]...)
					break
				}
			}
		case op < 97:
			for num, was := range m.versions {
				spans, total, err := m.r.Diff(num, 0, 1<<20)
				must(t, err)
				var want, sum uint64
				for p := 0; p < len(was); p += 4096 {
					if !bytes.Equal(was[p:p+4096], m.now[p:p+4096]) {
						want += 4096
					}
				}
				for _, s := range spans {
					sum += s.End - s.Start
				}
				if total != want || sum != want {
					t.Fatalf("step %d: %d bytes differ, in spans %d, not %d", step, total, sum, want)
				}
				break
			}
		default:
			for num, was := range m.versions {
				got := make([]byte, n)
				_, err := m.r.ReadVersion(num, got, uint64(off))
				must(t, err)
				if !bytes.Equal(got, was[off:off+n]) {
					t.Fatalf("step %d: version %d of %s holds something else at %#x", step, num, m.r.Name(), off)
				}
				break
			}
		}
	}
	for _, m := range all {
		got := make([]byte, len(m.now))
		_, err := m.r.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, m.now) {
			t.Errorf("%s holds something else at the end", m.r.Name())
		}
		w.store.Remove(m.r)
	}
	if w.charged[alice] != 0 || w.charged[bob] != 0 {
		t.Errorf("charged at the end: %v", w.charged)
	}
}
