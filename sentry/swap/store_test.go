package swap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// shelf is a tier in a map, which notices what a store must not do.
type shelf struct {
	mu    sync.Mutex
	slabs map[uint32][]byte
	t     rapid.TB
	fail  bool
}

var errShelf = errors.New("the shelf breaks")

func (s *shelf) Take(n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errShelf
	}
	if s.slabs[n] != nil {
		s.t.Errorf("slab %d was taken twice", n)
	}
	b := make([]byte, SlabSize)
	for i := range b {
		b[i] = 0xee
	}
	s.slabs[n] = b
	return nil
}

func (s *shelf) Give(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slabs[n] == nil {
		s.t.Errorf("slab %d was given back, and not taken", n)
	}
	delete(s.slabs, n)
}

func (s *shelf) at(n uint32, off, l int) []byte {
	b := s.slabs[n]
	if b == nil || off+l > len(b) {
		s.t.Errorf("%d bytes at %d of slab %d", l, off, n)
		return make([]byte, l)
	}
	return b[off:][:l]
}

func (s *shelf) Write(n uint32, off int, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errShelf
	}
	copy(s.at(n, off, len(p)), p)
	return nil
}

func (s *shelf) Read(n uint32, off int, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(p, s.at(n, off, len(p)))
	return nil
}

func newShelf(t rapid.TB) *shelf { return &shelf{slabs: make(map[uint32][]byte), t: t} }

// pageOf makes a page that compresses more or less well.
func pageOf(seed uint64, noise int) []byte {
	p := make([]byte, PageSize)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < noise*PageSize/100; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	if seed%7 != 0 {
		binary.LittleEndian.PutUint64(p[PageSize-8:], seed)
	}
	return p
}

// TestStoreModel: whatever is put, moved and dropped in whatever order, each page
// comes back as it was, and nothing is left when all are dropped.
func TestStoreModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem, file := newShelf(t), newShelf(t)
		s := New(mem)
		limit := uint64(rapid.IntRange(0, 4).Draw(t, "slabs")) * SlabSize
		s.SetFile(file, limit)
		type kept struct {
			b    Blob
			page []byte
		}
		var all []kept
		check := func(k kept) {
			got := pageOf(3, 90)
			if err := s.Get(k.b, got); err != nil || !bytes.Equal(got, k.page) {
				t.Fatalf("a page of %d bytes in place %d came back otherwise: %v", k.b.Len(), k.b.Place, err)
			}
		}
		pick := func(t *rapid.T) int {
			if len(all) == 0 {
				t.Skip("none")
			}
			return rapid.IntRange(0, len(all)-1).Draw(t, "which")
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "pages") {
					p := pageOf(rapid.Uint64().Draw(t, "seed"), rapid.SampledFrom([]int{0, 1, 10, 30, 60, 95, 97, 100}).Draw(t, "noise"))
					b, err := s.Put(p)
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, kept{b, p})
				}
			},
			"get": func(t *rapid.T) { check(all[pick(t)]) },
			"demote": func(t *rapid.T) {
				i := pick(t)
				b, err := s.Demote(all[i].b)
				if err != nil && errdefs.CodeOf(err) != errdefs.SwapFull {
					t.Fatal(err)
				}
				all[i].b = b
				check(all[i])
			},
			"drop": func(t *rapid.T) {
				i := pick(t)
				s.Drop(all[i].b)
				all[i] = all[len(all)-1]
				all = all[:len(all)-1]
			},
			"fail": func(t *rapid.T) {
				mem.fail, file.fail = true, true
				if b, err := s.Put(pageOf(8, 50)); err == nil {
					t.Fatalf("%+v on a broken tier", b)
				}
				if len(all) > 0 {
					i := pick(t)
					b, err := s.Demote(all[i].b)
					if err == nil && b.Place == InFile && all[i].b.Place == InMemory {
						t.Fatal("moved to a broken file")
					}
				}
				mem.fail, file.fail = false, false
			},
			"": func(t *rapid.T) {
				u := s.Usage()
				if u.Zero+u.InMemory+u.InFile != uint64(len(all)) || u.File > limit || u.MemoryData > u.Memory || u.FileData > u.File {
					t.Fatalf("%+v with %d pages", u, len(all))
				}
				if len(mem.slabs)*SlabSize != int(u.Memory) || len(file.slabs)*SlabSize != int(u.File) {
					t.Fatalf("%+v of %d and %d slabs", u, len(mem.slabs), len(file.slabs))
				}
			},
		})
		for _, k := range all {
			check(k)
			s.Drop(k.b)
		}
		if u := s.Usage(); u.Memory+u.File+u.MemoryData+u.FileData+u.Zero+u.InMemory+u.InFile != 0 || len(mem.slabs)+len(file.slabs) != 0 {
			t.Fatalf("%+v is left", u)
		}
	})
}

// TestDamage: a page of which any byte has changed where it was kept is an error,
// and never another page.
func TestDamage(t *testing.T) {
	for _, noise := range []int{0, 20, 100} {
		mem := newShelf(t)
		s := New(mem)
		page := pageOf(5, noise)
		b, err := s.Put(page)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			at := &mem.slabs[b.slab][int(b.off)+i]
			*at ^= 1 << (i % 8)
			got := make([]byte, PageSize)
			if err := s.Get(b, got); err == nil {
				if !bytes.Equal(got, page) {
					t.Fatalf("noise %d, byte %d: another page", noise, i)
				}
			} else if errdefs.CodeOf(err) != errdefs.SwapDamaged {
				t.Fatal(err)
			}
			*at ^= 1 << (i % 8)
		}
	}
}

// TestManyAtOnce: pages are put, read, moved and dropped by many at once.
func TestManyAtOnce(t *testing.T) {
	mem, file := newShelf(t), newShelf(t)
	s := New(mem)
	s.SetFile(file, 1<<20)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			got := make([]byte, PageSize)
			for range 300 {
				page := pageOf(r.Uint64(), r.IntN(101))
				b, err := s.Put(page)
				if err != nil {
					t.Error(err)
					return
				}
				if r.IntN(2) == 0 {
					b, _ = s.Demote(b) // The file may be full.
				}
				if err := s.Get(b, got); err != nil || !bytes.Equal(got, page) {
					t.Errorf("another page: %v", err)
				}
				s.Drop(b)
			}
		})
	}
	wg.Wait()
	if u := s.Usage(); u.Memory+u.File != 0 {
		t.Errorf("%+v is left", u)
	}
}

func BenchmarkPut(b *testing.B) {
	s := New(newShelf(b))
	page := pageOf(9, 40)
	if _, err := s.Put(page); err != nil { // Its slab stays.
		b.Fatal(err)
	}
	b.SetBytes(PageSize)
	b.ReportAllocs()
	for b.Loop() {
		blob, err := s.Put(page)
		if err != nil {
			b.Fatal(err)
		}
		s.Drop(blob)
	}
}

func BenchmarkGet(b *testing.B) {
	s := New(newShelf(b))
	page := pageOf(9, 40)
	blob, err := s.Put(page)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(PageSize)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Get(blob, page); err != nil {
			b.Fatal(err)
		}
	}
}
