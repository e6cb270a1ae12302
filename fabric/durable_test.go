package fabric

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"aios.dev/aios/errdefs"
)

// keptFile is a file that a region is kept in.
func keptFile(t *testing.T) (path string, open func() *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "table.region")
	return path, func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// whole is all of a region.
func whole(t *testing.T, r *Region) []byte {
	t.Helper()
	b := make([]byte, r.Size())
	_, err := r.ReadAt(b, 0)
	must(t, err)
	return b
}

// TestRegionKeepsItsAddress: what is fixed is where it was when its file is opened, also
// if that is not what follows from its name; or it is refused.
func TestRegionKeepsItsAddress(t *testing.T) {
	_, open := keptFile(t)
	w := newWorld(t)
	size := uint64(1 << 20)
	w.store.window.takeAt(placeOf("table", size), size)
	r, err := w.store.CreateIn(Spec{Name: "table", Size: size, Fixed: true}, open())
	must(t, err)
	_, err = r.Commit("")
	must(t, err)
	if r.Addr() != WindowStart {
		t.Errorf("it is at %#x", r.Addr())
	}
	w.store.Remove(r)
	w = newWorld(t)
	r, err = w.store.OpenIn(open(), "table", "", 0)
	must(t, err)
	if r.Addr() != WindowStart {
		t.Errorf("then it is at %#x", r.Addr())
	}
	w.store.Remove(r)
	w.store.window.takeAt(WindowStart, size)
	_, err = w.store.OpenIn(open(), "table", "", 0)
	wantCode(t, err, errdefs.AlreadyExists)
	if w.charged[""] != 0 || len(w.store.window.taken) != 1 {
		t.Errorf("of what was refused is left %d bytes, %x", w.charged[""], w.store.window.taken)
	}
}

// TestRegionIsKept commits, writes, and opens again in another store: what was
// committed is there, and nothing else.
func TestRegionIsKept(t *testing.T) {
	_, open := keptFile(t)
	w := newWorld(t)
	r, err := w.store.CreateIn(Spec{Name: "table", Size: 5<<20 + 4096, Labels: []string{"draft"}, Keep: 3}, open())
	must(t, err)
	rnd := rand.New(rand.NewPCG(1, 2))
	var kept [][]byte
	for n := range 6 {
		for range 20 {
			_, err := r.WriteAt([]byte{byte(rnd.IntN(256))}, uint64(rnd.IntN(int(r.Size()))))
			must(t, err)
		}
		if n == 3 { // Pages that become zeros again.
			_, err := r.WriteAt(make([]byte, 3<<20), 0)
			must(t, err)
		}
		if r.Info().Dirty == 0 {
			t.Error("nothing is dirty")
		}
		v, err := r.Commit("as it is")
		must(t, err)
		if v.Number != uint64(n+1) || r.Info().Dirty != 0 || r.Info().Committed != v.Number {
			t.Errorf("version %+v, %+v", v, r.Info())
		}
		kept = append(kept, whole(t, r))
	}
	_, err = r.WriteAt([]byte("not committed"), 0)
	must(t, err)
	w.store.Remove(r)
	if w.charged[""] != 0 {
		t.Errorf("%d bytes are still charged", w.charged[""])
	}
	for number := range uint64(7) {
		w := newWorld(t)
		r, err := w.store.OpenIn(open(), "table", "", number)
		if number > 0 && number < 4 {
			wantCode(t, err, errdefs.NotFound)
			continue
		}
		must(t, err)
		want := kept[5]
		if number > 0 {
			want = kept[number-1]
		}
		if !bytes.Equal(whole(t, r), want) {
			t.Errorf("version %d differs", number)
		}
		if i := r.Info(); i.Labels[0] != "draft" || !i.Persistent || len(r.Stored()) != 3 || number%6 == 0 && i.Dirty != 0 {
			t.Errorf("%+v", i)
		}
		w.store.Remove(r)
	}
	// A commit on top of an older version is the last, and whole.
	r, err = w.store.OpenIn(open(), "table", "", 4)
	must(t, err)
	_, err = r.WriteAt([]byte("other"), 9000)
	must(t, err)
	v, err := r.Commit("")
	must(t, err)
	want := whole(t, r)
	w.store.Remove(r)
	r, err = w.store.OpenIn(open(), "table", "", 0)
	must(t, err)
	if !bytes.Equal(whole(t, r), want) || v.Number != 7 {
		t.Errorf("version %d is not the last", v.Number)
	}
	_, err = w.store.OpenIn(open(), "table", "", 0)
	wantCode(t, err, errdefs.AlreadyExists)
	d, err := r.Seal()
	must(t, err)
	_, err = r.Commit("")
	must(t, err)
	w.store.Remove(r)
	r, err = w.store.OpenIn(open(), "table", "", 0)
	must(t, err)
	if got, ok := r.Sealed(); !ok || got != d {
		t.Error("it is not sealed any more")
	}
	_, err = w.store.OpenIn(open(), "chair", "", 0)
	wantCode(t, err, errdefs.RegionBroken)
}

// TestCommitIsOfOneMoment has somebody write the same number to two ends, one
// after the other, while it is committed.
func TestCommitIsOfOneMoment(t *testing.T) {
	_, open := keptFile(t)
	w := newWorld(t)
	r, err := w.store.CreateIn(Spec{Name: "table", Size: 8 << 20}, open())
	must(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := byte(1); ; n++ {
			for _, off := range []uint64{8, 7 << 20} {
				if _, err := r.WriteAt([]byte{n}, off); err != nil {
					return // It was removed.
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 40 {
		_, err := r.Commit("")
		must(t, err)
		o, err := newWorld(t).store.OpenIn(open(), "table", "", 0)
		must(t, err)
		b := whole(t, o)
		if first, second := b[8], b[7<<20]; first != second && first != second+1 {
			t.Fatalf("%d and then %d", first, second)
		}
	}
	// Removed under a commit, it is gone, and nothing is left of it.
	wg.Go(func() {
		for {
			if _, err := r.Commit(""); err != nil {
				return
			}
		}
	})
	w.store.Remove(r)
	close(stop)
	wg.Wait()
	if w.charged[""] != 0 {
		t.Errorf("%d bytes are still charged", w.charged[""])
	}
}

// TestBrokenRegionIsRefused.
func TestBrokenRegionIsRefused(t *testing.T) {
	path, open := keptFile(t)
	w := newWorld(t)
	r, err := w.store.CreateIn(Spec{Name: "table", Size: 1 << 20}, open())
	must(t, err)
	_, err = r.WriteAt([]byte("hello"), 0)
	must(t, err)
	_, err = r.Commit("")
	must(t, err)
	w.store.Remove(r)
	raw, err := os.ReadFile(path)
	must(t, err)
	raw[bytes.Index(raw, []byte("hello"))] ^= 1
	must(t, os.WriteFile(path, raw, 0o600))
	_, err = w.store.OpenIn(open(), "table", "", 0)
	wantCode(t, err, errdefs.RegionBroken)
	if len(w.store.List()) != 0 || w.charged[""] != 0 {
		t.Error("something is left of it")
	}
}
