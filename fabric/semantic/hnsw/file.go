package hnsw

import (
	"encoding/binary"
	"io"
	"math"
	"sync/atomic"

	"aios.dev/aios/fabric/semantic/blocks"
)

// A graph on disk is a file of blocks: the dimensions and how many nodes there are;
// then one block for each chunk of nodes: of each its label, what became of it and
// its links; and the vectors of all of them, one after the other.
const magic = "AIOSHNS2"

const (
	flagDead   = 1
	flagLinked = 2
)

// Save writes the graph. Vectors may be added and linked meanwhile: what is added
// is left out.
func (g *Graph) Save(to io.Writer) error {
	n := uint32(g.n.Load())
	w := blocks.NewWriter(to, magic)
	w.Put(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(g.dims)), n))
	var b []byte
	for from := uint32(0); from < n; from += chunkSize {
		b = b[:0]
		for i := from; i < min(from+chunkSize, n); i++ {
			b = g.appendNode(b, i, n)
		}
		for i := from; i < min(from+chunkSize, n); i++ {
			for _, x := range g.Vector(i) {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
			}
		}
		w.Put(b)
	}
	return w.Err()
}

// appendNode writes a node, with those of its links that lead to the first n.
func (g *Graph) appendNode(b []byte, i, n uint32) []byte {
	nd := g.node(i)
	b = binary.LittleEndian.AppendUint64(b, nd.label)
	var flags byte
	if nd.dead.Load() {
		flags |= flagDead
	}
	linked := nd.linked.Load()
	if linked {
		flags |= flagLinked
	}
	b = append(b, flags)
	if !linked {
		return b
	}
	b = append(b, byte(len(nd.links)))
	for l := range nd.links {
		at := len(b)
		b = append(b, 0)
		if list := nd.links[l].Load(); list != nil {
			for _, j := range *list {
				if j < n && g.node(j).linked.Load() {
					b = binary.LittleEndian.AppendUint32(b, j)
					b[at]++
				}
			}
		}
	}
	return b
}

// Load reads a graph that Save has written, of vectors of so many dimensions. keep
// says which labels are still wanted; the others are removed.
func Load(from io.Reader, dims int, keep func(label uint64) bool) (*Graph, error) {
	r, err := blocks.NewReader(from, magic)
	if err != nil {
		return nil, err
	}
	head, err := r.Next()
	if err != nil {
		return nil, err
	}
	if d := head.Uint32(); int(d) != dims {
		return nil, blocks.Damaged("its vectors are of another length")
	}
	n := head.Uint32()
	if n > MaxNodes {
		return nil, blocks.Damaged("it has too many vectors")
	}
	g := New(dims)
	entry := int64(-1)
	for from := uint32(0); from < n; from += chunkSize {
		d, err := r.Next()
		if err != nil {
			return nil, err
		}
		to := min(from+chunkSize, n)
		for i := from; i < to; i++ {
			if err := g.readNode(d, i, n, keep); err != nil {
				return nil, err
			}
			if nd := g.node(i); nd.linked.Load() {
				if h := int64(len(nd.links) - 1); entry < 0 || h > entry>>32 {
					entry = h<<32 | int64(i)
				}
			}
		}
		vectors := g.chunks[from/chunkSize].Load().vectors[:int(to-from)*dims]
		raw := d.Bytes(4 * len(vectors))
		if d.Short() || d.Rest() != 0 {
			return nil, blocks.Damaged("a block has another length than its nodes")
		}
		for i := range vectors {
			vectors[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	}
	g.entry.Store(entry)
	return g, nil
}

func (g *Graph) readNode(r *blocks.Data, i, n uint32, keep func(uint64) bool) error {
	label := r.Uint64()
	flags := r.Byte()
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.growLocked(label); err != nil {
		return err
	}
	nd := g.node(i)
	g.n.Store(int64(i) + 1)
	if flags&flagDead != 0 || !keep(label) {
		g.Remove(i)
	}
	if flags&flagLinked == 0 {
		if g.Alive(i) {
			g.unlinked = append(g.unlinked, i)
		}
		return nil
	}
	levels := r.Byte()
	if levels == 0 || levels > maxLevel+1 {
		return blocks.Damaged("a node is in no world, or in too many")
	}
	nd.links = make([]atomic.Pointer[[]uint32], levels)
	for l := range nd.links {
		count := r.Byte()
		if count > linksLowest {
			return blocks.Damaged("a node has too many neighbours")
		}
		list := make([]uint32, count)
		for j := range list {
			if list[j] = r.Uint32(); list[j] >= n {
				return blocks.Damaged("a neighbour is none of its nodes")
			}
		}
		nd.links[l].Store(&list)
	}
	nd.linked.Store(true)
	return nil
}
