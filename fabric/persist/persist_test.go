package persist

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

const (
	// testPages is enough for three levels of nodes, mostly empty.
	testPages = 3 * fan * fan
	testKeep  = 3
)

func testMeta() Meta { return Meta{Name: "r", Size: testPages * BlockSize, Keep: testKeep} }

// contents is what pages hold, without those of zeros.
type contents map[uint64]byte

func page(c byte) []byte { return bytes.Repeat([]byte{c}, BlockSize) }

// script is what is done to a region, the same for a seed: what each version holds.
func script(seed uint64, commits int) []contents {
	rnd := rand.New(rand.NewPCG(seed, 1))
	now := contents{}
	var all []contents
	for range commits {
		for range rnd.IntN(12) {
			p := uint64(rnd.IntN(40))
			if rnd.IntN(3) == 0 {
				p = uint64(rnd.IntN(testPages))
			}
			if c := byte(rnd.IntN(6)); c == 0 {
				delete(now, p)
			} else {
				now[p] = c
			}
		}
		all = append(all, maps.Clone(now))
	}
	return all
}

// commit writes what differs from what was committed last.
func commit(s *Store, was, is contents) error {
	t, err := s.Begin(false)
	if err != nil {
		return err
	}
	defer t.Abort()
	for p, c := range is {
		if was[p] != c {
			if err := t.Put(p, page(c)); err != nil {
				return err
			}
		}
	}
	for p := range was {
		if is[p] == 0 {
			if err := t.Put(p, zeros[:]); err != nil {
				return err
			}
		}
	}
	_, err = t.Commit("", 1, nil)
	return err
}

func load(s *Store, number uint64) (contents, error) {
	got := contents{}
	err := s.Load(number, func(p uint64, b []byte) error {
		if !bytes.Equal(b, page(b[0])) {
			return fmt.Errorf("page %d is torn", p)
		}
		got[p] = b[0]
		return nil
	})
	return got, err
}

// check wants all kept versions to be what they were, the last of them being the
// one with that number.
func check(t *testing.T, s *Store, all []contents, last int) {
	t.Helper()
	m := s.Meta()
	if want := min(last, testKeep); len(m.Versions) != want || want > 0 && m.Versions[want-1].Number != uint64(last) {
		t.Fatalf("versions %+v, of %d", m.Versions, last)
	}
	for _, v := range m.Versions {
		got, err := load(s, v.Number)
		if err != nil || !maps.Equal(got, all[v.Number-1]) || v.Pages != uint64(len(got)) {
			t.Fatalf("version %d holds %v and not %v: %v", v.Number, got, all[v.Number-1], err)
		}
	}
}

// lastOf is the number of the last version.
func lastOf(s *Store) int {
	if vs := s.Meta().Versions; len(vs) > 0 {
		return int(vs[len(vs)-1].Number)
	}
	return 0
}

// TestCrashAtEveryPoint crashes at every write and sync of a series of commits,
// several times each, with other sectors lost: what was committed is there, and
// commits go on from there.
func TestCrashAtEveryPoint(t *testing.T) {
	const commits = 12
	crashes := 0
	for seed := range uint64(8) {
		all := script(seed, commits)
		for at := 1; ; at++ {
			d := &disk{crash: at, rnd: rand.New(rand.NewPCG(seed, uint64(at)))}
			done, made := 0, false
			s, err := Create(d, testMeta())
			if err == nil {
				made = true
				was := contents{}
				for i, is := range all {
					if err = commit(s, was, is); err != nil {
						break
					}
					was, done = is, i+1
				}
			}
			if err == nil {
				break // It was not reached.
			}
			if !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			crashes++
			s, err = Open(d.after(), "r")
			if err != nil {
				if !made && errdefs.CodeOf(err) == errdefs.RegionBroken {
					continue // It never was.
				}
				t.Fatalf("seed %d, operation %d, after %d commits: %v", seed, at, done, err)
			}
			last := lastOf(s)
			if last != done && last != done+1 {
				t.Fatalf("seed %d, operation %d: version %d is there, %d was committed", seed, at, last, done)
			}
			check(t, s, all, last)
			was := contents{}
			if last > 0 {
				was = all[last-1]
			}
			for i := last; i < commits; i++ {
				if err := commit(s, was, all[i]); err != nil {
					t.Fatal(err)
				}
				was = all[i]
			}
			check(t, s, all, commits)
		}
	}
	if crashes < 1000 {
		t.Errorf("there were %d crashes", crashes)
	}
	t.Logf("%d crashes", crashes)
}

// TestDiskFails at every operation, once: the store says so and takes no more, and
// what was committed is there when it is opened again.
func TestDiskFails(t *testing.T) {
	all := script(7, 6)
	for at := 3; ; at++ {
		d := &disk{fail: at, rnd: rand.New(rand.NewPCG(7, uint64(at)))}
		s, err := Create(d, testMeta())
		done, was := 0, contents{}
		for i := 0; err == nil && i < len(all); i++ {
			if err = commit(s, was, all[i]); err == nil {
				was, done = all[i], i+1
			}
		}
		if err == nil {
			return
		}
		if errdefs.CodeOf(err) != errdefs.HostIO {
			t.Fatalf("operation %d: %v", at, err)
		}
		if s == nil || s.f == nil {
			continue
		}
		if s, err = Open(d.after(), "r"); err != nil {
			if done == 0 {
				continue
			}
			t.Fatalf("operation %d: %v", at, err)
		}
		last := lastOf(s)
		if last < done {
			t.Fatalf("operation %d: version %d of %d", at, last, done)
		}
		check(t, s, all, last)
	}
}

