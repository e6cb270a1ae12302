// Package hnsw finds the nearest of many vectors by a graph of small worlds that
// lie one above the other: Malkov and Yashunin, "Efficient and robust approximate
// nearest neighbor search using Hierarchical Navigable Small World graphs" (2018),
// with the choice of neighbours that keeps clusters connected (algorithm 4).
// Nearness is the cosine; vectors are brought to length one when they are added.
//
// Key types: Graph holds vectors under labels of the caller's; Hit is one that was
// found. Add makes a vector findable at once, by comparing it with every question;
// Link, which takes time, ties it into the graph. So nobody who adds waits for the
// graph, and a graph that was lost costs time and not results.
//
// Removed vectors stay as steps on the way of a search; when there are many,
// build a new graph.
//
// Locks: Graph.mu guards growth and the list of what is not linked; node.mu the
// links of one node, one at a time. A search takes none of them but Graph.mu, to
// read that list: links are replaced whole, never changed.
package hnsw

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/blas/gonum"

	"aios.dev/aios/errdefs"
)

// The shape of a graph. M neighbours in the upper worlds and twice as many in the
// lowest are what the paper finds good for hundreds of dimensions.
const (
	links       = 16
	linksLowest = 2 * links
	buildWidth  = 128
	maxLevel    = 15
)

const (
	chunkSize = 1024
	maxChunks = 1 << 13
)

// MaxNodes is how many vectors a graph can hold, removed ones included.
const MaxNodes = chunkSize * maxChunks

// Graph is safe for concurrent use.
type Graph struct {
	dims   int
	chunks [maxChunks]atomic.Pointer[chunk]
	n      atomic.Int64
	dead   atomic.Int64
	entry  atomic.Int64 // level<<32 | node; -1: nothing is linked

	mu       sync.Mutex
	unlinked []uint32 // +checklocks:mu
	busy     []uint32 // +checklocks:mu

	scratch sync.Pool
}

type chunk struct {
	vectors []float32
	nodes   [chunkSize]node
}

type node struct {
	label  uint64
	dead   atomic.Bool
	linked atomic.Bool
	mu     sync.Mutex // of changes to links
	links  []atomic.Pointer[[]uint32]
}

// Hit is a vector that was found.
type Hit struct {
	Node   uint32
	Cosine float32
}

// New returns a graph for vectors of so many dimensions.
func New(dims int) *Graph {
	g := &Graph{dims: dims}
	g.entry.Store(-1)
	g.scratch.New = func() any { return new(scratch) }
	return g
}

// Dims is how many dimensions the vectors have.
func (g *Graph) Dims() int { return g.dims }

// Len is how many vectors there are, removed ones included; Dead is how many of
// them were removed.
func (g *Graph) Len() int { return int(g.n.Load()) }

// Dead counts the vectors that were removed.
func (g *Graph) Dead() int { return int(g.dead.Load()) }

// Unlinked counts the vectors that are not tied in yet.
func (g *Graph) Unlinked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.unlinked) + len(g.busy)
}

func (g *Graph) node(i uint32) *node { return &g.chunks[i/chunkSize].Load().nodes[i%chunkSize] }

// Vector returns a vector, of length one. It must not be changed.
func (g *Graph) Vector(i uint32) []float32 {
	at := int(i%chunkSize) * g.dims
	return g.chunks[i/chunkSize].Load().vectors[at : at+g.dims : at+g.dims]
}

// Label is what the caller calls a vector.
func (g *Graph) Label(i uint32) uint64 { return g.node(i).label }

// Alive says whether a vector has not been removed.
func (g *Graph) Alive(i uint32) bool { return !g.node(i).dead.Load() }

// dot is the scalar product.
func dot(a, b []float32) float32 { return gonum.Implementation{}.Sdot(len(a), a, 1, b, 1) }

// Normalize writes v, brought to length one, to out.
func Normalize(out, v []float32) {
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	scale := 1 / math.Sqrt(sum)
	for i, x := range v {
		out[i] = float32(float64(x) * scale)
	}
}

// levelOf draws how high a node reaches, by its number: the same vectors make
// the same graph.
func levelOf(i uint32) int {
	x := (uint64(i) + 1) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	u := (float64((x^x>>31)>>11) + 0.5) / (1 << 53)
	return min(int(-math.Log(u)/math.Log(links)), maxLevel)
}

// Add adds a vector, which is copied.
func (g *Graph) Add(label uint64, v []float32) (uint32, error) {
	if len(v) != g.dims {
		return 0, errdefs.Newf(errdefs.InvalidArgument, "the vector has %d dimensions, the others have %d", len(v), g.dims)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i, err := g.growLocked(label)
	if err != nil {
		return 0, err
	}
	Normalize(g.Vector(i), v)
	g.unlinked = append(g.unlinked, i)
	g.n.Store(int64(i) + 1)
	return i, nil
}

// growLocked makes room for one more node.
//
// +checklocks:g.mu
func (g *Graph) growLocked(label uint64) (uint32, error) {
	n := g.n.Load()
	if n >= MaxNodes {
		return 0, errdefs.Newf(errdefs.QuotaExceeded, "a namespace holds no more than %d vectors", MaxNodes)
	}
	i := uint32(n)
	if i%chunkSize == 0 {
		g.chunks[i/chunkSize].Store(&chunk{vectors: make([]float32, chunkSize*g.dims)})
	}
	nd := g.node(i)
	nd.label = label
	nd.links = make([]atomic.Pointer[[]uint32], levelOf(i)+1)
	return i, nil
}

// Remove has a vector never found again.
func (g *Graph) Remove(i uint32) {
	if !g.node(i).dead.Swap(true) {
		g.dead.Add(1)
	}
}

// Link ties in one vector that is not yet; it reports false if there is none.
// Several goroutines may call it.
func (g *Graph) Link() bool {
	g.mu.Lock()
	if len(g.unlinked) == 0 {
		g.mu.Unlock()
		return false
	}
	i := g.unlinked[0]
	g.unlinked = g.unlinked[1:]
	g.busy = append(g.busy, i) // It is compared with every question until it is done.
	g.mu.Unlock()
	g.link(i)
	g.node(i).linked.Store(true)
	g.mu.Lock()
	at := slices.Index(g.busy, i)
	g.busy = slices.Delete(g.busy, at, at+1)
	g.mu.Unlock()
	return true
}
