package pages

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"aios.dev/aios/errdefs"
)

// memory is what is saved, a page at a time.
type memory [][]byte

func random(r *rand.Rand, n int) memory {
	m := make(memory, n)
	for i := range m {
		m[i] = make([]byte, Size)
		for j := range 64 {
			m[i][j*61] = byte(r.Uint32())
		}
	}
	return m
}

// store is a directory of packs.
type store struct {
	t     testing.TB
	packs [][]byte
	last  *Index
}

// save saves m beside what is there, and returns how many pages were written.
func (s *store) save(m memory) int {
	s.t.Helper()
	var pack bytes.Buffer
	w, err := NewWriter(&pack, s.last)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(m); i += 7 {
		if _, err := w.Write(bytes.Join(m[i:min(len(m), i+7)], nil)); err != nil {
			s.t.Fatal(err)
		}
	}
	x, kept, fresh, err := w.Finish()
	if err != nil {
		s.t.Fatal(err)
	}
	var packs [][]byte
	for _, i := range kept {
		packs = append(packs, s.packs[i])
	}
	if fresh > 0 {
		packs = append(packs, pack.Bytes())
	} else if pack.Len() > 0 {
		s.t.Errorf("nothing is new, and %d bytes were written", pack.Len())
	}
	again, rest, err := Decode(append(x.Encode(), "rest"...))
	if err != nil || string(rest) != "rest" || again.Packs() != len(packs) || again.Pages() != len(m) {
		s.t.Fatalf("decoded: %d packs of %d, %d pages, then %q: %v", again.Packs(), len(packs), again.Pages(), rest, err)
	}
	s.packs, s.last = packs, again
	return fresh
}

func (s *store) reader() *Reader {
	s.t.Helper()
	var packs []io.ReaderAt
	for _, p := range s.packs {
		packs = append(packs, bytes.NewReader(p))
	}
	r, err := NewReader(s.last, packs)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// read fills b with pages from number at on, and returns how many bytes it got.
func read(r *Reader, b []byte, at int) (n int, err error) {
	err = r.Each(int64(at), int64(len(b)/Size), func(pages []byte) error {
		n += copy(b[n:], pages)
		return nil
	})
	return n, err
}

func (s *store) expect(m memory) {
	s.t.Helper()
	r := s.reader()
	got := make([]byte, len(m)*Size)
	for at := 0; at < len(m); at += 5 {
		n := min(5, len(m)-at)
		if k, err := read(r, got[at*Size:(at+n)*Size], at); err != nil || k != n*Size {
			s.t.Fatalf("page %d: %d bytes, %v", at, k, err)
		}
	}
	if !bytes.Equal(got, bytes.Join(m, nil)) {
		s.t.Fatal("it is not what was saved")
	}
}

// Only what changed is written again, and what is no longer used goes.
func TestPagesAreWrittenOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &store{t: t}
	m := random(r, 1000)
	m[17] = m[5]
	if n := s.save(m); n != 999 {
		t.Errorf("%d pages were new", n)
	}
	s.expect(m)
	if n := s.save(m); n != 0 || len(s.packs) != 1 {
		t.Errorf("nothing changed, and %d pages were new in %d packs", n, len(s.packs))
	}
	s.expect(m)
	for round := range 40 {
		for range r.IntN(60) {
			m[r.IntN(len(m))] = random(r, 1)[0]
		}
		if r.IntN(4) == 0 { // Everything moves.
			m = append(m, random(r, 3)...)
			r.Shuffle(len(m), func(i, j int) { m[i], m[j] = m[j], m[i] })
		}
		s.save(m)
		if round%20 == 0 {
			s.expect(m)
		}
		held := uint32(0)
		for _, n := range s.last.packs {
			held += n
		}
		if len(s.packs) > maxPacks || held > 3*uint32(len(m)) {
			t.Fatalf("%d packs, with %d pages for %d", len(s.packs), held, len(m))
		}
	}
	s.expect(m)
	if n := s.save(random(r, 10)); n != 10 || len(s.packs) != 1 {
		t.Errorf("all is new: %d pages in %d packs", n, len(s.packs))
	}
	if n := s.save(nil); n != 0 || len(s.packs) != 0 {
		t.Errorf("there is no memory: %d pages in %d packs", n, len(s.packs))
	}
}

