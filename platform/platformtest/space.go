package platformtest

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/platform"
)

// fixture is a platform under test and memory for its address spaces.
type fixture struct {
	gvplatform.Platform
	memory *pgalloc.MemoryFile
	crowd  *platform.Crowd // of every thread
	tracing
}

// Where the suite's programs live: a page for code and one for data, with
// room for more pages behind each.
const (
	codeAddr = hostarch.Addr(0x400000)
	dataAddr = hostarch.Addr(0x10000000)
)

// newPage returns a page of memory that holds contents.
func (f *fixture) newPage(t *testing.T, contents []byte) memmap.FileRange {
	t.Helper()
	fr, err := f.memory.Allocate(hostarch.PageSize, pgalloc.AllocOpts{Kind: usage.Anonymous})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.memory.DecRef(fr) })
	copy(f.bytes(t, fr), contents)
	return fr
}

// bytes returns the page as the kernel sees it.
func (f *fixture) bytes(t *testing.T, fr memmap.FileRange) []byte {
	t.Helper()
	blocks, err := f.memory.MapInternal(fr, hostarch.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	return blocks.Head().ToSlice()
}

// word returns the first eight bytes of the page.
func (f *fixture) word(t *testing.T, fr memmap.FileRange) uint64 {
	t.Helper()
	return binary.LittleEndian.Uint64(f.bytes(t, fr))
}

// space is an address space, and the memory manager through which platforms
// find it. They may read the code of a thread that faulted; for everything
// else that a memory manager does, it refuses or, in the embedded nil IO,
// panics.
type space struct {
	usermem.IO
	f  *fixture
	as gvplatform.AddressSpace

	mu    sync.Mutex
	pages map[hostarch.Addr]memmap.FileRange // guarded by mu
}

var _ gvplatform.MemoryManager = (*space)(nil)

// newSpace returns an address space that has code at codeAddr.
func (f *fixture) newSpace(t *testing.T, code []byte) *space {
	t.Helper()
	as, err := f.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	s := &space{f: f, as: as, pages: make(map[hostarch.Addr]memmap.FileRange)}
	// Before the cleanups of its pages, which were or will be registered
	// around this one: unmap so that no order matters.
	t.Cleanup(func() {
		for addr := range s.pages {
			as.Unmap(addr, hostarch.PageSize)
		}
		as.Release()
	})
	s.mapPage(t, codeAddr, f.newPage(t, code), hostarch.ReadExecute)
	return s
}

// mapPage maps a page, replacing what was there.
func (s *space) mapPage(t *testing.T, addr hostarch.Addr, fr memmap.FileRange, at hostarch.AccessType) {
	t.Helper()
	if err := s.as.MapFile(addr, s.f.memory, fr, at, false); err != nil {
		t.Fatalf("MapFile at %#x: %v", addr, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[addr] = fr
}

// mapNew maps a page that begins with a word.
func (s *space) mapNew(t *testing.T, addr hostarch.Addr, word uint64, at hostarch.AccessType) memmap.FileRange {
	t.Helper()
	fr := s.f.newPage(t, binary.LittleEndian.AppendUint64(nil, word))
	s.mapPage(t, addr, fr, at)
	return fr
}

// unmap removes a page.
func (s *space) unmap(addr hostarch.Addr) {
	s.as.Unmap(addr, hostarch.PageSize)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pages, addr)
}

// AddressSpace implements gVisor's MemoryManager.
func (s *space) AddressSpace() gvplatform.AddressSpace { return s.as }

// MMap implements gVisor's MemoryManager.
func (s *space) MMap(context.Context, memmap.MMapOpts) (hostarch.Addr, error) {
	return 0, linuxerr.ENOMEM
}

// FindVMAByName implements gVisor's MemoryManager.
func (s *space) FindVMAByName(hostarch.AddrRange, string) (hostarch.Addr, uint64, error) {
	return 0, 0, errors.New("no mapping of that name")
}

// CopyIn implements usermem.IO within one page.
func (s *space) CopyIn(_ context.Context, addr hostarch.Addr, dst []byte, _ usermem.IOOpts) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page := addr.RoundDown()
	fr, ok := s.pages[page]
	if !ok || addr+hostarch.Addr(len(dst)) > page+hostarch.PageSize {
		return 0, linuxerr.EFAULT
	}
	blocks, err := s.f.memory.MapInternal(fr, hostarch.Read)
	if err != nil {
		return 0, err
	}
	return copy(dst, blocks.Head().ToSlice()[addr-page:]), nil
}
