package persist

// maxBlock is the last block that a file may have: more than a region of 1 TiB in
// 64 versions needs, and a bound for what a broken file can make of memory.
const maxBlock = 1<<36 - 1

// bitmap is which blocks are used; those beyond its end are not. It is in parts,
// so that a pointer to somewhere far costs little.
type bitmap struct {
	parts map[uint64]*[partWords]uint64
	// next is where to begin to look for one that is free.
	next uint64
	end  uint64 // behind the last that was ever used
}

const (
	partWords = 512
	partBits  = partWords * 64
)

func (m *bitmap) set(b uint64) {
	if m.parts == nil {
		m.parts = make(map[uint64]*[partWords]uint64)
	}
	p := m.parts[b/partBits]
	if p == nil {
		p = new([partWords]uint64)
		m.parts[b/partBits] = p
	}
	p[b%partBits/64] |= 1 << (b % 64)
	m.end = max(m.end, b+1)
}

func (m *bitmap) clear(b uint64) {
	if p := m.parts[b/partBits]; p != nil {
		p[b%partBits/64] &^= 1 << (b % 64)
		m.next = min(m.next, b)
	}
}

func (m *bitmap) has(b uint64) bool {
	p := m.parts[b/partBits]
	return p != nil && p[b%partBits/64]>>(b%64)&1 != 0
}

// take marks n blocks side by side as used, the first that are free, and returns
// the first of them.
func (m *bitmap) take(n uint64) uint64 {
	run := uint64(0)
	for b := m.next; ; b++ {
		if m.has(b) {
			run = 0
			continue
		}
		if run++; run == n {
			for i := range n {
				m.set(b - i)
			}
			if n == 1 {
				m.next = b + 1
			}
			return b - n + 1
		}
	}
}