// TestSpaceIsUsedAgain commits often: the file stays bounded.
// held is a file whose Sync lasts until somebody lets it.
type held struct {
	File
	syncs, on chan struct{}
}

func (h *held) Sync() error {
	if h.syncs != nil {
		h.syncs <- struct{}{}
		<-h.on
	}
	return h.File.Sync()
}

// TestWhoLooksDoesNotWaitForTheDisk asks what is committed while a commit waits for
// the disk.
func TestWhoLooksDoesNotWaitForTheDisk(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/r")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := &held{File: f}
	s, err := Create(h, testMeta())
	if err != nil {
		t.Fatal(err)
	}
	h.syncs, h.on = make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() { done <- commit(s, nil, contents{1: 'a'}) }()
	for range 2 { // The description, and the header.
		<-h.syncs
		if n := len(s.Meta().Versions); n != 0 {
			t.Errorf("%d versions are committed before the disk has them", n)
		}
		h.on <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := len(s.Meta().Versions); n != 1 {
		t.Errorf("%d versions are committed", n)
	}
}

func TestSpaceIsUsedAgain(t *testing.T) {
	d := &disk{}
	s, err := Create(d, testMeta())
	if err != nil {
		t.Fatal(err)
	}
	was := contents{}
	for i, is := range script(3, 400) {
		if err := commit(s, was, is); err != nil {
			t.Fatal(i, err)
		}
		was = is
	}
	// Of each version at most all its pages, and three nodes for each.
	if most := int64(testKeep+1) * int64(len(was)*4+50) * BlockSize; int64(len(d.data)) > most {
		t.Errorf("%d pages take up %d bytes", len(was), len(d.data))
	}
	s, err = Open(d, "r")
	if err != nil {
		t.Fatal(err)
	}
	end := s.used.end
	for i, is := range script(4, 50) {
		if err := commit(s, was, is); err != nil {
			t.Fatal(i, err)
		}
		was = is
	}
	if s.used.end > 2*end+200 {
		t.Errorf("it grows from %d to %d blocks", end, s.used.end)
	}
}

// TestBrokenFileIsRefused turns every byte that counts, one after another.
func TestBrokenFileIsRefused(t *testing.T) {
	d := &disk{}
	s, err := Create(d, testMeta())
	if err != nil {
		t.Fatal(err)
	}
	all := script(9, 5)
	was := contents{}
	for _, is := range all {
		if err := commit(s, was, is); err != nil {
			t.Fatal(err)
		}
		was = is
	}
	refused := 0
	for b := uint64(0); b < s.used.end; b++ {
		for _, off := range []int{0, 17, 39, 2000, 4095} {
			at := int(b)*BlockSize + off
			if at >= len(d.data) {
				continue
			}
			d.data[at] ^= 0x40
			o, err := Open(d, "r")
			if err == nil {
				for _, v := range o.Meta().Versions {
					got, lerr := load(o, v.Number)
					if lerr != nil {
						err = lerr
					} else if !maps.Equal(got, all[v.Number-1]) {
						t.Fatalf("block %d, byte %d: it is not noticed", b, off)
					}
				}
			}
			if err != nil {
				refused++
				if errdefs.CodeOf(err) != errdefs.RegionBroken || !strings.Contains(err.Error(), "region r") {
					t.Fatalf("block %d: %v", b, err)
				}
			}
			d.data[at] ^= 0x40
		}
	}
	if refused < 50 {
		t.Errorf("%d were refused", refused)
	}
	for _, n := range []int{0, 100, BlockSize, 2 * BlockSize, len(d.data) - 1} {
		if _, err := Open(&disk{data: d.data[:n]}, "r"); errdefs.CodeOf(err) != errdefs.RegionBroken && n < 2*BlockSize {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
}

// TestMain is the child of TestKilled, too, which commits until it is killed, and
// says what it has committed.
func TestMain(m *testing.M) {
	path := os.Getenv("AIOS_TEST_COMMITS")
	if path == "" {
		os.Exit(m.Run())
	}
	seed, _ := strconv.ParseUint(os.Getenv("AIOS_TEST_SEED"), 10, 64)
	all := script(seed, 2000)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	s, err := Open(f, "r")
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	was := contents{}
	last := lastOf(s)
	if last > 0 {
		was = all[last-1]
	}
	for i := last; i < len(all); i++ {
		if err := commit(s, was, all[i]); err != nil {
			panic(err)
		}
		was = all[i]
		fmt.Println(i + 1)
	}
	select {}
}

// TestKilled kills, at random moments, a process that commits, and starts another
// that goes on.
func TestKilled(t *testing.T) {
	kills := 100
	if os.Getenv("AIOS_SOAK") == "1" {
		kills = 1000
	}
	path := filepath.Join(t.TempDir(), "r")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Create(f, testMeta()); err != nil {
		t.Fatal(err)
	}
	const seed = 11
	all := script(seed, 2000)
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AIOS_TEST_COMMITS="+path, fmt.Sprintf("AIOS_TEST_SEED=%d", seed))
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+rand.IntN(40)) * time.Millisecond)
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		said := 0
		if lines := strings.Fields(out.String()); len(lines) > 0 {
			if said, err = strconv.Atoi(lines[len(lines)-1]); err != nil {
				t.Fatal(out.String())
			}
		}
		s, err := Open(f, "r")
		if err != nil {
			t.Fatal(err)
		}
		last := lastOf(s)
		if last < said {
			t.Fatalf("version %d is there, %d was committed", last, said)
		}
		check(t, s, all, last)
		if last == len(all) { // From the beginning.
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(f, testMeta()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