// Several read at a time, more blocks than are kept: nobody reads from a buffer that is
// used again.
func TestReadTogether(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	s := &store{t: t}
	m := random(r, 3*lastBlocks*blockPages+5)
	s.save(m)
	all := bytes.Join(m, nil)
	reader := s.reader()
	var wg sync.WaitGroup
	for i := range 4 {
		r := rand.New(rand.NewPCG(uint64(i), 11))
		wg.Go(func() {
			buf := make([]byte, 80*Size)
			for range 200 {
				at, n := r.IntN(len(m)), 1+r.IntN(80)
				n = min(n, len(m)-at)
				if _, err := read(reader, buf[:n*Size], at); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(buf[:n*Size], all[at*Size:(at+n)*Size]) {
					t.Errorf("%d pages from %d on are not what was saved", n, at)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(reader.raw.free); n > 4 { // +checklocksignore: all have ended.
		t.Errorf("%d buffers are free, of which no more than four were in use", n)
	}
}

// Who reads all once needs a buffer or two, and pages that many have alike are not
// decompressed for each of them.
func TestBlocksAreForgotten(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	s := &store{t: t}
	m := random(r, 8*blockPages)
	last := m[blockPages-1] // Of its block.
	for i := 2 * blockPages; i < len(m); i += 3 {
		m[i] = last
	}
	s.save(m)
	reader := s.reader()
	decoded := 0
	for i, p := range reader.packs {
		reader.packs[i] = counted{p, &decoded}
	}
	got := make([]byte, len(m)*Size)
	if _, err := read(reader, got, 0); err != nil || !bytes.Equal(got, bytes.Join(m, nil)) {
		t.Fatalf("it is not what was saved: %v", err)
	}
	if want := len(s.last.blocks) + 1; decoded != want {
		t.Errorf("%d blocks were read, want %d", decoded, want)
	}
	if n := len(reader.raw.free); n > 3 { // +checklocksignore
		t.Errorf("it took %d buffers", n)
	}
}

// counted counts reads.
type counted struct {
	io.ReaderAt
	n *int
}

func (c counted) ReadAt(b []byte, off int64) (int, error) {
	*c.n++
	return c.ReaderAt.ReadAt(b, off)
}

func TestDamagedPages(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := &store{t: t}
	m := random(r, 100)
	s.save(m)
	whole := s.packs[0]
	buf := make([]byte, 100*Size)
	s.packs[0] = whole[:len(whole)-1]
	if _, err := read(s.reader(), buf, 0); errdefs.CodeOf(err) != errdefs.CheckpointDamaged {
		t.Errorf("cut off: %v", err)
	}
	if _, err := NewReader(s.last, nil); errdefs.CodeOf(err) != errdefs.CheckpointDamaged {
		t.Errorf("no packs: %v", err)
	}
	s.packs[0] = whole
	if n, err := read(s.reader(), make([]byte, 2*Size), 99); n != Size || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
}

// Whatever an index says, it is refused or its pages are where pages can be.
func FuzzDecode(f *testing.F) {
	s := &store{t: f}
	s.save(random(rand.New(rand.NewPCG(5, 6)), 40))
	f.Add(s.last.Encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, _, err := Decode(b)
		if err != nil {
			return
		}
		packs := make([]io.ReaderAt, x.Packs())
		for i := range packs {
			packs[i] = bytes.NewReader(make([]byte, 300))
		}
		r, err := NewReader(x, packs)
		if err != nil {
			t.Fatal(err)
		}
		read(r, make([]byte, 4*Size), 0)
		w, err := NewWriter(io.Discard, x)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(make([]byte, Size))
		if _, _, _, err := w.Finish(); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkRead reads 4 MiB as a restore does, in order and from a new Reader.
func BenchmarkRead(b *testing.B) {
	s := &store{t: b}
	m := random(rand.New(rand.NewPCG(7, 8)), 1024)
	s.save(m)
	buf := make([]byte, 64*Size)
	b.SetBytes(int64(len(m) * Size))
	b.ReportAllocs()
	for b.Loop() {
		r := s.reader()
		for at := 0; at < len(m); at += len(buf) / Size {
			if _, err := read(r, buf, at); err != nil {
				b.Fatal(err)
			}
		}
	}
}
