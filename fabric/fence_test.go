package fabric

import (
	"encoding/binary"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/hostarch"
)

// TestVersionIsOfOneMoment has somebody write a number to one end of a region and
// then to the other, and another to the other end first, while versions are made:
// in each, the second of either is what the first is, or one less.
func TestVersionIsOfOneMoment(t *testing.T) {
	w := newWorld(t)
	r := w.region(Spec{Name: "table", Size: 8 << 20, Keep: 3})
	offs := []hostarch.Addr{8, 7 << 20}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		m := w.memory()
		at := m.mmap(w.view(r, alice, "all"), hostarch.ReadWrite)
		first, second := offs[i], offs[1-i]
		wg.Go(func() {
			for n := uint64(1); ; n++ {
				for k, off := range []hostarch.Addr{first, second} {
					for _, held := range w.store.Held() {
						<-held
					}
					var b [8]byte
					binary.LittleEndian.PutUint64(b[:], n)
					if err := m.write(at+off+hostarch.Addr(16*i), b[:]); err != nil {
						t.Errorf("write %d %d: %v", n, k, err)
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 300 {
		v, err := r.Snapshot("")
		must(t, err)
		for i := range 2 {
			var n [2]uint64
			for k, off := range []hostarch.Addr{offs[i], offs[1-i]} {
				var b [8]byte
				_, err := r.ReadVersion(v.Number, b[:], uint64(off)+uint64(16*i))
				must(t, err)
				n[k] = binary.LittleEndian.Uint64(b[:])
			}
			if n[0] != n[1] && n[0] != n[1]+1 {
				t.Fatalf("version %d has %d, written first, and %d", v.Number, n[0], n[1])
			}
		}
	}
	close(stop)
	wg.Wait()
}

// BenchmarkSnapshot makes a version of a large region of which nobody has
// anything mapped.
func BenchmarkSnapshot(b *testing.B) {
	w := newWorld(b)
	r := w.region(Spec{Name: "table", Size: 1 << 30, Keep: 1})
	for off := uint64(0); off < r.Size(); off += 1 << 20 {
		if _, err := r.WriteAt([]byte("x"), off); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Snapshot(""); err != nil {
			b.Fatal(err)
		}
	}
}
