package hnsw

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"aios.dev/aios/errdefs"
)

// clustered returns vectors around few centres, as embeddings lie.
func clustered(rng *rand.Rand, n, dims, centres int) [][]float32 {
	middle := make([][]float32, centres)
	for i := range middle {
		middle[i] = make([]float32, dims)
		for d := range middle[i] {
			middle[i][d] = float32(rng.NormFloat64())
		}
	}
	out := make([][]float32, n)
	for i := range out {
		out[i] = make([]float32, dims)
		c := middle[rng.IntN(centres)]
		for d := range out[i] {
			out[i][d] = c[d] + 0.7*float32(rng.NormFloat64())
		}
	}
	return out
}

func build(t testing.TB, vectors [][]float32, workers int) *Graph {
	t.Helper()
	g := New(len(vectors[0]))
	for i, v := range vectors {
		if _, err := g.Add(uint64(i), v); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for g.Link() {
			}
		})
	}
	wg.Wait()
	if n := g.Unlinked(); n != 0 {
		t.Fatalf("%d are not linked", n)
	}
	return g
}

// recall is how much of the exact answer the graph finds.
func recall(g *Graph, questions [][]float32, k, width int, pass func(uint32) bool) float64 {
	found, all := 0, 0
	for _, q := range questions {
		exact := make(map[uint32]bool)
		for _, h := range g.Exact(q, k, pass) {
			exact[h.Node] = true
		}
		all += len(exact)
		for _, h := range g.Search(q, k, width, pass) {
			if exact[h.Node] {
				found++
			}
		}
	}
	return float64(found) / float64(all)
}

func TestTheGraphFindsWhatIsNearest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := clustered(rng, 6200, 64, 40)
	g := build(t, all[:6000], 2)
	questions := all[6000:]
	if r := recall(g, questions, 10, 100, nil); r < 0.95 {
		t.Errorf("recall@10 is %.3f", r)
	}
	even := func(i uint32) bool { return i%2 == 0 }
	if r := recall(g, questions, 10, 100, even); r < 0.95 {
		t.Errorf("recall@10 of half of them is %.3f", r)
	}
	for i := range uint32(6000) {
		if i%3 == 0 {
			g.Remove(i)
		}
	}
	if r := recall(g, questions, 10, 100, nil); r < 0.95 {
		t.Errorf("recall@10 after a third was removed is %.3f", r)
	}
	for _, h := range g.Search(all[0], 10, 50, nil) {
		if h.Node%3 == 0 {
			t.Errorf("%d was removed and is found", h.Node)
		}
	}
}

func TestWhatIsNotLinkedIsFound(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	all := clustered(rng, 500, 16, 5)
	g := build(t, all[:250], 1)
	for i, v := range all[250:] {
		if _, err := g.Add(uint64(250+i), v); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range all[250:] {
		if h := g.Search(v, 1, 10, nil); len(h) != 1 || g.Label(h[0].Node) != uint64(250+i) {
			t.Fatalf("%d is not its own nearest: %v", 250+i, h)
		}
	}
	if _, err := g.Add(9, make([]float32, 3)); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("a vector of another length: %v", err)
	}
}

func TestSavedGraphsAreTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	all := clustered(rng, 1500, 24, 9)
	g := build(t, all[:1000], 1)
	for i, v := range all[1000:1200] {
		g.Add(uint64(1000+i), v)
	}
	g.Remove(7)
	var file bytes.Buffer
	if err := g.Save(&file); err != nil {
		t.Fatal(err)
	}
	back, err := Load(bytes.NewReader(file.Bytes()), 24, func(label uint64) bool { return label != 8 })
	if err != nil {
		t.Fatal(err)
	}
	if back.Len() != 1200 || back.Unlinked() != 200 || back.Dead() != 2 || back.Alive(7) || back.Alive(8) {
		t.Fatalf("%d vectors, %d unlinked, %d dead", back.Len(), back.Unlinked(), back.Dead())
	}
	g.Remove(8)
	for _, q := range all[1200:] {
		a, b := g.Search(q, 10, 60, nil), back.Search(q, 10, 60, nil)
		if len(a) != 10 || len(b) != 10 {
			t.Fatalf("%d and %d hits", len(a), len(b))
		}
		for i := range a {
			if a[i].Cosine != b[i].Cosine {
				t.Fatalf("%v, and %v from the file", a, b)
			}
		}
	}
	for range 300 { // Whatever a bit may be, it does not go unnoticed.
		spoiled := bytes.Clone(file.Bytes())
		spoiled[rng.IntN(len(spoiled))] ^= 1 << rng.IntN(8)
		if _, err := Load(bytes.NewReader(spoiled), 24, func(uint64) bool { return true }); err == nil {
			t.Fatal("a damaged file was taken")
		}
	}
	if _, err := Load(bytes.NewReader(file.Bytes()[:file.Len()/2]), 24, func(uint64) bool { return true }); err == nil {
		t.Fatal("half a file was taken")
	}
}

func TestManyAtOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	all := clustered(rng, 2000, 16, 9)
	g := New(16)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, v := range all {
			g.Add(uint64(i), v)
			if i%5 == 4 {
				g.Remove(uint32(i - 2))
			}
		}
	})
	for range 2 {
		wg.Go(func() {
			for n := 0; n < 800; {
				if g.Link() {
					n++
				}
			}
		})
		wg.Go(func() {
			for i := range 400 {
				for _, h := range g.Search(all[i], 10, 40, nil) {
					if int(h.Node) >= len(all) {
						t.Errorf("node %d was never added", h.Node)
					}
				}
			}
		})
	}
	wg.Wait()
	for g.Link() {
	}
	if r := recall(g, all[:100], 10, 100, nil); r < 0.95 {
		t.Errorf("recall@10 is %.3f", r)
	}
}
