package sentry

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/swap"
)

// memoryTier keeps what is compressed in the kernel's memory file, where it counts
// as memory of the agent.
type memoryTier struct {
	sw *agentSwap

	mu    sync.Mutex
	slabs map[uint32]memmap.FileRange // +checklocks:mu
}

// Take implements swap.Tier.Take.
func (m *memoryTier) Take(n uint32) error {
	fr, err := m.sw.sys.frames.Allocate(swap.SlabSize, pgalloc.AllocOpts{Kind: usage.Anonymous, MemCgID: m.sw.memID})
	if err != nil {
		return errdefs.Wrap(err, errdefs.MemoryLimit, "take memory for compressed pages")
	}
	m.sw.slabs.Add(swap.SlabSize)
	m.mu.Lock()
	m.slabs[n] = fr
	m.mu.Unlock()
	return nil
}

// Give implements swap.Tier.Give.
func (m *memoryTier) Give(n uint32) {
	m.mu.Lock()
	fr := m.slabs[n]
	delete(m.slabs, n)
	m.mu.Unlock()
	m.sw.slabs.Add(-swap.SlabSize)
	m.sw.sys.frames.MemoryFile.DecRef(fr)
}

// at returns what is at off of slab n.
func (m *memoryTier) at(n uint32, off int, p []byte, from bool) error {
	m.mu.Lock()
	fr := m.slabs[n]
	m.mu.Unlock()
	blocks, err := m.sw.sys.frames.MapInternal(fr, hostarch.ReadWrite)
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "reach compressed pages")
	}
	for bs := blocks.DropFirst(off).TakeFirst(len(p)); !bs.IsEmpty(); bs = bs.Tail() {
		there := bs.Head().ToSlice()
		if from {
			p = p[copy(p, there):]
		} else {
			p = p[copy(there, p):]
		}
	}
	return nil
}

// Write implements swap.Tier.Write.
func (m *memoryTier) Write(n uint32, off int, p []byte) error { return m.at(n, off, p, false) }

// Read implements swap.Tier.Read.
func (m *memoryTier) Read(n uint32, off int, p []byte) error { return m.at(n, off, p, true) }

// fileTier keeps pages in a file that nobody else knows.
type fileTier struct{ f *os.File }

// Take implements swap.Tier.Take.
func (fileTier) Take(uint32) error { return nil }

// Give implements swap.Tier.Give. What it fails to give back is used again.
func (t fileTier) Give(n uint32) {
	unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(n)*swap.SlabSize, swap.SlabSize)
}

// Write implements swap.Tier.Write.
func (t fileTier) Write(n uint32, off int, p []byte) error {
	if _, err := t.f.WriteAt(p, int64(n)*swap.SlabSize+int64(off)); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "write to the swap file")
	}
	return nil
}

// Read implements swap.Tier.Read.
func (t fileTier) Read(n uint32, off int, p []byte) error {
	if _, err := t.f.ReadAt(p, int64(n)*swap.SlabSize+int64(off)); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "read from the swap file")
	}
	return nil
}
