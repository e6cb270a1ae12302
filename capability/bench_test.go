package capability

import (
	"fmt"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
)

func benchSpace(b *testing.B, holders int) *Space {
	b.Helper()
	s := NewSpace(Options{Clock: ktime.Real, Audit: func(Record) {}, Changed: func(string) {}, MaxPerHolder: 1 << 30, MaxNodes: 1 << 30})
	for i := range holders {
		if err := s.AddHolder(fmt.Sprint("h", i)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func benchMint(b *testing.B, s *Space, text string) *Capability {
	b.Helper()
	spec, err := ParseSpec(text)
	if err != nil {
		b.Fatal(err)
	}
	c, err := s.Mint("h0", spec, daemon)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkLive(b *testing.B) {
	c := benchMint(b, benchSpace(b, 1), "fs:/work:rw")
	b.ReportAllocs()
	for b.Loop() {
		if !c.Live() {
			b.Fatal("dead")
		}
	}
}

func BenchmarkLiveLeased(b *testing.B) {
	c := benchMint(b, benchSpace(b, 1), "fs:/work:rw,lease=100h")
	b.ReportAllocs()
	for b.Loop() {
		if !c.Live() {
			b.Fatal("dead")
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	s := benchSpace(b, 1)
	c := benchMint(b, s, "fs:/work:rw")
	b.ReportAllocs()
	for b.Loop() {
		if got, err := s.Lookup("h0", c.Handle()); got != c || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMint(b *testing.B) {
	s := benchSpace(b, 1)
	spec := Spec{Object: Object{abi.ClassFS, "/work"}, Rights: abi.ClassFS.All()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Mint("h0", spec, daemon); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDelegate(b *testing.B) {
	s := benchSpace(b, 2)
	c := benchMint(b, s, "fs:/work:rw,quota=1P")
	change := Change{Object: ptr("/work/sub"), Limits: &Limits{Bytes: 4096}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Delegate(c, "h1", change, false, Actor{Name: "h0"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDelegateLeased(b *testing.B) {
	s := benchSpace(b, 2)
	c := benchMint(b, s, "fs:/work:rw")
	change := Change{Lease: ptr(time.Hour)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Delegate(c, "h1", change, false, Actor{Name: "h0"}); err != nil {
			b.Fatal(err)
		}
	}
}

type nothing struct{ told int }

func (d *nothing) Revoke(*Capability) { d.told++ }

// BenchmarkRevokeOne ends one capability with 110 doors: 100 files, 10
// mappings.
func BenchmarkRevokeOne(b *testing.B) {
	s := benchSpace(b, 1)
	doors := make([]nothing, 110)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c := benchMint(b, s, "fs:/work:rw")
		for i := range doors {
			c.Attach(&doors[i])
		}
		b.StartTimer()
		if _, err := s.Revoke(c, true, daemon, "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

// plant derives a tree of so many nodes over so many holders, each node with
// up to ten children.
func plant(b *testing.B, s *Space, nodes, holders int, text string) *Capability {
	b.Helper()
	root := benchMint(b, s, text)
	all := []*Capability{root}
	for i := 1; i < nodes; i++ {
		n, err := s.Delegate(all[(i-1)/10], fmt.Sprint("h", i%holders), Change{}, false, daemon)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, n)
	}
	return root
}

func benchRevokeTree(b *testing.B, text string) {
	const nodes, holders = 10000, 1000
	s := benchSpace(b, holders)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		root := plant(b, s, nodes, holders, text)
		b.StartTimer()
		if dead, err := s.Revoke(root, true, daemon, "bench"); len(dead) != nodes || err != nil {
			b.Fatal(len(dead), err)
		}
	}
}

func BenchmarkRevokeTree10000(b *testing.B) { benchRevokeTree(b, "fs:/work:ro") }

func BenchmarkRevokeTree10000Leased(b *testing.B) { benchRevokeTree(b, "fs:/work:ro,lease=100h") }

// BenchmarkOthersDuringRevoke looks up and asks on behalf of one that has
// nothing to do with a tree of 10,000 nodes which is revoked meanwhile, and
// reports what of that took longest.
func BenchmarkOthersDuringRevoke(b *testing.B) {
	const nodes, holders = 10000, 1000
	s := benchSpace(b, holders+1)
	other, err := s.Mint(fmt.Sprint("h", holders), Spec{Object: Object{abi.ClassSvc, "*"}, Rights: abi.SvcConnect}, daemon)
	if err != nil {
		b.Fatal(err)
	}
	var during, longest time.Duration
	asked := 0
	for b.Loop() {
		b.StopTimer()
		root := plant(b, s, nodes, holders, "fs:/work:ro")
		done := make(chan struct{})
		b.StartTimer()
		begin := ktime.Real.Now()
		go func() {
			defer close(done)
			if _, err := s.Revoke(root, true, daemon, "bench"); err != nil {
				b.Error(err)
			}
		}()
		for last := begin; ; asked++ {
			c, err := s.Lookup(other.Holder(), other.Handle())
			if err != nil || !c.Live() {
				b.Fatal(err)
			}
			now := ktime.Real.Now()
			longest = max(longest, now.Sub(last))
			last = now
			select {
			case <-done:
			default:
				continue
			}
			break
		}
		during += ktime.Real.Since(begin)
	}
	b.ReportMetric(float64(during.Nanoseconds())/float64(asked), "ns/question")
	b.ReportMetric(float64(longest.Microseconds()), "longest-µs")
}

// BenchmarkEffective adds up a table of a hundred after each change.
func BenchmarkEffective(b *testing.B) {
	s := benchSpace(b, 1)
	for i := range 100 {
		benchMint(b, s, fmt.Sprintf("fs:/work/%d:rw,quota=1G", i))
	}
	t := s.holder("h0")
	b.ReportAllocs()
	for b.Loop() {
		t.version.Add(1)
		if len(s.Effective("h0")) != 1 {
			b.Fatal("nothing")
		}
	}
}

func BenchmarkEffectiveCached(b *testing.B) {
	s := benchSpace(b, 1)
	benchMint(b, s, "fs:/work:rw")
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Effective("h0")) != 1 {
			b.Fatal("nothing")
		}
	}
}

func BenchmarkParseSpec(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSpec("fs:/work:rw,quota=1G,inodes=10000,lease=30s"); err != nil {
			b.Fatal(err)
		}
	}
}
